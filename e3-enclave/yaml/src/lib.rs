//! YAML files that people write: read with the place of everything in them, held against the schema of their types, every fault told in one run.
//!
//! 1. [`tree`]: YAML with the place of every node;
//! 2. [`structure`]: keys and types, against the schema that the types generate: every fault in one run, where serde stops at the first;
//! 3. [`report`]: faults with file, line, column, cause and hint.
//!
//! What the schema requires is optional in the types: where it is absent, that is told already, and the rest can be checked all the same.

pub mod report;
mod structure;
mod tree;

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, SeqAccess, Visitor};

pub use report::{Fault, Place, Report, Severity};
pub use tree::At;
use tree::Node;

/// Reads a text as `T`, whatever of it fits; what does not is told. `None` when nothing can be read.
pub fn read<T: DeserializeOwned + JsonSchema>(text: &str, report: &mut Report) -> Option<At<T>> {
    // Keys that stand twice are told by us, all of them.
    let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough };
    let mut node: Node = match serde_saphyr::from_str_with_options(text, options) {
        Ok(node) => node,
        Err(error) => {
            syntax(&error, report);
            return None;
        }
    };
    if matches!(node.kind, tree::Kind::Null) {
        report.error(node.place, "the file is empty", Some("start with an example from config/".to_owned()));
        return None;
    }
    structure::repeated(&mut node, report);
    let schema = schemars::schema_for!(T).to_value();
    let definitions = schema.get("$defs").and_then(|d| d.as_object()).cloned().unwrap_or_default();
    if !structure::check(&mut node, &schema, &definitions, report) {
        return None;
    }
    match At::deserialize(&node) {
        Ok(file) => Some(file),
        // The schema lets through what these types do not take: a defect of ours, and no reason to go on.
        Err(error) => {
            let hint = "the schema allows it, and it cannot be used: please report this".to_owned();
            report.error(node.place, format!("cannot be read: {error}"), Some(hint));
            None
        }
    }
}

/// The JSON schema of `T`, as pretty text with a line feed behind it.
#[must_use]
pub fn schema<T: JsonSchema>() -> String {
    // A schema is maps, lists and strings: it always serialises.
    let mut text = serde_json::to_string_pretty(&schemars::schema_for!(T)).unwrap_or_default();
    text.push('\n');
    text
}

fn syntax(error: &serde_saphyr::Error, report: &mut Report) {
    use serde_saphyr::Error as E;
    let at = error.location().map(|l| tree::place(&l)).unwrap_or_default();
    let (cause, hint) = match error.without_snippet() {
        E::MultipleDocuments { .. } => {
            ("a second document stands here", "a file is one document: take `---` and what follows out")
        }
        E::UnknownAnchor { .. } => (
            "this refers to an anchor that is not there",
            "text that begins with `*` stands in quotes: \"*.example.com\"",
        ),
        error => {
            let message = error.to_string();
            let first = message.lines().next().unwrap_or_default();
            let hint =
                "`key: value`, indented by spaces; text with `: `, ` #`, or one of *&!|>%@{[ in front stands in quotes";
            report.error(at, format!("not readable as YAML: {first}"), Some(hint.to_owned()));
            return;
        }
    };
    report.error(at, cause, Some(hint.to_owned()));
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// One text or a list of them.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<At<String>>),
}

impl At<OneOrMany> {
    /// As a list, each with its place.
    pub fn list(&self) -> Vec<(Place, &str)> {
        match self.get() {
            OneOrMany::One(one) => vec![(self.place(), one)],
            OneOrMany::Many(many) => many.iter().map(|at| (at.place(), at.get().as_str())).collect(),
        }
    }
}

// Derived, it would go over a copy that has lost the places.
impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
                let mut many = Vec::new();
                while let Some(one) = list.next_element()? {
                    many.push(one);
                }
                Ok(OneOrMany::Many(many))
            }
        }
        deserializer.deserialize_any(Either)
    }
}
