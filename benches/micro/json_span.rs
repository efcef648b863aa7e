//! The JSON scan beside its portable pass and beside `serde_json` reading and writing.
//!
//! The document is an order as a shop's front end posts it, in compact JSON: see [`order`]. First comes a table from
//! alternating rounds (each round times the three once, so that a busy machine slows all of them), with the median and the
//! best round; then criterion's own measurement of the same. The scan is strict in all of them but `serde_json`'s own way.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use json_span::{Limits, Program, Scanner, Selector, SelectorOptions};

/// An order of about `size` bytes, compact JSON: an object with a customer, a card, addresses and as many items as fit.
/// Its 16 kinds of items mix short and long names, integers, decimals, booleans, null, arrays of short strings, text with
/// escapes, text beyond ASCII, and every eighth a description of some 400 bytes. Roughly: a token in 6 bytes, a bracket in
/// 66, 70 % of the bytes inside strings, half a per cent beyond ASCII.
fn order(size: usize) -> Vec<u8> {
    let mut out = String::from(concat!(
        r#"{"id":"ord_8d1f0c52a7","created_at":"2026-03-14T09:26:53.589Z","currency":"EUR","total":12990,"paid":false,"#,
        r#""customer":{"id":48213,"name":"Zoë Müller","email":"zoe@example.org","phone":"+49 30 901820","vip":true,"#,
        r#""address":{"street":"Lindenstraße 12","postcode":"10969","city":"Berlin","country":"DE"}},"#,
        r#""card":{"number":"4242424242424242","expiry":{"month":12,"year":2029},"cvc":"737","holder":"Z Mueller"},"#,
        r#""shipping":{"method":"express","price":4.90,"gift":null,"notes":"Ring twice.\nLeave it with \"Kiosk\"."},"#,
        r#""items":["#,
    ));
    let mut n = 0usize;
    loop {
        let mut item = format!(
            r#"{{"sku":"SKU-{:06}","title":"{}","quantity":{},"unit_price":{}.{:02},"tax_rate":0.{},"discounted":{}"#,
            n * 7919 % 1_000_000,
            ["Steel bottle", "Notebook A5, dotted", "USB-C cable 2 m", "Kaffeemühle für Espresso"][n % 4],
            n % 5 + 1,
            n * 37 % 300,
            n * 53 % 100,
            [19, 7, 20, 25][n / 3 % 4],
            n.is_multiple_of(3)
        );
        match n % 8 {
            0 => item.push_str(r#","tags":["kitchen","outdoor","sale"],"weight_g":480"#),
            1 => item.push_str(r#","note":null,"warehouse":{"id":12,"row":"C","bin":42}"#),
            2 => item.push_str(r#","dimensions":[12.5,30,7.25],"fragile":true"#),
            3 => item.push_str(r#","engraving":"For \u00c9lise,\nwith \"love\"","position":-1"#),
            5 => item.push_str(r#","options":{"colour":"night blue","size":"L","gift_wrap":false}"#),
            7 => {
                item.push_str(r#","description":""#);
                item.push_str(&"Keeps drinks hot for twelve hours and cold for a whole day; made of steel. ".repeat(5));
                item.push('"');
            }
            _ => {}
        }
        item.push('}');
        if out.len() + item.len() + 60 > size && n > 0 {
            break;
        }
        if n > 0 {
            out.push(',');
        }
        out.push_str(&item);
        n += 1;
    }
    out.push_str(r#"],"metadata":{"source":"web","attempt":1,"score":9.5e-1}}"#);
    out.into_bytes()
}

/// Name, size in bytes and number of selections of each case.
const CASES: [(&str, usize, usize); 4] = [
    ("1 MiB, 1 selection", 1 << 20, 1),
    ("1 MiB, 3 selections", 1 << 20, 3),
    ("16 KiB, 3 selections", 16 << 10, 3),
    ("1 KiB, 3 selections", 1 << 10, 3),
];

fn program(selections: usize) -> Program {
    let selector = |text: &&str| Selector::parse(text, SelectorOptions::default()).expect("a selector");
    Program::new(["$.card.number", "$..cvc", "$.customer.email"][..selections].iter().map(selector).collect())
}

/// One scan with scratch space of earlier ones.
fn scan(scanner: &mut Scanner, program: &Program, text: &[u8], hits: &mut Vec<json_span::Hit>) {
    hits.clear();
    scanner.scan(black_box(program), black_box(text), &Limits::default(), hits).expect("valid");
    black_box(hits);
}

fn read_and_write(text: &[u8]) {
    let value: serde_json::Value = serde_json::from_slice(black_box(text)).expect("valid");
    black_box(serde_json::to_vec(&value).expect("written"));
}

fn alternating() {
    println!(
        "{:22} {:>22} {:>22} {:>24}  (median, best of 300 rounds; µs)",
        "", "scan", "portable pass", "serde_json read+write"
    );
    for (name, size, selections) in CASES {
        let (text, program) = (order(size), program(selections));
        let (mut fast, mut portable, mut hits) = (Scanner::new(), Scanner::portable(), Vec::new());
        let repeat = ((1 << 18) / size).max(1) as u32;
        let time = |run: &mut dyn FnMut()| {
            let start = Instant::now();
            (0..repeat).for_each(|_| run());
            start.elapsed() / repeat
        };
        let mut rounds: [Vec<Duration>; 3] = Default::default();
        for _ in 0..300 {
            rounds[0].push(time(&mut || scan(&mut fast, &program, &text, &mut hits)));
            rounds[1].push(time(&mut || scan(&mut portable, &program, &text, &mut hits)));
            rounds[2].push(time(&mut || read_and_write(&text)));
        }
        print!("{name:22}");
        for round in &mut rounds {
            round.sort_unstable();
            let micros = |at: usize| round[at].as_secs_f64() * 1e6;
            print!(" {:>11.3} {:>10.3}", micros(round.len() / 2), micros(0));
        }
        let best = rounds[0][0].as_secs_f64();
        let ratio = |other: usize| rounds[other][150].as_secs_f64() / rounds[0][150].as_secs_f64();
        println!(
            "   {} bytes, best {:.2} GB/s; medians: {:.1} × faster than portable, {:.1} × than serde_json",
            text.len(),
            text.len() as f64 / best / 1e9,
            ratio(1),
            ratio(2)
        );
    }
}

fn measure(c: &mut Criterion) {
    for (name, size, selections) in CASES {
        let (text, program) = (order(size), program(selections));
        let mut hits = Vec::new();
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(text.len() as u64));
        let mut scanner = Scanner::new();
        group.bench_function("scan", |b| b.iter(|| scan(&mut scanner, &program, &text, &mut hits)));
        let mut scanner = Scanner::portable();
        group.bench_function("portable pass", |b| b.iter(|| scan(&mut scanner, &program, &text, &mut hits)));
        group.bench_function("serde_json read and write", |b| b.iter(|| read_and_write(&text)));
        group.finish();
    }
}

fn main() {
    alternating();
    let mut c = Criterion::default().configure_from_args();
    measure(&mut c);
    c.final_summary();
}
