//! Faults of a file, for people and for programs.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// A place in the file: line and column from 1; 0 where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file works, but perhaps not as its author thinks.
    Warning,
    /// What the file does, for those who answer for it.
    Note,
}

/// One thing about one place of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// What is wrong.
    pub cause: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Everything that there is to say about a file.
#[derive(Debug, Clone)]
pub struct Report {
    file: PathBuf,
    lines: Vec<String>,
    faults: Vec<Fault>,
}

impl Report {
    /// Nothing to say about this text yet; `file` is its name for people.
    #[must_use]
    pub fn new(file: &Path, text: &str) -> Self {
        Self { file: file.to_owned(), lines: text.lines().map(str::to_owned).collect(), faults: Vec::new() }
    }

    /// That the file cannot be read.
    #[must_use]
    pub fn unreadable(file: &Path, error: &io::Error) -> Self {
        let mut report = Self::new(file, "");
        let (cause, hint) = match error.kind() {
            io::ErrorKind::IsADirectory => ("is a folder, not a file".to_owned(), "name the file in it with --config"),
            io::ErrorKind::PermissionDenied => {
                (format!("cannot be read: {error}"), "whoever runs this may not read it: chown or chmod")
            }
            _ => (format!("cannot be read: {error}"), "name the file with --config"),
        };
        report.error(Place::default(), cause, Some(hint.to_owned()));
        report
    }

    /// That the file's bytes are no text: the first that is none stands at `at`.
    #[must_use]
    pub fn no_text(file: &Path, bytes: &[u8], at: usize) -> Self {
        let mut report = Self::new(file, &String::from_utf8_lossy(bytes));
        let before = String::from_utf8_lossy(bytes.get(..at).unwrap_or(bytes));
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let place = Place { line: before.matches('\n').count() + 1, column };
        report.error(place, "this is no text in UTF-8", Some("save the file as UTF-8".to_owned()));
        report
    }

    /// Something for which the file is refused.
    pub fn error(&mut self, place: Place, cause: impl Into<String>, hint: Option<String>) {
        self.faults.push(Fault { severity: Severity::Error, place, cause: cause.into(), hint });
    }

    /// Something that works, but perhaps not as its author thinks.
    pub fn warn(&mut self, place: Place, cause: impl Into<String>, hint: Option<String>) {
        self.faults.push(Fault { severity: Severity::Warning, place, cause: cause.into(), hint });
    }

    /// Something that the file does.
    pub fn note(&mut self, place: Place, cause: impl Into<String>, hint: Option<String>) {
        self.faults.push(Fault { severity: Severity::Note, place, cause: cause.into(), hint });
    }

    /// The place of a byte in the text that stands at `place`, whichever way YAML quotes it there.
    pub fn inside(&self, place: Place, offset: usize) -> Place {
        let line = place.line.checked_sub(1).and_then(|at| self.lines.get(at));
        let mut written = line.map_or("", String::as_str).chars().skip(place.column.saturating_sub(1)).peekable();
        let quote = match written.peek() {
            Some('|' | '>') | None => return place,
            Some(quote @ ('"' | '\'')) => Some(*quote),
            Some(_) => None,
        };
        let mut column = place.column;
        if quote.is_some() {
            written.next();
            column += 1;
        }
        let mut bytes = 0;
        while bytes < offset {
            let Some(character) = written.next() else { return Place { column, ..place } };
            let mut width = 1;
            bytes += match (quote, character) {
                (Some('\''), '\'') => {
                    width += usize::from(written.next().is_some());
                    1
                }
                (Some('"'), '\\') => {
                    let digits = match written.next() {
                        Some('x') => 2,
                        Some('u') => 4,
                        Some('U') => 8,
                        _ => 0,
                    };
                    let code: String = written.by_ref().take(digits).collect();
                    width += 1 + digits;
                    let decoded = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
                    decoded.map_or(1, char::len_utf8)
                }
                (_, character) => character.len_utf8(),
            };
            column += width;
        }
        Place { column, ..place }
    }

    /// Puts the faults into the order of the file, each once.
    pub fn sort(&mut self) {
        self.faults.sort_by_key(|f| f.place);
        self.faults.dedup();
    }

    /// Every fault, in the order of the file.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// Whether the file is refused.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.faults.iter().any(|f| f.severity == Severity::Error)
    }

    /// The number of errors and of warnings.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let of = |severity| self.faults.iter().filter(|f| f.severity == severity).count();
        (of(Severity::Error), of(Severity::Warning))
    }

    /// Each error and warning in one line, for the log.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let told = self.faults.iter().filter(|f| f.severity != Severity::Note);
        told.map(|f| format!("line {}: {}", f.place.line, f.cause)).collect()
    }

    /// For programs: one JSON object with `file` and `faults`.
    #[must_use]
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Whole<'a> {
            file: &'a Path,
            faults: &'a [Fault],
        }
        serde_json::to_string_pretty(&Whole { file: &self.file, faults: &self.faults }).unwrap_or_default()
    }

    /// For people: each fault with its line and a mark under the place; with `colour` for terminals.
    #[must_use]
    pub fn to_text(&self, colour: bool) -> String {
        let mut out = String::new();
        for fault in &self.faults {
            let (name, on) = match fault.severity {
                Severity::Error => ("error", "\u{1b}[31;1m"),
                Severity::Warning => ("warning", "\u{1b}[33;1m"),
                Severity::Note => ("note", "\u{1b}[36;1m"),
            };
            let (on, off) = if colour { (on, "\u{1b}[0m") } else { ("", "") };
            let Place { line, column } = fault.place;
            let at = if line == 0 { String::new() } else { format!(":{line}:{column}") };
            out.push_str(&format!("{}{at}: {on}{name}{off}: {}\n", self.file.display(), fault.cause));
            if let Some(text) = line.checked_sub(1).and_then(|l| self.lines.get(l)) {
                let before: String =
                    text.chars().take(column.saturating_sub(1)).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
                out.push_str(&format!("{line:>5} | {text}\n      | {before}{on}^{off}\n"));
            }
            if let Some(hint) = &fault.hint {
                out.push_str(&format!("      = {hint}\n"));
            }
        }
        out
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text(false))
    }
}

/// The candidate that was probably meant: at most a third of its letters differ.
pub fn did_you_mean<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| (distance(written, c), c))
        .filter(|(d, c)| *d <= c.len().div_ceil(3))
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// How many letters are wrong, missing, too many or swapped with their neighbour, in bytes: keys are ASCII.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let changed = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = changed.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}
