//! What a request asks, done: policy, keys, tokens, answer.

use crate::admin::AdminPermit;
use crate::audit::{Alarm, Audit, Finished, Seals, Stated, Withheld};
use crate::config::Limits;
use crate::envelope::rewrap::RewrapPermit;
use crate::envelope::{Authentic, SealError, SealTime, Sealer};
use crate::error::Error;
use crate::keyring::{HostRoots, Keyring, Live, RotateError};
use crate::policy::live::Live as LivePolicy;
use crate::policy::{Asker, Asking, Decision, Moment, Subject, Verb};
use crate::session::Session;
use e3_wire::{Item, Refusal, Request, RequestRefusal, Role, Roles, RootFate, ValueType};
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// The longest time a request may ask for; bounds what an absurd timeout can hold on to.
pub(super) const LONGEST: Duration = Duration::from_secs(60);

/// When a request that arrived then is no longer waited for.
pub(super) fn deadline(arrived: Instant, timeout_ms: u32) -> Instant {
    arrived + Duration::from_millis(u64::from(timeout_ms)).min(LONGEST)
}

/// Items between two looks at the clock.
const ITEMS_PER_LOOK: usize = 256;

/// Everything that connections share.
pub(super) struct Engine {
    policy: Arc<LivePolicy>,
    live: Live,
    /// Where the keyring's roots are from, if it is KMS.
    roots: Option<Arc<HostRoots>>,
    audit: Audit,
    alarm: Alarm,
    seals: Seals,
    create_apps: bool,
    limits: Limits,
    counters: Counters,
    /// Held while an administrator's command is done.
    commands: Mutex<()>,
    /// Requests that wait for a worker or for the audit.
    waiting: AtomicUsize,
    /// Room for large frames, in KiB.
    held: Arc<Semaphore>,
}

/// How a request was answered.
pub(super) enum Outcome {
    /// The body of its answer, which may have to wait for its record.
    Answer(Finished),
    /// Nothing was done.
    Refused(RequestRefusal),
    /// It needs something that blocks (the first keys of an app): ask again from a thread that may.
    MustBlock,
}

/// What was done since the start.
#[derive(Default)]
pub(super) struct Counters {
    requests: AtomicU64,
    sealed: AtomicU64,
    kept: AtomicU64,
    opened: AtomicU64,
    rewrapped: AtomicU64,
    inspected: AtomicU64,
    refused: AtomicU64,
}

impl Counters {
    pub(super) fn list(&self) -> Vec<(String, u64)> {
        let counters = [
            ("requests", &self.requests),
            ("sealed", &self.sealed),
            ("kept", &self.kept),
            ("opened", &self.opened),
            ("inspected", &self.inspected),
            ("refused", &self.refused),
        ];
        counters.map(|(name, counter)| (name.to_owned(), counter.load(Ordering::Relaxed))).into()
    }

    pub(super) fn log(&self) {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        tracing::info!(
            requests = get(&self.requests),
            sealed = get(&self.sealed),
            kept = get(&self.kept),
            opened = get(&self.opened),
            rewrapped = get(&self.rewrapped),
            inspected = get(&self.inspected),
            refused = get(&self.refused),
            "served"
        );
    }
}

/// A place among the waiting requests; given back when dropped.
pub(super) struct Place(Arc<Engine>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Engine {
    pub(super) fn new(
        policy: Arc<LivePolicy>,
        (live, roots): (Live, Option<Arc<HostRoots>>),
        (audit, alarm): (Audit, Alarm),
        create_apps: bool,
        limits: Limits,
    ) -> Self {
        audit.sign_with(live.current().audit_key().cloned());
        let held = limits.held_bytes.div_ceil(1024).min(Semaphore::MAX_PERMITS);
        Self {
            policy,
            live,
            roots,
            audit,
            alarm,
            seals: Seals::default(),
            create_apps,
            limits,
            counters: Counters::default(),
            commands: Mutex::default(),
            waiting: AtomicUsize::new(0),
            held: Arc::new(Semaphore::new(held)),
        }
    }

    pub(super) fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.live.current())
    }

    pub(super) fn policy(&self) -> &Arc<LivePolicy> {
        &self.policy
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn audit(&self) -> &Audit {
        &self.audit
    }

    pub(super) fn seals(&self) -> &Seals {
        &self.seals
    }

    pub(super) fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn held(&self) -> &Arc<Semaphore> {
        &self.held
    }

    pub(super) fn commands(&self) -> &Mutex<()> {
        &self.commands
    }

    /// Changes the keyring, if it is at this epoch.
    pub(super) fn change<T>(
        &self,
        epoch: u64,
        change: &mut dyn FnMut(&mut Keyring) -> Result<T, RotateError>,
    ) -> Result<T, Error> {
        self.live.change(epoch, change)
    }

    /// Destroys keys; `None` where the root is not from KMS.
    pub(super) fn destroy(
        &self,
        permit: &AdminPermit,
        epoch: u64,
        kids: &[u32],
    ) -> Option<Result<Vec<(u32, RootFate)>, Error>> {
        self.roots.as_ref().map(|roots| roots.destroy(permit, &self.live, epoch, kids))
    }

    pub(super) fn reload(&self, force: bool) -> Result<Option<u64>, Error> {
        self.live.reload(force)
    }

    /// A place among the waiting requests, if there is one.
    pub(super) fn place(self: &Arc<Self>) -> Option<Place> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < self.limits.requests {
            Some(Place(Arc::clone(self)))
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            None
        }
    }

    /// Does what the request of this session asks. `may_block` says whether the thread may wait for the disk.
    pub(super) fn process(
        &self,
        session: &Session,
        request: &Request<'_>,
        deadline: Instant,
        may_block: bool,
    ) -> Outcome {
        self.process_with(None, session, request, deadline, may_block)
    }

    /// The same with an administrator's permit, which is for rewrapping.
    pub(super) fn process_with(
        &self,
        permit: Option<&AdminPermit>,
        session: &Session,
        request: &Request<'_>,
        deadline: Instant,
        may_block: bool,
    ) -> Outcome {
        if Instant::now() >= deadline {
            return Outcome::Refused(RequestRefusal::Deadline);
        }
        let Some(now) = Moment::now() else { return Outcome::Refused(RequestRefusal::NotReady) };
        let (policy, mut keyring) = (self.policy.current(), self.live.current());
        let asker = match permit {
            // What an administrator may have done, his key says.
            Some(_) => None,
            None => {
                let asking = Asking {
                    proven: session.proven(),
                    app: request.app,
                    context: &request.context,
                    epoch: keyring.epoch(),
                };
                match policy.asker(&asking, now) {
                    Ok(asker) => Some(asker),
                    Err(refusal) => return Outcome::Refused(refusal),
                }
            }
        };
        if !keyring.has_app(request.app) {
            if !self.create_apps {
                return Outcome::Refused(RequestRefusal::UnknownApp);
            }
            if !may_block {
                return Outcome::MustBlock;
            }
            if let Err(error) = self.live.create_app(request.app) {
                tracing::error!(app = %request.app, %error, "the app's first keys could not be made");
                return Outcome::Refused(RequestRefusal::NotReady);
            }
            tracing::info!(app = %request.app, "made the app's first keys");
            keyring = self.live.current();
        } else if self.create_apps && lacks_public_key(&keyring, request) {
            if !may_block {
                return Outcome::MustBlock;
            }
            if let Err(error) = self.live.create_app(request.app) {
                tracing::error!(app = %request.app, %error, "the app's first key pair could not be made");
                return Outcome::Refused(RequestRefusal::NotReady);
            }
            tracing::info!(app = %request.app, "made the app's first key pair");
            keyring = self.live.current();
        }
        let Some(time) = SealTime::now() else { return Outcome::Refused(RequestRefusal::NotReady) };
        let version = policy.state().map(|state| state.version);
        let sealed = RefCell::default();
        let work = Work { engine: self, keyring: &keyring, request, session, permit, asker, version, sealed };
        work.run(time, deadline)
    }
}

/// One request at work.
struct Work<'a> {
    engine: &'a Engine,
    keyring: &'a Keyring,
    request: &'a Request<'a>,
    session: &'a Session,
    permit: Option<&'a AdminPermit>,
    /// Whom the policy takes it for; nobody it knows, where an administrator asks.
    asker: Option<Asker<'a>>,
    /// The policy's version.
    version: Option<u64>,
    /// What was sealed, by role.
    sealed: RefCell<Vec<(Role, Verb, u64)>>,
}

/// The request cannot be served at all.
struct NotReady;

impl Work<'_> {
    fn run(&self, time: SealTime, deadline: Instant) -> Outcome {
        let mut sealer = Sealer::new(self.keyring, time);
        let mut answer = Withheld::new(self.capacity());
        for (at, item) in self.request.items.iter().enumerate() {
            if at % ITEMS_PER_LOOK == ITEMS_PER_LOOK - 1 && Instant::now() >= deadline {
                return Outcome::Refused(RequestRefusal::Deadline);
            }
            if self.item(item, &mut sealer, &mut answer).is_err() {
                return Outcome::Refused(RequestRefusal::NotReady);
            }
        }
        count(&self.engine.counters.requests);
        let names = self.asker.as_ref().map(|asker| asker.names().collect::<Vec<_>>().join("+"));
        let stated = Stated {
            session: self.session,
            app: self.request.app,
            context: &self.request.context,
            principal: names.as_deref().filter(|names| !names.is_empty()),
            policy: self.version,
        };
        let principal = stated.principal.unwrap_or_else(|| self.session.name());
        self.engine.seals.add(principal, self.request.app, &self.sealed.borrow());
        Outcome::Answer(answer.finish(&stated, deadline))
    }

    /// Room for the whole answer at once: growing later would leave copies of plaintext in freed memory.
    fn capacity(&self) -> usize {
        let one = |item: &Item<'_>| match item {
            Item::Seal { value, .. } | Item::SealDeterministic { value, .. } | Item::KeepOrSeal { value, .. } => {
                value.len() + value.len() / 3 + 160
            }
            Item::Open { token, .. } | Item::Inspect { token } => token.len() / 4 * 3 + 64,
            Item::Rewrap { token } => token.len() + 16,
            Item::PublicKey { .. } => 37,
        };
        self.request.items.iter().map(one).sum()
    }

    fn item(&self, item: &Item<'_>, sealer: &mut Sealer<'_>, answer: &mut Withheld) -> Result<(), NotReady> {
        match *item {
            Item::Seal { role, value_type, value } => self.seal(Verb::Seal, role, value_type, value, sealer, answer),
            Item::SealDeterministic { role, value_type, value } => {
                self.seal(Verb::SealDeterministic, role, value_type, value, sealer, answer)
            }
            Item::KeepOrSeal { role, value_type, value, deterministic } => {
                if value_type == ValueType::String && self.is_genuine(role, value) {
                    count(&self.engine.counters.kept);
                    answer.kept();
                    return Ok(());
                }
                let verb = if deterministic { Verb::SealDeterministic } else { Verb::Seal };
                self.seal(verb, role, value_type, value, sealer, answer)
            }
            Item::Open { roles, token } => {
                self.open(roles, token, answer);
                Ok(())
            }
            Item::Inspect { token } => {
                self.inspect(token, answer);
                Ok(())
            }
            Item::Rewrap { token } => self.rewrap(token, sealer, answer),
            Item::PublicKey { role } => self.public_key(role, answer),
        }
    }

    fn public_key(&self, role: Role, answer: &mut Withheld) -> Result<(), NotReady> {
        if let Err(refusal) = self.decide(Verb::PublicKey, role, Subject::Role).result {
            count(&self.engine.counters.refused);
            answer.refused(refusal);
            return Ok(());
        }
        let app = self.request.app;
        let Some((kid, public)) = self.keyring.public_key(app) else {
            tracing::error!(%app, "the app has no active key of the lineage `public`: `e3 keys rotate --lineage public` makes one");
            return Err(NotReady);
        };
        answer.public_key(kid, &public);
        Ok(())
    }

    fn open(&self, roles: Roles<'_>, token: &[u8], answer: &mut Withheld) {
        let Ok(genuine) = Authentic::read(self.keyring, self.request.app, token) else {
            // Read all the same, for a trap must go off whoever touches it.
            let refusal = if self.may_never(Verb::Open) { Refusal::NotPermitted } else { Refusal::NotAuthentic };
            return self.deny(Verb::Open, None, refusal, 0, answer);
        };
        let of = Some((genuine.role(), genuine.kid()));
        let decision = self.decide(Verb::Open, genuine.role(), subject(&genuine));
        if !decision.honey && !roles.contains(genuine.role()) {
            return self.deny(Verb::Open, of, Refusal::RoleNotAllowed, 0, answer);
        }
        if decision.honey {
            return self.ring(genuine.role(), genuine.kid(), decision.line, answer);
        }
        match decision.result {
            Ok(allowed) if genuine.reveal(&allowed, answer) => count(&self.engine.counters.opened),
            Ok(_) => self.deny(Verb::Open, of, Refusal::RoleNotAllowed, decision.line, answer),
            Err(refusal) => self.deny(Verb::Open, of, refusal, decision.line, answer),
        }
    }

    fn inspect(&self, token: &[u8], answer: &mut Withheld) {
        if self.may_never(Verb::Inspect) {
            return self.deny(Verb::Inspect, None, Refusal::NotPermitted, 0, answer);
        }
        let Ok(genuine) = Authentic::read(self.keyring, self.request.app, token) else {
            return self.deny(Verb::Inspect, None, Refusal::NotAuthentic, 0, answer);
        };
        let decision = self.decide(Verb::Inspect, genuine.role(), subject(&genuine));
        match decision.result {
            Ok(allowed) => {
                count(&self.engine.counters.inspected);
                answer.inspected(&genuine.inspection(), allowed.line());
            }
            Err(refusal) => {
                let of = Some((genuine.role(), genuine.kid()));
                self.deny(Verb::Inspect, of, refusal, decision.line, answer);
            }
        }
    }

    fn rewrap(&self, token: &[u8], sealer: &mut Sealer<'_>, answer: &mut Withheld) -> Result<(), NotReady> {
        // Whoever may do this with no token does not even learn whether this is one.
        if self.permit.is_none() && self.may_never(Verb::Rewrap) {
            self.deny(Verb::Rewrap, None, Refusal::NotPermitted, 0, answer);
            return Ok(());
        }
        let genuine = Authentic::read(self.keyring, self.request.app, token);
        let (permit, genuine) = match (self.permit, genuine) {
            (_, Err(_)) => {
                self.deny(Verb::Rewrap, None, Refusal::NotAuthentic, 0, answer);
                return Ok(());
            }
            (Some(permit), Ok(genuine)) => (RewrapPermit::of_admin(permit), genuine),
            (None, Ok(genuine)) => {
                let decision = self.decide(Verb::Rewrap, genuine.role(), subject(&genuine));
                let permit = decision.result.and_then(|a| RewrapPermit::of_policy(a).ok_or(Refusal::NotPermitted));
                match permit {
                    Ok(permit) => (permit, genuine),
                    Err(refusal) => {
                        let of = Some((genuine.role(), genuine.kid()));
                        self.deny(Verb::Rewrap, of, refusal, decision.line, answer);
                        return Ok(());
                    }
                }
            }
        };
        let of = (genuine.role(), genuine.kid());
        match answer.rewrapped(of, permit.line(), |out| sealer.rewrap(&permit, &genuine, out)) {
            Ok(()) => {
                count(&self.engine.counters.rewrapped);
                Ok(())
            }
            Err(error) => {
                tracing::error!(app = %self.request.app, %error, "nothing can be rewrapped");
                Err(NotReady)
            }
        }
    }

    /// Whether whoever asks may do this with no token at all.
    fn may_never(&self, verb: Verb) -> bool {
        self.asker.as_ref().is_none_or(|asker| !asker.may_ever(verb))
    }

    /// What the policy says; without somebody whom it could know, it is asked nothing and allows nothing.
    fn decide(&self, verb: Verb, role: Role, subject: Subject) -> Decision {
        match &self.asker {
            Some(asker) => asker.decide(verb, role, subject),
            None => Decision { result: Err(Refusal::NotPermitted), line: 0, honey: false },
        }
    }

    /// Whether the value is a genuine token of this app and role that may be kept.
    fn is_genuine(&self, role: Role, value: &[u8]) -> bool {
        value.starts_with(e3_wire::token::PREFIX)
            && self.decide(Verb::Keep, role, Subject::Role).result.is_ok()
            && Authentic::read(self.keyring, self.request.app, value).is_ok_and(|token| {
                let may_stand = |asker: &Asker<'_>| asker.may_stand(role, subject(&token));
                token.role() == role && self.asker.as_ref().is_some_and(may_stand)
            })
    }

    fn seal(
        &self,
        verb: Verb,
        role: Role,
        value_type: ValueType,
        value: &[u8],
        sealer: &mut Sealer<'_>,
        answer: &mut Withheld,
    ) -> Result<(), NotReady> {
        let refusal = match self.decide(verb, role, Subject::Value(value_type)).result {
            Err(refusal) => refusal,
            Ok(allowed) => match answer.token(|out| sealer.seal(&allowed, value_type, value, out)) {
                Ok(()) => {
                    count(&self.engine.counters.sealed);
                    self.count_seal(role, verb);
                    return Ok(());
                }
                Err(SealError::BadValue | SealError::Cipher) => Refusal::BadValue,
                Err(SealError::NotAllowed) => Refusal::RoleKind,
                Err(error @ (SealError::NoKey | SealError::Entropy)) => {
                    tracing::error!(app = %self.request.app, %error, "nothing can be sealed");
                    return Err(NotReady);
                }
            },
        };
        count(&self.engine.counters.refused);
        answer.refused(refusal);
        Ok(())
    }

    fn count_seal(&self, role: Role, verb: Verb) {
        let mut sealed = self.sealed.borrow_mut();
        match sealed.iter_mut().find(|(r, v, _)| (*r, *v) == (role, verb)) {
            Some((.., count)) => *count += 1,
            None => sealed.push((role, verb, 1)),
        }
    }

    /// A trap was touched: whoever did it is answered as anybody is who may not.
    fn ring(&self, role: Role, kid: u32, line: u32, answer: &mut Withheld) {
        let names = self.asker.as_ref().map(|asker| asker.names().collect::<Vec<_>>().join("+"));
        let principal = names.as_deref().filter(|n| !n.is_empty()).unwrap_or_else(|| self.session.name());
        self.engine.alarm.ring(self.request.app, role, principal, self.request.context.request_id);
        count(&self.engine.counters.refused);
        answer.trapped(role, kid, line);
    }

    fn deny(&self, verb: Verb, token: Option<(Role, u32)>, refusal: Refusal, line: u32, answer: &mut Withheld) {
        count(&self.engine.counters.refused);
        answer.denied(verb, token, refusal, line);
    }
}

/// Whether it asks for a public key of an app that has none, being older than they are.
fn lacks_public_key(keyring: &Keyring, request: &Request<'_>) -> bool {
    let asks = request.items.iter().any(|item| matches!(item, Item::PublicKey { .. }));
    asks && keyring.public_key(request.app).is_none()
}

fn subject(token: &Authentic) -> Subject {
    let what = token.inspection();
    Subject::Token { value_type: what.value_type, suite: what.suite, time: what.time }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
