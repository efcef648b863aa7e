//! The OpenAPI 3.1 document of the API, made from the types that it answers with.

use std::sync::LazyLock;

use bytes::Bytes;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Value, json};

use super::keys::PublicKey;
use super::router::Call;
use crate::answer::Problem;
use crate::values::Known;

/// The document as it is served.
pub(super) static TEXT: LazyLock<Bytes> = LazyLock::new(|| document().into());

/// The document, as text with a line feed behind it.
#[must_use]
pub fn document() -> String {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths = serde_json::Map::new();
    for call in Call::ALL {
        let method = if call.reads() { "get" } else { "post" };
        paths.insert(call.path().to_owned(), json!({ method: operation(call, &mut generator) }));
    }
    let schemas = generator.take_definitions(true);
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "E3 Relay",
            "summary": "Seals values into tokens, and opens tokens.",
            "description": "Bodies are JSON of any shape, and come back in the same shape: every byte that is not a sealed or opened value is as it was. The encryption \
                engine decides, by its policy, what an API key may do.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"basic": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "The API key."},
                "basic": {"type": "http", "scheme": "basic", "description": "The API key as password, or as user without password."},
            },
        },
    });
    // Maps, lists and texts always serialise.
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    text
}

fn operation(call: Call, generator: &mut SchemaGenerator) -> Value {
    let (summary, description) = words(call);
    let problem = generator.subschema_for::<Problem<'_>>();
    let any = |description: &str| json!({"description": description});
    let answer = match call {
        Call::Seal => any("The body, with tokens for values: strings of the form `e3v1.role.type.….`."),
        Call::Open => any("The body, with values for tokens, each of the type that it was sealed as."),
        Call::Inspect => {
            // Named, so that programs can read it out of the mirrored body.
            let known = generator.subschema_for::<Known<'_>>();
            json!({"description": "The body, with an object of this kind for each token.", "anyOf": [true, known]})
        }
        Call::Rewrap => any("The body, with new tokens for tokens."),
        Call::PublicKey => generator.subschema_for::<PublicKey<'_>>().to_value(),
        Call::OpenApi => json!({"type": "object", "description": "This document."}),
    };
    let mut responses = json!({
        "200": {"description": "Done.", "content": {"application/json": {"schema": answer}}},
    });
    if call != Call::OpenApi {
        let failed = |description: &str| json!({"description": description, "content": {"application/problem+json": {"schema": problem}}});
        for (status, description) in [
            ("400", "The body is not exactly one JSON value, or a parameter is wrong."),
            ("401", "No API key, or one that the engine does not know."),
            ("403", "The engine's policy does not permit this."),
            ("408", "The body did not arrive in time."),
            ("413", "The body is too large, or has more values than one call takes."),
            ("415", "The body is no `application/json`, or is compressed."),
            ("422", "A value or token is refused."),
            ("503", "The engine cannot answer now."),
        ] {
            let has_body = !matches!(status, "408" | "413" | "415") || !call.reads();
            if has_body {
                responses[status] = failed(description);
            }
        }
    }
    let mut operation = json!({
        "operationId": call.name(),
        "summary": summary,
        "description": description,
        "responses": responses,
    });
    let parameters = parameters(call);
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if call == Call::OpenApi {
        operation["security"] = json!([]);
    }
    if !call.reads() {
        let schema = any("JSON of any shape. Names that stand twice in an object all count. Nested at most 128 deep.");
        operation["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": schema}}});
    }
    operation
}

fn words(call: Call) -> (&'static str, &'static str) {
    match call {
        Call::Seal => (
            "Seal values",
            "Every string, number, boolean and null becomes a token under `role`; with `select`, only what the selectors take, each under a role of its own.",
        ),
        Call::Open => (
            "Open tokens",
            "Every string that is a token as a whole becomes the value in it. If one may not be opened, nothing is answered but a problem that names its path, unless \
             `on_refused=leave`.",
        ),
        Call::Inspect => (
            "Inspect tokens",
            "Every string that is a token as a whole becomes what is known of it. No value is opened.",
        ),
        Call::Rewrap => (
            "Rewrap tokens",
            "Every string that is a token as a whole becomes a token of the same value, role, type and time under the newest key.",
        ),
        Call::PublicKey => ("Public key", "The key under which values of a role can be sealed without a secret."),
        Call::OpenApi => ("This document", "Needs no key."),
    }
}

fn parameters(call: Call) -> Vec<Value> {
    const ROLE: &str = "^[a-z][a-z0-9-]{0,19}$";
    let one = |name: &str, required: bool, description: &str, schema: Value| json!({"name": name, "in": "query", "required": required, "description": description, "schema": schema});
    let role = |required, description| one("role", required, description, json!({"type": "string", "pattern": ROLE}));
    let select = |description| {
        let schema = json!({"type": "array", "items": {"type": "string"}});
        let mut parameter = one("select", false, description, schema);
        (parameter["style"], parameter["explode"]) = (json!("form"), json!(true));
        parameter
    };
    let only = "JSONPath (RFC 9535) of values; of objects and arrays, their leaves. Nothing else is looked at. All together at most 1024 bytes, without match() and search().";
    let on_refused = one(
        "on_refused",
        false,
        "What happens to a token that is not genuine or may not be treated so: the call is refused, or the token stays.",
        json!({"type": "string", "enum": ["refuse", "leave"], "default": "refuse"}),
    );
    match call {
        Call::Seal => vec![
            role(false, "Role of the tokens. Needed unless every `select` names one."),
            select(
                "`selector:role` or `selector:role:deterministic`, for example `$.card.number:card-number`; without a role, that of `role`. Selectors are JSONPath (RFC 9535), all together at most 1024 bytes, without match() and search().",
            ),
            one(
                "deterministic",
                false,
                "Equal values give equal tokens. The engine must declare the roles so.",
                json!({"type": "boolean", "default": false}),
            ),
            one(
                "tokens",
                false,
                "What happens to text that is a token already: it is sealed as text, or kept if it is genuine and of the same role.",
                json!({"type": "string", "enum": ["seal", "keep"], "default": "seal"}),
            ),
        ],
        Call::Open => {
            let roles = json!({"type": "array", "items": {"type": "string", "pattern": ROLE}});
            let mut roles = one(
                "roles",
                false,
                "The roles that may be opened, by commas; any that the policy grants when absent.",
                roles,
            );
            (roles["style"], roles["explode"]) = (json!("form"), json!(false));
            vec![roles, select(only), on_refused]
        }
        Call::Inspect | Call::Rewrap => vec![select(only), on_refused],
        Call::PublicKey => vec![role(true, "The role of the values.")],
        Call::OpenApi => Vec::new(),
    }
}
