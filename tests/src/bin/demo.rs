//! The whole journey on this machine: an order with a card goes through an inbound relay to a shop, and from the shop through an outbound relay to a payment provider. The shop
//! never sees the card; the provider does.
//!
//! `demo` stays up and prints what to try; `demo --once` ends with 0 after the round trip, or with 1 if the shop saw plaintext or the provider did not.

use std::fmt::Display;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use e3_tests::backend::Backend;
use e3_tests::shop::{Charge, payment_provider, shop_backend};
use e3_tests::stack::{Engine, Relay, folder};
use e3_tests::{client, port, process};

const SHOP_HOST: &str = "api.shop.example";
const PROVIDER_HOST: &str = "api.pay.example";
const NUMBER: &str = "4242424242424242";
const CVC: &str = "987";
const NAME: &str = "Ada Lovelace";
const RECEIPT: &str = "rcpt_9f2c61";
const ORDER: &str = r#"{
  "item": "Difference Engine, model 2",
  "amount": 1999.50,
  "customer": {"name": "Ada Lovelace", "email": "ada@example.org"},
  "card": {"number": "4242424242424242", "cvc": "987"}
}"#;

fn main() -> ExitCode {
    let once = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--once" => true,
        _ => {
            eprintln!("usage: demo [--once]");
            return ExitCode::from(2);
        }
    };
    let paint = Paint::new();
    let folder = folder();
    process::end_all_on_signals(folder.path().to_owned());
    let system = System::start(folder.path());
    let mut faults = system.round_trip(&paint);
    if let Err(fault) = system.read_back(&paint) {
        faults.push(fault);
    }
    for fault in &faults {
        println!("{}", paint.red(format!("NOT AS PROMISED: {fault}")));
    }
    if !faults.is_empty() {
        return ExitCode::FAILURE;
    }
    println!("{}", paint.green("The shop never held the card; the provider got it."));
    if once {
        return ExitCode::SUCCESS;
    }
    system.print_tries(&paint, folder.path());
    loop {
        // Ctrl-C ends the programs by their ids, and this one.
        std::thread::park();
    }
}

/// Everything that runs. Dropped in this order: relays before the engine, backends last.
struct System {
    inbound: SocketAddr,
    outbound: SocketAddr,
    inbound_relay: Relay,
    outbound_relay: Relay,
    engine: Engine,
    backend: Backend,
    shop: std::sync::Arc<e3_tests::shop::Shop>,
    provider: Backend,
}

impl System {
    fn start(folder: &Path) -> Self {
        println!("starting e3, two relays, a shop and a payment provider …");
        let (inbound, outbound) = (port::free(), port::free());
        let engine = Engine::start(folder);
        let provider = payment_provider();
        let (backend, shop) = shop_backend(outbound, PROVIDER_HOST);
        let head = format!("engine: {{endpoints: [\"{}\"], app: shop, development: true}}\n", engine.endpoint());
        let inbound_rules = format!(
            r#"{head}inbound:
  - listen: {inbound}
    hosts: [{SHOP_HOST}]
    backend: http://{}
    server_timing: true
    rules:
      - match: {{methods: [POST], path: /v1/orders}}
        request:
          seal:
            - {{select: $.card.number, role: card-number}}
            - {{select: "$..cvc", role: card-cvc}}
            - {{select: $.customer.name, role: name}}
            - {{select: $.customer.email, role: email, deterministic: true}}
      - match: {{path: /v1/orders/**}}
        response:
          open: [{{select: $.customer.name, roles: [name]}}]
"#,
            backend.address()
        );
        let outbound_rules = format!(
            r#"{head}outbound:
  - listen: {outbound}
    destinations:
      - host: {PROVIDER_HOST}
        upstream: http://{}
        server_timing: true
        rules:
          - match: {{path: /charges/**}}
            request:
              open:
                - {{select: $.source.number, roles: [card-number]}}
                - {{select: $.source.cvc, roles: [card-cvc]}}
            response:
              seal: [{{select: $.receipt.token, role: receipt}}]
"#,
            provider.address()
        );
        let inbound_relay = Relay::start(folder, "inbound", &inbound_rules);
        let outbound_relay = Relay::start(folder, "outbound", &outbound_rules);
        inbound_relay.wait_ready();
        outbound_relay.wait_ready();
        Self { inbound, outbound, inbound_relay, outbound_relay, engine, backend, shop, provider }
    }

    /// Sends the order, prints who saw what, and returns what was not as promised.
    fn round_trip(&self, paint: &Paint) -> Vec<String> {
        let start = Instant::now();
        let answer = client::once(self.inbound, &client::json_request("POST", "/v1/orders", SHOP_HOST, ORDER));
        let took = start.elapsed();
        let stored = self.backend.requests();
        let received = self.provider.requests();
        let (stored, received) = (stored.last().map_or("", |r| r.text()), received.last().map_or("", |r| r.text()));

        paint.section("the client sends", format!("POST /v1/orders to {SHOP_HOST}"));
        println!("{}", paint.values(ORDER));
        paint.section("the shop's backend stores", "after the inbound relay");
        println!("{}", paint.values(stored));
        paint.section("the payment provider receives", "after the outbound relay");
        println!("{}", paint.values(received));
        let charge = self.shop.charges().pop();
        if let Some(charge) = &charge {
            paint.section("the shop gets the receipt", "sealed on its way back");
            println!("{}", paint.values(&charge.body));
        }
        paint.section("time", format!("{:.2} ms in all, a debug build", took.as_secs_f64() * 1e3));
        print_timing("inbound relay", answer.header("server-timing"));
        print_timing("outbound relay", charge.as_ref().and_then(|charge| charge.timing.as_deref()));
        println!();
        check_round_trip(&answer, stored, received, charge.as_ref())
    }

    /// Reads the order back as the client would: the name is opened, the card stays sealed.
    fn read_back(&self, paint: &Paint) -> Result<(), String> {
        let request = format!("GET /v1/orders/1 HTTP/1.1\r\nHost: {SHOP_HOST}\r\nConnection: close\r\n\r\n");
        let answer = client::once(self.inbound, request.as_bytes());
        let body = String::from_utf8_lossy(&answer.body);
        paint.section("the client reads the order back", "only the name is opened");
        println!("{}\n", paint.values(&body));
        if answer.status != 200 || !body.contains(NAME) {
            return Err("the client did not get the customer's name back".to_owned());
        }
        if body.contains(NUMBER) { Err("the card number was opened towards the client".to_owned()) } else { Ok(()) }
    }

    fn print_tries(&self, paint: &Paint, folder: &Path) {
        let one_line = ORDER.lines().map(str::trim).collect::<String>();
        let (inbound, outbound) = (self.inbound, self.outbound);
        let (backend, provider) = (self.backend.address(), self.provider.address());
        let admin = self.inbound_relay.admin();
        let rules = [self.inbound_relay.rules(), self.outbound_relay.rules()].map(|path| path.display().to_string());
        println!("{}", paint.bold("Try:"));
        for (what, line) in [
            (
                "another order, through the relay",
                format!(
                    "curl -s http://{inbound}/v1/orders -H 'Host: {SHOP_HOST}' -H 'Content-Type: application/json' -d '{one_line}'"
                ),
            ),
            ("the order as a client reads it", format!("curl -s http://{inbound}/v1/orders/1 -H 'Host: {SHOP_HOST}'")),
            ("the order as the shop stores it", format!("curl -s http://{backend}/v1/orders/1")),
            (
                "a charge without a relay: the provider cannot use a token",
                format!(
                    "curl -s http://{provider}/charges -d '{{\"source\":{{\"number\":\"e3v1.card-number.s.AAAA.\"}}}}'"
                ),
            ),
            (
                "a forged token: the outbound relay refuses it, the provider gets nothing",
                format!(
                    "curl -s http://{outbound}/charges -H 'Host: {PROVIDER_HOST}' -H 'Content-Type: application/json' -d '{{\"source\":{{\"number\":\"e3v1.card-number.s.AAAA.\"}}}}'"
                ),
            ),
            (
                "metrics, readiness, status",
                format!("curl -s http://{admin}/metrics http://{admin}/readyz http://{admin}/status"),
            ),
        ] {
            println!("  {}\n    {line}", paint.dim(format!("# {what}")));
        }
        println!(
            "  {}\n    {}\n    {}",
            paint.dim("# edit the rules: a change takes effect when saved"),
            rules[0],
            rules[1]
        );
        println!("\nfiles are in {}; Ctrl-C ends everything", folder.display());
        let _ = &self.engine;
    }
}

fn check_round_trip(answer: &client::Answer, stored: &str, received: &str, charge: Option<&Charge>) -> Vec<String> {
    let mut faults = Vec::new();
    if answer.status != 201 {
        faults.push(format!("the order was answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body)));
    }
    for plain in [NUMBER, CVC, NAME, "ada@example.org"] {
        if stored.contains(plain) {
            faults.push(format!("the shop saw {plain}"));
        }
    }
    for kept in ["Difference Engine, model 2", "1999.50", "e3v1.card-number.s."] {
        if !stored.contains(kept) {
            faults.push(format!("the shop did not get {kept}"));
        }
    }
    for plain in [NUMBER, CVC] {
        if !received.contains(plain) {
            faults.push(format!("the provider did not get {plain}"));
        }
    }
    match charge {
        Some(charge)
            if charge.status == 200 && charge.body.contains("e3v1.receipt.s.") && !charge.body.contains(RECEIPT) => {}
        _ => faults.push("the receipt did not come back sealed".to_owned()),
    }
    faults
}

/// Prints a `Server-Timing` header as a line for each entry.
fn print_timing(hop: &str, timing: Option<&str>) {
    let Some(timing) = timing else { return };
    let entries = timing.split(',').filter_map(|entry| {
        let (name, duration) = entry.trim().split_once(";dur=")?;
        Some(format!("{name} {duration} ms"))
    });
    println!("  {hop:<16}{}", entries.collect::<Vec<_>>().join("  "));
}

/// Colours where somebody looks at them: not in a pipe, not with `NO_COLOR`.
struct Paint {
    on: bool,
}

impl Paint {
    fn new() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { on: std::io::stdout().is_terminal() && !unwanted }
    }

    fn code(&self, code: &str, text: impl Display) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    fn bold(&self, text: impl Display) -> String {
        self.code("1", text)
    }

    fn dim(&self, text: impl Display) -> String {
        self.code("2", text)
    }

    fn red(&self, text: impl Display) -> String {
        self.code("1;31", text)
    }

    fn green(&self, text: impl Display) -> String {
        self.code("1;32", text)
    }

    fn section(&self, title: &str, note: impl Display) {
        println!("\n{}  {}", self.bold(title), self.dim(note));
    }

    /// Plaintext of the demo's secrets in red, tokens in green.
    fn values(&self, text: &str) -> String {
        let mut painted = String::new();
        for piece in text.split_inclusive('"') {
            let (inner, quote) = piece.strip_suffix('"').map_or((piece, ""), |inner| (inner, "\""));
            let secret = [NUMBER, CVC, NAME, RECEIPT, "ada@example.org"].contains(&inner);
            if secret {
                painted.push_str(&self.red(inner));
            } else if inner.starts_with("e3v1.") {
                painted.push_str(&self.green(inner));
            } else {
                painted.push_str(inner);
            }
            painted.push_str(quote);
        }
        painted
    }
}
