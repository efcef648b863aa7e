//! Keys and types of the file against the schema that the raw types generate: every fault in one run, where serde stops at the first.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::report::{Report, did_you_mean};
use crate::tree::{Kind, Node};

/// Tells keys that stand twice in a map, at any depth, and takes all but the first out.
pub(crate) fn repeated(node: &mut Node, report: &mut Report) {
    match &mut node.kind {
        Kind::Map(members) => {
            let mut seen: HashMap<String, usize> = HashMap::new();
            let before = members.len();
            members.retain(|(place, key, _)| {
                let first = seen.get(key).copied();
                if let Some(first) = first {
                    let hint = format!("it stands in line {first} already: keep one of the two");
                    report.error(*place, format!("the key `{key}` stands twice"), Some(hint));
                } else {
                    seen.insert(key.clone(), place.line);
                }
                first.is_none()
            });
            node.pruned |= members.len() != before;
            for (_, _, member) in members {
                repeated(member, report);
            }
        }
        Kind::List(nodes) => nodes.iter_mut().for_each(|node| repeated(node, report)),
        _ => {}
    }
}

/// Checks a node against a schema as schemars writes it, and takes out of it whatever does not fit, so that the rest can be
/// read. Returns whether the node itself fits.
pub(crate) fn check(node: &mut Node, schema: &Value, definitions: &Map<String, Value>, report: &mut Report) -> bool {
    let schema = follow(schema, definitions);
    if let Some(choices) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array) {
        return check_choices(node, choices, definitions, report);
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return check_enum(node, values, report);
    }
    if let Some(value) = schema.get("const") {
        return check_enum(node, std::slice::from_ref(value), report);
    }
    let types = types(schema);
    if types.is_empty() {
        return true;
    }
    if !types.iter().any(|t| is_of(&node.kind, t)) {
        unfit(node, &types, report);
        return false;
    }
    let number = |name| schema.get(name).and_then(Value::as_i64).map(i128::from);
    match &mut node.kind {
        Kind::Map(_) => check_map(node, schema, definitions, report),
        Kind::List(nodes) => {
            if let Some(items) = schema.get("items") {
                let before = nodes.len();
                nodes.retain_mut(|n| check(n, items, definitions, report));
                node.pruned |= nodes.len() != before || nodes.iter().any(|n| n.pruned);
            }
            true
        }
        Kind::Integer(value)
            if number("minimum").is_some_and(|least| *value < least)
                || number("maximum").is_some_and(|most| *value > most) =>
        {
            let hint = match (number("minimum"), number("maximum")) {
                (Some(least), Some(most)) => format!("from {least} to {most}"),
                (Some(least), None) => format!("{least} or more"),
                (_, most) => format!("at most {}", most.unwrap_or_default()),
            };
            report.error(node.place, format!("{value} is out of range"), Some(hint));
            false
        }
        _ => true,
    }
}

/// The names of the types that a schema allows; none for any.
fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn unfit(node: &Node, types: &[&str], report: &mut Report) {
    let wanted: Vec<_> = types.iter().filter(|t| **t != "null").map(|t| spoken(t)).collect();
    let hint = match node.kind {
        Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) if types.contains(&"string") => Some("put it in quotes"),
        Kind::Text(_) if types.contains(&"array") => Some("put it in brackets: [one, another]"),
        Kind::List(_) if types.contains(&"string") => Some("one value, without brackets or dash"),
        _ if types.contains(&"object") => Some("keys with values: {key: value}"),
        _ if types.contains(&"array") => Some("put it in brackets: [one, another]"),
        _ if types.contains(&"boolean") => Some("true or false, without quotes"),
        _ if types.contains(&"integer") || types.contains(&"number") => Some("digits, without quotes"),
        _ => Some("one value"),
    };
    let cause = format!("{} stands where {} is expected", found(&node.kind), wanted.join(" or "));
    report.error(node.place, cause, hint.map(str::to_owned));
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

fn check_map(node: &mut Node, schema: &Value, definitions: &Map<String, Value>, report: &mut Report) -> bool {
    let Kind::Map(members) = &mut node.kind else { return false };
    let empty = Map::new();
    let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let other = schema.get("additionalProperties").filter(|s| s.is_object());
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let mut pruned = false;
    for name in required {
        if !members.iter().any(|(_, key, value)| key == name && !matches!(value.kind, Kind::Null)) {
            pruned = true;
            members.retain(|(_, key, _)| key != name);
            let told = known.get(name).and_then(|s| s.get("description")).and_then(Value::as_str).unwrap_or_default();
            let told = told.split_once(". ").map_or(told.trim_end_matches('.'), |(first, _)| first).replace('\n', " ");
            report.error(node.place, format!("`{name}` is missing"), Some(format!("{name}: {told}")));
        }
    }
    members.retain_mut(|(place, key, value)| {
        let fits = match known.get(key).or(other) {
            Some(schema) => check(value, schema, definitions, report),
            None => {
                let hint = match did_you_mean(key, known.keys().map(String::as_str)) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => format!("known here: {}", known.keys().cloned().collect::<Vec<_>>().join(", ")),
                };
                report.error(*place, format!("unknown key `{key}`"), Some(hint));
                false
            }
        };
        pruned |= !fits || value.pruned;
        fits
    });
    node.pruned |= pruned;
    true
}

/// The choices, and those within them.
fn flatten<'a>(choices: &'a [Value], definitions: &'a Map<String, Value>, flat: &mut Vec<&'a Value>) {
    for choice in choices.iter().map(|choice| follow(choice, definitions)) {
        match choice.get("anyOf").or_else(|| choice.get("oneOf")).and_then(Value::as_array) {
            Some(inner) => flatten(inner, definitions, flat),
            None => flat.push(choice),
        }
    }
}

/// The choice of the node's own shape, or one of the words.
fn check_choices(node: &mut Node, choices: &[Value], definitions: &Map<String, Value>, report: &mut Report) -> bool {
    let mut flat = Vec::new();
    flatten(choices, definitions, &mut flat);
    let choices = flat;
    let same_shape = choices
        .iter()
        .find(|c| c.get("const").is_none() && c.get("enum").is_none() && types(c).iter().any(|t| is_of(&node.kind, t)));
    if let Some(choice) = same_shape {
        return check(node, choice, definitions, report);
    }
    let mut words = Vec::new();
    for choice in &choices {
        words.extend(choice.get("const").cloned());
        words.extend(choice.get("enum").and_then(Value::as_array).cloned().unwrap_or_default());
    }
    if words.is_empty() {
        let types: Vec<_> = choices.iter().flat_map(|c| types(c)).collect();
        unfit(node, &types, report);
        return false;
    }
    check_enum(node, &words, report)
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
    let meant = match &node.kind {
        Kind::Text(text) => did_you_mean(text, names.iter().copied()),
        _ => None,
    };
    let hint = meant.map_or_else(|| format!("write {}", names.join(" or ")), |n| format!("did you mean `{n}`?"));
    report.error(node.place, format!("{written} stands where one of {} is expected", names.join(", ")), Some(hint));
    false
}

fn is_of(kind: &Kind, name: &str) -> bool {
    match kind {
        Kind::Null => name == "null",
        Kind::Bool(_) => name == "boolean",
        Kind::Integer(_) => matches!(name, "integer" | "number"),
        Kind::Float(_) => name == "number",
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
        Kind::Bool(_) => "true or false",
        Kind::Integer(_) => "a whole number",
        Kind::Float(_) => "a number",
        Kind::Text(_) => "text",
        Kind::List(_) => "a list",
        Kind::Map(_) => "a map",
    }
}
