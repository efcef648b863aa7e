//! `relay verify engine`: a stranger's check of what runs somewhere. Nothing is believed but the attestation document.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use e3_attest::{Authentic, ExpectedNonce, MAX_DOCUMENT, PcrSets, Purpose, Subject};
use e3_link::Endpoint;
use e3_link::attested::certificate::{LinkKey, document_of};
use e3_link::attested::memory::KeyringId;
use e3_link::attested::relay::certificate_of;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::BAD_INPUT;
use crate::args::VerifyEngine;
use crate::engine::attested::verifier;
use crate::state::client_config;
use crate::wellknown;

/// Time for everything that the network does.
const PATIENCE: Duration = Duration::from_secs(15);

/// Exit code of an engine that is not what it should be.
const MISMATCH: u8 = 1;

/// Where the document came from, and what it must answer.
struct Evidence {
    document: Vec<u8>,
    nonce: Option<[u8; 32]>,
    /// The key of the TLS session that it came in.
    spki: Option<Vec<u8>>,
}

/// Fetches, checks, prints.
pub fn run(args: &VerifyEngine) -> ExitCode {
    let expected = match expected(&args.pcrs, args.keyring.as_deref()) {
        Ok(expected) => expected,
        Err(cause) => return tell(&cause, BAD_INPUT),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tell(&error.to_string(), MISMATCH),
    };
    let evidence = runtime.block_on(async { tokio::time::timeout(PATIENCE, evidence(args)).await });
    match evidence {
        Ok(Ok(evidence)) => judge(evidence, &args.pcrs, expected.0, expected.1),
        Ok(Err(cause)) => tell(&cause, MISMATCH),
        Err(_) => tell(&format!("{} did not answer within {} s", args.target, PATIENCE.as_secs()), MISMATCH),
    }
}

fn tell(cause: &str, code: u8) -> ExitCode {
    eprintln!("relay: {cause}");
    ExitCode::from(code)
}

fn expected(file: &Path, keyring: Option<&str>) -> Result<(PcrSets, Option<KeyringId>), String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    let pcrs = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let keyring = keyring
        .map(str::parse)
        .transpose()
        .map_err(|error: e3_link::attested::memory::BadKeyringId| error.to_string())?;
    Ok((pcrs, keyring))
}

async fn evidence(args: &VerifyEngine) -> Result<Evidence, String> {
    if args.target.starts_with("https://") || args.target.starts_with("http://") {
        return through_relay(&args.target, args.ca.as_deref()).await;
    }
    let endpoint: Endpoint = args.target.parse().map_err(|error| format!("`{}`: {error}", args.target))?;
    let stream = endpoint.connect(PATIENCE).await.map_err(|error| format!("{endpoint}: {error}"))?;
    // A stranger has no pinned key, but the certificate comes before the engine asks for one.
    let key = LinkKey::generate().map_err(|error| error.to_string())?;
    let certificate = certificate_of(stream, &key).await.map_err(|error| format!("{endpoint}: {error}"))?;
    let (spki, document) = document_of(&certificate).map_err(|error| format!("{endpoint}: {error}"))?;
    Ok(Evidence { document: document.to_vec(), nonce: None, spki: Some(spki.to_vec()) })
}

async fn through_relay(target: &str, ca: Option<&Path>) -> Result<Evidence, String> {
    let uri: Uri = target.parse().map_err(|_| format!("`{target}` is no URL"))?;
    let host = uri.host().ok_or_else(|| format!("`{target}` names no host"))?.to_owned();
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let stream = TcpStream::connect((bare.as_str(), port)).await.map_err(|error| format!("{host}:{port}: {error}"))?;
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|_| "the system has no random numbers".to_owned())?;
    let authority = uri.authority().map_or(host.as_str(), |authority| authority.as_str());
    let request = Request::get(wellknown::target(&nonce))
        .header(http::header::HOST, authority)
        .body(Empty::<Bytes>::new())
        .map_err(|_| format!("`{target}` is no URL"))?;
    let document = if tls {
        let config = client_config(ca).map_err(|error| error.to_string())?;
        let name = ServerName::try_from(bare).map_err(|_| format!("`{host}` is no name for TLS"))?;
        let session = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        fetch(session.map_err(|error| format!("{host}:{port}: {error}"))?, request).await
    } else {
        fetch(stream, request).await
    };
    Ok(Evidence {
        document: document.map_err(|cause| format!("{host}:{port}: {cause}"))?,
        nonce: Some(nonce),
        spki: None,
    })
}

async fn fetch<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Vec<u8>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    if !status.is_success() {
        return Err(format!("answered {status}: this relay has no attested engine, or is no relay"));
    }
    let body = Limited::new(answer.into_body(), MAX_DOCUMENT).collect().await;
    Ok(body.map_err(|_| "the answer is no attestation document".to_owned())?.to_bytes().to_vec())
}

fn judge(evidence: Evidence, file: &Path, pcrs: PcrSets, keyring: Option<KeyringId>) -> ExitCode {
    let nonce = evidence.nonce.as_ref().map_or(ExpectedNonce::Absent, |nonce| ExpectedNonce::Is(nonce));
    let authentic = match verifier(file).authenticate(&evidence.document, nonce, SystemTime::now()) {
        Ok(authentic) => authentic,
        Err(error) => return tell(&error.to_string(), MISMATCH),
    };
    print(&authentic);
    let binding = match authentic.claims().stated_binding() {
        Ok(binding) => binding,
        Err(error) => return tell(&error.to_string(), MISMATCH),
    };
    if binding.purpose() != Purpose::Link {
        return tell("the document was made for another purpose than the engine link", MISMATCH);
    }
    let found = binding.state().keyring.map(|keyring| KeyringId(keyring.id));
    if let Some(expected) = keyring
        && found != Some(expected)
    {
        let found = found.map_or("none".to_owned(), |id| id.to_string());
        return tell(&format!("the engine has another keyring: expected {expected}, found {found}"), MISMATCH);
    }
    let judged = authentic.accept(&pcrs).and_then(|verified| {
        let set = verified.accepted_set() + 1;
        // Asked directly, the engine also proves that the document is its own; through a relay the nonce proves that it is fresh.
        if let Some(spki) = &evidence.spki {
            verified.bound_to(&Subject::Link { spki })?;
        }
        Ok(set)
    });
    match judged {
        Ok(set) => {
            println!("verdict       the expected image runs there (set {set} of {})", pcrs.sets().len());
            ExitCode::SUCCESS
        }
        Err(error) => tell(&error.to_string(), MISMATCH),
    }
}

fn print(authentic: &Authentic) {
    let claims = authentic.claims();
    let made = claims.timestamp_ms() / 1000;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    println!("module        {}", claims.module_id());
    println!("made          {} s ago (Unix time {made})", now.saturating_sub(made));
    let leaf = claims.leaf_validity();
    println!("certificate   valid from {} to {} (Unix time)", leaf.not_before, leaf.not_after);
    for (index, pcr) in claims.pcrs().iter().filter(|(_, pcr)| !pcr.is_zero()) {
        println!("{:<13} {pcr}", format!("pcr{index}"));
    }
    let Ok(binding) = claims.stated_binding() else { return };
    let state = binding.state();
    match state.policy {
        Some(policy) => println!("policy        version {}, hash {}", policy.version, hex(&policy.hash)),
        None => println!("policy        none stated"),
    }
    match state.keyring {
        Some(keyring) => println!("keyring       {} at epoch {}", KeyringId(keyring.id), keyring.epoch),
        None => println!("keyring       none unlocked"),
    }
    match state.audit_key {
        Some(key) => println!("audit key     {}", hex(&key)),
        None => println!("audit key     none stated"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
