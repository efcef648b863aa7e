//! The chain that records hang in: each says its place, and a head that covers everything before it (SPEC.md, "Chain").
//!
//! ```text
//! line = text ‖ ",\"boot\":\"" ‖ boot ‖ "\",\"seq\":" ‖ sequence ‖ ",\"head\":\"" ‖ head ‖ "\"}" ‖ LF         text: the record without its last brace
//! head = SHA-256("e3v1/audit" ‖ head before 32 ‖ boot 16 ‖ sequence u64 ‖ text)
//! signature = Ed25519(audit key, "e3-audit/1" ‖ boot 16 ‖ sequence u64 ‖ head 32)
//! ```

use super::record::now_ms;
use crate::keyring::{AuditKey, hex};
use e3_wire::Mark;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// What begins the bytes of a head.
const HEAD: &[u8] = b"e3v1/audit";

/// What begins the bytes that are signed.
const SIGNED: &[u8] = b"e3-audit/1";

/// The chain of one run of the engine.
pub(super) struct Chain {
    last: Mark,
}

#[derive(Serialize)]
struct Event<'a> {
    v: u32,
    time_ms: u64,
    event: &'a str,
    /// The head that the chain goes on from.
    #[serde(skip_serializing_if = "Option::is_none")]
    continues: Option<String>,
}

impl Chain {
    /// The chain of a run that begins; `None` when the system has no random numbers.
    pub(super) fn begin() -> Option<Self> {
        let mut boot = [0; 16];
        getrandom::fill(&mut boot).ok()?;
        Some(Self { last: Mark { boot, sequence: 0, head: [0; 32] } })
    }

    /// The last place.
    pub(super) fn last(&self) -> Mark {
        self.last
    }

    /// Takes back what was placed since: no sink has it.
    pub(super) fn go_back(&mut self, last: Mark) {
        self.last = last;
    }

    /// Whether nothing was placed yet.
    pub(super) fn is_new(&self) -> bool {
        self.last.sequence == 0
    }

    /// Appends the first record: it names the head that this run goes on from, if there is one.
    pub(super) fn boot(&mut self, before: Option<[u8; 32]>, out: &mut Vec<u8>) -> Option<()> {
        self.last.head = before.unwrap_or_default();
        self.event("boot", before, out)
    }

    /// Appends the record that begins a file: it names the head before it, which another file holds.
    pub(super) fn file(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let before = self.last.head;
        self.event("file", Some(before), out)
    }

    fn event(&mut self, event: &str, continues: Option<[u8; 32]>, out: &mut Vec<u8>) -> Option<()> {
        let continues = continues.map(|head| hex(&head));
        let line = serde_json::to_vec(&Event { v: 1, time_ms: now_ms()?, event, continues }).ok()?;
        self.place(&line, out);
        Some(())
    }

    /// Appends a record's line with its place, and answers that place. The line is one JSON object, with or without its line feed.
    pub(super) fn place(&mut self, line: &[u8], out: &mut Vec<u8>) -> Mark {
        let text = text_of(line);
        let sequence = self.last.sequence + 1;
        let head = head(&self.last.head, &self.last.boot, sequence, text);
        self.last = Mark { head, sequence, ..self.last };
        out.extend_from_slice(text);
        let (boot, head) = (hex(&self.last.boot), hex(&head));
        out.extend_from_slice(format!(",\"boot\":\"{boot}\",\"seq\":{sequence},\"head\":\"{head}\"}}\n").as_bytes());
        self.last
    }

    /// Appends the signature over everything so far.
    pub(super) fn sign(&self, key: &AuditKey, out: &mut Vec<u8>) {
        let signature = key.sign(&signed(&self.last));
        let line = format!(
            "{{\"v\":1,\"signed\":{{\"boot\":\"{}\",\"seq\":{},\"head\":\"{}\"}},\"key\":\"{}\",\"signature\":\"{}\"}}\n",
            hex(&self.last.boot),
            self.last.sequence,
            hex(&self.last.head),
            hex(key.public()),
            hex(&signature),
        );
        out.extend_from_slice(line.as_bytes());
    }
}

/// The record without its last brace and its line feed.
fn text_of(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"}").unwrap_or(line)
}

/// The head behind a record.
pub(super) fn head(before: &[u8; 32], boot: &[u8; 16], sequence: u64, text: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [HEAD, before, boot, &sequence.to_be_bytes(), text] {
        hash.update(part);
    }
    hash.finalize().into()
}

/// What is signed.
pub(super) fn signed(mark: &Mark) -> Vec<u8> {
    [SIGNED, &mark.to_bytes()].concat()
}

/// The head in the last line of what a file holds, whether that is a record or a signature.
pub(super) fn last_head(lines: &[u8]) -> Option<[u8; 32]> {
    const NAME: &[u8] = b"\"head\":\"";
    let at = lines.windows(NAME.len()).rposition(|window| window == NAME)? + NAME.len();
    let digits = std::str::from_utf8(lines.get(at..at + 64)?).ok()?;
    crate::policy::bytes32(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_head_is_that_of_a_record_or_of_its_signature() {
        let mut chain = Chain::begin().unwrap();
        let mut out = Vec::new();
        assert_eq!(last_head(&out), None);
        chain.boot(None, &mut out).unwrap();
        let mark = chain.place(b"{\"v\":1}\n", &mut out);
        assert_eq!((mark.sequence, last_head(&out)), (2, Some(mark.head)));
    }
}
