//! Rules that no message ever meets, or that some message gets round: what each says is good, and what it comes to is not.

use http::{HeaderName, Method, header};

use super::raw::{At, Rule as RawRule, Unruled};
use super::report::Place;
use super::resolved::Side;
use super::sites::Rules;
use crate::rules::action::{Action, Verb};
use crate::rules::evasion;
use crate::rules::glob::TextGlob;
use crate::rules::media;
use crate::rules::path::PathGlob;
use crate::rules::route::{Condition, Rule};

/// Statuses of responses whose body is never read: 204 and 304 have none, and a part (206) is refused.
const NEVER_READ: [u16; 3] = [204, 206, 304];

/// Methods that frameworks also read out of the body of a POST, and whose requests bring values.
const OVERRIDING: [Method; 3] = [Method::PUT, Method::PATCH, Method::DELETE];

impl Rules<'_> {
    /// A pattern for paths that the destination does not open.
    pub(super) fn opened(&mut self, place: Place, text: &str, glob: &PathGlob) {
        if !self.open_paths.is_empty() && !self.open_paths.iter().any(|open| open.can_meet(glob)) {
            let hint = "the destination's `paths` open others alone: open it there, or take it out";
            self.report.error(place, format!("no request ever has the path `{text}`"), Some(hint.to_owned()));
        }
    }

    /// A condition on a header that no request with it gets through, or that says nothing.
    pub(super) fn header_comes(&mut self, name: &HeaderName, value: &At<String>, rule: &RawRule) {
        let text = value.get().as_str();
        let glob = TextGlob::new(&text.to_ascii_lowercase());
        let reads_body = !rule.request.seal.is_empty() || !rule.request.open.is_empty();
        let (cause, hint) = if *name == header::HOST {
            let hint = match self.side {
                Side::Outbound => "`host` of a destination chooses it; give each host a destination of its own",
                _ => "`hosts` of a site chooses it; give each host a site of its own",
            };
            ("clients write a host in many ways (case, port, final dot): a rule cannot choose by it".to_owned(), hint)
        } else if evasion::replaces_method(name.as_str()) {
            let hint = "by this header a client replaces the method; name the method in `methods`";
            (format!("no request ever meets this rule: with `{name}` it is refused with 400"), hint)
        } else if *name == header::UPGRADE {
            let hint = "a ruled request cannot change its protocol; take the condition out";
            (format!("no request ever meets this rule: with `{name}` it is refused with 403"), hint)
        } else if *name == header::TRANSFER_ENCODING && !glob.matches("chunked") {
            let hint =
                "chunked is the only one that is let in, and is no property of a message; take the condition out";
            (format!("no request ever meets this rule: with this `{name}` it is refused with 400"), hint)
        } else if *name == header::CONTENT_ENCODING && reads_body && !glob.matches("identity") {
            let hint = "what a rule reads is never compressed; take the condition out";
            (format!("no body ever meets this rule: with this `{name}` it is refused with 415"), hint)
        } else {
            return;
        };
        self.report.error(value.place(), cause, Some(hint.to_owned()));
    }

    /// A condition on a media type that the rule does not read.
    pub(super) fn media_comes(&mut self, rule: &RawRule, condition: &Condition) {
        if rule.request.seal.is_empty() && rule.request.open.is_empty() {
            return;
        }
        for (_, value) in rule.condition.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            let text = value.get().as_str();
            if !text.contains('*') && !media::is_read(text, &condition.media_types) {
                let hint = "name the type in `media_types`, or take the condition out";
                let cause = "no body ever meets this rule: with this media type it is refused with 415";
                self.report.error(value.place(), cause, Some(hint.to_owned()));
            }
        }
    }

    /// Actions on responses that are never read.
    pub(super) fn responses_come(&mut self, raw: &At<RawRule>, built: &Rule) {
        let RawRule { condition, response, .. } = raw.get();
        if response.seal.is_empty() && response.open.is_empty() {
            return;
        }
        let methods = &built.condition.methods;
        if let Some(at) = condition.methods.as_ref().filter(|at| methods.len() == at.get().len())
            && !methods.is_empty()
            && methods.iter().all(|method| *method == Method::HEAD)
        {
            let hint = "name GET, which stands for HEAD too";
            self.report.error(at.place(), "no response to HEAD has a body", Some(hint.to_owned()));
        }
        let never = |&(from, to): &(u16, u16)| (from..=to).all(|status| NEVER_READ.contains(&status));
        if let Some(at) = response.status.as_ref().filter(|at| built.statuses.len() == at.get().len())
            && !built.statuses.is_empty()
            && built.statuses.iter().all(never)
        {
            let hint = "204 and 304 have no body, and 206 is refused: a ruled response is asked for whole";
            self.report.error(at.place(), "no response of these statuses is read", Some(hint.to_owned()));
        }
    }

    /// Two rules of one name, whose metrics and log lines could not be told apart.
    pub(super) fn names(&mut self, raw: &[At<RawRule>], rules: &[Rule]) {
        let is_named = |at: usize| raw.get(at).is_some_and(|rule| rule.get().name.is_some());
        for (at, rule) in rules.iter().enumerate() {
            let Some(name) = raw.get(at).and_then(|rule| rule.get().name.as_ref()) else { continue };
            // A rule without a name has its number.
            let other =
                rules.iter().enumerate().find(|(n, r)| r.name == rule.name && (*n < at || *n > at && !is_named(*n)));
            if let Some((_, other)) = other {
                let cause = format!("the rule in line {} has the name `{}` already", other.line, rule.name);
                let hint = "logs, metrics and `relay explain` tell rules of a site apart by their names; without one a rule has its number";
                self.report.error(name.place(), cause, Some(hint.to_owned()));
            }
        }
    }

    /// A POST whose body names another method: the relay sees a POST that no rule is for, and the backend what the rule is for.
    pub(super) fn overridden(&mut self, raw: &[At<RawRule>], rules: &[Rule]) {
        if self.side != Side::Inbound || self.unruled != Unruled::Pass {
            return;
        }
        let seals = |actions: &[Action]| actions.iter().any(|a| matches!(a.verb, Verb::Seal { .. }));
        for (rule, raw) in rules.iter().zip(raw) {
            let Some(methods) = &raw.get().condition.methods else { continue };
            let condition = &rule.condition;
            let overrides = condition.methods.iter().any(|method| OVERRIDING.contains(method));
            if !overrides || !(seals(&rule.request) || seals(&rule.response)) {
                continue;
            }
            let is_ruled = rules.iter().any(|other| {
                let posts = other.condition.methods.is_empty() || other.condition.methods.contains(&Method::POST);
                let headers = other.condition.headers.iter().all(|header| condition.headers.contains(header));
                let body = !other.request.is_empty() || rule.request.is_empty();
                posts && headers && body && covers(&other.condition.paths, &condition.paths)
            });
            if !is_ruled {
                let cause =
                    "a POST to these paths meets no rule, and frameworks take its method from its body (`_method`)";
                let hint = "add POST to `methods` if the backend does so, or say `unruled: refuse`";
                self.report.warn(methods.place(), cause, Some(hint.to_owned()));
            }
        }
    }
}

/// Whether every path of the second list is one of the first; an empty list is all paths.
fn covers(wide: &[PathGlob], narrow: &[PathGlob]) -> bool {
    wide.is_empty() || !narrow.is_empty() && narrow.iter().all(|path| wide.iter().any(|w| w.covers(path)))
}
