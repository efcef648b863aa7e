//! One site or destination: its rules, resolved and held against each other.

use std::path::Path;
use std::sync::Arc;

use e3_wire::Role;
use http::{HeaderName, Method};
use json_span::{Overlap, Selector, SelectorOptions};

use super::raw::{At, OnRefused, Open, Rule as RawRule, Seal, Status, Tokens, Unruled};
use super::report::{Place, Report, did_you_mean};
use super::resolved::Side;
use crate::rules::action::{Action, Verb};
use crate::rules::glob::TextGlob;
use crate::rules::media::MediaType;
use crate::rules::path::PathGlob;
use crate::rules::route::{Condition, HeaderCondition, Rule, RuleSet, UnruledPolicy};

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"];

/// Reads the rules of one site.
pub(super) struct Rules<'a> {
    pub(super) side: Side,
    pub(super) fold_case: bool,
    pub(super) report: &'a mut Report,
}

/// An action with its place in the file.
struct Placed {
    place: Place,
    action: Action,
    response: bool,
    rule: usize,
}

impl Rules<'_> {
    pub(super) fn resolve(mut self, raw: &[At<RawRule>], unruled: Unruled) -> RuleSet {
        let mut rules = Vec::with_capacity(raw.len());
        let mut placed = Vec::new();
        for (index, rule) in raw.iter().enumerate() {
            let condition = self.condition(rule);
            if index >= usize::from(u16::MAX) {
                self.report.error(rule.place(), "too many rules", None);
                break;
            }
            let mut built = Rule {
                name: rule.get().name.as_ref().map_or_else(|| (index + 1).to_string(), |n| n.get().clone()).into(),
                condition,
                request: Vec::new(),
                response: Vec::new(),
                line: rule.place().line,
                statuses: rule.get().response.status.iter().filter_map(|s| self.status(s)).collect(),
            };
            let RawRule { request, response, .. } = rule.get();
            for (seals, opens, is_response) in
                [(&request.seal, &request.open, false), (&response.seal, &response.open, true)]
            {
                let sealed = seals.iter().filter_map(|s| self.seal(s));
                let actions: Vec<_> = sealed.collect();
                let opened: Vec<_> = opens.iter().filter_map(|o| self.open(o, is_response)).collect();
                for (place, action) in actions.into_iter().chain(opened) {
                    let list = if is_response { &mut built.response } else { &mut built.request };
                    list.push(action.clone());
                    placed.push(Placed { place, action, response: is_response, rule: index });
                }
            }
            if built.request.is_empty() && built.response.is_empty() && !self.report.has_errors() {
                let hint = "give it seal: or open: under request: or response:, or take it out";
                self.report.error(rule.place(), "the rule does nothing", Some(hint.to_owned()));
            }
            rules.push(built);
        }
        self.duplicates(raw, &rules);
        self.conflicts(&rules, &placed);
        if self.side == Side::Inbound {
            self.kept_and_opened(&placed);
        }
        let unruled = match unruled {
            Unruled::Pass => UnruledPolicy::Pass,
            Unruled::Refuse => UnruledPolicy::Refuse,
        };
        RuleSet::new(rules, unruled)
    }

    fn condition(&mut self, rule: &At<RawRule>) -> Condition {
        let raw = &rule.get().condition;
        let mut condition =
            Condition { methods: Vec::new(), paths: Vec::new(), headers: Vec::new(), media_types: Vec::new() };
        if let Some(methods) = &raw.methods {
            if methods.get().is_empty() {
                self.report.error(
                    methods.place(),
                    "no request ever meets this rule: it names no method",
                    Some("leave `methods` out for all of them".to_owned()),
                );
            }
            for name in methods.get() {
                match Method::from_bytes(name.as_bytes()) {
                    Ok(method) if METHODS.contains(&name.as_str()) => condition.methods.push(method),
                    Ok(method)
                        if name.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
                            && did_you_mean(name, METHODS).is_none() =>
                    {
                        condition.methods.push(method);
                    }
                    _ => {
                        let upper = name.to_ascii_uppercase();
                        let hint = did_you_mean(&upper, METHODS)
                            .map(|m| format!("did you mean {m}? Methods are written in upper case"));
                        self.report.error(methods.place(), format!("`{name}` is no method"), hint);
                    }
                }
            }
        }
        if let Some(paths) = &raw.path {
            for text in paths.get().list() {
                match PathGlob::new(text, self.fold_case) {
                    Ok(glob) => condition.paths.push(glob),
                    Err(error) => self.report.error(
                        paths.place(),
                        format!("the path pattern `{text}` cannot be used"),
                        Some(error.to_string()),
                    ),
                }
            }
            if paths.get().list().is_empty() {
                self.report.error(
                    paths.place(),
                    "no request ever meets this rule: it names no path",
                    Some("leave `path` out for all of them".to_owned()),
                );
            }
        }
        for (name, value) in &raw.headers {
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
                self.report.error(value.place(), format!("`{name}` is no header name"), None);
                continue;
            };
            if self.side == Side::Inbound {
                let hint = "without it the request is unruled; `unruled: refuse` closes that way";
                self.report.warn(
                    value.place(),
                    format!("a client can leave the header `{name}` out"),
                    Some(hint.to_owned()),
                );
            }
            let value = if value.get() == "*" { None } else { Some(TextGlob::new(value.get())) };
            condition.headers.push(HeaderCondition { name, value });
        }
        match &raw.media_types {
            None => condition
                .media_types
                .extend(["application/json", "application/*+json"].iter().filter_map(|m| MediaType::parse(m))),
            Some(types) => {
                for text in types {
                    match MediaType::parse(text.get()) {
                        Some(media) => condition.media_types.push(media),
                        None => self.report.error(
                            text.place(),
                            format!("`{}` is no media type", text.get()),
                            Some("for example application/json or application/*+json".to_owned()),
                        ),
                    }
                }
            }
        }
        condition
    }

    fn status(&mut self, status: &At<Status>) -> Option<(u16, u16)> {
        let range = match status.get() {
            Status::One(one) => Some((*one, *one)),
            Status::Range(text) => {
                text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)))
            }
        };
        let range = range.filter(|(from, to)| (200..=599).contains(from) && (*from..=599).contains(to));
        if range.is_none() {
            self.report.error(
                status.place(),
                "no status or range of statuses",
                Some("for example 200 or 200-299".to_owned()),
            );
        }
        range
    }

    fn role(&mut self, role: &At<String>) -> Option<Role> {
        Role::parse(role.get())
            .map_err(|error| {
                self.report.error(role.place(), format!("`{}` is no role", role.get()), Some(error.to_string()))
            })
            .ok()
    }

    fn selector(&mut self, text: &At<String>, each: bool) -> Option<Selector> {
        let options = SelectorOptions { each, fold_case: self.fold_case };
        match Selector::parse(text.get(), options) {
            Ok(selector) => Some(selector),
            Err(error) => {
                let Place { line, column } = text.place();
                // A quoted text starts one column after its quote; which it is shows in the file, and one column is close enough.
                let place = Place { line, column: column + error.offset };
                self.report.error(
                    place,
                    format!("the selector `{}` cannot be honoured", text.get()),
                    Some(error.to_string()),
                );
                None
            }
        }
    }

    fn seal(&mut self, seal: &At<Seal>) -> Option<(Place, Action)> {
        let raw = seal.get();
        let (role, selector) = (self.role(&raw.role), self.selector(&raw.select, raw.each));
        let verb = Verb::Seal { role: role?, deterministic: raw.deterministic, keep: raw.tokens == Tokens::Keep };
        let source = raw.select.get().as_str().into();
        Some((raw.select.place(), Action { selector: selector?, source, verb, required: raw.required }))
    }

    fn open(&mut self, open: &At<Open>, response: bool) -> Option<(Place, Action)> {
        let raw = open.get();
        let mut roles = Vec::new();
        for role in &raw.roles {
            if let Some(role) = self.role(role)
                && !roles.contains(&role)
            {
                roles.push(role);
            }
        }
        if raw.roles.is_empty() {
            self.report.error(open.place(), "no role may be opened: `roles` is empty", None);
        }
        if roles.len() > 255 {
            self.report.error(open.place(), "more than 255 roles", None);
        }
        let (place, source, selector): (_, Box<str>, _) = match (&raw.select, raw.anywhere) {
            (Some(select), false) => (select.place(), select.get().as_str().into(), self.selector(select, raw.each)),
            (None, true) => {
                let cause = "`anywhere` opens tokens wherever the sender put them (confused deputy)";
                self.report.warn(
                    open.place(),
                    cause,
                    Some("name the values with `select` where they are known".to_owned()),
                );
                (open.place(), "anywhere".into(), Some(Selector::every_string()))
            }
            (Some(select), true) => {
                self.report.error(
                    select.place(),
                    "`select` and `anywhere` stand together",
                    Some("keep one of them".to_owned()),
                );
                return None;
            }
            (None, false) => {
                self.report.error(
                    open.place(),
                    "`select` is missing",
                    Some("name the values, for example select: $.card.number".to_owned()),
                );
                return None;
            }
        };
        let leave = raw.on_refused == OnRefused::Leave;
        if leave && self.side == Side::Outbound && !response {
            let cause = "a token that may not be opened goes to the third party as it is (`on_refused: leave`)";
            self.report.warn(place, cause, None);
        }
        let verb = Verb::Open { roles, leave, anywhere: raw.anywhere };
        Some((place, Action { selector: selector?, source, verb, required: raw.required }))
    }

    /// Two rules for the very same requests with the very same actions: one of them is a slip.
    fn duplicates(&mut self, raw: &[At<RawRule>], rules: &[Rule]) {
        for (at, rule) in rules.iter().enumerate() {
            let same = |a: &[Action], b: &[Action]| {
                a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.source == y.source && x.verb == y.verb)
            };
            let condition = |r: &Rule| format!("{:?}", r.condition);
            let twin = rules[..at].iter().position(|r| {
                condition(r) == condition(rule) && same(&r.request, &rule.request) && same(&r.response, &rule.response)
            });
            if let (Some(twin), Some(raw)) = (twin, raw.get(at)) {
                self.report.error(
                    raw.place(),
                    format!("the rule says what rule {} says already", twin + 1),
                    Some("take one of them out".to_owned()),
                );
            }
        }
    }

    /// Two actions that claim one value and come to different things.
    fn conflicts(&mut self, rules: &[Rule], placed: &[Placed]) {
        for (n, b) in placed.iter().enumerate() {
            for a in &placed[..n] {
                let same_request = a.rule == b.rule
                    || match (rules.get(a.rule), rules.get(b.rule)) {
                        (Some(x), Some(y)) => x.condition.can_meet(&y.condition),
                        _ => false,
                    };
                if a.response != b.response || !same_request || agree(&a.action.verb, &b.action.verb) {
                    continue;
                }
                let (first, line) = (&a.action.source, a.place.line);
                match a.action.selector.overlap(&b.action.selector) {
                    Overlap::Proven => self.report.error(
                        b.place,
                        format!(
                            "`{}` claims values that `{first}` in line {line} claims with another outcome",
                            b.action.source
                        ),
                        Some("give both the same role, or select different values".to_owned()),
                    ),
                    Overlap::Possible => self.report.warn(
                        b.place,
                        format!(
                            "`{}` may claim values that `{first}` in line {line} claims with another outcome",
                            b.action.source
                        ),
                        Some("a message where both do is refused with 422".to_owned()),
                    ),
                    Overlap::Nested | Overlap::Never => {}
                }
            }
        }
    }

    /// A token that a client may bring and that is opened towards clients: whoever sees one token can have its value.
    fn kept_and_opened(&mut self, placed: &[Placed]) {
        for kept in placed.iter().filter(|p| !p.response) {
            let Verb::Seal { role, keep: true, .. } = &kept.action.verb else { continue };
            let opened = placed.iter().filter(|p| p.response).find(|p| match &p.action.verb {
                Verb::Open { roles, .. } => roles.contains(role),
                Verb::Seal { .. } => false,
            });
            if let Some(opened) = opened {
                self.report.warn(
                    kept.place,
                    format!(
                        "tokens of `{role}` are kept here and opened towards clients in line {}",
                        opened.place.line
                    ),
                    Some("a client that got hold of a token can send it in and read its value".to_owned()),
                );
            }
        }
    }
}

fn agree(a: &Verb, b: &Verb) -> bool {
    match (a, b) {
        (Verb::Open { roles: a, leave: x, .. }, Verb::Open { roles: b, leave: y, .. }) => a == b && x == y,
        (a, b) => a == b,
    }
}

/// A file named in the rules: it must be there.
pub(super) fn file(path: &At<String>, folder: &Path, report: &mut Report) -> Option<std::path::PathBuf> {
    let full = folder.join(path.get());
    match std::fs::File::open(&full) {
        Ok(_) => Some(full),
        Err(error) => {
            report.error(
                path.place(),
                format!("the file `{}` cannot be read: {error}", path.get()),
                Some(format!("looked for {}", full.display())),
            );
            None
        }
    }
}

/// Sites are shared by the entries of the host table.
pub(super) type Shared<T> = Arc<T>;
