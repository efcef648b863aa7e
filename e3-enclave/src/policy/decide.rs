//! May whoever asks do this with this role?
//!
//! In this order: the role is declared; it is no trap; no deny rule fits; a grant fits; the role is for this way of sealing, this type and this age; the rate of
//! a grant that fits is not used up. What is not allowed by a grant is denied.

use super::document::{Grant, Rate, RoleRules, Verb};
use super::index::{AppIndex, Number, Proven};
use core::net::IpAddr;
use e3_wire::{App, Context, Refusal, Role, ValueType};
use std::time::Instant;

/// Seconds by which the clocks of an app's engines may differ.
const SKEW: u64 = 300;

/// The proof that the policy allows something. Only [`Asker::decide`] makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    app: App,
    role: Role,
    verb: Verb,
    line: u32,
}

impl Allowed {
    pub(crate) fn app(&self) -> App {
        self.app
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// The line of the grant that allows it; 0 where there is none.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.line
    }

    /// Which way of sealing is allowed; `None` for what is no permission to seal.
    pub(crate) fn sealing(&self) -> Option<Sealing> {
        match self.verb {
            Verb::Seal => Some(Sealing::Random),
            Verb::SealDeterministic => Some(Sealing::Deterministic),
            Verb::Keep | Verb::Open | Verb::Inspect | Verb::Rewrap | Verb::PublicKey => None,
        }
    }

    pub(crate) fn opens(&self) -> bool {
        self.verb == Verb::Open
    }

    pub(crate) fn rewraps(&self) -> bool {
        self.verb == Verb::Rewrap
    }
}

/// A way of sealing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sealing {
    Random,
    Deterministic,
}

/// What something is to be done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A value of this type.
    Value(ValueType),
    /// A genuine token.
    Token {
        /// Its authenticated type.
        value_type: ValueType,
        /// Its suite.
        suite: u8,
        /// Unix seconds when it was sealed.
        time: u32,
    },
    /// The role itself.
    Role,
}

/// The suite whose time the engine itself wrote.
const TIMED_SUITE: u8 = 1;

/// The suite of tokens that anyone may have made.
const PUBLIC_SUITE: u8 = 2;

/// What was decided, and by which line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The permission, or why there is none.
    pub result: Result<Allowed, Refusal>,
    /// The line of the grant, deny rule or role that decided; 0: no line does, so it is denied.
    pub line: u32,
    /// Whether a trap was touched.
    pub honey: bool,
}

/// When something is asked.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Unix seconds.
    pub unix: u64,
    /// The same moment, for rates.
    pub instant: Instant,
}

impl Moment {
    /// Now; `None` when the clock stands before 1970.
    #[must_use]
    pub fn now() -> Option<Self> {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
        Some(Self { unix, instant: Instant::now() })
    }
}

/// Whoever asks, in the circumstances of one request: what does not change from one of its values to the next.
#[derive(Debug)]
pub struct Asker<'p> {
    app: App,
    /// `None` where the app and its roles are not declared, and need not be.
    index: Option<&'p AppIndex>,
    /// Everyone may everything with the declared roles.
    everyone: bool,
    allow_undeclared: bool,
    who: Vec<Number>,
    now: Moment,
    /// In lower case, without a final dot; empty: the client.
    destination: String,
    method: Box<str>,
    source: Option<IpAddr>,
}

impl<'p> Asker<'p> {
    /// A caller of the engine itself.
    pub(super) fn caller(
        app: App,
        index: &'p AppIndex,
        proven: &Proven<'_>,
        context: &Context<'_>,
        now: Moment,
    ) -> Self {
        Self::of(app, index, index.who(proven, now.unix), context, now)
    }

    /// The holder of an API key; `None` if it is nobody's.
    pub(super) fn holder(
        app: App,
        index: &'p AppIndex,
        hash: &[u8; 32],
        context: &Context<'_>,
        now: Moment,
    ) -> Option<Self> {
        let holder = index.holder(hash, now.unix)?;
        Some(Self::of(app, index, vec![holder], context, now))
    }

    /// Whoever the policy knows by this name.
    pub(super) fn named(app: App, index: &'p AppIndex, name: &str, context: &Context<'_>, now: Moment) -> Option<Self> {
        let number = index.names.iter().position(|known| **known == *name)?;
        Some(Self::of(app, index, vec![Number::try_from(number).ok()?], context, now))
    }

    /// Anyone, where the roles are declared and nothing else.
    pub(super) fn anyone(app: App, index: Option<&'p AppIndex>, allow_undeclared: bool, now: Moment) -> Self {
        Self {
            app,
            index,
            everyone: true,
            allow_undeclared,
            who: Vec::new(),
            now,
            destination: String::new(),
            method: Box::default(),
            source: None,
        }
    }

    fn of(app: App, index: &'p AppIndex, who: Vec<Number>, context: &Context<'_>, now: Moment) -> Self {
        let mut destination = context.destination.to_ascii_lowercase();
        if destination.ends_with('.') {
            destination.pop();
        }
        Self {
            app,
            index: Some(index),
            everyone: false,
            allow_undeclared: false,
            who,
            now,
            destination,
            method: context.method.into(),
            source: context.source.parse().ok(),
        }
    }

    /// The names under which the policy knows whoever asks.
    pub fn names(&self) -> impl Iterator<Item = &'p str> {
        let names = self.index.map_or(&[][..], |index| &index.names);
        self.who.iter().filter_map(|number| names.get(*number as usize)).map(AsRef::as_ref)
    }

    /// Whether there is any role, destination and time for which this could be allowed.
    #[must_use]
    pub fn may_ever(&self, verb: Verb) -> bool {
        match self.index {
            _ if self.everyone => verb != Verb::Rewrap,
            Some(index) => index.may_ever(&self.who, verb),
            None => false,
        }
    }

    /// Decides one question.
    #[must_use]
    pub fn decide(&self, verb: Verb, role: Role, subject: Subject) -> Decision {
        let denied = |refusal, line| Decision { result: Err(refusal), line, honey: false };
        let declared = self.index.and_then(|index| index.roles.get(&role));
        let rules = match declared {
            Some(rules) => *rules,
            None if self.allow_undeclared => RoleRules::default(),
            None => return denied(Refusal::UnknownRole, 0),
        };
        if rules.honey && verb == Verb::Open {
            return Decision { result: Err(Refusal::NotPermitted), line: rules.line, honey: true };
        }
        let mut fitting = Vec::new();
        if self.everyone {
            // Administrators alone, where no policy says who else.
            if verb == Verb::Rewrap {
                return denied(Refusal::NotPermitted, 0);
            }
        } else {
            let Some(index) = self.index else { return denied(Refusal::NotPermitted, 0) };
            let deny = index.denied(&self.who, role, verb, &self.destination);
            if let Some(rule) =
                deny.iter().filter_map(|(at, _)| index.deny(*at)).find(|rule| self.cannot_be_let_off(&rule.grant))
            {
                return denied(Refusal::NotPermitted, rule.grant.line);
            }
            let grants = index.grants(&self.who, role, verb, &self.destination);
            fitting.extend(
                grants
                    .iter()
                    .filter_map(|(at, number)| Some((index.grant(*at)?, *number)))
                    .filter(|(rule, _)| self.fits(&rule.grant)),
            );
            if fitting.is_empty() {
                return denied(Refusal::NotPermitted, 0);
            }
        }
        let line = fitting.first().map_or(0, |(rule, _)| rule.grant.line);
        if let Some(refusal) = self.against(verb, &rules, subject) {
            return denied(refusal, line);
        }
        let line = match fitting.iter().find(|(rule, number)| rule.take(*number, self.now.instant)) {
            Some((rule, _)) => rule.grant.line,
            None if self.everyone => 0,
            None => return denied(Refusal::RateLimited, line),
        };
        // Only a declared role is deterministic, so its app is there.
        if verb == Verb::SealDeterministic
            && !self.index.is_some_and(|index| index.deterministic.take(self.now.instant))
        {
            return denied(Refusal::RateLimited, line);
        }
        Decision { result: Ok(Allowed { app: self.app, role, verb, line }), line, honey: false }
    }

    /// Whether a genuine token may stand for a value of its role where one is to be sealed. Takes nothing of a rate, for [`Asker::decide`] was asked before.
    #[must_use]
    pub fn may_stand(&self, role: Role, token: Subject) -> bool {
        let declared = self.index.and_then(|index| index.roles.get(&role));
        self.against(Verb::Keep, &declared.copied().unwrap_or_default(), token).is_none()
    }

    /// What the role itself says against it, whoever asks.
    fn against(&self, verb: Verb, rules: &RoleRules, subject: Subject) -> Option<Refusal> {
        let kind = match verb {
            Verb::Seal => !rules.deterministic,
            Verb::SealDeterministic => rules.deterministic,
            Verb::PublicKey => rules.public_seal,
            // What anyone may have made is a value of the role only where the role says so.
            Verb::Keep | Verb::Open => {
                rules.public_seal || !matches!(subject, Subject::Token { suite: PUBLIC_SUITE, .. })
            }
            Verb::Inspect | Verb::Rewrap => true,
        };
        if !kind {
            return Some(Refusal::RoleKind);
        }
        let value_type = match (verb, subject) {
            (Verb::Seal | Verb::SealDeterministic, Subject::Value(value_type)) => Some(value_type),
            (Verb::Open, Subject::Token { value_type, .. }) => Some(value_type),
            _ => None,
        };
        if value_type.is_some_and(|value_type| !rules.types.contains(value_type)) {
            return Some(Refusal::TypeNotAllowed);
        }
        let (Verb::Open, Some(max_age), Subject::Token { suite, time, .. }) = (verb, rules.max_age, subject) else {
            return None;
        };
        let trusted = suite == TIMED_SUITE && u64::from(time) <= self.now.unix + SKEW;
        let young = self.now.unix.saturating_sub(time.into()) <= max_age;
        (!trusted || !young).then_some(Refusal::TooOld)
    }

    /// Whether everything that a grant says is so.
    fn fits(&self, grant: &Grant) -> bool {
        self.in_time(grant)
            && (grant.to.is_empty() || grant.to.iter().any(|host| host.matches(&self.destination)))
            && (grant.methods.is_empty() || grant.methods.contains(&self.method))
            && (grant.from.is_empty()
                || self.source.is_some_and(|s| grant.from.iter().any(|network| network.contains(s))))
    }

    /// Whether everything that a deny rule says is so, or not known.
    fn cannot_be_let_off(&self, deny: &Grant) -> bool {
        self.in_time(deny)
            && (deny.to.is_empty() || deny.to.iter().any(|host| host.matches(&self.destination)))
            && (deny.methods.is_empty() || self.method.is_empty() || deny.methods.contains(&self.method))
            && (deny.from.is_empty() || self.source.is_none_or(|s| deny.from.iter().any(|network| network.contains(s))))
    }

    fn in_time(&self, grant: &Grant) -> bool {
        grant.since.is_none_or(|since| since <= self.now.unix) && grant.until.is_none_or(|until| self.now.unix < until)
    }
}

/// A limit of deterministic seals in a second, as configurations write it.
#[must_use]
pub const fn a_second(count: u32) -> Rate {
    Rate { count, per: super::document::Per::Second }
}
