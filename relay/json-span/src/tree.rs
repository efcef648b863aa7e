//! A parsed copy for the selectors that a single pass cannot decide: filters, and indexes counted from an array's end.
//!
//! The copy's nodes carry their spans, so what the evaluator finds is spliced like any other hit.

use jsonpath_rust::query::js_path_process;
use jsonpath_rust::query::queryable::Queryable;

use crate::error::{ScanCause, ScanError};
use crate::fold::fold_text;
use crate::scan::{Hit, Kind};
use crate::selector::{Program, Selector};
use crate::string::decode_string;

/// One value of the copy.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    start: usize,
    end: usize,
    kind: Kind,
    escaped: bool,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Elements(Vec<Node>),
    Members(Vec<(String, Node)>),
}

/// Appends the hits of the program's late selectors. The text passed the strict scan.
pub(crate) fn late_hits(program: &Program, text: &[u8], hits: &mut Vec<Hit>) -> Result<(), ScanError> {
    let plain = Build { text, at: 0, fold: false, unique: program.has_filter }.value()?;
    let folded = match program.folds {
        true => Some(Build { text, at: 0, fold: true, unique: program.has_filter }.value()?),
        false => None,
    };
    for (index, selector) in program.selectors.iter().enumerate() {
        let Some(query) = &selector.query else { continue };
        let root = if selector.options.fold_case { folded.as_ref().unwrap_or(&plain) } else { &plain };
        let mut found = Vec::new();
        if selector.filter {
            // The evaluator fails on no document; an answer that is no list of nodes selects nothing that we could edit.
            let nodes = js_path_process(query, root);
            let nodes = nodes.map_err(|_| ScanError { offset: 0, cause: ScanCause::UnexpectedByte })?;
            found.extend(nodes.into_iter().map(|n| n.val));
        } else {
            walk(selector, query, 0, root, &mut found);
        }
        found.sort_by_key(|n| (n.start, std::cmp::Reverse(n.end)));
        found.dedup_by_key(|n| n.start);
        for node in found {
            push(index as u32, selector.options.each, node, hits);
        }
    }
    Ok(())
}

fn push(selector: u32, each: bool, node: &Node, hits: &mut Vec<Hit>) {
    match &node.content {
        Content::Elements(elements) if each => elements.iter().for_each(|n| push(selector, each, n, hits)),
        Content::Members(members) if each => members.iter().for_each(|(_, n)| push(selector, each, n, hits)),
        _ => {
            let Node { start, end, kind, escaped, .. } = *node;
            let hit = Hit { selector, start, end, kind, escaped };
            // Nested matches of `each` meet in the same leaves.
            if !each || !hits.contains(&hit) {
                hits.push(hit);
            }
        }
    }
}

/// Evaluates names, wildcards, indexes and slices of either sign, all duplicates of a name included.
fn walk<'a>(
    selector: &Selector,
    query: &jsonpath_rust::parser::model::JpQuery,
    depth: usize,
    node: &'a Node,
    found: &mut Vec<&'a Node>,
) {
    use jsonpath_rust::parser::model::Segment;
    let Some(segment) = query.segments.get(depth) else {
        found.push(node);
        return;
    };
    let mut next = Vec::new();
    collect(selector, segment, node, &mut next);
    for child in next {
        walk(selector, query, depth + 1, child, found);
    }

    fn collect<'a>(selector: &Selector, segment: &Segment, node: &'a Node, next: &mut Vec<&'a Node>) {
        match segment {
            Segment::Selector(s) => children(selector, s, node, next),
            Segment::Selectors(all) => all.iter().for_each(|s| children(selector, s, node, next)),
            Segment::Descendant(inner) => {
                collect(selector, inner, node, next);
                match &node.content {
                    Content::Elements(elements) => elements.iter().for_each(|n| collect(selector, segment, n, next)),
                    Content::Members(members) => members.iter().for_each(|(_, n)| collect(selector, segment, n, next)),
                    _ => {}
                }
            }
        }
    }
}

fn children<'a>(
    selector: &Selector,
    label: &jsonpath_rust::parser::model::Selector,
    node: &'a Node,
    next: &mut Vec<&'a Node>,
) {
    use jsonpath_rust::parser::model::Selector as Label;
    match (label, &node.content) {
        (Label::Name(name), Content::Members(members)) => {
            let folded = if selector.options.fold_case { fold_text(name) } else { name.clone() };
            next.extend(members.iter().filter(|(key, _)| *key == folded).map(|(_, n)| n));
        }
        (Label::Wildcard, Content::Members(members)) => next.extend(members.iter().map(|(_, n)| n)),
        (Label::Wildcard, Content::Elements(elements)) => next.extend(elements),
        (Label::Index(index), Content::Elements(elements)) => {
            let length = elements.len() as i64;
            let index = if *index < 0 { index.saturating_add(length) } else { *index };
            next.extend(usize::try_from(index).ok().and_then(|i| elements.get(i)));
        }
        (Label::Slice(start, end, step), Content::Elements(elements)) => {
            let length = elements.len() as i64;
            let step = step.unwrap_or(1);
            let normal = |i: i64| if i >= 0 { i } else { length.saturating_add(i) };
            // RFC 9535 §2.3.4.2.2.
            let take = |i: i64| usize::try_from(i).ok().and_then(|i| elements.get(i));
            if step > 0 {
                let (mut i, end) =
                    (normal(start.unwrap_or(0)).clamp(0, length), normal(end.unwrap_or(length)).clamp(0, length));
                while i < end {
                    next.extend(take(i));
                    i = i.saturating_add(step);
                }
            } else if step < 0 {
                let mut i = normal(start.unwrap_or(length - 1)).clamp(-1, length - 1);
                let end = end.map_or(-1, |e| normal(e).clamp(-1, length - 1));
                while i > end {
                    next.extend(take(i));
                    i = i.saturating_add(step);
                }
            }
        }
        _ => {}
    }
}

struct Build<'a> {
    text: &'a [u8],
    at: usize,
    fold: bool,
    unique: bool,
}

impl Build<'_> {
    fn white(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Result<Node, ScanError> {
        self.white();
        let start = self.at;
        let mut escaped = false;
        let (kind, content) = match self.text.get(start) {
            Some(b'{') => (Kind::Object, Content::Members(self.members()?)),
            Some(b'[') => (Kind::Array, Content::Elements(self.elements()?)),
            Some(b'"') => {
                let (text, has_escape) = self.string();
                escaped = has_escape;
                (Kind::String, Content::Text(text))
            }
            Some(b't') => {
                self.at += 4;
                (Kind::Bool, Content::Bool(true))
            }
            Some(b'f') => {
                self.at += 5;
                (Kind::Bool, Content::Bool(false))
            }
            Some(b'n') => {
                self.at += 4;
                (Kind::Null, Content::Null)
            }
            _ => (Kind::Number, self.number()),
        };
        Ok(Node { start, end: self.at, kind, escaped, content })
    }

    fn number(&mut self) -> Content {
        let start = self.at;
        while matches!(self.text.get(self.at), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
            self.at += 1;
        }
        let text = std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default();
        match text.parse::<i64>() {
            Ok(integer) => Content::Integer(integer),
            Err(_) => Content::Float(text.parse().unwrap_or(f64::NAN)),
        }
    }

    fn string(&mut self) -> (String, bool) {
        let start = self.at;
        let mut escaped = false;
        self.at += 1;
        loop {
            match self.text.get(self.at) {
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(b'"') | None => break,
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        let raw = &self.text[start..self.at.min(self.text.len())];
        let mut text = Vec::new();
        if decode_string(raw, &mut text).is_err() {
            // No comparison can spell half of a surrogate pair; a private-use mark keeps it apart from every other text.
            text = b"\xef\xbf\xbf".to_vec();
        }
        (String::from_utf8(text).unwrap_or_default(), escaped)
    }

    fn elements(&mut self) -> Result<Vec<Node>, ScanError> {
        let mut elements = Vec::new();
        loop {
            self.at += 1;
            self.white();
            if self.text.get(self.at) == Some(&b']') {
                break;
            }
            elements.push(self.value()?);
            self.white();
            if self.text.get(self.at) != Some(&b',') {
                break;
            }
        }
        self.at += 1;
        Ok(elements)
    }

    fn members(&mut self) -> Result<Vec<(String, Node)>, ScanError> {
        let mut members = Vec::new();
        let mut keys = std::collections::HashSet::new();
        loop {
            self.at += 1;
            self.white();
            if self.text.get(self.at) == Some(&b'}') {
                break;
            }
            let key_at = self.at;
            let (key, _) = self.string();
            let key = if self.fold { fold_text(&key) } else { key };
            if self.unique && !keys.insert(key.clone()) {
                return Err(ScanError { offset: key_at, cause: ScanCause::DuplicateKey });
            }
            self.white();
            self.at += 1;
            members.push((key, self.value()?));
            self.white();
            if self.text.get(self.at) != Some(&b',') {
                break;
            }
        }
        self.at += 1;
        Ok(members)
    }
}

impl Queryable for Node {
    fn get(&self, key: &str) -> Option<&Self> {
        match &self.content {
            Content::Members(members) => members.iter().find(|(k, _)| k == key).map(|(_, n)| n),
            _ => None,
        }
    }

    fn as_array(&self) -> Option<&Vec<Self>> {
        match &self.content {
            Content::Elements(elements) => Some(elements),
            _ => None,
        }
    }

    fn as_object(&self) -> Option<Vec<(&str, &Self)>> {
        match &self.content {
            Content::Members(members) => Some(members.iter().map(|(k, n)| (k.as_str(), n)).collect()),
            _ => None,
        }
    }

    fn as_str(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            _ => None,
        }
    }

    fn as_i64(&self) -> Option<i64> {
        match self.content {
            Content::Integer(i) => Some(i),
            _ => None,
        }
    }

    fn as_f64(&self) -> Option<f64> {
        match self.content {
            Content::Integer(i) => Some(i as f64),
            Content::Float(f) => Some(f),
            _ => None,
        }
    }

    fn as_bool(&self) -> Option<bool> {
        match self.content {
            Content::Bool(b) => Some(b),
            _ => None,
        }
    }

    fn null() -> Self {
        Self::default()
    }
}

impl Default for Node {
    fn default() -> Self {
        Content::Null.into()
    }
}

impl From<Content> for Node {
    fn from(content: Content) -> Self {
        let kind = match content {
            Content::Null => Kind::Null,
            Content::Bool(_) => Kind::Bool,
            Content::Integer(_) | Content::Float(_) => Kind::Number,
            Content::Text(_) => Kind::String,
            Content::Elements(_) => Kind::Array,
            Content::Members(_) => Kind::Object,
        };
        Self { start: 0, end: 0, kind, escaped: false, content }
    }
}

impl From<&str> for Node {
    fn from(text: &str) -> Self {
        Content::Text(text.to_owned()).into()
    }
}

impl From<String> for Node {
    fn from(text: String) -> Self {
        Content::Text(text).into()
    }
}

impl From<bool> for Node {
    fn from(b: bool) -> Self {
        Content::Bool(b).into()
    }
}

impl From<i64> for Node {
    fn from(i: i64) -> Self {
        Content::Integer(i).into()
    }
}

impl From<f64> for Node {
    fn from(f: f64) -> Self {
        Content::Float(f).into()
    }
}

impl From<Vec<Node>> for Node {
    fn from(elements: Vec<Node>) -> Self {
        Content::Elements(elements).into()
    }
}

/// Equality of values, whatever their spans (RFC 9535 §2.3.5.2.2).
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        use Content::{Bool, Elements, Float, Integer, Members, Null, Text};
        match (&self.content, &other.content) {
            (Null, Null) => true,
            (Bool(a), Bool(b)) => a == b,
            (Integer(a), Integer(b)) => a == b,
            (Float(a), Float(b)) => a == b,
            (Integer(i), Float(f)) | (Float(f), Integer(i)) => *i as f64 == *f,
            (Text(a), Text(b)) => a == b,
            (Elements(a), Elements(b)) => a == b,
            (Members(a), Members(b)) => {
                a.len() == b.len() && a.iter().all(|(k, v)| b.iter().any(|(l, w)| k == l && v == w))
            }
            _ => false,
        }
    }
}
