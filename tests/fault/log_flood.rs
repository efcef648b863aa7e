//! A flood of refused requests writes a bounded number of log lines, says how many it kept back, and hides no other kind of failure.

use std::time::Instant;

use e3_tests::backend::Backend;
use e3_tests::client::{Connection, json_request, once};
use e3_tests::engine_double::{Behaviour, EngineDouble};
use e3_tests::stack::{Relay, folder};
use e3_tests::{eventually, port};
use e3_wire::RequestRefusal;
use serde_json::Value;

const HOST: &str = "api.shop.example";

/// Lines of one kind in one second, as README.md says.
const LINES: u64 = 10;

const CONNECTIONS: u64 = 4;
const EACH: u64 = 500;

/// Lines written of this kind, and the sum of those kept back.
fn of_kind(log: &str, code: &str) -> (u64, u64) {
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of_kind = lines.iter().filter(|line| line["code"] == code);
    of_kind.fold((0, 0), |(written, kept), line| match line["suppressed"].as_u64() {
        Some(more) => (written, kept + more),
        None => (written + 1, kept),
    })
}

#[test]
fn a_flood_of_refusals_writes_bounded_lines_and_tells_how_many_it_kept_back() {
    let engine = EngineDouble::start(Behaviour::RefusesRequests(RequestRefusal::AuditUnavailable));
    let (folder, inbound, backend) = (folder(), port::free(), Backend::echo());
    let rules = format!(
        r#"engine: {{endpoints: ["{engine}"], app: shop, timeout: 5s, development: true}}
log: json
inbound:
  - listen: {inbound}
    hosts: [{HOST}]
    backend: http://{backend}
    rules:
      - match: {{methods: [POST], path: /v1/**}}
        request: {{seal: [{{select: $.number, role: card-number}}]}}
"#,
        engine = engine.endpoint(),
        backend = backend.address()
    );
    let mut relay = Relay::start(folder.path(), "relay", &rules);
    relay.wait_ready();
    let request = json_request("POST", "/v1/orders", HOST, r#"{"number":"4111111111111111"}"#);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let mut connection = Connection::open(inbound);
                for _ in 0..EACH {
                    connection.send(&request).expect("a request is sent");
                    assert_eq!(connection.answer().expect("an answer").status, 503);
                }
            });
        }
    });
    // Each second that the flood touched may write its lines, the first and the last of them in part.
    let seconds = begun.elapsed().as_secs() + 2;
    // Another kind, in the middle of the flood's last second: its first line is written.
    assert_eq!(once(inbound, &json_request("POST", "/v1/orders", HOST, "{")).status, 400);
    let sent = CONNECTIONS * EACH;
    let (written, _) = eventually("every refusal is written or counted", || {
        let (written, kept) = of_kind(&relay.process().log(), "engine/audit");
        assert!(written + kept <= sent, "{written} written and {kept} kept back of {sent}");
        (written + kept == sent).then_some((written, kept))
    });
    assert!((1..=seconds * LINES).contains(&written), "{written} lines in {seconds} s");
    assert_eq!(of_kind(&relay.process().log(), "body/json"), (1, 0));
    let counted = format!(
        r#"e3_relay_requests_total{{outcome="engine/audit",rule="1",side="inbound",site="{HOST}",status="503"}}"#
    );
    assert_eq!(relay.metric(&counted), Some(sent as f64), "metrics count them all");
    assert_eq!(backend.bytes(), 0);
}
