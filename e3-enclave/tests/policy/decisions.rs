//! Decisions as an author of policies expects them, on policies as he writes them.

use crate::file::parse;
use e3_enclave::policy::signed::Signed;
use e3_enclave::policy::{Asking, Moment, Policy, Proven, Subject, Verb};
use e3_wire::{App, Context, Credential, Refusal, RequestRefusal, Role, ValueType};
use std::time::Duration;

const PAYOUT: [u8; 32] = [0xbb; 32];

/// The example of the documentation, but for its keys.
pub(crate) fn example() -> String {
    let (a, b) = ("aa".repeat(32), "bb".repeat(32));
    let key = e3_enclave::policy::api_key_hash("e3k_phone").iter().map(|b| format!("{b:02x}")).collect::<String>();
    let pcr = |n: &str| n.repeat(48);
    format!(
        "version: 3
app: shop
roles:
  card-number: {{type: [string, number], max_age: 400d}}
  phone: {{deterministic: true}}
  trap: {{honey: true}}
principals:
  checkout-relay: {{relay: {{spki: sha256:{a}}}}}
  payout-relay: {{relay: {{spki: sha256:{b}}}}}
  phone-service: {{api_key: sha256:{key}}}
  card-validator: {{image: [{{pcr0: {p0}, pcr1: {p1}, pcr2: {p2}}}, {{pcr8: {p8}}}]}}
grants:
  - {{who: checkout-relay, may: [seal, seal-deterministic], roles: [card-number, phone]}}
  - {{who: payout-relay, may: [open], roles: [card-number, trap], to: [api.stripe.com], methods: [POST]}}
  - {{who: phone-service, may: [open, inspect], roles: [phone], from: [10.0.0.0/8], until: 2100-01-01}}
  - {{who: card-validator, may: [open], roles: [card-number], rate: 100/s}}
",
        p0 = pcr("a1"),
        p1 = pcr("a2"),
        p2 = pcr("a3"),
        p8 = pcr("a8"),
    )
}

fn policy(text: &str) -> Policy {
    Policy::of(Signed { document: parse(text), hash: [1; 32] }, None)
}

struct Ask<'a> {
    proven: Proven<'a>,
    context: Context<'a>,
    now: Moment,
}

impl<'a> Ask<'a> {
    fn relay(spki: &'a [u8; 32], destination: &'a str, method: &'a str) -> Self {
        let proven = Proven { spki: Some(spki), ..Proven::default() };
        Self { proven, context: Context { destination, method, ..Context::default() }, now: Moment::now().unwrap() }
    }

    fn key(text: &'a str, source: &'a str) -> Self {
        let context = Context { credential: Credential(text), source, ..Context::default() };
        Self { proven: Proven { spki: Some(&PAYOUT), ..Proven::default() }, context, now: Moment::now().unwrap() }
    }

    fn decide(&self, policy: &Policy, verb: Verb, role: &str) -> Result<Result<u32, Refusal>, RequestRefusal> {
        let token = Subject::Token { value_type: ValueType::String, suite: 1, time: self.now.unix as u32 };
        let subject =
            if matches!(verb, Verb::Open | Verb::Inspect) { token } else { Subject::Value(ValueType::String) };
        self.decide_about(policy, verb, role, subject)
    }

    fn decide_about(
        &self,
        policy: &Policy,
        verb: Verb,
        role: &str,
        subject: Subject,
    ) -> Result<Result<u32, Refusal>, RequestRefusal> {
        let app = App::parse("shop").unwrap();
        let asking = Asking { proven: self.proven, app, context: &self.context, epoch: 1 };
        let asker = policy.asker(&asking, self.now)?;
        let decision = asker.decide(verb, Role::parse(role).unwrap(), subject);
        Ok(decision.result.map(|_| decision.line))
    }
}

#[test]
fn the_example_decides_as_it_reads() {
    let policy = policy(&example());
    let payout = Ask::relay(&PAYOUT, "api.stripe.com", "POST");
    assert_eq!(payout.decide(&policy, Verb::Open, "card-number"), Ok(Ok(14)));
    for wrong in [
        Ask::relay(&PAYOUT, "evil.example", "POST"),
        Ask::relay(&PAYOUT, "api.stripe.com", "GET"),
        Ask::relay(&PAYOUT, "", "POST"),
    ] {
        assert_eq!(wrong.decide(&policy, Verb::Open, "card-number"), Ok(Err(Refusal::NotPermitted)));
    }
    assert_eq!(payout.decide(&policy, Verb::Seal, "card-number"), Ok(Err(Refusal::NotPermitted)));
    assert_eq!(payout.decide(&policy, Verb::Open, "phone"), Ok(Err(Refusal::NotPermitted)));
    assert_eq!(payout.decide(&policy, Verb::Open, "trap"), Ok(Err(Refusal::NotPermitted)), "whatever is granted");
    let checkout = Ask::relay(&[0xaa; 32], "", "");
    assert_eq!(checkout.decide(&policy, Verb::Seal, "card-number"), Ok(Ok(13)));
    assert_eq!(checkout.decide(&policy, Verb::SealDeterministic, "phone"), Ok(Ok(13)));
    assert_eq!(checkout.decide(&policy, Verb::Seal, "phone"), Ok(Err(Refusal::RoleKind)));
    assert_eq!(checkout.decide(&policy, Verb::Open, "card-number"), Ok(Err(Refusal::NotPermitted)));
    let stranger = Ask::relay(&[0xcc; 32], "api.stripe.com", "POST");
    assert_eq!(stranger.decide(&policy, Verb::Open, "card-number"), Ok(Err(Refusal::NotPermitted)));
}

#[test]
fn an_api_key_opens_its_roles_alone_whichever_relay_carries_it() {
    let policy = policy(&example());
    assert_eq!(Ask::key("e3k_phone", "10.1.2.3").decide(&policy, Verb::Open, "phone"), Ok(Ok(15)));
    assert_eq!(Ask::key("e3k_phone", "192.0.2.1").decide(&policy, Verb::Open, "phone"), Ok(Err(Refusal::NotPermitted)));
    // The relay that carries it may open card numbers; the key may not.
    let mut carried = Ask::key("e3k_phone", "10.1.2.3");
    (carried.context.destination, carried.context.method) = ("api.stripe.com", "POST");
    assert_eq!(carried.decide(&policy, Verb::Open, "card-number"), Ok(Err(Refusal::NotPermitted)));
    assert_eq!(
        Ask::key("e3k_other", "10.1.2.3").decide(&policy, Verb::Open, "phone"),
        Err(RequestRefusal::UnknownCredential)
    );
}

#[test]
fn an_image_is_what_its_pcrs_are() {
    let policy = policy(&example());
    let pcr = |n: u8| e3_attest::Pcr::new([0xa0 + n; 48]);
    let image = [(0, pcr(1)), (1, pcr(2)), (2, pcr(3))].into();
    let other = [(0, pcr(1)), (1, pcr(2)), (2, pcr(4))].into();
    let signed = [(0, pcr(7)), (1, pcr(7)), (2, pcr(7)), (8, pcr(8))].into();
    for (pcrs, may) in [(&image, true), (&other, false), (&signed, true)] {
        let ask = Ask {
            proven: Proven { pcrs: Some(pcrs), ..Proven::default() },
            context: Context::default(),
            now: Moment::now().unwrap(),
        };
        assert_eq!(ask.decide(&policy, Verb::Open, "card-number").unwrap().is_ok(), may);
    }
}

#[test]
fn a_rate_holds_for_each_principal_and_over_a_new_policy_with_the_same_grant() {
    let text = example().replace("rate: 100/s", "rate: 3/h");
    let first = policy(&text);
    let pcr = |n: u8| e3_attest::Pcr::new([0xa0 + n; 48]);
    let image = [(0, pcr(1)), (1, pcr(2)), (2, pcr(3))].into();
    let now = Moment::now().unwrap();
    let at = |seconds: u64| Ask {
        proven: Proven { pcrs: Some(&image), ..Proven::default() },
        context: Context::default(),
        now: Moment { unix: now.unix, instant: now.instant + Duration::from_secs(seconds) },
    };
    for _ in 0..3 {
        assert!(at(0).decide(&first, Verb::Open, "card-number").unwrap().is_ok());
    }
    assert_eq!(at(1).decide(&first, Verb::Open, "card-number"), Ok(Err(Refusal::RateLimited)));
    let newer = text.replace("version: 3", "version: 4").replace("app: shop", "# moved down\napp: shop");
    let second = Policy::of(Signed { document: parse(&newer), hash: [2; 32] }, Some(&first));
    assert_eq!(at(2).decide(&second, Verb::Open, "card-number"), Ok(Err(Refusal::RateLimited)));
    assert!(
        at(1201).decide(&second, Verb::Open, "card-number").unwrap().is_ok(),
        "a third of an hour later there is one more"
    );
    assert_eq!(at(1202).decide(&second, Verb::Open, "card-number"), Ok(Err(Refusal::RateLimited)));
}

#[test]
fn deterministic_seals_are_limited_by_app() {
    let text = example() + "deterministic_rate: 2/m\n";
    let policy = policy(&text);
    let ask = Ask::relay(&[0xaa; 32], "", "");
    assert!(ask.decide(&policy, Verb::SealDeterministic, "phone").unwrap().is_ok());
    assert!(ask.decide(&policy, Verb::SealDeterministic, "phone").unwrap().is_ok());
    assert_eq!(ask.decide(&policy, Verb::SealDeterministic, "phone"), Ok(Err(Refusal::RateLimited)));
    assert!(ask.decide(&policy, Verb::Seal, "card-number").unwrap().is_ok());
}

#[test]
fn old_tokens_and_tokens_without_a_time_stay_shut_where_age_counts() {
    let policy = policy(&example());
    let ask = Ask::relay(&PAYOUT, "api.stripe.com", "POST");
    let token = |suite, time| Subject::Token { value_type: ValueType::String, suite, time };
    let now = ask.now.unix as u32;
    let open = |subject| ask.decide_about(&policy, Verb::Open, "card-number", subject).unwrap();
    assert!(open(token(1, now - 400 * 86_400)).is_ok());
    assert_eq!(open(token(1, now - 400 * 86_400 - 1)), Err(Refusal::TooOld));
    // No role takes public keys and has an age, so it is refused as no token of the role's at all.
    assert_eq!(open(token(2, now)), Err(Refusal::RoleKind));
    assert_eq!(open(token(3, 0)), Err(Refusal::TooOld));
    assert_eq!(open(Subject::Token { value_type: ValueType::Json, suite: 1, time: now }), Err(Refusal::TypeNotAllowed));
}

#[test]
fn deny_overrides_and_what_is_not_known_lets_nobody_off() {
    let text = example() + "deny:\n  - {who: '*', roles: [card-number], from: [10.0.0.0/8]}\n";
    let policy = policy(&text);
    let mut ask = Ask::relay(&PAYOUT, "api.stripe.com", "POST");
    for (source, may) in
        [("192.0.2.1", true), ("10.0.0.1", false), ("::ffff:10.0.0.1", false), ("", false), ("nonsense", false)]
    {
        ask.context.source = source;
        assert_eq!(ask.decide(&policy, Verb::Open, "card-number").unwrap().is_ok(), may, "{source}");
    }
}

#[test]
fn after_its_end_and_with_too_old_a_keyring_a_policy_allows_nothing() {
    let now = Moment::now().unwrap();
    let ended = policy(&(example() + "valid_until: 2001-01-01\n"));
    let newer = policy(&(example() + "min_keyring_epoch: 2\n"));
    let context = Context::default();
    let asking =
        |epoch| Asking { proven: Proven::default(), app: App::parse("shop").unwrap(), context: &context, epoch };
    assert_eq!(ended.asker(&asking(9), now).err(), Some(RequestRefusal::NoPolicy));
    assert_eq!(newer.asker(&asking(1), now).err(), Some(RequestRefusal::NoPolicy));
    assert!(newer.asker(&asking(2), now).is_ok());
    assert_eq!(Policy::nothing().asker(&asking(9), now).err(), Some(RequestRefusal::NoPolicy));
}

/// A hundred principals, ten grants each: whichever asks is found, and nobody else's grant is his.
#[test]
fn among_a_thousand_grants_each_finds_its_own() {
    let mut text = String::from("version: 1\napp: shop\nroles:\n");
    (0..10).for_each(|r| text += &format!("  r{r}: {{}}\n"));
    text += "principals:\n";
    (0..100).for_each(|p| text += &format!("  p{p}: {{relay: {{spki: 'sha256:{p:064x}'}}}}\n"));
    text += "grants:\n";
    (0..1000).for_each(|g| {
        text += &format!("  - {{who: p{}, may: open, roles: [r{}], to: [h{g}.example]}}\n", g / 10, g % 10)
    });
    let policy = policy(&text);
    for g in 0..1000usize {
        let mut spki = [0; 32];
        spki[31] = (g / 10) as u8;
        let host = format!("h{g}.example");
        let ask = Ask::relay(&spki, &host, "");
        assert!(ask.decide(&policy, Verb::Open, &format!("r{}", g % 10)).unwrap().is_ok());
        assert!(ask.decide(&policy, Verb::Open, &format!("r{}", (g + 1) % 10)).unwrap().is_err());
    }
}
