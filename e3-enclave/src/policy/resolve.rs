//! From the policy as written to one that cannot be wrong: every fault in one run.

use super::document::{
    Document, Grant, Host, Names, Network, Principal, Proof, Rate, RoleRules, Section, Types, Verb, Verbs, span,
};
use super::raw;
use crate::session::SpkiHash;
use e3_attest::{Pcr, PcrSet};
use e3_wire::{App, Role, ValueType};
use e3_yaml::report::did_you_mean;
use e3_yaml::{At, OneOrMany, Place, Report};
use std::collections::{BTreeMap, HashMap};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Most grants and deny rules of an app: each is looked at when the policy is loaded, few when it is asked.
const RULES_MAX: usize = 100_000;

/// The policy, if nothing keeps it from being one; the report says what there is to say.
pub(super) fn resolve(file: &At<raw::File>, report: &mut Report) -> Option<Document> {
    let raw = file.get();
    let mut it = Resolver { report, proofs: HashMap::new() };
    let valid_until = it.moment(raw.valid_until.as_ref());
    let top = !raw.roles.is_empty()
        || !raw.principals.is_empty()
        || !raw.grants.is_empty()
        || !raw.deny.is_empty()
        || raw.deterministic_rate.is_some();
    let mut apps = BTreeMap::new();
    if let Some(name) = &raw.app {
        let parts = Parts {
            roles: &raw.roles,
            principals: &raw.principals,
            grants: &raw.grants,
            deny: &raw.deny,
            deterministic_rate: raw.deterministic_rate.as_ref(),
        };
        if let Some(app) = it.app(name.place(), name.get()) {
            apps.insert(app, it.section(&parts));
        }
        if let Some((_, other)) = raw.apps.first_key_value() {
            it.error(other.place(), "`app` and `apps` stand together", "put that app below `apps` too");
        }
    } else if top {
        it.error(file.place(), "`app` is missing", "say whose roles and principals these are: `app: shop`");
        let parts = Parts {
            roles: &raw.roles,
            principals: &raw.principals,
            grants: &raw.grants,
            deny: &raw.deny,
            deterministic_rate: None,
        };
        it.section(&parts);
    } else if raw.apps.is_empty() && !file.is_pruned() {
        it.error(file.place(), "the policy is about no app", "write `app`, `roles`, `principals` and `grants`");
    }
    for (name, app) in &raw.apps {
        let at = app.place();
        let app = app.get();
        let parts = Parts {
            roles: &app.roles,
            principals: &app.principals,
            grants: &app.grants,
            deny: &app.deny,
            deterministic_rate: app.deterministic_rate.as_ref(),
        };
        if let Some(app) = it.app(at, name) {
            apps.insert(app, it.section(&parts));
        }
    }
    let version = raw.version.as_ref().map(|v| *v.get())?;
    Some(Document {
        version,
        valid_until,
        min_keyring_epoch: raw.min_keyring_epoch.as_ref().map_or(0, |e| *e.get()),
        apps,
    })
}

/// One app as written.
struct Parts<'a> {
    roles: &'a BTreeMap<String, At<raw::Role>>,
    principals: &'a BTreeMap<String, At<raw::Principal>>,
    grants: &'a [At<raw::Grant>],
    deny: &'a [At<raw::Deny>],
    deterministic_rate: Option<&'a At<String>>,
}

/// Grants and deny rules have most of their keys in common.
struct Rule<'a> {
    place: Place,
    who: Option<&'a At<OneOrMany>>,
    may: Option<&'a At<raw::Verbs>>,
    roles: Option<&'a At<OneOrMany>>,
    to: Option<&'a At<OneOrMany>>,
    methods: Option<&'a At<OneOrMany>>,
    from: Option<&'a At<OneOrMany>>,
    since: Option<&'a At<String>>,
    until: Option<&'a At<String>>,
    rate: Option<&'a At<String>>,
}

struct Resolver<'a> {
    report: &'a mut Report,
    /// Where each API key stands: nobody is two.
    proofs: HashMap<[u8; 32], usize>,
}

impl Resolver<'_> {
    fn error(&mut self, place: Place, cause: impl Into<String>, hint: &str) {
        self.report.error(place, cause, (!hint.is_empty()).then(|| hint.to_owned()));
    }

    fn app(&mut self, place: Place, name: &str) -> Option<App> {
        let app = App::parse(name).ok();
        if app.is_none() {
            self.error(place, format!("`{name}` is no name of an app"), "[a-z][a-z0-9-]{0,31}");
        }
        app
    }

    fn section(&mut self, parts: &Parts<'_>) -> Section {
        let mut section = Section::default();
        for (name, role) in parts.roles {
            let rules = self.role(role);
            match Role::parse(name) {
                Ok(role) => drop(section.roles.insert(role, rules)),
                Err(_) => self.error(role.place(), format!("`{name}` is no name of a role"), "[a-z][a-z0-9-]{0,19}"),
            }
        }
        for (name, principal) in parts.principals {
            if !is_principal(name) {
                self.error(principal.place(), format!("`{name}` is no name of a principal"), "[a-z][a-z0-9-]{0,63}");
            }
            if let Some(principal) = self.principal(principal) {
                section.principals.insert(name.as_str().into(), principal);
            }
        }
        if let Some(rate) = parts.deterministic_rate
            && let Some(rate) = self.rate(rate)
        {
            section.deterministic_rate = rate;
        }
        if parts.grants.len() + parts.deny.len() > RULES_MAX
            && let Some(last) = parts.grants.last()
        {
            self.error(last.place(), format!("more than {RULES_MAX} grants and deny rules"), "");
            return section;
        }
        for grant in parts.grants {
            let place = grant.place();
            let g = grant.get();
            let rule = Rule {
                place,
                who: g.who.as_ref(),
                may: g.may.as_ref(),
                roles: g.roles.as_ref(),
                to: g.to.as_ref(),
                methods: g.methods.as_ref(),
                from: g.from.as_ref(),
                since: g.since.as_ref(),
                until: g.until.as_ref(),
                rate: g.rate.as_ref(),
            };
            let grant = self.rule(&rule, parts);
            section.grants.push(grant);
        }
        for deny in parts.deny {
            let place = deny.place();
            let d = deny.get();
            let rule = Rule {
                place,
                who: d.who.as_ref(),
                may: d.may.as_ref(),
                roles: d.roles.as_ref(),
                to: d.to.as_ref(),
                methods: d.methods.as_ref(),
                from: d.from.as_ref(),
                since: d.since.as_ref(),
                until: d.until.as_ref(),
                rate: None,
            };
            let mut deny = self.rule(&rule, parts);
            if d.may.is_none() {
                deny.verbs = Verbs::ALL;
            }
            section.deny.push(deny);
        }
        section
    }

    fn role(&mut self, role: &At<raw::Role>) -> RoleRules {
        let raw = role.get();
        let mut types = Types::default();
        if let Some(list) = &raw.types {
            types = list.get().list().iter().fold(Types::NONE, |types, t| types.with(value_type(*t)));
            if list.get().list().is_empty() {
                self.error(list.place(), "a role without types has no values", "leave `type` out for any type");
            }
        }
        let max_age = raw.max_age.as_ref().and_then(|at| {
            let seconds = span(at.get());
            if seconds.is_none() {
                self.error(at.place(), format!("`{}` is no time span", at.get()), "such as 400d, 12h, 30m or 90s");
            }
            seconds
        });
        if let Some(at) = &raw.max_age {
            for (set, what) in [(raw.deterministic, "deterministic"), (raw.public_seal, "public_seal")] {
                if set {
                    let cause = format!(
                        "`max_age` and `{what}`: such tokens say nothing trustworthy of their age, so none would open"
                    );
                    self.error(at.place(), cause, "take one of the two out");
                }
            }
        }
        if raw.deterministic && raw.public_seal {
            let cause =
                "`deterministic` and `public_seal`: what anyone seals is random, and one such token breaks equality";
            self.error(role.place(), cause, "take one of the two out");
        }
        RoleRules {
            deterministic: raw.deterministic,
            public_seal: raw.public_seal,
            honey: raw.honey,
            types,
            max_age,
            line: line(role.place()),
        }
    }

    fn principal(&mut self, principal: &At<raw::Principal>) -> Option<Principal> {
        let place = principal.place();
        let raw = principal.get();
        let until = self.moment(raw.until.as_ref());
        let given =
            usize::from(raw.relay.is_some()) + usize::from(raw.api_key.is_some()) + usize::from(raw.image.is_some());
        if given != 1 {
            if !principal.is_pruned() || given > 1 {
                let cause = if given == 0 {
                    "nothing proves who this is"
                } else {
                    "proven in more than one way: which is meant?"
                };
                self.error(place, cause, "exactly one of `relay`, `api_key`, `image`");
            }
            return None;
        }
        let proof = if let Some(relay) = &raw.relay {
            self.relay(relay)?
        } else if let Some(keys) = &raw.api_key {
            let mut hashes = Vec::new();
            for (place, text) in keys.list() {
                let Some(hash) = self.hash(place, text) else { continue };
                if let Some(line) = self.proofs.insert(hash, place.line) {
                    self.error(
                        place,
                        format!("the same API key stands in line {line} too"),
                        "every principal needs a key of its own",
                    );
                }
                hashes.push(hash);
            }
            if hashes.is_empty() {
                self.error(keys.place(), "no API key", "");
            }
            Proof::ApiKey(hashes)
        } else {
            Proof::Image(self.images(place, raw.image.as_ref()?))
        };
        Some(Principal { proof, until, line: line(place) })
    }

    fn relay(&mut self, relay: &At<raw::Relay>) -> Option<Proof> {
        let raw = relay.get();
        let keys: Vec<_> = raw.spki.as_ref().map(At::list_texts).unwrap_or_default();
        let spki: Vec<_> =
            keys.into_iter().filter_map(|(place, text)| self.hash(place, text)).map(SpkiHash::new).collect();
        let images = raw.image.as_ref().map(|images| self.images(relay.place(), images)).unwrap_or_default();
        if raw.plain {
            if !spki.is_empty() || !images.is_empty() {
                self.error(relay.place(), "`plain` proves nothing, so it does not go with `spki` or `image`", "");
            }
            return Some(Proof::Plain);
        }
        if spki.is_empty() && images.is_empty() {
            if !relay.is_pruned() && !self.report.has_errors() {
                self.error(
                    relay.place(),
                    "nothing proves that it is this relay",
                    "`spki: sha256:…`, as `relay key show` prints it",
                );
            }
            return None;
        }
        Some(Proof::Relay { spki, images })
    }

    fn images(&mut self, place: Place, images: &[At<raw::Pcrs>]) -> Vec<PcrSet> {
        if images.is_empty() {
            self.error(place, "no image", "the PCRs as `relay verify image` or the build print them");
        }
        images.iter().filter_map(|image| self.image(image)).collect()
    }

    fn image(&mut self, image: &At<raw::Pcrs>) -> Option<PcrSet> {
        let raw = image.get();
        let all = [(0, &raw.pcr0), (1, &raw.pcr1), (2, &raw.pcr2), (3, &raw.pcr3), (4, &raw.pcr4), (8, &raw.pcr8)];
        let mut pcrs = Vec::new();
        let mut good = !image.is_pruned();
        for (index, text) in all.into_iter().filter_map(|(index, text)| Some((index, text.as_ref()?))) {
            match text.get().parse::<Pcr>() {
                Ok(pcr) => pcrs.push((index, pcr)),
                Err(fault) => {
                    good = false;
                    self.error(text.place(), fault.to_string(), "");
                }
            }
        }
        if !good {
            return None;
        }
        let set = PcrSet::new(pcrs).map_err(|fault| self.error(image.place(), fault.to_string(), "")).ok()?;
        if set.any_image_of_signer() {
            let hint = "name pcr0, pcr1 and pcr2 where one image is meant".to_owned();
            self.report.warn(image.place(), "pcr8 alone: any image by that signer, also older ones", Some(hint));
        }
        Some(set)
    }

    fn hash(&mut self, place: Place, text: &str) -> Option<[u8; 32]> {
        let hash = text.strip_prefix("sha256:").and_then(bytes32);
        if hash.is_none() {
            let hint = "a key's hash is `sha256:` and 64 lower-case hexadecimal digits; `e3 policy api-key` makes a key and prints it";
            self.error(place, "no hash of a key", hint);
        }
        hash
    }

    fn rule(&mut self, rule: &Rule<'_>, parts: &Parts<'_>) -> Grant {
        let who = rule.who.map_or_else(Names::default, |who| {
            self.names(who, "principal", |name| {
                parts
                    .principals
                    .contains_key(name)
                    .then(|| name.into())
                    .ok_or_else(|| did_you_mean(name, parts.principals.keys().map(String::as_str)))
            })
        });
        let roles = rule.roles.map_or_else(Names::default, |roles| {
            self.names(roles, "role", |name| {
                let known = parts.roles.contains_key(name).then(|| Role::parse(name).ok()).flatten();
                known.ok_or_else(|| did_you_mean(name, parts.roles.keys().map(String::as_str)))
            })
        });
        let verbs: Verbs = rule.may.map(|m| m.get().list().iter().map(|v| verb(*v)).collect()).unwrap_or_default();
        if let Some(may) = rule.may
            && may.get().list().is_empty()
        {
            self.error(may.place(), "no verb", "");
        }
        let (since, until) = (self.moment(rule.since), self.moment(rule.until));
        if let (Some(since), Some(until)) = (since, until)
            && since >= until
        {
            self.error(rule.place, "`until` is not after `since`", "");
        }
        Grant {
            who,
            verbs,
            roles,
            to: self.several(rule.to, "host", "exact, `*.suffix`, or `client`; without port and path", host),
            methods: self.several(rule.methods, "method", "in capitals, such as POST", method),
            from: self.several(
                rule.from,
                "network",
                "such as 10.0.0.0/8; bits behind the prefix are zero",
                Network::parse,
            ),
            since,
            until,
            rate: rule.rate.and_then(|rate| self.rate(rate)),
            line: line(rule.place),
        }
    }

    /// `*`, or names that must be known; whoever does not know one may say which was meant.
    fn names<'n, T>(
        &mut self,
        list: &At<OneOrMany>,
        what: &str,
        find: impl Fn(&str) -> Result<T, Option<&'n str>>,
    ) -> Names<T> {
        let texts = list.list_texts();
        if texts.iter().any(|(_, text)| *text == "*") {
            if texts.len() > 1 {
                self.error(list.place(), format!("`*` is every {what}: the others say nothing"), "");
            }
            return Names::All;
        }
        if texts.is_empty() {
            self.error(list.place(), format!("no {what}"), &format!("`*` for every {what}"));
        }
        let mut names = Vec::new();
        for (place, text) in texts {
            match find(text) {
                Ok(name) => names.push(name),
                Err(meant) => {
                    let hint =
                        meant.map_or_else(|| format!("declare it under `{what}s`"), |m| format!("did you mean `{m}`?"));
                    self.error(place, format!("`{text}` is no {what} of this app"), &hint);
                }
            }
        }
        Names::Some(names)
    }

    fn several<T>(
        &mut self,
        list: Option<&At<OneOrMany>>,
        what: &str,
        hint: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let Some(list) = list else { return Vec::new() };
        let texts = list.list_texts();
        if texts.is_empty() {
            // Read as "anywhere", it would allow what was meant to be nothing.
            self.error(list.place(), format!("no {what}"), "leave the key out where it does not matter");
        }
        let mut found = Vec::new();
        for (place, text) in texts {
            match read(text) {
                Some(value) => found.push(value),
                None => self.error(place, format!("`{text}` is no {what}"), hint),
            }
        }
        found
    }

    fn moment(&mut self, text: Option<&At<String>>) -> Option<u64> {
        let at = text?;
        let moment = moment(at.get());
        if moment.is_none() {
            self.error(at.place(), format!("`{}` is no time", at.get()), "2027-01-01, or 2027-01-01T12:00:00Z");
        }
        moment
    }

    fn rate(&mut self, text: &At<String>) -> Option<Rate> {
        let rate = Rate::parse(text.get());
        if rate.is_none() {
            self.error(text.place(), format!("`{}` is no rate", text.get()), "such as 100/s, 10/m, 5000/h or 100000/d");
        }
        rate
    }
}

/// Texts of a list with their places, whatever they are a list of.
trait ListTexts {
    fn list_texts(&self) -> Vec<(Place, &str)>;
}

impl ListTexts for At<OneOrMany> {
    fn list_texts(&self) -> Vec<(Place, &str)> {
        self.list()
    }
}

/// Reads `2027-01-01`, its first moment, or an RFC 3339 time, as Unix seconds.
pub(crate) fn moment(text: &str) -> Option<u64> {
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    u64::try_from(OffsetDateTime::parse(&whole, &Rfc3339).ok()?.unix_timestamp()).ok()
}

/// Writes Unix seconds as people read them.
pub(crate) fn shown(moment: u64) -> String {
    let time = i64::try_from(moment).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    let text = time.and_then(|t| t.format(&Rfc3339).ok()).unwrap_or_else(|| moment.to_string());
    text.strip_suffix("T00:00:00Z").map_or(text.clone(), str::to_owned)
}

/// Reads 64 lower-case hexadecimal digits.
pub(crate) fn bytes32(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

fn is_principal(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn line(place: Place) -> u32 {
    u32::try_from(place.line).unwrap_or(u32::MAX)
}

pub(super) const fn value_type(raw: raw::Type) -> ValueType {
    match raw {
        raw::Type::String => ValueType::String,
        raw::Type::Number => ValueType::Number,
        raw::Type::Boolean => ValueType::Bool,
        raw::Type::Null => ValueType::Null,
        raw::Type::Json => ValueType::Json,
    }
}

pub(super) const fn verb(raw: raw::Verb) -> Verb {
    match raw {
        raw::Verb::Seal => Verb::Seal,
        raw::Verb::SealDeterministic => Verb::SealDeterministic,
        raw::Verb::Keep => Verb::Keep,
        raw::Verb::Open => Verb::Open,
        raw::Verb::Inspect => Verb::Inspect,
        raw::Verb::Rewrap => Verb::Rewrap,
        raw::Verb::PublicKey => Verb::PublicKey,
    }
}

fn host(text: &str) -> Option<Host> {
    if text == "client" {
        return Some(Host::Client);
    }
    let name = text.strip_prefix("*.").unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let is_address = name.parse::<core::net::IpAddr>().is_ok() && name == text;
    if name.len() > 253 || !(is_address || name.split('.').all(label)) {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    Some(if name.len() == text.len() { Host::Exact(lower.into()) } else { Host::Suffix(format!(".{lower}").into()) })
}

fn method(text: &str) -> Option<Box<str>> {
    let fits = (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    fits.then(|| text.into())
}
