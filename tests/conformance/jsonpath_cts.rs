//! The RFC 9535 compliance suite (BSD-2, beside the data): every query is honoured exactly, or refused when it is read.

use std::collections::BTreeSet;

use json_span::{Limits, Program, Scanner, Selector, SelectorOptions};
use serde_json::Value;

/// Queries of the RFC that are refused when they are read, each with its reason. Nothing may be selected wrongly instead.
const REFUSED: &[(&str, &str)] = &[
    ("$.values[?match(@, $.regex)]", "the sender of a body would choose the pattern"),
    ("$.values[?search(@, $.regex)]", "the sender of a body would choose the pattern"),
    ("$.values[?match(@.a, value($..['regex']))]", "the sender of a body would choose the pattern"),
    ("$.values[?search(@, value($..['regex']))]", "the sender of a body would choose the pattern"),
    ("$[?match(1, 'a.*')]", "never true, whatever the body: a mistake in a rules file"),
    ("$[?search(1, 'a.*')]", "never true, whatever the body: a mistake in a rules file"),
    ("$[?match(@.a, 1)]", "never true, whatever the body: a mistake in a rules file"),
    ("$[?search(@.a, 1)]", "never true, whatever the body: a mistake in a rules file"),
];

/// The values that the selector takes, as text, with their place: a set, for a value is spliced once however often it is selected.
fn selected(selector: Selector, document: &str) -> BTreeSet<(usize, String)> {
    let mut hits = Vec::new();
    let program = Program::new(vec![selector]);
    Scanner::new().scan(&program, document.as_bytes(), &Limits::default(), &mut hits).unwrap();
    assert!(hits.is_sorted_by_key(|h| (h.start, std::cmp::Reverse(h.end))), "hits out of document order");
    hits.iter().map(|h| (h.start, document[h.start..h.end].to_owned())).collect()
}

/// The steps of a normalised path (RFC 9535, section 2.7).
fn steps(path: &str) -> Vec<Value> {
    let mut steps = Vec::new();
    let mut rest = path.strip_prefix('$').unwrap();
    while let Some(inside) = rest.strip_prefix('[') {
        if let Some(quoted) = inside.strip_prefix('\'') {
            let mut name = String::new();
            let mut chars = quoted.char_indices();
            let end = loop {
                match chars.next().unwrap() {
                    (at, '\'') => break at,
                    (_, '\\') => match chars.next().unwrap().1 {
                        'b' => name.push('\u{8}'),
                        'f' => name.push('\u{c}'),
                        'n' => name.push('\n'),
                        'r' => name.push('\r'),
                        't' => name.push('\t'),
                        'u' => {
                            let digits: String = chars.by_ref().take(4).map(|(_, digit)| digit).collect();
                            name.push(char::from_u32(u32::from_str_radix(&digits, 16).unwrap()).unwrap());
                        }
                        other => name.push(other),
                    },
                    (_, other) => name.push(other),
                }
            };
            steps.push(Value::String(name));
            rest = quoted[end + 1..].strip_prefix(']').unwrap();
        } else {
            let (index, after) = inside.split_once(']').unwrap();
            steps.push(index.parse::<u64>().unwrap().into());
            rest = after;
        }
    }
    assert!(rest.is_empty(), "{path}");
    steps
}

/// The place and text of the value that the steps lead to, in a document without white space: found by measuring what
/// `serde_json` writes, not by the scanner.
fn place(document: &Value, steps: &[Value]) -> (usize, String) {
    let Some((step, rest)) = steps.split_first() else { return (0, document.to_string()) };
    let mut offset = 1;
    let child = match (document, step) {
        (Value::Object(members), Value::String(wanted)) => {
            for (name, value) in members.iter().take_while(|(name, _)| *name != wanted) {
                offset += Value::from(name.as_str()).to_string().len() + value.to_string().len() + 2;
            }
            offset += Value::from(wanted.as_str()).to_string().len() + 1;
            &members[wanted]
        }
        (Value::Array(elements), Value::Number(wanted)) => {
            let wanted = wanted.as_u64().unwrap() as usize;
            offset += elements[..wanted].iter().map(|element| element.to_string().len() + 1).sum::<usize>();
            &elements[wanted]
        }
        _ => panic!("{step} leads nowhere in {document}"),
    };
    let (start, text) = place(child, rest);
    (offset + start, text)
}

#[test]
fn each_of_the_703_queries_is_honoured_exactly_or_refused() {
    let suite: Value = serde_json::from_str(include_str!("data/jsonpath/cts.json")).unwrap();
    let tests = suite["tests"].as_array().unwrap();
    assert_eq!(tests.len(), 703);
    let (mut honoured, mut invalid, mut refused, mut wrong) = (0, 0, 0, Vec::new());
    for test in tests {
        let name = test["name"].as_str().unwrap();
        let query = test["selector"].as_str().unwrap();
        let parsed = Selector::parse(query, SelectorOptions::default());
        if test["invalid_selector"] == Value::Bool(true) {
            match parsed {
                Err(_) => invalid += 1,
                Ok(_) => wrong.push(format!("{name}: {query} is invalid and was accepted")),
            }
            continue;
        }
        let selector = match parsed {
            Ok(selector) => selector,
            Err(_) if REFUSED.iter().any(|(q, _)| *q == query) => {
                refused += 1;
                continue;
            }
            Err(e) => {
                wrong.push(format!("{name}: {query} is valid and was refused: {e}"));
                continue;
            }
        };
        let document = serde_json::to_string(&test["document"]).unwrap();
        let found = selected(selector, &document);
        // Where the order of an object's members is open, the suite gives several results; as sets they are all the same.
        let paths = test.get("result_paths").or_else(|| test["results_paths"].get(0)).unwrap().as_array().unwrap();
        let expected: BTreeSet<_> =
            paths.iter().map(|p| place(&test["document"], &steps(p.as_str().unwrap()))).collect();
        if found == expected {
            honoured += 1;
        } else {
            wrong.push(format!("{name}: {query} on {document}: {found:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(refused, REFUSED.len());
    assert_eq!(honoured + invalid + refused, 703);
}
