//! What a decision costs: policies of a thousand grants, spread over principals and roles, and all about one.

#![allow(missing_docs, reason = "criterion's macros")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a measurement fails by panicking")]

use criterion::Criterion;
use e3_enclave::policy::signed::{Signed, read};
use e3_enclave::policy::{Asking, Moment, Policy, Proven, Subject, Verb};
use e3_wire::{App, Context, Role, ValueType};
use std::fmt::Write;
use std::hint::black_box;
use std::path::Path;

const GRANTS: usize = 1000;

fn policy(text: &str) -> Policy {
    let (document, _) = read(Path::new("policy.yaml"), text).expect("a policy");
    Policy::of(Signed { document, hash: [1; 32] }, None)
}

/// A hundred relays, ten roles, a grant for each pair.
fn spread() -> Policy {
    let mut text = String::from("version: 1\napp: shop\nroles:\n");
    (0..10).for_each(|r| writeln!(text, "  r{r}: {{max_age: 400d}}").expect("room"));
    text.push_str("principals:\n");
    (0..100).for_each(|p| writeln!(text, "  p{p}: {{relay: {{spki: 'sha256:{p:064x}'}}}}").expect("room"));
    text.push_str("grants:\n");
    (0..GRANTS).for_each(|g| {
        let (who, role) = (g / 10, g % 10);
        writeln!(text, "  - {{who: p{who}, may: open, roles: [r{role}], to: [h{g}.example], methods: [POST], from: [10.0.0.0/8], rate: 4000000000/s}}").expect("room");
    });
    policy(&text)
}

/// One relay, one role, a thousand destinations.
fn dense() -> Policy {
    let mut text = String::from("version: 1\napp: shop\nroles: {r0: {}}\nprincipals:\n");
    writeln!(text, "  p: {{relay: {{spki: 'sha256:{:064x}'}}}}\ngrants:", 50).expect("room");
    (0..GRANTS).for_each(|g| {
        writeln!(text, "  - {{who: p, may: open, roles: [r0], to: [h{g}.example], methods: [POST]}}").expect("room")
    });
    policy(&text)
}

fn decide(c: &mut Criterion, name: &str, policy: &Policy, role: &str, host: &str) {
    let mut spki = [0; 32];
    spki[31] = 50;
    let context = Context { destination: host, method: "POST", source: "10.1.2.3", ..Context::default() };
    let (app, role) = (App::parse("shop").expect("an app"), Role::parse(role).expect("a role"));
    let now = Moment::now().expect("a clock");
    let asking = Asking { proven: Proven { spki: Some(&spki), ..Proven::default() }, app, context: &context, epoch: 1 };
    let subject = Subject::Token { value_type: ValueType::String, suite: 1, time: now.unix as u32 };
    let asker = policy.asker(&asking, now).expect("an asker");
    assert!(asker.decide(Verb::Open, role, subject).result.is_ok());
    c.bench_function(&format!("{name}: a decision"), |b| b.iter(|| asker.decide(Verb::Open, black_box(role), subject)));
    c.bench_function(&format!("{name}: a request of one value"), |b| {
        b.iter(|| policy.asker(black_box(&asking), now).expect("an asker").decide(Verb::Open, role, subject));
    });
}

fn main() {
    let mut c = Criterion::default().configure_from_args();
    decide(&mut c, "1,000 grants, spread", &spread(), "r5", "h505.example");
    decide(&mut c, "1,000 grants of one principal and role", &dense(), "r0", "h505.example");
    c.final_summary();
}
