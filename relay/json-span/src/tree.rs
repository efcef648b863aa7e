//! A parsed copy for the selectors that a single pass cannot decide: filters, and places counted from an array's end.
//!
//! The copy is an arena in document order whose nodes carry their spans, so what is found is spliced like any other hit.

use crate::automaton::Kinds;
use crate::error::{ScanCause, ScanError};
use crate::filter::Evaluation;
use crate::fold::fold_name;
use crate::scan::{Hit, Kind, Limits, Program, is_white, string_end};
use crate::selector::{Selector, Take};
use crate::string::decode_name;

/// Number of a node.
pub(crate) type NodeId = usize;

/// The root.
pub(crate) const ROOT: NodeId = 0;

/// One value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) kind: Kind,
    pub(crate) escaped: bool,
    /// One past the last node inside this one; the next sibling, if there is one.
    pub(crate) next: NodeId,
    /// Number of members or elements.
    pub(crate) children: usize,
    /// The decoded name, as a range of `names`, and where its literal starts; for members only.
    name: (usize, usize),
    name_at: usize,
}

/// The parsed copy of a text that passed the scan.
pub(crate) struct Tree<'a> {
    pub(crate) text: &'a [u8],
    pub(crate) nodes: Vec<Node>,
    names: Vec<u8>,
}

impl<'a> Tree<'a> {
    fn build(text: &'a [u8]) -> Self {
        let mut tree = Self { text, nodes: Vec::new(), names: Vec::new() };
        let mut open: Vec<NodeId> = Vec::new();
        let (mut at, mut name, mut name_at) = (0, None, 0);
        while let Some(&byte) = text.get(at) {
            match byte {
                b'}' | b']' => {
                    at += 1;
                    if let Some(closed) = open.pop() {
                        tree.nodes[closed].end = at;
                        tree.nodes[closed].next = tree.nodes.len();
                    }
                    continue;
                }
                b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => {
                    at += 1;
                    continue;
                }
                _ => {}
            }
            let in_object = open.last().is_some_and(|&parent| tree.nodes[parent].kind == Kind::Object);
            if in_object && name.is_none() {
                let end = string_end(text, at).0;
                let from = tree.names.len();
                decode_name(&text[at + 1..end - 1], &mut tree.names);
                (name, name_at) = (Some((from, tree.names.len())), at);
                at = end;
                continue;
            }
            let (kind, end, escaped) = match byte {
                b'{' => (Kind::Object, at + 1, false),
                b'[' => (Kind::Array, at + 1, false),
                b'"' => {
                    let (end, escaped) = string_end(text, at);
                    (Kind::String, end, escaped)
                }
                b't' => (Kind::Bool, at + 4, false),
                b'f' => (Kind::Bool, at + 5, false),
                b'n' => (Kind::Null, at + 4, false),
                _ => {
                    let rest = text[at..].iter();
                    let length =
                        rest.take_while(|byte| !matches!(byte, b',' | b']' | b'}') && !is_white(**byte)).count();
                    (Kind::Number, at + length.max(1), false)
                }
            };
            if let Some(&parent) = open.last() {
                tree.nodes[parent].children += 1;
            }
            let id = tree.nodes.len();
            let name = name.take().unwrap_or_default();
            tree.nodes.push(Node { start: at, end, kind, escaped, next: id + 1, children: 0, name, name_at });
            if matches!(kind, Kind::Object | Kind::Array) {
                open.push(id);
            }
            at = end;
        }
        tree
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// The members or elements of a container; none of a scalar.
    pub(crate) fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        let end = self.nodes[id].next;
        let mut child = id + 1;
        std::iter::from_fn(move || {
            let this = child;
            (this < end).then(|| {
                child = self.nodes[this].next;
                this
            })
        })
    }

    /// The decoded name of a member; bytes that are no UTF-8 where it has a lone surrogate.
    pub(crate) fn name(&self, id: NodeId) -> &[u8] {
        let (from, to) = self.nodes[id].name;
        &self.names[from..to]
    }

    /// The written value.
    pub(crate) fn raw(&self, id: NodeId) -> &[u8] {
        &self.text[self.nodes[id].start..self.nodes[id].end]
    }

    /// Refuses an object that has a name twice, after folding where `fold` says so.
    fn check_names(&self, fold: bool) -> Result<(), ScanError> {
        let mut names: Vec<(Vec<u8>, usize)> = Vec::new();
        for id in 0..self.nodes.len() {
            if self.nodes[id].kind != Kind::Object || self.nodes[id].children < 2 {
                continue;
            }
            names.clear();
            for child in self.children(id) {
                let mut name = Vec::new();
                if fold {
                    fold_name(self.name(child), &mut name);
                } else {
                    name.extend_from_slice(self.name(child));
                }
                names.push((name, self.nodes[child].name_at));
            }
            names.sort_unstable();
            let twice = names.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1].1).min();
            if let Some(offset) = twice {
                return Err(ScanError { offset, cause: ScanCause::DuplicateKey });
            }
        }
        Ok(())
    }
}

/// Appends the hits of the program's late selectors. The text passed the strict scan.
pub(crate) fn late_hits(program: &Program, text: &[u8], limits: &Limits, hits: &mut Vec<Hit>) -> Result<(), ScanError> {
    let tree = Tree::build(text);
    if program.has_filter {
        let fold = program.selectors.iter().any(|selector| selector.filter && selector.fold);
        tree.check_names(fold)?;
    }
    let mut steps = limits.filter_steps;
    for &number in &program.late {
        let selector = &program.selectors[number as usize];
        let mut evaluation = Evaluation::new(&tree, selector.fold, steps);
        select(number, selector, &mut evaluation, hits)
            .map_err(|_| ScanError { offset: 0, cause: ScanCause::FilterWork })?;
        steps = evaluation.steps;
    }
    Ok(())
}

/// More work than the limit allows.
pub(crate) struct Exhausted;

/// Follows the selector's steps through the whole tree at once: one bit for each step that a value has reached, so that
/// no value is visited twice, however many ways lead to it.
fn select(
    number: u32,
    selector: &Selector,
    evaluation: &mut Evaluation<'_, '_>,
    hits: &mut Vec<Hit>,
) -> Result<(), Exhausted> {
    let tree = evaluation.tree;
    let last = selector.steps.len();
    let mut reached = vec![0u64; tree.nodes.len()];
    if let Some(root) = reached.get_mut(ROOT) {
        *root = 1;
    }
    for id in 0..tree.nodes.len() {
        let here = reached[id];
        if here == 0 {
            continue;
        }
        let node = *tree.node(id);
        if here >> last & 1 == 1 && Kinds::of(selector.take).has(node.kind) {
            let Node { start, end, kind, escaped, .. } = node;
            hits.push(Hit { selector: number, start, end, kind, escaped });
        }
        for (index, child) in tree.children(id).enumerate() {
            let mut next = 0;
            for (at, step) in selector.steps.iter().enumerate().filter(|(at, _)| here >> at & 1 == 1) {
                if step.descend {
                    next |= 1 << at;
                }
                if evaluation.takes_any(&step.picks, id, child, index)? {
                    next |= 2 << at;
                }
            }
            if selector.take != Take::Values {
                next |= here & 1 << last;
            }
            reached[child] = next;
        }
    }
    Ok(())
}
