//! `GET /v1/keys/public`: the key under which anyone may seal values of a role.

use base64ct::{Base64UrlUnpadded, Encoding};
use e3_wire::{Answer, Context, ItemAnswer, RequestWriter};
use schemars::JsonSchema;
use serde::Serialize;

use super::query::Query;
use crate::engine::Engine;
use crate::error::{Failure, Parameter, Side};

/// A public key of an app (suite 2 of SPEC.md).
#[derive(Serialize, JsonSchema)]
pub(super) struct PublicKey<'a> {
    /// The app whose values are sealed.
    app: &'a str,
    /// The role that was asked for.
    role: &'a str,
    /// The suite of the tokens: 2.
    suite: u8,
    /// Number of the key, which the tokens name.
    kid: u32,
    /// How the key is encapsulated (RFC 9180).
    kem: &'static str,
    /// How keys are derived.
    kdf: &'static str,
    /// How values are encrypted.
    aead: &'static str,
    /// The key: X25519, base64url without padding.
    public_key: &'a str,
}

/// Asks the engine for the key of `role`.
pub(super) async fn public(query: Option<&str>, engine: &Engine, context: &Context<'_>) -> Result<Vec<u8>, Failure> {
    let role = Query::read(query, &[Parameter::Role])?.role()?;
    let mut request = RequestWriter::new(engine.app(), context, 32);
    request.public_key(role).map_err(|_| Failure::Internal)?;
    let frame = engine.call(request, Side::Request).await?;
    let items = match frame.answer() {
        Ok(Answer::Items(items)) => items,
        Ok(Answer::Refused(refusal)) => return Err(Failure::Engine(refusal)),
        Err(_) => return Err(Failure::EngineAnswer),
    };
    match &items[..] {
        [ItemAnswer::PublicKey { kid, key }] => {
            let app = engine.app();
            let public_key = Base64UrlUnpadded::encode_string(key);
            let answer = PublicKey {
                app: app.as_str(),
                role: role.as_str(),
                suite: 2,
                kid: *kid,
                kem: "DHKEM(X25519, HKDF-SHA256)",
                kdf: "HKDF-SHA256",
                aead: "AES-256-GCM",
                public_key: &public_key,
            };
            serde_json::to_vec(&answer).map_err(|_| Failure::Internal)
        }
        [ItemAnswer::Refused(reason)] => Err(Failure::Refused { side: Side::Request, reason: *reason }),
        _ => Err(Failure::EngineAnswer),
    }
}
