//! JSONTestSuite (MIT, beside the data): what must be accepted is accepted and survives a splice byte for byte, what must be
//! refused is refused, and the verdict on each open case is written down. By the scanner alone, and through a running relay.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use e3_tests::backend::Backend;
use e3_tests::client::{Answer, Connection};
use e3_tests::engine_double::{Behaviour, EngineDouble, value_in};
use e3_tests::port;
use e3_tests::stack::{Relay, folder};
use e3_wire::{TokenText, ValueType};
use json_span::{
    Hit, Limits, Program, Replacement, Scanner, Selector, SelectorOptions, encode_string, splice, validate,
};

fn cases(prefix: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/data/json-test-suite/test_parsing");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
        .iter()
        .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(p).unwrap()))
        .filter(|(name, _)| name.starts_with(prefix))
        .collect()
}

fn scan(selector: &str, text: &[u8]) -> Vec<Hit> {
    scan_with(selector, SelectorOptions::default(), text)
}

fn scan_with(selector: &str, options: SelectorOptions, text: &[u8]) -> Vec<Hit> {
    let program = Program::new(vec![Selector::parse(selector, options).unwrap()]);
    let mut hits = Vec::new();
    Scanner::new().scan(&program, text, &Limits::default(), &mut hits).unwrap();
    hits
}

#[test]
fn every_valid_text_is_accepted_and_every_unselected_byte_survives() {
    let cases = cases("y_");
    assert_eq!(cases.len(), 95);
    for (name, text) in cases {
        validate(&text, &Limits::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(splice(&text, &[]).unwrap(), text, "{name}");
        // Replace every selected leaf by a mark; what stands between the marks must be what stood between the leaves.
        for selector in ["$", "$.*", "$..*", "$[0]", "$..a", "$..['']"] {
            let mut leaves = scan(selector, &text);
            leaves.dedup_by(|inner, outer| inner.start < outer.end);
            let marks: Vec<_> =
                leaves.iter().map(|h| Replacement { start: h.start, end: h.end, with: b"\"MARK\"" }).collect();
            let edited = splice(&text, &marks).unwrap();
            validate(&edited, &Limits::default()).unwrap_or_else(|e| panic!("{name} {selector}: {e}"));
            let mut at = 0;
            let mut rest = &edited[..];
            for leaf in &leaves {
                rest = rest.strip_prefix(&text[at..leaf.start]).unwrap().strip_prefix(b"\"MARK\"").unwrap();
                at = leaf.end;
            }
            assert_eq!(rest, &text[at..], "{name} {selector}");
        }
    }
}

#[test]
fn every_invalid_text_is_refused() {
    let cases = cases("n_");
    assert_eq!(cases.len(), 188);
    for (name, text) in cases {
        assert!(validate(&text, &Limits::default()).is_err(), "{name}");
        let program = Program::new(vec![Selector::parse("$..*", SelectorOptions::default()).unwrap()]);
        let scanned = Scanner::new().scan(&program, &text, &Limits::default(), &mut Vec::new());
        assert_eq!(scanned.err(), validate(&text, &Limits::default()).err(), "{name}: selecting changes the verdict");
    }
}

#[test]
fn the_verdict_on_every_open_case_is_written_down() {
    let verdicts: BTreeMap<String, &str> = cases("i_")
        .into_iter()
        .map(|(name, text)| (name, if validate(&text, &Limits::default()).is_ok() { "accepted" } else { "refused" }))
        .collect();
    assert_eq!(verdicts.len(), 35);
    let written: BTreeMap<String, &str> =
        OPEN.iter().map(|(name, verdict, _)| (format!("i_{name}.json"), *verdict)).collect();
    assert_eq!(verdicts, written);
}

const BIG: &str = "a number of the grammar: its digits pass as they are";
const LONE: &str = "RFC 8259 §8.2 lets the grammar have it: the escape passes as it is, and is sealed as JSON text";
const UTF8: &str = "RFC 8259 §8.1: texts between systems are UTF-8";

/// Case, verdict, reason.
const OPEN: &[(&str, &str, &str)] = &[
    ("number_double_huge_neg_exp", "accepted", BIG),
    ("number_huge_exp", "accepted", BIG),
    ("number_neg_int_huge_exp", "accepted", BIG),
    ("number_pos_double_huge_exp", "accepted", BIG),
    ("number_real_neg_overflow", "accepted", BIG),
    ("number_real_pos_overflow", "accepted", BIG),
    ("number_real_underflow", "accepted", BIG),
    ("number_too_big_neg_int", "accepted", BIG),
    ("number_too_big_pos_int", "accepted", BIG),
    ("number_very_big_negative_int", "accepted", BIG),
    ("object_key_lone_2nd_surrogate", "accepted", LONE),
    ("string_1st_surrogate_but_2nd_missing", "accepted", LONE),
    ("string_1st_valid_surrogate_2nd_invalid", "accepted", LONE),
    ("string_UTF-16LE_with_BOM", "refused", UTF8),
    ("string_UTF-8_invalid_sequence", "refused", UTF8),
    ("string_UTF8_surrogate_U+D800", "refused", UTF8),
    ("string_incomplete_surrogate_and_escape_valid", "accepted", LONE),
    ("string_incomplete_surrogate_pair", "accepted", LONE),
    ("string_incomplete_surrogates_escape_valid", "accepted", LONE),
    ("string_invalid_lonely_surrogate", "accepted", LONE),
    ("string_invalid_surrogate", "accepted", LONE),
    ("string_invalid_utf-8", "refused", UTF8),
    ("string_inverted_surrogates_U+1D11E", "accepted", LONE),
    ("string_iso_latin_1", "refused", UTF8),
    ("string_lone_second_surrogate", "accepted", LONE),
    ("string_lone_utf8_continuation_byte", "refused", UTF8),
    ("string_not_in_unicode_range", "refused", UTF8),
    ("string_overlong_sequence_2_bytes", "refused", UTF8),
    ("string_overlong_sequence_6_bytes", "refused", UTF8),
    ("string_overlong_sequence_6_bytes_null", "refused", UTF8),
    ("string_truncated-utf-8", "refused", UTF8),
    ("string_utf16BE_no_BOM", "refused", UTF8),
    ("string_utf16LE_no_BOM", "refused", UTF8),
    ("structure_500_nested_arrays", "refused", "nested deeper than 128"),
    ("structure_UTF-8_BOM_empty_object", "refused", "RFC 8259 §8.1: no byte order mark"),
];

/// A relay that seals every leaf of what comes to `/leaves`, and some values of what comes to `/some`.
struct Running {
    connection: Connection,
    backend: Backend,
    _relay: Relay,
    _engine: EngineDouble,
    _folder: tempfile::TempDir,
}

impl Running {
    fn start() -> Self {
        let (folder, listen) = (folder(), port::free());
        let (engine, backend) = (EngineDouble::start(Behaviour::Honest), Backend::echo());
        let rules = format!(
            r#"engine: {{endpoints: ["{engine}"], app: shop, timeout: 10s, development: true}}
inbound:
  - listen: {listen}
    hosts: [a.example]
    backend: http://{backend}
    rules:
      - match: {{path: /leaves}}
        request: {{seal: [{{select: $, role: leaf, each: true}}]}}
      - match: {{path: /some}}
        request: {{seal: [{{select: "$[0]", role: first}}, {{select: "$.a", role: a}}]}}
"#,
            engine = engine.endpoint(),
            backend = backend.address(),
        );
        let relay = Relay::start(folder.path(), "relay", &rules);
        relay.wait_ready();
        let connection = Connection::open(listen);
        Self { connection, backend, _relay: relay, _engine: engine, _folder: folder }
    }

    /// All requests go over one connection: what is refused leaves nothing behind in it.
    fn post(&mut self, path: &str, text: &[u8]) -> Answer {
        let head = format!("POST {path} HTTP/1.1\r\nHost: a.example\r\nContent-Type: application/json\r\n");
        let head = format!("{head}Content-Length: {}\r\n\r\n", text.len());
        self.connection.send(&[head.as_bytes(), text].concat()).expect("a request is sent");
        let answer = self.connection.answer().expect("an answer");
        assert_eq!(answer.header("connection"), None);
        answer
    }

    fn is_forwarded(&mut self, name: &str, text: &[u8]) {
        for (path, selector, each) in [("/leaves", "$", true), ("/some", "$[0]", false), ("/some", "$.a", false)] {
            let answer = self.post(path, text);
            assert_eq!(answer.status, 200, "{name} to {path}: {}", answer.text());
            let got = self.backend.requests().pop().expect("a request").body;
            assert_eq!(answer.body, got, "{name} to {path}");
            let (opened, roles) = unsealed(&got);
            assert_eq!(opened, text, "{name} to {path} became {}", String::from_utf8_lossy(&got));
            // What is an array has no members, and what is an object no elements: one of the two selects nothing.
            let selected = scan_with(selector, SelectorOptions { each, ..SelectorOptions::default() }, text).len();
            assert!(selected == 0 || selected == roles, "{name} to {path}: {roles} of {selected} are sealed");
        }
    }

    fn is_refused(&mut self, name: &str, text: &[u8]) {
        for path in ["/leaves", "/some"] {
            let before = self.backend.bytes();
            let answer = self.post(path, text);
            assert_eq!(answer.status, 400, "{name} to {path}");
            assert!(answer.text().contains(r#""code":"body/json""#), "{name} to {path}: {}", answer.text());
            assert_eq!(self.backend.bytes(), before, "{name} to {path}: something was forwarded");
        }
    }
}

/// The text before its values became tokens of the double, and how many did.
fn unsealed(text: &[u8]) -> (Vec<u8>, usize) {
    let (mut out, mut from, mut tokens) = (Vec::new(), 0, 0);
    while let Some((token, range)) = TokenText::find(text, from) {
        assert_eq!((text[range.start - 1], text[range.end]), (b'"', b'"'), "a token is a string");
        out.extend_from_slice(&text[from..range.start - 1]);
        let value = value_in(std::str::from_utf8(&text[range.clone()]).expect("ASCII"));
        match token.value_type {
            ValueType::String => encode_string(&value, &mut out),
            _ => out.extend_from_slice(value.as_bytes()),
        }
        (from, tokens) = (range.end + 1, tokens + 1);
    }
    out.extend_from_slice(&text[from..]);
    (out, tokens)
}

#[test]
fn through_a_relay_valid_texts_are_unchanged_but_for_tokens_and_invalid_ones_reach_nobody() {
    let mut running = Running::start();
    let verdicts: BTreeMap<String, &str> =
        OPEN.iter().map(|(name, verdict, _)| (format!("i_{name}.json"), *verdict)).collect();
    let (mut accepted, mut refused) = (0, 0);
    for (name, text) in cases("") {
        let valid = match name.split('_').next() {
            Some("y") => true,
            Some("n") => false,
            _ => verdicts[&name] == "accepted",
        };
        if text.is_empty() {
            // No body at all is no text that is malformed: there is nothing in it to seal, and the request goes on as it is, without one.
            assert_eq!(name, "n_structure_no_data.json");
            assert_eq!(running.post("/leaves", &text).status, 200);
            assert_eq!(running.backend.requests().pop().expect("a request").body, b"");
        } else if valid {
            running.is_forwarded(&name, &text);
            accepted += usize::from(name.starts_with("y_"));
        } else {
            running.is_refused(&name, &text);
            refused += usize::from(name.starts_with("n_"));
        }
    }
    assert_eq!((accepted, refused), (95, 187));
}
