//! The engine's evaluator against the naive one: random policies, random questions, no difference.

use crate::naive::{Question, Verdict, judge};
use e3_attest::{Pcr, PcrSet};
use e3_enclave::policy::document::{
    Document, Grant, Host, Names, Network, Per, Principal, Proof, Rate, RoleRules, Section, Types, Verb, Verbs,
};
use e3_enclave::policy::signed::Signed;
use e3_enclave::policy::{Asking, Moment, Policy, Proven, Subject, api_key_hash};
use e3_enclave::session::SpkiHash;
use e3_wire::{App, Context, Credential, Role, ValueType};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use std::time::Instant;

/// Random policies; and questions for each of them.
const POLICIES: u32 = 4_000;
const QUESTIONS: usize = 40;

const NOW: u64 = 1_800_000_000;
const APPS: [&str; 2] = ["shop", "bank"];
const ROLES: [&str; 4] = ["card", "email", "trap", "web"];
const NAMES: [&str; 6] = ["a-relay", "b-relay", "c-key", "d-key", "e-image", "f-plain"];
const HOSTS: [&str; 5] = ["", "api.pay.example", "pay.example", "API.Pay.Example.", "other.example"];
const METHODS: [&str; 3] = ["", "POST", "GET"];
const SOURCES: [&str; 5] = ["10.1.2.3", "192.0.2.1", "::ffff:10.9.9.9", "2001:db8::7", "unknown"];

fn app(name: &str) -> App {
    App::parse(name).unwrap()
}

fn role(name: &str) -> Role {
    Role::parse(name).unwrap()
}

fn key(n: u8) -> [u8; 32] {
    [n; 32]
}

fn pcr(n: u8) -> Pcr {
    Pcr::new([n; 48])
}

fn moments() -> impl Strategy<Value = Option<u64>> {
    select(vec![None, None, None, Some(NOW - 10), Some(NOW), Some(NOW + 1)])
}

fn images() -> impl Strategy<Value = Vec<PcrSet>> {
    let sets = vec![
        PcrSet::new([(0, pcr(1))]).unwrap(),
        PcrSet::new([(0, pcr(1)), (2, pcr(3))]).unwrap(),
        PcrSet::new([(8, pcr(9))]).unwrap(),
    ];
    subsequence(sets, 1..=3)
}

fn proof() -> impl Strategy<Value = Proof> {
    let spki =
        || subsequence(vec![1u8, 2, 3], 1..=2).prop_map(|k| k.into_iter().map(|n| SpkiHash::new(key(n))).collect());
    prop_oneof![
        spki().prop_map(|spki: Vec<SpkiHash>| Proof::Relay { spki, images: Vec::new() }),
        (spki(), images()).prop_map(|(spki, images)| Proof::Relay { spki, images }),
        images().prop_map(|images| Proof::Relay { spki: Vec::new(), images }),
        images().prop_map(Proof::Image),
        Just(Proof::Plain),
    ]
}

fn principals() -> impl Strategy<Value = BTreeMap<Box<str>, Principal>> {
    let one = |name: &'static str| {
        // A key is one principal's alone, which the file's reader sees to.
        let own = match name {
            "c-key" => Just(Proof::ApiKey(vec![api_key_hash("key-c"), api_key_hash("key-old")])).boxed(),
            "d-key" => Just(Proof::ApiKey(vec![api_key_hash("key-d")])).boxed(),
            _ => proof().boxed(),
        };
        (own, moments()).prop_map(move |(proof, until)| (Box::from(name), Principal { proof, until, line: 3 }))
    };
    Vec::from(NAMES.map(one)).prop_map(|all| all.into_iter().collect())
}

fn names<T: Clone + std::fmt::Debug + 'static>(all: Vec<T>) -> impl Strategy<Value = Names<T>> {
    let most = all.len();
    prop_oneof![1 => Just(Names::All), 5 => subsequence(all, 1..=most).prop_map(Names::Some)]
}

fn grant() -> impl Strategy<Value = Grant> {
    let hosts = vec![
        Host::Client,
        Host::Exact("api.pay.example".into()),
        Host::Exact("other.example".into()),
        Host::Suffix(".pay.example".into()),
    ];
    let networks = ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "0.0.0.0/0"].map(|n| Network::parse(n).unwrap());
    (
        names(NAMES.map(Box::<str>::from).to_vec()),
        subsequence(Verb::ALL.to_vec(), 1..=7).prop_map(|v| v.into_iter().collect::<Verbs>()),
        names(ROLES.map(role).to_vec()),
        prop_oneof![2 => Just(Vec::new()), 1 => subsequence(hosts, 1..=3)],
        prop_oneof![3 => Just(Vec::new()), 1 => subsequence(vec![Box::<str>::from("POST"), Box::from("PUT")], 1..=2)],
        prop_oneof![3 => Just(Vec::new()), 1 => subsequence(networks.to_vec(), 1..=2)],
        moments(),
        moments(),
    )
        .prop_map(|(who, verbs, roles, to, methods, from, since, until)| Grant {
            who,
            verbs,
            roles,
            to,
            methods,
            from,
            since,
            until,
            // Rates that are never used up: how they are is another test's.
            rate: None,
            line: 0,
        })
}

fn rules() -> impl Strategy<Value = RoleRules> {
    (any::<(bool, bool)>(), 0u8..8, select(vec![None, None, Some(100), Some(1000)]), any::<bool>()).prop_map(
        |((deterministic, public_seal), honey, max_age, narrow)| RoleRules {
            deterministic,
            public_seal,
            honey: honey == 0,
            types: if narrow { Types::NONE.with(ValueType::String).with(ValueType::Number) } else { Types::default() },
            max_age,
            line: 2,
        },
    )
}

fn section() -> impl Strategy<Value = Section> {
    (
        // One role in four is not declared.
        subsequence(ROLES.to_vec(), 3..=4),
        prop::collection::vec(rules(), 4),
        principals(),
        prop::collection::vec(grant(), 0..14),
        prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(grant(), 0..3)],
    )
        .prop_map(|(roles, rules, principals, mut grants, mut deny)| {
            grants.iter_mut().enumerate().for_each(|(at, g)| g.line = 100 + at as u32);
            deny.iter_mut().enumerate().for_each(|(at, g)| g.line = 200 + at as u32);
            Section {
                roles: roles.into_iter().map(role).zip(rules).collect(),
                principals,
                grants,
                deny,
                deterministic_rate: Rate { count: u32::MAX, per: Per::Second },
            }
        })
}

fn document() -> impl Strategy<Value = Document> {
    let end = select(vec![None, None, None, None, None, None, Some(NOW), Some(NOW + 1)]);
    (section(), section(), end, select(vec![0u64, 0, 0, 0, 3, 4])).prop_map(|(one, two, valid_until, epoch)| Document {
        version: 1,
        valid_until,
        min_keyring_epoch: epoch,
        apps: APPS.map(app).into_iter().zip([one, two]).collect(),
    })
}

fn subject() -> impl Strategy<Value = Subject> {
    let types = [ValueType::String, ValueType::Number, ValueType::Bool, ValueType::Null, ValueType::Json];
    let times = vec![
        0u32,
        NOW as u32 - 1001,
        NOW as u32 - 1000,
        NOW as u32 - 100,
        NOW as u32,
        NOW as u32 + 300,
        NOW as u32 + 301,
    ];
    prop_oneof![
        select(types.to_vec()).prop_map(Subject::Value),
        (select(types.to_vec()), 1u8..=3, select(times)).prop_map(|(value_type, suite, time)| Subject::Token {
            value_type,
            suite,
            time
        }),
        Just(Subject::Role),
    ]
}

fn question() -> impl Strategy<Value = Question> {
    let pcrs = select(vec![
        None,
        Some([(0, pcr(1))].into_iter().collect::<BTreeMap<_, _>>()),
        Some([(0, pcr(1)), (2, pcr(3))].into()),
        Some([(0, pcr(7)), (8, pcr(9))].into()),
    ]);
    let proven = (select(vec![None, Some(key(1)), Some(key(2)), Some(key(9))]), pcrs, any::<bool>());
    let credential = select(vec![None, None, None, Some("key-c"), Some("key-old"), Some("key-d"), Some("key-x")]);
    let stated = (select(HOSTS.to_vec()), select(METHODS.to_vec()), select(SOURCES.to_vec()));
    let asked = (select(Verb::ALL.to_vec()), select(ROLES.to_vec()), subject());
    (select(vec!["shop", "shop", "shop", "bank", "nobody"]), proven, credential, asked, stated, 3u64..5).prop_map(
        |(name, (spki, pcrs, plain), credential, (verb, of, subject), (destination, method, source), epoch)| Question {
            app: app(name),
            spki,
            pcrs,
            plain: plain && spki.is_none(),
            api_key: credential.map(str::to_owned),
            verb,
            role: role(of),
            subject,
            destination: destination.to_owned(),
            method: method.to_owned(),
            source: source.to_owned(),
            now: NOW,
            epoch,
        },
    )
}

fn decide(policy: &Policy, q: &Question) -> Verdict {
    let context = Context {
        destination: &q.destination,
        method: &q.method,
        source: &q.source,
        credential: Credential(q.api_key.as_deref().unwrap_or_default()),
        ..Context::default()
    };
    let proven = Proven { spki: q.spki.as_ref(), pcrs: q.pcrs.as_ref(), plain: q.plain };
    let asking = Asking { proven, app: q.app, context: &context, epoch: q.epoch };
    match policy.asker(&asking, Moment { unix: q.now, instant: Instant::now() }) {
        Err(refusal) => Verdict::Request(refusal),
        Ok(asker) => {
            let decision = asker.decide(q.verb, q.role, q.subject);
            if decision.result.is_ok() {
                assert!(asker.may_ever(q.verb), "allowed what may never be: {q:?}");
            }
            match decision.result {
                Ok(_) => Verdict::Allowed(decision.line),
                Err(refusal) => Verdict::Denied(refusal, decision.line),
            }
        }
    }
}

#[test]
fn two_evaluators_written_apart_never_differ() {
    let mut runner = TestRunner::new(Config { cases: POLICIES, failure_persistence: None, ..Config::default() });
    let seen = std::cell::RefCell::new(BTreeMap::<String, usize>::new());
    let input = (document(), prop::collection::vec(question(), QUESTIONS));
    runner
        .run(&input, |(document, questions)| {
            let policy = Policy::of(Signed { document: document.clone(), hash: [1; 32] }, None);
            for question in &questions {
                let (naive, ours) = (judge(&document, question), decide(&policy, question));
                prop_assert_eq!(naive, ours, "{:#?}", question);
                let kind = match naive {
                    Verdict::Allowed(_) => "allowed".to_owned(),
                    Verdict::Denied(refusal, line) => {
                        format!("{refusal:?} by {}", if line == 0 { "no line" } else { "a line" })
                    }
                    Verdict::Request(refusal) => format!("{refusal:?}"),
                };
                *seen.borrow_mut().entry(kind).or_default() += 1;
            }
            Ok(())
        })
        .unwrap();
    let seen = seen.into_inner();
    assert!(seen.values().sum::<usize>() >= 100_000, "{seen:?}");
    // Agreement about nothing but refusals would say little: every outcome comes up, and none of them seldom.
    assert!(seen.len() >= 9 && seen.values().all(|n| *n > 100), "{seen:?}");
    assert!(seen["allowed"] > 10_000, "{seen:?}");
}
