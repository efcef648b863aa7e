//! Evaluation of filter expressions over a parsed copy (RFC 9535, section 2.3.5).
//!
//! Not left to `jsonpath-rust`, which only reads the expressions: its comparison takes numbers for equal that differ by
//! less than 2⁻⁵² and large ones by their nearest float, it gives `count()` of nothing no value, and evaluates a filter
//! inside a filter's query on the wrong value. A filter decides what is sealed; it has to be exact.

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::decimal::Decimal;
use crate::fold::fold_name;
use crate::query::{Logic, Operand, Pick, Query, Relation, Step};
use crate::scan::Kind;
use crate::string::decode_name;
use crate::tree::{Exhausted, NodeId, ROOT, Tree};

/// Evaluates the filters of one selector over one text.
pub(crate) struct Evaluation<'t, 'x> {
    pub(crate) tree: &'t Tree<'x>,
    fold: bool,
    /// Looks at values that are left.
    pub(crate) steps: u64,
    folded: Vec<u8>,
}

/// The result of an operand.
enum Value<'t> {
    Nothing,
    Null,
    Bool(bool),
    Number(Decimal),
    Text(Cow<'t, [u8]>),
    /// An object or array.
    Container(NodeId),
}

impl<'t, 'x> Evaluation<'t, 'x> {
    pub(crate) fn new(tree: &'t Tree<'x>, fold: bool, steps: u64) -> Self {
        Self { tree, fold, steps, folded: Vec::new() }
    }

    fn work(&mut self, steps: usize) -> Result<(), Exhausted> {
        self.steps = self.steps.checked_sub(steps as u64).ok_or(Exhausted)?;
        Ok(())
    }

    /// Whether any of the picks takes `child`, which is the `index`-th of `parent`.
    pub(crate) fn takes_any(
        &mut self,
        picks: &[Pick],
        parent: NodeId,
        child: NodeId,
        index: usize,
    ) -> Result<bool, Exhausted> {
        self.work(picks.len())?;
        let object = self.tree.node(parent).kind == Kind::Object;
        for pick in picks {
            let taken = match pick {
                Pick::Any => true,
                Pick::Name(name) => object && self.is_named(child, name),
                Pick::Index(_) | Pick::Slice(_) => {
                    !object && pick.takes_element(index as i64, self.tree.node(parent).children as i64)
                }
                Pick::Filter(logic) => self.holds(logic, child)?,
            };
            if taken {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_named(&mut self, member: NodeId, name: &str) -> bool {
        let found = self.tree.name(member);
        if !self.fold {
            return found == name.as_bytes();
        }
        self.folded.clear();
        fold_name(found, &mut self.folded);
        self.folded == name.as_bytes()
    }

    fn holds(&mut self, logic: &Logic, current: NodeId) -> Result<bool, Exhausted> {
        self.work(1)?;
        Ok(match logic {
            Logic::Or(all) => {
                for one in all {
                    if self.holds(one, current)? {
                        return Ok(true);
                    }
                }
                false
            }
            Logic::And(all) => {
                for one in all {
                    if !self.holds(one, current)? {
                        return Ok(false);
                    }
                }
                true
            }
            Logic::Not(inner) => !self.holds(inner, current)?,
            Logic::Exists(query) => !self.nodes(query, current)?.is_empty(),
            Logic::Compare(relation, left, right) => {
                let (left, right) = (self.value(left, current)?, self.value(right, current)?);
                match relation {
                    Relation::Equal => self.equal(&left, &right)?,
                    Relation::NotEqual => !self.equal(&left, &right)?,
                    Relation::Less => self.less(&left, &right)?,
                    Relation::Greater => self.less(&right, &left)?,
                    Relation::LessOrEqual => self.less(&left, &right)? || self.equal(&left, &right)?,
                    Relation::GreaterOrEqual => self.less(&right, &left)? || self.equal(&left, &right)?,
                }
            }
            Logic::Pattern(text, pattern) => match self.value(text, current)? {
                Value::Text(text) => {
                    self.work(text.len())?;
                    // A text with a lone surrogate is no text of characters: it matches nothing.
                    std::str::from_utf8(&text).is_ok_and(|text| pattern.is_match(text))
                }
                _ => false,
            },
        })
    }

    /// The list of values that a query finds; a value that several ways lead to is in it several times.
    fn nodes(&mut self, query: &Query, current: NodeId) -> Result<Vec<NodeId>, Exhausted> {
        let mut found = vec![if query.absolute { ROOT } else { current }];
        for step in &query.steps {
            let mut next = Vec::new();
            for id in found {
                if step.descend {
                    for inner in id..self.tree.node(id).next {
                        self.children(step, inner, &mut next)?;
                    }
                } else {
                    self.children(step, id, &mut next)?;
                }
            }
            found = next;
        }
        Ok(found)
    }

    fn children(&mut self, step: &Step, parent: NodeId, next: &mut Vec<NodeId>) -> Result<(), Exhausted> {
        self.work(1)?;
        let tree = self.tree;
        for pick in &step.picks {
            for (index, child) in tree.children(parent).enumerate() {
                if self.takes_any(std::slice::from_ref(pick), parent, child, index)? {
                    next.push(child);
                }
            }
        }
        Ok(())
    }

    fn value(&mut self, operand: &Operand, current: NodeId) -> Result<Value<'t>, Exhausted> {
        Ok(match operand {
            Operand::Null => Value::Null,
            Operand::Bool(value) => Value::Bool(*value),
            Operand::Number(number) => Value::Number(number.clone()),
            Operand::Text(text) => Value::Text(Cow::Owned(text.as_bytes().to_vec())),
            Operand::Single(query) | Operand::Only(query) => match self.nodes(query, current)?[..] {
                [only] => self.read(only)?,
                _ => Value::Nothing,
            },
            Operand::Count(query) => Value::Number(Decimal::from(self.nodes(query, current)?.len() as u64)),
            Operand::Length(inner) => match self.value(inner, current)? {
                Value::Text(text) => {
                    // Characters, not bytes: each but the continuation bytes counts, lone surrogates too.
                    let characters = text.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
                    Value::Number(Decimal::from(characters as u64))
                }
                Value::Container(id) => Value::Number(Decimal::from(self.tree.node(id).children as u64)),
                _ => Value::Nothing,
            },
        })
    }

    fn read(&mut self, id: NodeId) -> Result<Value<'t>, Exhausted> {
        let tree = self.tree;
        let raw = tree.raw(id);
        Ok(match tree.node(id).kind {
            Kind::Object | Kind::Array => Value::Container(id),
            Kind::Null => Value::Null,
            Kind::Bool => Value::Bool(raw == b"true"),
            Kind::Number => {
                self.work(raw.len() / 16)?;
                Value::Number(Decimal::read(raw))
            }
            Kind::String => {
                self.work(raw.len() / 16)?;
                let body = &raw[1..raw.len() - 1];
                Value::Text(if tree.node(id).escaped {
                    let mut decoded = Vec::new();
                    decode_name(body, &mut decoded);
                    Cow::Owned(decoded)
                } else {
                    Cow::Borrowed(body)
                })
            }
        })
    }

    /// RFC 9535, section 2.3.5.2.2.
    fn equal(&mut self, left: &Value<'t>, right: &Value<'t>) -> Result<bool, Exhausted> {
        Ok(match (left, right) {
            (Value::Nothing, Value::Nothing) | (Value::Null, Value::Null) => true,
            (Value::Bool(left), Value::Bool(right)) => left == right,
            (Value::Number(left), Value::Number(right)) => left == right,
            (Value::Text(left), Value::Text(right)) => left == right,
            (Value::Container(left), Value::Container(right)) => self.equal_containers(*left, *right)?,
            _ => false,
        })
    }

    /// Containers nest no deeper than the scan's limit, and so does this.
    fn equal_containers(&mut self, left: NodeId, right: NodeId) -> Result<bool, Exhausted> {
        let tree = self.tree;
        let (one, other) = (tree.node(left), tree.node(right));
        if left == right {
            return Ok(true);
        }
        if one.kind != other.kind || one.children != other.children {
            return Ok(false);
        }
        self.work(1 + one.children)?;
        let (mut lefts, mut rights): (Vec<_>, Vec<_>) = (tree.children(left).collect(), tree.children(right).collect());
        if one.kind == Kind::Object {
            // No name stands twice in an object that a filter looks at.
            lefts.sort_by_key(|id| tree.name(*id));
            rights.sort_by_key(|id| tree.name(*id));
        }
        for (left, right) in lefts.into_iter().zip(rights) {
            if one.kind == Kind::Object && tree.name(left) != tree.name(right) {
                return Ok(false);
            }
            let (left, right) = (self.read(left)?, self.read(right)?);
            if !self.equal(&left, &right)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn less(&mut self, left: &Value<'t>, right: &Value<'t>) -> Result<bool, Exhausted> {
        Ok(match (left, right) {
            (Value::Number(left), Value::Number(right)) => left.cmp(right) == Ordering::Less,
            // Bytes of UTF-8 are in the order of their characters.
            (Value::Text(left), Value::Text(right)) => left < right,
            _ => false,
        })
    }
}
