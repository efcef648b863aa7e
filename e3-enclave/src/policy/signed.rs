//! Policies with their signatures (SPEC.md, "Signed policies"): text that people edit, and behind it a line for each signer.
//!
//! ```text
//! file = text ‖ line*        line = "# e3-signature: " ‖ public key, 64 hexadecimal digits ‖ " " ‖ signature, 128 hexadecimal digits ‖ LF
//! signature = Ed25519(key, "e3-policy/1" ‖ LF ‖ text)
//! ```

use super::document::Document;
use super::{raw, resolve};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use e3_link::attested::admin::{AdminKey, PUBLIC_KEY};
use e3_yaml::Report;
use sha2::{Digest, Sha256};
use std::path::Path;

/// What begins a signature's line.
const LINE: &str = "# e3-signature: ";

/// What is put before the text that is signed, so that a signature is good for nothing else.
const DOMAIN: &[u8] = b"e3-policy/1\n";

/// Longest file, in bytes.
pub const MAX: usize = 8 * 1024 * 1024;

/// Whose signatures are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signers {
    /// Ed25519 public keys (RFC 8032). None: unsigned policies, which are for development.
    pub keys: Vec<[u8; PUBLIC_KEY]>,
    /// How many of them must have signed; at least 1 where there are keys.
    pub threshold: usize,
}

/// Why a file is no policy of these signers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    /// It is not UTF-8, or over [`MAX`].
    #[error("the policy is no text of at most {MAX} bytes")]
    Text,
    /// A line that begins as a signature's and is none, or stands inside the text.
    #[error("line {line}: a signature line that cannot be read, or that stands before other text")]
    Line {
        /// Which, from 1.
        line: usize,
    },
    /// Two signatures of one key.
    #[error("line {line}: a second signature of the same key")]
    Twice {
        /// Which, from 1.
        line: usize,
    },
    /// A signature that does not hold. Whoever made it, the text is not what was signed.
    #[error("line {line}: the signature does not hold: the text was changed after it was signed")]
    Wrong {
        /// Which, from 1.
        line: usize,
    },
    /// The key does not sign.
    #[error("the key does not sign")]
    Key,
    /// Too few.
    #[error("{found} of the {needed} signatures that are needed are there")]
    TooFew {
        /// How many there are of the keys that count.
        found: usize,
        /// How many are needed.
        needed: usize,
    },
}

/// A file taken apart.
struct Taken<'a> {
    text: &'a str,
    /// Line, key, signature.
    signatures: Vec<(usize, [u8; PUBLIC_KEY], [u8; 64])>,
}

fn take_apart(file: &[u8]) -> Result<Taken<'_>, SignatureFault> {
    if file.len() > MAX {
        return Err(SignatureFault::Text);
    }
    let file = std::str::from_utf8(file).map_err(|_| SignatureFault::Text)?;
    let start = if file.starts_with(LINE) { Some(0) } else { file.find(&format!("\n{LINE}")).map(|at| at + 1) };
    let Some(start) = start else { return Ok(Taken { text: file, signatures: Vec::new() }) };
    let (text, rest) = file.split_at(start);
    let before = text.lines().count();
    let mut signatures = Vec::new();
    for (at, line) in rest.split_inclusive('\n').enumerate() {
        let number = before + at + 1;
        let parsed = line.strip_prefix(LINE).and_then(|l| l.strip_suffix('\n')).and_then(|l| l.split_once(' '));
        let parsed = parsed.and_then(|(key, signature)| Some((hex(key)?, hex(signature)?)));
        let Some((key, signature)) = parsed else { return Err(SignatureFault::Line { line: number }) };
        if signatures.iter().any(|(_, other, _)| *other == key) {
            return Err(SignatureFault::Twice { line: number });
        }
        signatures.push((number, key, signature));
    }
    Ok(Taken { text, signatures })
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    if text.len() != 2 * N || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

fn message(text: &str) -> Vec<u8> {
    [DOMAIN, text.as_bytes()].concat()
}

/// A policy whose signatures hold, with its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What it says.
    pub document: Document,
    /// SHA-256 of its text, without the signatures.
    pub hash: [u8; 32],
}

/// The text of a policy file, and who signed it; whoever signs is not asked for.
///
/// # Errors
/// See [`SignatureFault`]; signatures that do not hold are refused whoever made them.
pub fn open(file: &[u8]) -> Result<(&str, Vec<[u8; PUBLIC_KEY]>), SignatureFault> {
    let taken = take_apart(file)?;
    let message = message(taken.text);
    for (line, key, signature) in &taken.signatures {
        let holds = UnparsedPublicKey::new(&ED25519, key).verify(&message, signature);
        holds.map_err(|_| SignatureFault::Wrong { line: *line })?;
    }
    Ok((taken.text, taken.signatures.into_iter().map(|(_, key, _)| key).collect()))
}

/// SHA-256 of a policy's text: what attestation documents state.
#[must_use]
pub fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

impl Signers {
    /// Nobody: development.
    #[must_use]
    pub const fn nobody() -> Self {
        Self { keys: Vec::new(), threshold: 0 }
    }

    /// The text of the file, once enough of these have signed it. Nothing of it is read as a policy before.
    ///
    /// # Errors
    /// See [`SignatureFault`].
    pub fn admit<'a>(&self, file: &'a [u8]) -> Result<&'a str, SignatureFault> {
        let (text, signers) = open(file)?;
        let found = signers.iter().filter(|key| self.keys.contains(key)).count();
        if found < self.threshold { Err(SignatureFault::TooFew { found, needed: self.threshold }) } else { Ok(text) }
    }
}

/// The file with one more signature; one of the same key is replaced.
///
/// # Errors
/// See [`SignatureFault`]: signatures that are there must hold.
pub fn sign(file: &[u8], key: &AdminKey) -> Result<Vec<u8>, SignatureFault> {
    let (text, _) = open(file)?;
    let mut out = text.to_owned();
    if !out.is_empty() && !out.ends_with('\n') {
        // The first signature's line must begin a line; the others were made over a text that ends in one.
        out.push('\n');
    }
    let own = *key.public();
    let signed = key.sign(&message(&out)).map_err(|_| SignatureFault::Key)?;
    let signature = signed.get(..64).ok_or(SignatureFault::Key)?;
    let mut lines: Vec<String> = Vec::new();
    for (_, other, signature) in take_apart(file)?.signatures {
        if other != own {
            lines.push(line(&other, &signature));
        }
    }
    lines.push(line(&own, signature));
    Ok((out + &lines.concat()).into_bytes())
}

fn line(key: &[u8], signature: &[u8]) -> String {
    format!("{LINE}{} {}\n", crate::keyring::hex(key), crate::keyring::hex(signature))
}

/// Reads the text of a policy; `name` is the file's, for people.
///
/// # Errors
/// Every fault of the text, with its place. Warnings come with the policy.
pub fn read(name: &Path, text: &str) -> Result<(Document, Report), Report> {
    let mut report = Report::new(name, text);
    let document = e3_yaml::read::<raw::File>(text, &mut report).and_then(|file| resolve::resolve(&file, &mut report));
    if let Some(document) = &document
        && !report.has_errors()
    {
        super::lint::lint(document, &mut report);
    }
    report.sort();
    match document {
        Some(document) if !report.has_errors() => Ok((document, report)),
        _ => Err(report),
    }
}
