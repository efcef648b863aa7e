//! The passes compared: with one another, with `serde_json`, and with a naive evaluation of selectors.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde::de::IgnoredAny;

use crate::scan::{Hit, Kind, Limits, Program, Scanner};
use crate::simd::Level;
use crate::{ScanCause, ScanError, Selector, SelectorOptions};

fn selector(text: &str, each: bool, fold_case: bool) -> Selector {
    Selector::parse(text, SelectorOptions { each, fold_case }).unwrap()
}

fn programs() -> Vec<Program> {
    let plain = |texts: &[&str]| Program::new(texts.iter().map(|text| selector(text, false, false)).collect());
    vec![
        Program::new(Vec::new()),
        plain(&["$"]),
        plain(&["$..*"]),
        plain(&["$.card.number", "$..cvc", "$.customer.email"]),
        plain(&["$.a", "$..a", "$.a.b", "$[0]", "$[1:].a", "$..[0,2]", "$..[::2]"]),
        plain(&["$.*.*", "$..b[*]"]),
        Program::new(vec![Selector::every_string()]),
        Program::new(vec![
            selector("$.a", true, false),
            selector("$..B", false, true),
            selector("$..[1]", true, false),
        ]),
    ]
}

/// Scans with every pass, checks that they agree, and gives what they say.
fn scan(program: &Program, text: &[u8]) -> Result<Vec<Hit>, ScanError> {
    let mut outcomes = Level::all().into_iter().map(|level| {
        let mut hits = Vec::new();
        let mut scanner = Scanner::at(level);
        // The pass over masks falls back to the other, so what it says by itself is asked for too.
        let alone = level.run(&mut scanner, &program.automaton, text, 128, &mut Vec::new());
        let outcome = scanner.scan(program, text, &Limits::default(), &mut hits).map(|()| hits);
        if level != Level::Portable && program.late.is_empty() {
            assert_eq!(alone, outcome.is_ok(), "{level:?} {:?}", String::from_utf8_lossy(text));
        }
        (level, outcome)
    });
    let (_, first) = outcomes.next().unwrap();
    for (level, outcome) in outcomes {
        assert_eq!(outcome, first, "{level:?} {:?}", String::from_utf8_lossy(text));
    }
    first
}

/// Whether RFC 8259 and the depth limit accept the text, by another implementation.
fn accepted_elsewhere(text: &[u8]) -> bool {
    let (mut depth, mut deepest, mut string, mut escape) = (0i64, 0, false, false);
    for byte in text {
        match byte {
            _ if escape => escape = false,
            b'\\' if string => escape = true,
            b'"' => string = !string,
            b'{' | b'[' if !string => depth += 1,
            b'}' | b']' if !string => depth -= 1,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    std::str::from_utf8(text).is_ok() && deepest <= 128 && serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

fn check(text: &[u8]) {
    static PROGRAMS: LazyLock<Vec<Program>> = LazyLock::new(programs);
    let expected = accepted_elsewhere(text);
    for program in &*PROGRAMS {
        let outcome = scan(program, text);
        assert_eq!(outcome.is_ok(), expected, "{outcome:?} {:?}", String::from_utf8_lossy(text));
        if let Ok(hits) = outcome {
            assert!(hits.is_sorted_by_key(|hit| (hit.start, hit.selector)));
            for hit in hits {
                let value = &text[hit.start..hit.end];
                assert!(serde_json::from_slice::<IgnoredAny>(value).is_ok());
                assert!(!crate::scan::is_white(value[0]) && !crate::scan::is_white(value[value.len() - 1]));
                assert_eq!(hit.escaped, hit.kind == Kind::String && value.contains(&b'\\'));
            }
        }
    }
}

#[test]
fn short_texts_of_structural_bytes_are_judged_alike() {
    // Every text of up to four of these tokens, at the start, across a block's end and across a stride's.
    let tokens = ["{", "}", "[", "]", ",", ":", "\"a\"", "1", " ", "true"];
    let empty = Program::new(Vec::new());
    let every = Program::new(vec![selector("$..*", false, false)]);
    let mut texts = vec![String::new()];
    for _ in 0..4 {
        texts = texts.iter().flat_map(|text| tokens.iter().map(move |token| format!("{text}{token}"))).collect();
        for text in &texts {
            let expected = accepted_elsewhere(text.as_bytes());
            for blanks in [0, 61, 63, 509, 511] {
                let text = format!("{}{text}", " ".repeat(blanks));
                assert_eq!(scan(&empty, text.as_bytes()).is_ok(), expected, "{text:?}");
                assert_eq!(scan(&every, text.as_bytes()).is_ok(), expected, "{text:?}");
            }
        }
    }
}

#[test]
fn numbers_and_literals_are_judged_alike_at_every_place() {
    let alphabet = ["0", "7", "-", "+", ".", "e", "E", "12", "t", "true"];
    let mut texts = vec![String::new()];
    let empty = Program::new(Vec::new());
    for _ in 0..4 {
        texts = texts.iter().flat_map(|text| alphabet.iter().map(move |part| format!("{text}{part}"))).collect();
        for text in &texts {
            let expected = accepted_elsewhere(text.as_bytes());
            for blanks in [0, 59, 60, 61, 62, 63, 507, 508, 509, 510, 511] {
                let text = format!("{}{text}", " ".repeat(blanks));
                assert_eq!(scan(&empty, text.as_bytes()).is_ok(), expected, "{text:?}");
            }
        }
    }
    for word in
        ["true", "false", "null", "nul", "tru", "fals", "falsey", "nulll", "True", "truefalse", "nan", "-1", "-0.5e+10"]
    {
        for blanks in (55..70).chain(503..518) {
            for (open, close) in [("", ""), ("[", "]"), ("{\"a\":", "}"), ("[1,", ",2]"), ("[", " ]"), ("[", "\"\"]")] {
                check(format!("{}{open}{word}{close}", " ".repeat(blanks)).as_bytes());
            }
        }
    }
}

#[test]
fn long_runs_cross_blocks() {
    for length in [1, 62, 63, 64, 65, 127, 128, 129, 200, 511, 512, 513] {
        for lead in (0..66).step_by(5) {
            let lead = " ".repeat(lead);
            for run in ["x", "\\\\", "é", "\\u0041", "😀", " "] {
                check(format!("{lead}[\"{}\",\"b\"]", run.repeat(length)).as_bytes());
                check(format!("{lead}{{\"{}\":1,\"a\":{{}}}}", run.repeat(length)).as_bytes());
                check(format!("{lead}[\"{}\\\",\"b\"]", run.repeat(length)).as_bytes());
            }
            check(format!("{lead}[{}]", "1".repeat(length)).as_bytes());
            check(format!("{lead}[0.{},2]", "1".repeat(length)).as_bytes());
            check(format!("{lead}[1e{},\"a\"]", "0".repeat(length)).as_bytes());
            check(format!("{lead}{{\"a\"{0}:{0}1{0},{0}\"b\"{0}:{0}[{0}]{0}}}{0}", "\n".repeat(length)).as_bytes());
            check(format!("{lead}{}{}", "[".repeat(length), "]".repeat(length)).as_bytes());
            check(format!("{lead}{}1{}", "{\"a\":[".repeat(length), "]}".repeat(length)).as_bytes());
        }
    }
}

#[test]
fn the_suite_is_judged_alike_at_every_offset() {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance/data/json-test-suite/test_parsing");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read(&path).unwrap();
        if text.len() > 10_000 {
            continue;
        }
        count += 1;
        let accepted = accepted_elsewhere(&text);
        let programs = programs();
        for blanks in (0..65).chain(500..514) {
            let mut shifted = vec![b' '; blanks];
            shifted.extend_from_slice(&text);
            for program in &programs[..4] {
                assert_eq!(scan(program, &shifted).is_ok(), accepted, "{path:?}");
            }
        }
    }
    assert!(count > 300);
}

/// A text of several strides, most of which lies where nothing is selected by place, and the places in it where a structural byte stands.
fn mostly_quiet(blanks: usize) -> (Vec<u8>, Vec<usize>) {
    let fill = |count: usize| r#"{"b":[1,{"c":-2.5}],"text":"a [longer] {text}","e":[[],{}]},"#.repeat(count);
    let text = format!(
        concat!(
            r#"{}{{"a":[{}0],"cvc":"1","card":{{"number":"42","z":[[],[{{}}],{}0]}},"d":[[{}{{"cvc":{{"q":[1]}}}},{}true]],"#,
            r#""cvc":    [{{}}],"\u0063vc":3,"e":[{}"\n"],"customer":{{"f":[{}1],"email":"x@y"}},"cvc":[{}2]}}"#
        ),
        " ".repeat(blanks),
        fill(12),
        fill(3),
        fill(11),
        fill(12),
        fill(2),
        fill(9),
        fill(10),
    );
    let is_structural = |byte: u8| matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b':');
    let places = (0..text.len()).filter(|&at| is_structural(text.as_bytes()[at])).collect();
    (text.into_bytes(), places)
}

#[test]
fn one_wrong_byte_in_a_long_text_is_judged_alike() {
    let programs = programs();
    for blanks in [0, 63] {
        let (mut text, places) = mostly_quiet(blanks);
        assert!(accepted_elsewhere(&text) && text.len() > 7 * 512);
        check(&text);
        for &at in &places {
            let byte = text[at];
            for other in b"{}[],: " {
                text[at] = *other;
                let accepted = accepted_elsewhere(&text);
                for program in [&programs[0], &programs[1], &programs[3]] {
                    assert_eq!(scan(program, &text).is_ok(), accepted, "{:?} for {:?} at {at}", other, byte);
                }
            }
            text[at] = byte;
        }
    }
}

#[test]
fn nothing_may_follow_the_outermost_value() {
    for first in ["[]", "{}", "1", "\"a\"", "null", "[1,{\"b\":2}]"] {
        for second in ["", "[]", "{}", "2", "\"a\"", "\"a\":1", "\"a\":[]", "\"a\":{\"b\":1}", "true", "]", "}"] {
            for between in ["", ",", " , ", ":", " "] {
                for blanks in [0, 500, 507, 511] {
                    check(format!("{}{first}{between}{second}", " ".repeat(blanks)).as_bytes());
                }
            }
        }
    }
}

/// Checks that the only hit in quiet text is the value of this member, behind so many blanks.
fn found_alone(program: &Program, name: &str, value: &str, blanks: usize) {
    let before = format!("[{}{}{{{name}", " ".repeat(blanks), "[],".repeat(400));
    let text = format!("{before}{value},\"b\":1}},{}0]", "[],".repeat(400));
    let hits = scan(program, text.as_bytes()).unwrap();
    let spans: Vec<_> = hits.iter().map(|hit| (hit.start, hit.end)).collect();
    assert_eq!(spans, [(before.len(), before.len() + value.len())], "{name} behind {blanks}");
}

#[test]
fn a_known_name_is_found_wherever_it_is_in_quiet_text() {
    let program = Program::new(vec![selector("$..cvc", false, false)]);
    let far = " ".repeat(600);
    for (name, value) in [
        (r#""cvc":"#, r#""1""#),
        (r#""cvc" : "#, r#"{"a":[1]}"#),
        (&*format!(r#""cvc":{far}"#), "[{}]"),
        (&*format!(r#""cvc"{far}:"#), "[[]]"),
        (r#""\u0063vc":"#, "[]"),
        (r#""\u0063\u0076\u0063":"#, "-0.5"),
    ] {
        (0..=512).for_each(|blanks| found_alone(&program, name, value, blanks));
    }
}

#[test]
fn a_known_name_is_found_however_long_it_is_and_escaped() {
    for length in (1..4).chain(50..70) {
        let name = &"abcdefghijklmnopqrstuvwxyz".repeat(3)[..length];
        let program = Program::new(vec![selector(&format!("$..['{name}']"), false, false)]);
        let (first, rest) = name.split_at(1);
        let (most, last) = name.split_at(length - 1);
        let escaped = |part: &str| format!("\\u{:04x}", part.as_bytes()[0]);
        for blanks in (0..64).chain(448..512) {
            found_alone(&program, &format!("\"{name}\":"), "true", blanks);
            found_alone(&program, &format!("\"{}{rest}\":", escaped(first)), "true", blanks);
            found_alone(&program, &format!("\"{most}{}\":", escaped(last)), "true", blanks);
        }
    }
}

#[test]
fn a_text_cut_anywhere_is_judged_alike() {
    let (text, _) = mostly_quiet(7);
    for end in 0..=text.len() {
        check(&text[..end]);
    }
    for deep in [100, 127, 128, 129, 200] {
        let (open, close) = ("[{\"a\":".repeat(deep / 2), "}]".repeat(deep / 2));
        for blanks in [0, 400, 1000] {
            // The looping state is entered well before, and the deepest place lies in a stride of its own.
            check(format!("{{\"a\":[{}{open}1{close}]}}", "[],".repeat(blanks)).as_bytes());
        }
    }
}

#[test]
fn evasions_are_found_or_refused() {
    let exact = Program::new(vec![selector("$.card", false, false)]);
    let fold = Program::new(vec![selector("$.card", false, true)]);
    let kelvin = Program::new(vec![selector("$.tokens", false, true)]);
    let filter = Program::new(vec![selector("$[?@.type=='card'].number", false, false)]);
    let found = |program: &Program, text: &str| {
        scan(program, text.as_bytes())
            .map(|hits| hits.iter().map(|hit| text[hit.start..hit.end].to_owned()).collect::<Vec<_>>())
    };
    let values = |values: &[&str]| Ok(values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>());
    let refused = |offset, cause| Err(ScanError { offset, cause });
    assert_eq!(found(&exact, r#"{"card":1,"card":2}"#), values(&["1", "2"]));
    assert_eq!(found(&exact, r#"{"\u0063ard":1,"c\u0061r\u0064":2,"CARD":3}"#), values(&["1", "2"]));
    assert_eq!(found(&fold, r#"{"\u0043ARD":1,"Card":2,"cart":3}"#), values(&["1", "2"]));
    assert_eq!(found(&kelvin, "{\"to\u{212a}en\u{17f}\":1,\"TO\\u212aENS\":2}"), values(&["1", "2"]));
    assert_eq!(found(&exact, r#"{"\ud800card":1,"card\udc00":2,"a\"card":3,"card\\":4}"#), values(&[]));
    assert_eq!(found(&exact, r#"{"card":"\ud800"}"#), values(&[r#""\ud800""#]));
    assert_eq!(found(&exact, &format!("{{\"card\":{}}}", "9".repeat(5000))), values(&["9".repeat(5000).as_str()]));
    assert_eq!(found(&exact, r#"{"card":1E400}"#), values(&["1E400"]));
    assert_eq!(found(&exact, "\u{feff}{\"card\":1}"), refused(0, ScanCause::ByteOrderMark));
    assert_eq!(found(&exact, "{\"card\":1} x"), refused(11, ScanCause::TrailingBytes));
    assert_eq!(found(&exact, "{\"card\":1}{}"), refused(10, ScanCause::TrailingBytes));
    assert_eq!(found(&exact, "{\"card\":1}\0"), refused(10, ScanCause::TrailingBytes));
    let deep = |depth: usize| format!("{}{{\"card\":1}}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(found(&exact, &deep(127)), values(&[]));
    assert_eq!(found(&exact, &deep(128)), refused(128, ScanCause::Depth));
    let utf16: Vec<u8> = "{\"card\":1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(scan(&exact, &utf16).is_err());
    assert!(scan(&exact, b"{\"card\":\"\xed\xa0\x80\"}").is_err());
    // A filter sees no text in which it could be evaded.
    assert_eq!(found(&filter, r#"[{"type":"card","number":1}]"#), values(&["1"]));
    assert_eq!(found(&filter, r#"[{"type":"card","number":1,"type":"x"}]"#), refused(27, ScanCause::DuplicateKey));
    assert_eq!(found(&filter, r#"[{"type":"card","number":1,"\u0074ype":"x"}]"#), refused(27, ScanCause::DuplicateKey));
    assert_eq!(
        found(&filter, r#"[{"type":"card","number":1,"a":{"b":1,"b":2}}]"#),
        refused(38, ScanCause::DuplicateKey)
    );
    assert_eq!(found(&filter, r#"[{"type":"c\u0061rd","number":1,"TYPE":"x","\ud800":1,"\ud801":2}]"#), values(&["1"]));
    let filter = Program::new(vec![selector("$[?@.type=='card'].number", false, true)]);
    assert_eq!(found(&filter, r#"[{"type":"card","number":1,"TYPE":"x"}]"#), refused(27, ScanCause::DuplicateKey));
    assert_eq!(found(&filter, r#"[{"Type":"card","NUMBER":1}]"#), values(&["1"]));
}

#[test]
fn a_filter_takes_no_more_work_than_the_limit() {
    let program = Program::new(vec![selector("$..[?@..a || count(@..*) > 3]", false, false)]);
    let text = format!("[{}]", vec!["{\"b\":[1,2,3]}"; 100].join(","));
    let limits = Limits { filter_steps: 500, ..Limits::default() };
    let mut hits = Vec::new();
    let refused = Scanner::new().scan(&program, text.as_bytes(), &limits, &mut hits);
    assert_eq!(refused.unwrap_err().cause, ScanCause::FilterWork);
    assert!(hits.is_empty());
    Scanner::new().scan(&program, text.as_bytes(), &Limits::default(), &mut hits).unwrap();
    assert!(!hits.is_empty());
}

/// A document of a test.
#[derive(Debug, Clone)]
enum Doc {
    Scalar(&'static str),
    Array(Vec<Doc>),
    Object(Vec<(&'static str, Doc)>),
}

const SCALARS: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-1",
    "12.50",
    "1e400",
    "-0.0E-7",
    "123456789012345678901234567890",
    "\"\"",
    "\"a\"",
    "\"4242424242424242\"",
    "\"caf\u{e9} \u{1f600}\"",
    r#""a\"b\\""#,
    r#""\ud800""#,
    "\"{[,:]}\"",
    "\"a longer text that goes on and on, so that it fills more than one block of the scan, and a little more\"",
];

/// Names as they are written, and what they are.
const NAMES: &[(&str, &str)] = &[
    ("a", "a"),
    ("b", "b"),
    ("c", "c"),
    ("A", "A"),
    (r"\u0061", "a"),
    (r"\u0042", "B"),
    ("card", "card"),
    ("", ""),
    ("a name that is as long as a block of the scan is, and some more text", "-"),
    (r#"a\""#, "a\""),
    (LONG, LONG),
    (r"\u0061 name of sixty bytes, as long as none may be to have a tail", LONG),
];

/// A name whose last escape can stand two blocks before its end.
const LONG: &str = "a name of sixty bytes, as long as none may be to have a tail";

fn docs() -> impl Strategy<Value = Doc> {
    proptest::sample::select(SCALARS).prop_map(Doc::Scalar).prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Doc::Array),
            proptest::collection::vec((proptest::sample::select(NAMES).prop_map(|name| name.0), inner), 0..6)
                .prop_map(Doc::Object),
        ]
    })
}

/// A value of a written document.
struct Value {
    span: (usize, usize),
    scalar: bool,
    children: Vec<(Option<&'static str>, Value)>,
}

/// Writes a document with blanks where `blanks` says so, and gives the places of its values.
fn write(doc: &Doc, blanks: &mut impl Iterator<Item = &'static str>, out: &mut String) -> Value {
    let start = out.len();
    let mut children = Vec::new();
    match doc {
        Doc::Scalar(text) => out.push_str(text),
        Doc::Array(elements) => {
            out.push('[');
            for (at, element) in elements.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                out.push_str(blanks.next().unwrap());
                children.push((None, write(element, blanks, out)));
                out.push_str(blanks.next().unwrap());
            }
            out.push(']');
        }
        Doc::Object(members) => {
            out.push('{');
            for (at, (name, value)) in members.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                out.push_str(blanks.next().unwrap());
                out.push_str(&format!("\"{name}\""));
                out.push_str(blanks.next().unwrap());
                out.push(':');
                out.push_str(blanks.next().unwrap());
                children.push((Some(*name), write(value, blanks, out)));
                out.push_str(blanks.next().unwrap());
            }
            out.push('}');
        }
    }
    Value { span: (start, out.len()), scalar: matches!(doc, Doc::Scalar(_)), children }
}

/// One part of a test's selector.
#[derive(Debug, Clone)]
enum Part {
    Name(&'static str),
    Any,
    Index(i64),
    Slice(Option<i64>, Option<i64>, i64),
}

fn parts() -> impl Strategy<Value = Vec<(bool, Vec<Part>)>> {
    let bound = || prop_oneof![Just(None), (-3i64..5).prop_map(Some)];
    let part = prop_oneof![
        4 => proptest::sample::select(&["a", "b", "c", "A", "card", "", "a\"", LONG][..]).prop_map(Part::Name),
        2 => Just(Part::Any),
        2 => (-3i64..4).prop_map(Part::Index),
        1 => (bound(), bound(), -2i64..4).prop_map(|(start, end, step)| Part::Slice(start, end, step)),
    ];
    proptest::collection::vec((prop::bool::weighted(0.3), proptest::collection::vec(part, 1..4)), 0..5)
}

fn written(parts: &[(bool, Vec<Part>)]) -> String {
    let number = |bound: &Option<i64>| bound.map(|bound| bound.to_string()).unwrap_or_default();
    let part = |part: &Part| match part {
        Part::Name(name) => format!("{name:?}"),
        Part::Any => "*".to_owned(),
        Part::Index(index) => index.to_string(),
        Part::Slice(start, end, step) => format!("{}:{}:{step}", number(start), number(end)),
    };
    let segment = |(descend, parts): &(bool, Vec<Part>)| {
        format!("{}[{}]", if *descend { ".." } else { "" }, parts.iter().map(part).collect::<Vec<_>>().join(","))
    };
    format!("${}", parts.iter().map(segment).collect::<String>())
}

/// The naive evaluation: follows the definition of RFC 9535 segment by segment.
fn naive<'v>(parts: &[(bool, Vec<Part>)], fold: bool, value: &'v Value, found: &mut Vec<&'v Value>) {
    let Some(((descend, picks), rest)) = parts.split_first() else { return found.push(value) };
    for (index, (name, child)) in value.children.iter().enumerate() {
        let length = value.children.len() as i64;
        let index = index as i64;
        let normal = |bound: i64| if bound < 0 { length + bound } else { bound };
        for pick in picks {
            let taken = match (pick, name) {
                (Part::Any, _) => true,
                (Part::Name(wanted), Some(name)) => {
                    let decoded = NAMES.iter().find(|known| known.0 == *name).unwrap().1;
                    if fold { decoded.eq_ignore_ascii_case(wanted) } else { decoded == *wanted }
                }
                (Part::Index(wanted), None) => normal(*wanted) == index,
                (Part::Slice(start, end, step), None) if *step > 0 => {
                    let start = normal(start.unwrap_or(0)).max(0);
                    index >= start && index < normal(end.unwrap_or(length)) && (index - start) % step == 0
                }
                (Part::Slice(start, end, step), None) if *step < 0 => {
                    let start = start.map_or(length - 1, normal).min(length - 1);
                    let end = end.map_or(-1, |end| normal(end).max(-1));
                    index <= start && index > end && (start - index) % step == 0
                }
                _ => false,
            };
            if taken {
                naive(rest, fold, child, found);
            }
        }
        if *descend {
            naive(parts, fold, child, found);
        }
    }
}

fn leaves<'v>(value: &'v Value, found: &mut Vec<&'v Value>) {
    if value.scalar {
        found.push(value);
    }
    value.children.iter().for_each(|(_, child)| leaves(child, found));
}

const BLANKS: &[&str] =
    &["", "", "", " ", "\n  ", "\t", "\r\n                                                              ", FAR];

/// More than a stride.
const FAR: &str = match std::str::from_utf8(&[b' '; 600]) {
    Ok(blanks) => blanks,
    Err(_) => "",
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn selection_is_what_the_naive_evaluation_selects(
        doc in docs(),
        selectors in proptest::collection::vec((parts(), any::<bool>(), any::<bool>()), 1..5),
        blanks in proptest::collection::vec(proptest::sample::select(BLANKS), 1..40),
        lead in prop_oneof![0usize..64, 448usize..576],
    ) {
        let mut text = " ".repeat(lead);
        let root = write(&doc, &mut blanks.into_iter().cycle(), &mut text);
        let program = Program::new(
            selectors.iter().map(|(parts, each, fold)| selector(&written(parts), *each, *fold)).collect(),
        );
        let hits = scan(&program, text.as_bytes()).unwrap();
        let mut expected = BTreeSet::new();
        for (number, (parts, each, fold)) in selectors.iter().enumerate() {
            let mut found = Vec::new();
            naive(parts, *fold, &root, &mut found);
            if *each {
                let matched = std::mem::take(&mut found);
                matched.into_iter().for_each(|value| leaves(value, &mut found));
            }
            expected.extend(found.into_iter().map(|value| (value.span.0, number as u32, value.span.1)));
        }
        let got: Vec<_> = hits.iter().map(|hit| (hit.start, hit.selector, hit.end)).collect();
        prop_assert_eq!(got, expected.into_iter().collect::<Vec<_>>(), "{} {:?}", text, selectors);
    }

    #[test]
    fn documents_are_judged_alike_whatever_is_changed_in_them(
        doc in docs(),
        blanks in proptest::collection::vec(proptest::sample::select(BLANKS), 1..40),
        changes in proptest::collection::vec(
            (any::<prop::sample::Index>(), 0u8..4, proptest::sample::select(&b"{}[],:\"\\ \n\x00\x1f0-1.eE+tnfu\xc3\xa9\xf0\x7f/"[..])),
            0..4,
        ),
        lead in prop_oneof![0usize..64, 448usize..576],
    ) {
        let mut text = " ".repeat(lead);
        write(&doc, &mut blanks.into_iter().cycle(), &mut text);
        let mut text = text.into_bytes();
        check(&text);
        for (at, how, byte) in changes {
            let at = at.index(text.len() + 1);
            match how {
                0 => text.insert(at, byte),
                1 if at < text.len() => { text.remove(at); }
                2 if at < text.len() => text[at] = byte,
                _ => text.truncate(at),
            }
            check(&text);
        }
    }
}
