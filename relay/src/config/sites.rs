//! One site or destination: its rules, resolved and held against each other.

use std::sync::Arc;

use e3_wire::Role;
use http::{HeaderName, Method};
use json_span::{Overlap, Selector, SelectorOptions};

use super::raw::{At, OnRefused, Open, Rule as RawRule, Seal, Status, Tokens, Unruled};
use super::report::{Place, Report, did_you_mean};
use super::resolved::Side;
use super::roles::Roles;
use crate::rules::action::{Action, Verb};
use crate::rules::glob::TextGlob;
use crate::rules::media::{self, MediaType};
use crate::rules::path::PathGlob;
use crate::rules::route::{Condition, HeaderCondition, Rule, RuleSet, UnruledPolicy};

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"];

/// Reads the rules of one site.
pub(super) struct Rules<'a> {
    pub(super) side: Side,
    pub(super) fold_case: bool,
    pub(super) underscore_headers: bool,
    pub(super) unruled: Unruled,
    /// The paths that the destination opens; all when empty.
    pub(super) open_paths: &'a [PathGlob],
    /// What the sites of the file do with each role.
    pub(super) roles: &'a mut Roles,
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
    pub(super) fn resolve(mut self, raw: &[At<RawRule>]) -> RuleSet {
        let mut rules = Vec::with_capacity(raw.len());
        let mut placed = Vec::new();
        for (index, rule) in raw.iter().enumerate() {
            if index >= usize::from(u16::MAX) {
                let hint = "a site has at most 65535: put what they have in common into one rule";
                self.report.error(rule.place(), "too many rules", Some(hint.to_owned()));
                break;
            }
            rules.push(self.rule(index, rule, &mut placed));
        }
        self.duplicates(raw, &rules);
        self.names(raw, &rules);
        self.overridden(raw, &rules);
        self.conflicts(&rules, &placed);
        for Placed { place, action, response, .. } in &placed {
            self.roles.take(self.side, *place, action, *response);
        }
        let unruled = match self.unruled {
            Unruled::Pass => UnruledPolicy::Pass,
            Unruled::Refuse => UnruledPolicy::Refuse,
        };
        RuleSet::new(rules, unruled)
    }

    fn rule(&mut self, index: usize, rule: &At<RawRule>, placed: &mut Vec<Placed>) -> Rule {
        let RawRule { name, request, response, .. } = rule.get();
        let mut built = Rule {
            name: name.as_ref().map_or_else(|| (index + 1).to_string(), |n| n.get().clone()).into(),
            condition: self.condition(rule),
            request: Vec::new(),
            response: Vec::new(),
            statuses: Vec::new(),
            line: rule.place().line,
        };
        if let Some(list) = &response.status {
            built.statuses = list.get().iter().filter_map(|s| self.status(s)).collect();
            let hint = "leave `status` out for all of them";
            self.never_empty(list, "no response ever has one of no statuses", hint);
        }
        for (seals, opens, is_response) in
            [(&request.seal, &request.open, false), (&response.seal, &response.open, true)]
        {
            let mut actions: Vec<_> = seals.iter().filter_map(|s| self.seal(s)).collect();
            actions.extend(opens.iter().filter_map(|o| self.open(o, is_response)));
            for (place, action) in actions {
                let list = if is_response { &mut built.response } else { &mut built.request };
                list.push(action.clone());
                placed.push(Placed { place, action, response: is_response, rule: index });
            }
        }
        let responds = !response.seal.is_empty() || !response.open.is_empty();
        if request.seal.is_empty() && request.open.is_empty() && !responds && !rule.is_pruned() {
            let hint = "give it seal: or open: under request: or response:, or take it out";
            self.report.error(rule.place(), "the rule does nothing", Some(hint.to_owned()));
        } else if let Some(status) = response.status.as_ref().filter(|_| !responds && !rule.is_pruned()) {
            let hint = "give it seal: or open: under response:, or take `status` out";
            let cause = "the rule does nothing to responses, whatever their status";
            self.report.warn(status.place(), cause, Some(hint.to_owned()));
        }
        self.responses_come(rule, &built);
        built
    }

    /// A list that, empty, makes a rule that nothing ever meets.
    fn never_empty<T>(&mut self, list: &At<Vec<T>>, cause: &str, hint: &str) {
        if list.get().is_empty() && !list.is_pruned() {
            self.report.error(list.place(), cause, Some(hint.to_owned()));
        }
    }

    fn condition(&mut self, rule: &At<RawRule>) -> Condition {
        let raw = &rule.get().condition;
        let mut condition = Condition::default();
        if let Some(methods) = &raw.methods {
            let cause = "no request ever meets this rule: it names no method";
            self.never_empty(methods, cause, "leave `methods` out for all of them");
            condition.methods = methods.get().iter().filter_map(|name| self.method(name)).collect();
        }
        if let Some(paths) = &raw.path {
            let list = paths.list();
            if list.is_empty() && !paths.is_pruned() {
                let cause = "no request ever meets this rule: it names no path";
                let hint = "leave `path` out for all of them";
                self.report.error(paths.place(), cause, Some(hint.to_owned()));
            }
            for (place, text) in list {
                match PathGlob::new(text, self.fold_case) {
                    Ok(glob) => {
                        self.opened(place, text, &glob);
                        condition.paths.push(glob);
                    }
                    Err(error) => {
                        let cause = format!("the path pattern `{text}` cannot be used");
                        self.report.error(place, cause, Some(error.to_string()));
                    }
                }
            }
        }
        condition.headers =
            raw.headers.iter().filter_map(|(name, value)| self.header(name, value, rule.get())).collect();
        let Some(types) = &raw.media_types else {
            let usual = media::DOCUMENTS.into_iter().chain(media::LINES).chain([media::EVENTS]);
            condition.media_types = usual.filter_map(MediaType::parse).collect();
            self.media_comes(rule.get(), &condition);
            return condition;
        };
        self.never_empty(
            types,
            "every body would be refused with 415: no media type is named",
            "leave `media_types` out for JSON, NDJSON and event streams",
        );
        for text in types.get() {
            match MediaType::parse(text.get()) {
                Some(media) => condition.media_types.push(media),
                None => {
                    let hint = "for example application/json or application/*+json, without parameters";
                    let cause = format!("`{}` is no media type", text.get());
                    self.report.error(text.place(), cause, Some(hint.to_owned()));
                }
            }
        }
        if !types.is_pruned() && condition.media_types.len() == types.get().len() {
            self.media_comes(rule.get(), &condition);
        }
        condition
    }

    fn method(&mut self, name: &At<String>) -> Option<Method> {
        let (place, text) = (name.place(), name.get().as_str());
        if text == "CONNECT" {
            let hint = "`intercept` or `tunnel` of a destination opens it";
            self.report.error(place, "no request with CONNECT is ever served", Some(hint.to_owned()));
            return None;
        }
        // Extension methods are taken at their word, unless they look like a slip.
        let own = text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') && did_you_mean(text, METHODS).is_none();
        match Method::from_bytes(text.as_bytes()) {
            Ok(method) if METHODS.contains(&text) || own => Some(method),
            _ => {
                let hint = did_you_mean(&text.to_ascii_uppercase(), METHODS);
                let hint = hint.map(|m| format!("did you mean {m}? Methods are written in upper case"));
                self.report.error(place, format!("`{text}` is no method"), hint);
                None
            }
        }
    }

    fn header(&mut self, name: &str, value: &At<String>, rule: &RawRule) -> Option<HeaderCondition> {
        let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
            let hint = "letters, digits and -: X-Tenant";
            self.report.error(value.place(), format!("`{name}` is no header name"), Some(hint.to_owned()));
            return None;
        };
        self.header_comes(&header, value, rule);
        if name.contains('_') && !self.underscore_headers {
            let hint = "requests with such a header are refused with 400; `underscore_headers: true` lets them through";
            self.report.error(
                value.place(),
                format!("no request ever meets this rule: `{name}` has an underscore"),
                Some(hint.to_owned()),
            );
        }
        let text = value.get().as_str();
        if text.trim() != text || text.is_empty() || !text.bytes().all(|b| matches!(b, 0x20..=0x7e)) {
            let hint = "a value without blanks around it; `*` stands for any text, and alone asks only that the header is there";
            self.report.error(value.place(), "no header ever has this value", Some(hint.to_owned()));
        }
        if self.side == Side::Inbound && self.unruled == Unruled::Pass {
            let hint = "without it the request does not meet this rule; `unruled: refuse` closes that way";
            let cause = format!("a client can leave the header `{name}` out");
            self.report.warn(value.place(), cause, Some(hint.to_owned()));
        }
        Some(HeaderCondition { name: header, value: (text != "*").then(|| TextGlob::new(text)) })
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
                let place = self.report.inside(text.place(), error.offset);
                let cause = format!("the selector `{}` cannot be honoured", text.get());
                self.report.error(place, cause, Some(error.to_string()));
                None
            }
        }
    }

    fn seal(&mut self, seal: &At<Seal>) -> Option<(Place, Action)> {
        let raw = seal.get();
        let role = raw.role.as_ref().and_then(|role| self.role(role));
        let select = raw.select.as_ref()?;
        let selector = self.selector(select, raw.each);
        let verb = Verb::Seal { role: role?, deterministic: raw.deterministic, keep: raw.tokens == Tokens::Keep };
        let source = select.get().as_str().into();
        Some((select.place(), Action { selector: selector?, source, verb, required: raw.required }))
    }

    fn open(&mut self, open: &At<Open>, response: bool) -> Option<(Place, Action)> {
        let raw = open.get();
        let mut roles = Vec::new();
        for role in raw.roles.iter().flat_map(At::get) {
            if let Some(role) = self.role(role)
                && !roles.contains(&role)
            {
                roles.push(role);
            }
        }
        if let Some(list) = &raw.roles {
            self.never_empty(list, "no role may be opened", "name the roles: [card-number]");
        }
        if roles.len() > 255 {
            let hint = "a call of the engine names at most 255";
            self.report.error(open.place(), "more than 255 roles", Some(hint.to_owned()));
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
                if !open.is_pruned() {
                    let hint = "name the values, for example select: $.card.number";
                    self.report.error(open.place(), "`select` is missing", Some(hint.to_owned()));
                }
                return None;
            }
        };
        let leave = raw.on_refused == OnRefused::Leave;
        if leave && self.side == Side::Outbound && !response {
            let cause = "a token that may not be opened goes to the third party as it is (`on_refused: leave`)";
            let hint = "leave `on_refused` out, and such a message is refused";
            self.report.warn(place, cause, Some(hint.to_owned()));
        }
        if response && self.side == Side::Inbound && !roles.is_empty() {
            let names: Vec<_> = roles.iter().map(ToString::to_string).collect();
            let cause = format!("opened towards clients: {}", names.join(", "));
            self.report.note(place, cause, Some("whoever may send this request reads these values".to_owned()));
        }
        let verb = Verb::Open { roles, leave, anywhere: raw.anywhere };
        Some((place, Action { selector: selector?, source, verb, required: raw.required }))
    }

    /// Two rules for the very same requests with the very same actions: one of them is a slip.
    fn duplicates(&mut self, raw: &[At<RawRule>], rules: &[Rule]) {
        for (at, rule) in rules.iter().enumerate() {
            let same = |a: &[Action], b: &[Action]| {
                let equal = |x: &Action, y: &Action| {
                    let form = |s: &Selector| format!("{s:?}");
                    x.verb == y.verb && x.required == y.required && form(&x.selector) == form(&y.selector)
                };
                a.len() == b.len() && a.iter().zip(b).all(|(x, y)| equal(x, y))
            };
            let twin = rules[..at].iter().position(|r| {
                let nothing = rule.request.is_empty() && rule.response.is_empty();
                let statuses = rule.response.is_empty() || r.statuses == rule.statuses;
                let does_same = same(&r.request, &rule.request) && same(&r.response, &rule.response);
                !nothing && r.condition == rule.condition && statuses && does_same
            });
            if let (Some(twin), Some(raw)) = (twin, raw.get(at)) {
                self.report.error(
                    raw.place(),
                    format!("the rule says what rule {} in line {} says already", twin + 1, rules[twin].line),
                    Some("take one of them out".to_owned()),
                );
            }
        }
    }

    /// Two actions that claim one value and come to different things.
    fn conflicts(&mut self, rules: &[Rule], placed: &[Placed]) {
        for (n, b) in placed.iter().enumerate() {
            for a in &placed[..n] {
                let (Some(x), Some(y)) = (rules.get(a.rule), rules.get(b.rule)) else { continue };
                let same_message = a.rule == b.rule
                    || (x.condition.can_meet(&y.condition) && (!a.response || statuses_meet(&x.statuses, &y.statuses)));
                if a.response != b.response || !same_message || agree(&a.action.verb, &b.action.verb) {
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
                    // A search may find something inside any value; in a member of the root it is likely meant to.
                    Overlap::Nested => {
                        let whole = [&a.action, &b.action].into_iter().find(|x| x.selector.is_member_of_the_root());
                        let Some(whole) = whole.filter(|x| matches!(x.verb, Verb::Seal { .. })) else { continue };
                        let cause = format!(
                            "`{}` and `{first}` in line {line} may claim a value and one inside it, with different outcomes",
                            b.action.source
                        );
                        let hint = format!(
                            "a message where `{}` is an object with such a value in it is refused with 422: give both the same role, or select its parts",
                            whole.source
                        );
                        self.report.warn(b.place, cause, Some(hint));
                    }
                    Overlap::Never => {}
                }
            }
        }
    }
}

/// Whether some status is in both; none named is all.
fn statuses_meet(a: &[(u16, u16)], b: &[(u16, u16)]) -> bool {
    a.is_empty() || b.is_empty() || a.iter().any(|(from, to)| b.iter().any(|(start, end)| from <= end && start <= to))
}

fn agree(a: &Verb, b: &Verb) -> bool {
    match (a, b) {
        (Verb::Open { roles: a, leave: x, .. }, Verb::Open { roles: b, leave: y, .. }) => a == b && x == y,
        (a, b) => a == b,
    }
}

/// Sites are shared by the entries of the host table.
pub(super) type Shared<T> = Arc<T>;
