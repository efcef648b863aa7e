//! Finds a record that was removed, changed or moved (SPEC.md, "Chain").
//!
//! Files are read in the order in which they were written. Each run of an engine is a chain of its own; runs may be interleaved, for a host records for several engines.

use super::chain::{head, signed};
use crate::keyring::hex;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use e3_wire::Mark;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io::{self, BufRead};

/// Findings after which no more are told.
const FINDINGS_MAX: usize = 100;

/// Longest line, in bytes.
const LINE_MAX: u64 = 16 * 1024 * 1024;

/// Something that is not as an engine wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which file.
    pub file: String,
    /// Which line of it, from 1; 0: the end.
    pub line: usize,
    /// What.
    pub what: What,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// No record and no signature.
    NoRecord,
    /// The record, or one before it that its head covers, is not what was written.
    Changed(u64),
    /// Records are missing before this one.
    Missing(u64, u64),
    /// A record that was here already, or belongs further up.
    Moved(u64),
    /// The first record of a run that is known has a place further on.
    NoBeginning(u64),
    /// A run says that it goes on from a head that is not there: the records before it were cut off.
    NotContinued,
    /// A signature that does not hold, or over another head.
    Signature,
    /// A signature of a key that was not given.
    OtherKey(String),
    /// Records at the end of a run that no signature covers.
    Unsigned(u64),
    /// A relay got an answer whose record is not here.
    HeadMissing(Mark),
    /// A relay got an answer with another head than the record's.
    HeadDiffers(Mark),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: ", self.file)?,
            line => write!(f, "{}:{line}: ", self.file)?,
        }
        match &self.what {
            What::NoRecord => f.write_str("no audit record"),
            What::Changed(n) => write!(f, "record {n} was changed, or what comes before it"),
            What::Missing(first, last) if first == last => write!(f, "record {first} is missing before this line"),
            What::Missing(first, last) => write!(f, "records {first} to {last} are missing before this line"),
            What::Moved(n) => write!(f, "record {n} stands here again, or was moved here"),
            What::NoBeginning(n) => write!(f, "the run begins with record {n}: those before it are missing"),
            What::NotContinued => {
                f.write_str("the run goes on from a record that is not here: what came before it was cut off")
            }
            What::Signature => f.write_str("the signature does not hold"),
            What::OtherKey(key) => write!(f, "signed by {key}, which is not a key that was given"),
            What::Unsigned(count) => write!(f, "the last {count} records of a run are not signed"),
            What::HeadMissing(mark) => write!(
                f,
                "a relay was answered for record {} of run {}, which is not here: records were cut off",
                mark.sequence,
                hex(&mark.boot)
            ),
            What::HeadDiffers(mark) => {
                write!(
                    f,
                    "record {} of run {} is not the one that a relay was answered for",
                    mark.sequence,
                    hex(&mark.boot)
                )
            }
        }
    }
}

#[derive(Deserialize)]
struct Place {
    boot: String,
    seq: u64,
    head: String,
}

#[derive(Deserialize)]
struct Line {
    #[serde(flatten)]
    place: Option<Place>,
    event: Option<String>,
    continues: Option<String>,
    signed: Option<Place>,
    key: Option<String>,
    signature: Option<String>,
}

/// One run.
struct Run {
    sequence: u64,
    head: [u8; 32],
    signed: u64,
    /// Where its last record stands.
    file: String,
}

/// Verifies files of records.
#[derive(Default)]
pub struct Verifier {
    keys: HashSet<[u8; 32]>,
    /// Keys that signed, if none was given.
    seen: HashSet<[u8; 32]>,
    runs: HashMap<[u8; 16], Run>,
    /// Every head that some run stood at: where a later run may go on.
    heads: HashSet<[u8; 32]>,
    marks: HashMap<[u8; 16], BTreeMap<u64, [u8; 32]>>,
    found: Vec<Finding>,
    records: u64,
    signatures: u64,
}

impl Verifier {
    /// A verifier that believes these keys; any key, if there are none.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = [u8; 32]>) -> Self {
        Self { keys: keys.into_iter().collect(), ..Self::default() }
    }

    /// A place that a relay was told with an answer: it must be there.
    pub fn expect(&mut self, mark: Mark) {
        self.marks.entry(mark.boot).or_default().insert(mark.sequence, mark.head);
    }

    /// Reads one file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&mut self, name: &str, mut file: impl BufRead) -> io::Result<()> {
        let (mut line, mut number) = (Vec::new(), 0);
        loop {
            line.clear();
            number += 1;
            if io::Read::take(&mut file, LINE_MAX).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            if let Err(what) = self.line(name, &line) {
                self.find(name, number, what);
            }
        }
    }

    fn find(&mut self, file: &str, line: usize, what: What) {
        if self.found.len() < FINDINGS_MAX {
            self.found.push(Finding { file: file.to_owned(), line, what });
        }
    }

    fn line(&mut self, name: &str, line: &[u8]) -> Result<(), What> {
        let parsed: Line = serde_json::from_slice(line).map_err(|_| What::NoRecord)?;
        if let Some(signed) = &parsed.signed {
            return self.signature(signed, &parsed);
        }
        let place = parsed.place.as_ref().and_then(mark).ok_or(What::NoRecord)?;
        let text = text(line, &place).ok_or(What::NoRecord)?;
        self.records += 1;
        let continues = parsed.continues.as_deref().and_then(crate::policy::bytes32);
        let verdict = match self.runs.get(&place.boot) {
            None => match (parsed.event.as_deref(), place.sequence) {
                (Some("boot"), 1)
                    if continues.is_some_and(|before| !self.heads.contains(&before)) && self.records > 1 =>
                {
                    Err(What::NotContinued)
                }
                (Some("boot"), 1) => Ok(()),
                // A file that was rotated, on its own.
                (Some("file"), _) if self.records == 1 => Ok(()),
                (_, sequence) => Err(What::NoBeginning(sequence)),
            },
            Some(run) if place.sequence <= run.sequence => return Err(What::Moved(place.sequence)),
            Some(run) if place.sequence > run.sequence + 1 => Err(What::Missing(run.sequence + 1, place.sequence - 1)),
            Some(_) => Ok(()),
        };
        let before = match (self.runs.get(&place.boot), &verdict) {
            (Some(run), Ok(())) => Some(run.head),
            (None, Ok(()) | Err(What::NotContinued)) => Some(continues.unwrap_or_default()),
            // What it follows is not here, so nothing can be said of itself.
            _ => None,
        };
        let changed = before.is_some_and(|before| head(&before, &place.boot, place.sequence, text) != place.head);
        let signed = self.runs.get(&place.boot).map_or(place.sequence - 1, |run| run.signed);
        // What follows is held against what stands here, so that each finding is told once.
        let run = Run { sequence: place.sequence, head: place.head, signed, file: name.to_owned() };
        self.runs.insert(place.boot, run);
        self.heads.insert(place.head);
        self.answered(&place, name);
        match verdict {
            Ok(()) if changed => Err(What::Changed(place.sequence)),
            verdict => verdict,
        }
    }

    /// Holds a record against what relays were told.
    fn answered(&mut self, place: &Mark, name: &str) {
        let Some(told) = self.marks.get_mut(&place.boot).and_then(|marks| marks.remove(&place.sequence)) else {
            return;
        };
        if told != place.head {
            self.find(name, 0, What::HeadDiffers(*place));
        }
    }

    fn signature(&mut self, signed_place: &Place, line: &Line) -> Result<(), What> {
        let place = mark(signed_place).ok_or(What::Signature)?;
        let key = line.key.as_deref().and_then(crate::policy::bytes32).ok_or(What::Signature)?;
        let signature = line.signature.as_deref().and_then(bytes64).ok_or(What::Signature)?;
        if !self.keys.is_empty() && !self.keys.contains(&key) {
            return Err(What::OtherKey(hex(&key)));
        }
        let run = self.runs.get_mut(&place.boot).ok_or(What::Signature)?;
        if (place.sequence, place.head) != (run.sequence, run.head) {
            // A batch that was acknowledged too late was sent again; its signature then stands twice.
            let again = place.sequence <= run.signed && self.heads.contains(&place.head);
            return if again { Ok(()) } else { Err(What::Signature) };
        }
        UnparsedPublicKey::new(&ED25519, key).verify(&signed(&place), &signature).map_err(|_| What::Signature)?;
        run.signed = place.sequence;
        self.signatures += 1;
        self.seen.insert(key);
        Ok(())
    }

    /// Everything that was found, when all files are read.
    #[must_use]
    pub fn finish(mut self) -> Verified {
        let mut unsigned: Vec<_> = self.runs.values().filter(|run| run.signed < run.sequence).collect();
        unsigned.sort_by_key(|run| (run.file.clone(), run.sequence));
        let unsigned: Vec<_> = unsigned.iter().map(|run| (run.file.clone(), run.sequence - run.signed)).collect();
        for (file, count) in unsigned {
            self.find(&file, 0, What::Unsigned(count));
        }
        let missing: Vec<Mark> = self
            .marks
            .iter()
            .flat_map(|(boot, marks)| {
                marks.iter().map(|(sequence, head)| Mark { boot: *boot, sequence: *sequence, head: *head })
            })
            .collect();
        for mark in missing {
            self.find("the relays' log", 0, What::HeadMissing(mark));
        }
        Verified {
            findings: self.found,
            records: self.records,
            signatures: self.signatures,
            runs: self.runs.len(),
            keys: self.seen.iter().map(|key| hex(key)).collect(),
        }
    }
}

/// What a verification came to.
#[derive(Debug)]
pub struct Verified {
    /// What is wrong, at most the first hundred.
    pub findings: Vec<Finding>,
    /// Records that were read.
    pub records: u64,
    /// Signatures that hold.
    pub signatures: u64,
    /// Runs of engines.
    pub runs: usize,
    /// Whose signatures they are, hexadecimal.
    pub keys: Vec<String>,
}

fn mark(place: &Place) -> Option<Mark> {
    Some(Mark { boot: bytes16(&place.boot)?, sequence: place.seq, head: crate::policy::bytes32(&place.head)? })
}

/// The record's text, which ends where its place begins.
fn text<'a>(line: &'a [u8], place: &Mark) -> Option<&'a [u8]> {
    let (boot, head) = (hex(&place.boot), hex(&place.head));
    let end = format!(",\"boot\":\"{boot}\",\"seq\":{},\"head\":\"{head}\"}}\n", place.sequence);
    line.strip_suffix(end.as_bytes())
}

fn bytes16(text: &str) -> Option<[u8; 16]> {
    let whole = crate::policy::bytes32(&format!("{text}{}", "0".repeat(64usize.checked_sub(text.len())?)))?;
    (text.len() == 32).then(|| whole[..16].try_into().ok())?
}

fn bytes64(text: &str) -> Option<[u8; 64]> {
    let (a, b) = text.split_at_checked(64)?;
    let (a, b) = (crate::policy::bytes32(a)?, crate::policy::bytes32(b)?);
    [a, b].concat().try_into().ok()
}

/// The places in a relay's log: `BOOT:SEQUENCE:HEAD`, one or none in a line.
pub fn marks(log: impl BufRead) -> io::Result<Vec<Mark>> {
    let mut found = Vec::new();
    for line in log.lines() {
        let line = line?;
        let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == ':'));
        found.extend(words.filter_map(|word| {
            let mut parts = word.split(':').rev();
            let (head, sequence, boot) = (parts.next()?, parts.next()?, parts.next()?);
            let boot = boot.get(boot.len().checked_sub(32)?..)?;
            Some(Mark { boot: bytes16(boot)?, sequence: sequence.parse().ok()?, head: crate::policy::bytes32(head)? })
        }));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::chain::Chain;
    use super::*;
    use crate::keyring::{AuditKey, RootKey, SecretKey};
    use zeroize::Zeroizing;

    fn key(n: u8) -> AuditKey {
        let root = RootKey::from_kms(SecretKey::new(Zeroizing::new([n; 32])));
        AuditKey::derive(&root, &[1; 16], 1).unwrap()
    }

    /// Two groups of three records, signed; the line of each, and their marks.
    fn run(before: Option<[u8; 32]>) -> (Vec<String>, Vec<Mark>) {
        let (mut chain, key, mut out, mut marks) = (Chain::begin().unwrap(), key(7), Vec::new(), Vec::new());
        chain.boot(before, &mut out).unwrap();
        for n in 0..6 {
            marks.push(chain.place(format!("{{\"v\":1,\"n\":{n}}}\n").as_bytes(), &mut out));
            if n % 3 == 2 {
                chain.sign(&key, &mut out);
            }
        }
        (String::from_utf8(out).unwrap().lines().map(|line| format!("{line}\n")).collect(), marks)
    }

    fn verify(lines: &[String]) -> Vec<(usize, What)> {
        let mut verifier = Verifier::new([*key(7).public()]);
        verifier.read("a", lines.concat().as_bytes()).unwrap();
        verifier.finish().findings.into_iter().map(|f| (f.line, f.what)).collect()
    }

    #[test]
    fn what_an_engine_wrote_verifies_also_over_restarts() {
        let (mut lines, marks) = run(None);
        assert_eq!(verify(&lines), []);
        lines.extend(run(Some(marks.last().unwrap().head)).0);
        assert_eq!(verify(&lines), []);
    }

    #[test]
    fn removed_changed_swapped_repeated_and_cut_records_are_found_where_they_are() {
        // Lines: 1 boot, 2 to 4 records, 5 signature, 6 to 8 records, 9 signature.
        let (lines, _) = run(None);
        for at in 1..=9 {
            let mut less = lines.clone();
            less.remove(at - 1);
            let found = verify(&less);
            match at {
                1 => assert_eq!(found[0], (1, What::NoBeginning(2))),
                // The next group's signature covers what that one covered.
                5 => assert_eq!(found, []),
                9 => assert_eq!(found, [(0, What::Unsigned(3))]),
                8 => assert_eq!(found, [(8, What::Signature), (0, What::Unsigned(2))]),
                4 => assert_eq!(found, [(4, What::Signature), (5, What::Missing(4, 4))]),
                _ => {
                    let record = if at < 5 { at as u64 } else { at as u64 - 1 };
                    assert_eq!(found[0], (at, What::Missing(record, record)), "{at}: {found:?}");
                }
            }
            for bit in [0, 3] {
                let mut changed = lines.clone();
                let middle = changed[at - 1].len() / 3;
                let mut bytes = changed[at - 1].clone().into_bytes();
                bytes[middle] ^= 1 << bit;
                changed[at - 1] = String::from_utf8(bytes).unwrap();
                assert!(verify(&changed).iter().any(|(line, _)| *line == at), "{at}: {}", changed[at - 1]);
            }
            let mut twice = lines.clone();
            twice.insert(at, lines[at - 1].clone());
            if ![5, 9].contains(&at) {
                let record = if at < 5 { at as u64 } else { at as u64 - 1 };
                assert_eq!(verify(&twice), [(at + 1, What::Moved(record))]);
            }
        }
        let mut swapped = lines.clone();
        swapped.swap(1, 2);
        assert_eq!(verify(&swapped)[0], (2, What::Missing(2, 2)));
        let mut short = lines.clone();
        short[8].pop();
        short[8].truncate(40);
        assert!(verify(&short).contains(&(9, What::NoRecord)));
    }

    #[test]
    fn a_run_that_was_cut_off_before_the_next_is_found() {
        let (first, marks) = run(None);
        let (second, _) = run(Some(marks.last().unwrap().head));
        // All but the last signed group, and the signature, of the first run.
        let lines = [&first[..5], &second[..]].concat();
        assert_eq!(verify(&lines), [(6, What::NotContinued)]);
    }

    #[test]
    fn whoever_writes_the_file_anew_lacks_the_key() {
        let (mut chain, other, mut out) = (Chain::begin().unwrap(), key(8), Vec::new());
        chain.boot(None, &mut out).unwrap();
        chain.place(b"{\"v\":1}\n", &mut out);
        let unsigned = out.clone();
        chain.sign(&other, &mut out);
        let found = verify(&[String::from_utf8(out).unwrap()]);
        assert_eq!(found[0], (3, What::OtherKey(hex(other.public()))));
        assert_eq!(verify(&[String::from_utf8(unsigned).unwrap()]), [(0, What::Unsigned(2))]);
    }

    #[test]
    fn what_relays_were_told_finds_a_dropped_tail() {
        let (lines, marks) = run(None);
        let log = marks.iter().map(|m| format!("{{\"mark\":\"{}:{}:{}\"}}\n", hex(&m.boot), m.sequence, hex(&m.head)));
        let told = super::marks(log.collect::<String>().as_bytes()).unwrap();
        assert_eq!(told, marks);
        let findings = |lines: &[String]| {
            let mut verifier = Verifier::new([*key(7).public()]);
            told.iter().for_each(|mark| verifier.expect(*mark));
            verifier.read("a", lines.concat().as_bytes()).unwrap();
            verifier.finish().findings.into_iter().map(|f| f.what).collect::<Vec<_>>()
        };
        assert_eq!(findings(&lines), []);
        // A whole signed group: without the relays' log nobody could tell.
        assert_eq!(verify(&lines[..5]), []);
        assert_eq!(findings(&lines[..5]).len(), 3);
        assert!(matches!(findings(&lines[..5])[0], What::HeadMissing(mark) if mark.sequence == 5));
    }
}
