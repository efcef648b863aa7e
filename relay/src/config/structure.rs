//! Keys and types of the file against the schema that the raw types generate: every fault in one run, where serde stops at the first.

use serde_json::{Map, Value};

use super::report::{Report, did_you_mean};
use super::tree::{Kind, Node};

/// Checks a node against a schema as schemars writes it. Returns whether it fits.
pub(super) fn check(node: &Node, schema: &Value, definitions: &Map<String, Value>, report: &mut Report) -> bool {
    let schema = follow(schema, definitions);
    if let Some(choices) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array) {
        return check_choices(node, choices, definitions, report);
    }
    if let Some(all) = schema.get("allOf").and_then(Value::as_array) {
        return all.iter().all(|s| check(node, s, definitions, report));
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return check_enum(node, values, report);
    }
    if let Some(value) = schema.get("const") {
        return check_enum(node, std::slice::from_ref(value), report);
    }
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => return true,
    };
    match &node.kind {
        Kind::Map(members) if types.contains(&"object") => check_map(node, members, schema, definitions, report),
        Kind::List(nodes) if types.contains(&"array") => match schema.get("items") {
            Some(items) => nodes.iter().map(|n| check(n, items, definitions, report)).fold(true, |a, b| a & b),
            None => true,
        },
        kind if types.iter().any(|t| is_of(kind, t)) => true,
        kind => {
            let wanted = types.iter().filter(|t| **t != "null").map(|t| spoken(t)).collect::<Vec<_>>().join(" or ");
            report.error(node.place, format!("{} stands where {wanted} is expected", found(kind)), None);
            false
        }
    }
}

fn follow<'a>(mut schema: &'a Value, definitions: &'a Map<String, Value>) -> &'a Value {
    while let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let name = reference.rsplit('/').next().unwrap_or_default();
        match definitions.get(name) {
            Some(next) => schema = next,
            None => break,
        }
    }
    schema
}

fn check_map(
    node: &Node,
    members: &[(super::report::Place, String, Node)],
    schema: &Value,
    definitions: &Map<String, Value>,
    report: &mut Report,
) -> bool {
    let mut fits = true;
    let empty = Map::new();
    let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let other = schema.get("additionalProperties");
    for (place, key, value) in members {
        match (known.get(key), other) {
            (Some(schema), _) => fits &= check(value, schema, definitions, report),
            (None, Some(schema)) if schema.is_object() => fits &= check(value, schema, definitions, report),
            (None, _) => {
                fits = false;
                let hint = match did_you_mean(key, known.keys().map(String::as_str)) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => format!("known here: {}", known.keys().cloned().collect::<Vec<_>>().join(", ")),
                };
                report.error(*place, format!("unknown key `{key}`"), Some(hint));
            }
        }
    }
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !members.iter().any(|(_, key, _)| key == name) {
            fits = false;
            report.error(node.place, format!("`{name}` is missing"), None);
        }
    }
    fits
}

/// The first choice that fits; else the faults of the choice that is of the node's own shape.
fn check_choices(node: &Node, choices: &[Value], definitions: &Map<String, Value>, report: &mut Report) -> bool {
    let mut constants = Vec::new();
    let mut same_shape = None;
    for choice in choices {
        let mut trial = report.clone();
        if check(node, choice, definitions, &mut trial) {
            return true;
        }
        let choice = follow(choice, definitions);
        constants.extend(choice.get("const").cloned());
        constants.extend(choice.get("enum").and_then(Value::as_array).cloned().unwrap_or_default());
        let shape = match node.kind {
            Kind::Map(_) => "object",
            Kind::List(_) => "array",
            _ => continue,
        };
        if choice.get("type").and_then(Value::as_str) == Some(shape) {
            same_shape = Some(trial);
        }
    }
    match same_shape {
        Some(faults) => *report = faults,
        None if !constants.is_empty() => {
            check_enum(node, &constants, report);
        }
        None => {
            let names: Vec<_> = choices
                .iter()
                .filter_map(|c| follow(c, definitions).get("type").and_then(Value::as_str))
                .filter(|t| *t != "null")
                .map(spoken)
                .collect();
            report.error(
                node.place,
                format!("{} stands where {} is expected", found(&node.kind), names.join(" or ")),
                None,
            );
        }
    }
    false
}

fn check_enum(node: &Node, values: &[Value], report: &mut Report) -> bool {
    let names: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
    if let Kind::Text(text) = &node.kind
        && names.contains(&text.as_str())
    {
        return true;
    }
    let written = match &node.kind {
        Kind::Text(text) => format!("`{text}`"),
        kind => found(kind).to_owned(),
    };
    let hint = match &node.kind {
        Kind::Text(text) => did_you_mean(text, names.iter().copied()).map(|n| format!("did you mean `{n}`?")),
        _ => None,
    };
    report.error(node.place, format!("{written} stands where one of {} is expected", names.join(", ")), hint);
    false
}

fn is_of(kind: &Kind, name: &str) -> bool {
    match kind {
        Kind::Null => name == "null",
        Kind::Bool => name == "boolean",
        Kind::Integer => matches!(name, "integer" | "number"),
        Kind::Float => name == "number",
        Kind::Text(_) => name == "string",
        Kind::List(_) => name == "array",
        Kind::Map(_) => name == "object",
    }
}

fn spoken(name: &str) -> &'static str {
    match name {
        "object" => "a map",
        "array" => "a list",
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        _ => "nothing",
    }
}

fn found(kind: &Kind) -> &'static str {
    match kind {
        Kind::Null => "nothing",
        Kind::Bool => "true or false",
        Kind::Integer => "a whole number",
        Kind::Float => "a number",
        Kind::Text(_) => "text",
        Kind::List(_) => "a list",
        Kind::Map(_) => "a map",
    }
}
