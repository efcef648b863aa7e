//! Where a value stands, as people and programs name it.

use std::fmt::Write;

use crate::string::decode_string;

/// One open container on the way to a value.
enum Step {
    Element(usize),
    /// The span of the member's name, quotes included.
    Member(std::ops::Range<usize>),
}

/// The normalised path (RFC 9535 §2.7) of the value that begins at this byte of a text that passed a scan; of the value that follows, where none begins there.
/// Names that no UTF-8 can hold (lone surrogates) are written with U+FFFD.
#[must_use]
pub fn path_at(text: &[u8], offset: usize) -> String {
    let mut steps: Vec<Step> = Vec::new();
    let mut at = 0;
    let mut names = false;
    while let Some(&byte) = text.get(at) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' | b':' => at += 1,
            b',' => {
                match steps.last_mut() {
                    Some(Step::Element(index)) => *index += 1,
                    _ => names = true,
                }
                at += 1;
            }
            b'}' | b']' => {
                steps.pop();
                names = false;
                at += 1;
            }
            b'"' if names => {
                let end = string_end(text, at);
                if let Some(Step::Member(name)) = steps.last_mut() {
                    *name = at..end;
                }
                names = false;
                at = end;
            }
            _ if at >= offset => break,
            b'{' => {
                steps.push(Step::Member(0..0));
                names = true;
                at += 1;
            }
            b'[' => {
                steps.push(Step::Element(0));
                at += 1;
            }
            b'"' => at = string_end(text, at),
            _ => {
                let rest = &text[at..];
                at += rest.iter().position(|b| b",]} \t\r\n".contains(b)).unwrap_or(rest.len());
            }
        }
    }
    let mut path = String::from("$");
    for step in &steps {
        match step {
            Step::Element(index) => {
                let _ = write!(path, "[{index}]");
            }
            Step::Member(name) => member(text.get(name.clone()).unwrap_or_default(), &mut path),
        }
    }
    path
}

/// One past the quote that ends a string.
fn string_end(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    loop {
        match text.get(at) {
            Some(b'\\') => at += 2,
            Some(b'"') => return at + 1,
            Some(_) => at += 1,
            None => return text.len(),
        }
    }
}

fn member(name: &[u8], path: &mut String) {
    let mut decoded = Vec::new();
    if decode_string(name, &mut decoded).is_err() {
        decoded = "\u{fffd}".into();
    }
    path.push_str("['");
    for character in String::from_utf8_lossy(&decoded).chars() {
        match character {
            '\u{8}' => path.push_str("\\b"),
            '\t' => path.push_str("\\t"),
            '\n' => path.push_str("\\n"),
            '\u{c}' => path.push_str("\\f"),
            '\r' => path.push_str("\\r"),
            '\'' => path.push_str("\\'"),
            '\\' => path.push_str("\\\\"),
            control if control < ' ' => {
                let _ = write!(path, "\\u{:04x}", u32::from(control));
            }
            other => path.push(other),
        }
    }
    path.push_str("']");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Limits, Program, Scanner, Selector, SelectorOptions};

    #[test]
    fn every_value_has_its_normalised_path() {
        let text = br#" {"a": [1, {"b'\n\u0001": "x,]}"}, [ ], null] , "c":{}, "\u0063" : "c" } "#;
        let place = |value: &str, nth: usize| {
            let text = std::str::from_utf8(text).unwrap();
            text.match_indices(value).nth(nth).unwrap().0
        };
        for (value, nth, path) in [
            ("{\"a\"", 0, "$"),
            ("[1", 0, "$['a']"),
            ("1", 0, "$['a'][0]"),
            ("{\"b", 0, "$['a'][1]"),
            ("\"x,", 0, "$['a'][1]['b\\'\\n\\u0001']"),
            ("[ ]", 0, "$['a'][2]"),
            ("null", 0, "$['a'][3]"),
            ("{}", 0, "$['c']"),
            ("\"c\" }", 0, "$['c']"),
        ] {
            assert_eq!(path_at(text, place(value, nth)), path, "{value}");
        }
        assert_eq!(path_at(b"7", 0), "$");
        assert_eq!(path_at(br#"{"\ud800":1}"#, 10), "$['\u{fffd}']");
    }

    fn values() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i32>().prop_map(Into::into),
            "[a\"\\\\{}\\[\\],: \n]{0,6}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::btree_map("[a-c'\"\\\\\\]\\[.\t\u{0}\u{e9}\u{1f600}]{0,3}", inner, 0..5)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_path_selects_the_value_that_it_names_and_no_other(value in values(), pretty: bool) {
            let text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
            let mut scanner = Scanner::new();
            let mut scan = |selector: &str| {
                let selector = Selector::parse(selector, SelectorOptions::default()).unwrap();
                let mut hits = Vec::new();
                scanner.scan(&Program::new(vec![selector]), &text, &Limits::default(), &mut hits).unwrap();
                hits
            };
            let mut all = scan("$");
            all.extend(scan("$..*"));
            for hit in all {
                let path = path_at(&text, hit.start);
                let found = scan(&path);
                prop_assert_eq!(found.len(), 1, "{}", path);
                prop_assert_eq!((found[0].start, found[0].end), (hit.start, hit.end), "{}", path);
            }
        }
    }
}
