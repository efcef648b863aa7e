//! Tables of what a policy is expected to say, which its authors run in their own CI: `e3 policy test`.

use super::decide::Subject;
use super::document::{Document, Verb, span};
use super::explain::{Question, Unknown, explain, why};
use super::raw;
use super::resolve::{self, moment};
use e3_wire::{App, Role, ValueType};
use e3_yaml::{At, Report};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;

/// A table of expectations.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[schemars(title = "e3 policy expectations")]
pub struct File {
    /// The policy. Relative paths start at this file's folder.
    #[schemars(required)]
    pub policy: Option<At<PathBuf>>,
    /// What it is expected to say.
    #[serde(default)]
    pub expect: Vec<At<Expectation>>,
}

/// One line of the table.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Expectation {
    /// The app; may be left out where the policy is about one.
    pub app: Option<At<String>>,
    /// A principal's name.
    #[schemars(required)]
    pub who: Option<At<String>>,
    /// What it asks for.
    #[schemars(required)]
    pub may: Option<At<raw::Verb>>,
    /// With which role.
    #[schemars(required)]
    pub role: Option<At<String>>,
    /// Where it goes; to whoever asks, when absent.
    pub to: Option<At<String>>,
    /// The HTTP method.
    pub method: Option<At<String>>,
    /// The address that it comes from.
    pub from: Option<At<String>>,
    /// When: `2027-01-01` or `2027-01-01T12:00:00Z`; now, when absent.
    pub at: Option<At<String>>,
    /// The type of the value.
    #[serde(rename = "type")]
    pub value_type: Option<At<raw::Type>>,
    /// How old the token is, such as `500d`; of a suite that has a time.
    pub age: Option<At<String>>,
    /// What is expected.
    #[schemars(required)]
    pub is: Option<At<Is>>,
}

/// What a policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Is {
    /// It is allowed.
    Allowed,
    /// It is denied.
    Denied,
}

/// How many lines hold; every one that does not is an error of the report.
pub fn run(table: &File, document: &Document, now: u64, report: &mut Report) -> usize {
    table.expect.iter().filter(|line| holds(line, document, now, report)).count()
}

fn holds(line: &At<Expectation>, document: &Document, now: u64, report: &mut Report) -> bool {
    let raw = line.get();
    let (Some(who), Some(may), Some(role), Some(is)) = (&raw.who, &raw.may, &raw.role, &raw.is) else { return false };
    let only = document.apps.first_key_value().filter(|_| document.apps.len() == 1).map(|(app, _)| *app);
    let app = match &raw.app {
        None => only,
        Some(app) => App::parse(app.get()).ok(),
    };
    let Some(app) = app else {
        let hint = "`app: shop`: the policy is about several".to_owned();
        report.error(raw.app.as_ref().map_or(line.place(), At::place), "which app is meant?", Some(hint));
        return false;
    };
    let Ok(role_name) = Role::parse(role.get()) else {
        report.error(role.place(), format!("`{}` is no name of a role", role.get()), None);
        return false;
    };
    let text = |at: &'static str, value: &Option<At<String>>| {
        (at, value.as_ref().map(|v| v.get().clone()).unwrap_or_default())
    };
    let (_, to) = text("to", &raw.to);
    let (_, method) = text("method", &raw.method);
    let (_, from) = text("from", &raw.from);
    let at = match &raw.at {
        None => Some(now),
        Some(at) => moment(at.get()),
    };
    let age = match &raw.age {
        None => Some(0),
        Some(age) => span(age.get()),
    };
    let (Some(at), Some(age)) = (at, age) else {
        let place = raw.at.as_ref().or(raw.age.as_ref()).map_or(line.place(), At::place);
        report.error(place, "no time", Some("`at: 2027-01-01`, `age: 500d`".to_owned()));
        return false;
    };
    let verb = resolve::verb(*may.get());
    let value_type = raw.value_type.as_ref().map_or(ValueType::String, |t| resolve::value_type(*t.get()));
    let question = Question {
        app,
        who: who.get(),
        verb,
        role: role_name,
        subject: subject(verb, value_type, at.saturating_sub(age)),
        to: &to,
        method: &method,
        from: &from,
        at,
    };
    match explain(document, &question) {
        Ok(explained) if explained.is_allowed() == (*is.get() == Is::Allowed) => true,
        Ok(explained) => {
            let found = if explained.is_allowed() { "allowed" } else { "denied" };
            let by = if explained.decision.line == 0 {
                String::new()
            } else {
                format!(" (line {})", explained.decision.line)
            };
            let because = explained.ended.unwrap_or_else(|| why(&explained.decision));
            report.error(is.place(), format!("it is {found}: {because}{by}"), None);
            false
        }
        Err(Unknown::App) => {
            report.error(line.place(), Unknown::App.to_string(), None);
            false
        }
        Err(Unknown::Principal) => {
            report.error(who.place(), Unknown::Principal.to_string(), None);
            false
        }
    }
}

/// What somebody would have in his hands.
fn subject(verb: Verb, value_type: ValueType, sealed: u64) -> Subject {
    match verb {
        Verb::Seal | Verb::SealDeterministic | Verb::Keep => Subject::Value(value_type),
        Verb::Open | Verb::Inspect | Verb::Rewrap => {
            Subject::Token { value_type, suite: 1, time: u32::try_from(sealed).unwrap_or(u32::MAX) }
        }
        Verb::PublicKey => Subject::Role,
    }
}
