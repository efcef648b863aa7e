//! Who may do what with which role.
//!
//! For now: the roles that the configuration declares for each app. [`Policy::decide`] is the one door; what it lets through carries
//! an [`Allowed`], which nothing else can make and without which nothing is sealed or opened.

mod rate;

use crate::session::Session;
use e3_wire::{App, Context, Refusal, Role};
use rate::Bucket;
use std::collections::HashMap;

/// Deterministic seals that an app may ask of one engine in a second, unless the configuration says otherwise.
pub const DETERMINISTIC_RATE: u32 = 50_000;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Seal under a random salt.
    Seal,
    /// Seal so that equal values give equal tokens.
    SealDeterministic,
    /// Learn whether a value is a genuine token of this role.
    Keep,
    /// Open a token.
    Open,
    /// Learn what a token is.
    Inspect,
    /// Have a token replaced by one under the newest key.
    Rewrap,
}

/// A question to the policy.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Who asks, as far as it is proven.
    pub session: &'a Session,
    /// Whose keys.
    pub app: App,
    /// What for.
    pub verb: Verb,
    /// With which role: declared by the asking side when sealing, authenticated when opening.
    pub role: Role,
    /// What the relay states about the message.
    pub context: &'a Context<'a>,
}

/// The proof that the policy allows something. Only [`Policy::decide`] makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    app: App,
    role: Role,
    verb: Verb,
}

impl Allowed {
    pub(crate) fn app(&self) -> App {
        self.app
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Which way of sealing is allowed; `None` for what is no permission to seal.
    pub(crate) fn sealing(&self) -> Option<Sealing> {
        match self.verb {
            Verb::Seal => Some(Sealing::Random),
            Verb::SealDeterministic => Some(Sealing::Deterministic),
            Verb::Keep | Verb::Open | Verb::Inspect | Verb::Rewrap => None,
        }
    }

    pub(crate) fn opens(&self) -> bool {
        self.verb == Verb::Open
    }
}

/// A way of sealing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sealing {
    Random,
    Deterministic,
}

/// What a role may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoleRules {
    /// Sealed deterministically, and only so: one random token among them would break equality.
    pub deterministic: bool,
}

/// What an app may do.
pub struct AppRules {
    roles: HashMap<Role, RoleRules>,
    deterministic: Bucket,
}

impl AppRules {
    /// The declared roles, and how many deterministic seals a second are served.
    #[must_use]
    pub fn new(roles: HashMap<Role, RoleRules>, deterministic_rate: u32) -> Self {
        Self { roles, deterministic: Bucket::new(deterministic_rate) }
    }
}

/// The declared roles of all apps.
pub struct Policy {
    apps: HashMap<App, AppRules>,
    allow_undeclared: bool,
}

impl Policy {
    /// A policy. With `allow_undeclared`, roles and apps that are not declared may be used with random salts.
    #[must_use]
    pub fn new(apps: HashMap<App, AppRules>, allow_undeclared: bool) -> Self {
        Self { apps, allow_undeclared }
    }

    /// Whether the app may be used at all.
    #[must_use]
    pub fn knows(&self, app: App) -> bool {
        self.allow_undeclared || self.apps.contains_key(&app)
    }

    /// Decides one question.
    ///
    /// # Errors
    /// Why not.
    pub fn decide(&self, asked: &Asked<'_>) -> Result<Allowed, Refusal> {
        let app = self.apps.get(&asked.app);
        let rules = match app.and_then(|a| a.roles.get(&asked.role)) {
            Some(rules) => *rules,
            None if self.allow_undeclared => RoleRules::default(),
            None => return Err(Refusal::UnknownRole),
        };
        match asked.verb {
            Verb::Seal if rules.deterministic => return Err(Refusal::RoleKind),
            Verb::SealDeterministic if !rules.deterministic => return Err(Refusal::RoleKind),
            // Only a declared role is deterministic, so its app is there.
            Verb::SealDeterministic if !app.is_some_and(|a| a.deterministic.take()) => {
                return Err(Refusal::RateLimited);
            }
            _ => {}
        }
        Ok(Allowed { app: asked.app, role: asked.role, verb: asked.verb })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(policy: &Policy, app: &str, verb: Verb, role: &str) -> Result<Allowed, Refusal> {
        let (app, role) = (App::parse(app).unwrap(), Role::parse(role).unwrap());
        policy.decide(&Asked { session: &Session::plain(), app, verb, role, context: &Context::default() })
    }

    fn policy(allow_undeclared: bool, rate: u32) -> Policy {
        let roles = [("card", false), ("email", true)]
            .map(|(r, deterministic)| (Role::parse(r).unwrap(), RoleRules { deterministic }));
        let app = AppRules::new(roles.into(), rate);
        Policy::new([(App::parse("shop").unwrap(), app)].into(), allow_undeclared)
    }

    #[test]
    fn a_role_is_sealed_in_its_declared_way_only() {
        let p = policy(false, 10);
        assert!(ask(&p, "shop", Verb::Seal, "card").is_ok());
        assert!(ask(&p, "shop", Verb::SealDeterministic, "email").is_ok());
        assert_eq!(ask(&p, "shop", Verb::SealDeterministic, "card"), Err(Refusal::RoleKind));
        assert_eq!(ask(&p, "shop", Verb::Seal, "email"), Err(Refusal::RoleKind));
    }

    #[test]
    fn what_is_not_declared_is_refused_or_random_only() {
        let strict = policy(false, 10);
        for verb in [Verb::Seal, Verb::SealDeterministic, Verb::Keep, Verb::Open] {
            assert_eq!(ask(&strict, "shop", verb, "other"), Err(Refusal::UnknownRole));
            assert_eq!(ask(&strict, "bank", verb, "card"), Err(Refusal::UnknownRole));
        }
        let lax = policy(true, 10);
        assert!(ask(&lax, "bank", Verb::Seal, "card").is_ok() && ask(&lax, "shop", Verb::Open, "other").is_ok());
        assert_eq!(ask(&lax, "shop", Verb::SealDeterministic, "other"), Err(Refusal::RoleKind));
    }

    #[test]
    fn deterministic_seals_are_limited_by_app() {
        let p = policy(false, 3);
        let granted = (0..100).filter(|_| ask(&p, "shop", Verb::SealDeterministic, "email").is_ok()).count();
        assert!((3..50).contains(&granted), "{granted}");
        assert_eq!(ask(&p, "shop", Verb::SealDeterministic, "email"), Err(Refusal::RateLimited));
    }

    #[test]
    fn a_permission_to_keep_or_inspect_neither_seals_nor_opens() {
        let p = policy(false, 3);
        for verb in [Verb::Keep, Verb::Inspect] {
            let allowed = ask(&p, "shop", verb, "card").unwrap();
            assert!(allowed.sealing().is_none() && !allowed.opens());
        }
    }
}
