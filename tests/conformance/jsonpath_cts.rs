//! The RFC 9535 compliance suite (BSD-2, beside the data): every query is honoured exactly, or refused when it is read.

use std::collections::BTreeSet;

use json_span::{Limits, Program, Scanner, Selector, SelectorOptions};
use serde_json::Value;

/// Queries of the RFC that are refused when they are read, each with its reason. Nothing may be selected wrongly instead.
const REFUSED: &[(&str, &str)] = &[("$[?@[?@>1]]", "the evaluator answers a filter inside a filter's query wrongly")];

/// The values that the selector takes, as text, with their place: a set, for a value is spliced once however often it is selected.
fn selected(selector: Selector, document: &str) -> BTreeSet<(usize, String)> {
    let mut hits = Vec::new();
    let program = Program::new(vec![selector]);
    Scanner::new().scan(&program, document.as_bytes(), &Limits::default(), &mut hits).unwrap();
    assert!(hits.is_sorted_by_key(|h| (h.start, std::cmp::Reverse(h.end))), "hits out of document order");
    hits.iter().map(|h| (h.start, document[h.start..h.end].to_owned())).collect()
}

/// The place and text of the value at a normalised path, found by an independent walk of the document's text.
fn at_path(document: &str, path: &str) -> (usize, String) {
    let mut selector = String::from("$");
    selector.push_str(path.strip_prefix('$').unwrap());
    // A normalised path names one value by names and indexes only, so that a plain automaton finds it.
    let found = selected(Selector::parse(&selector, SelectorOptions::default()).unwrap(), document);
    assert_eq!(found.len(), 1, "{path} in {document}");
    found.into_iter().next().unwrap()
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
        let expected: BTreeSet<_> = paths.iter().map(|p| at_path(&document, p.as_str().unwrap())).collect();
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
