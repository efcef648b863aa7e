//! What is done to each record: which of its values are asked about, and how the answers stand in it.

use e3_wire::{ItemAnswer, RequestWriter};
use json_span::{Replacement, line_column};

use super::record::Record;
use super::table::{self, Field};
use crate::answer;
use crate::error::Failure;
use crate::values::choice::{Choice, Counts, Edit, Fault, apply};
use crate::values::{Settled, Value, Verb, ask, now};

/// What is done to each record.
#[derive(Debug)]
pub(super) enum Task {
    /// Values of JSON: records are lines.
    Lines(Choice),
    /// Values of one JSON text.
    Document(Choice),
    /// Columns of a table.
    Table {
        /// By their places.
        columns: Vec<(usize, Verb)>,
        /// The heading.
        names: Vec<String>,
        /// Between two fields.
        delimiter: u8,
    },
    /// Lines of text, each a value.
    Text(Verb),
}

/// What is wrong with a record, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) cause: Cause,
    /// Line of the input, from 1.
    pub(super) line: u64,
    /// Byte of that line, from 1; `None` where the whole record is at fault.
    pub(super) column: Option<u64>,
    /// Normalised path of the value, or name of the column.
    pub(super) place: Option<String>,
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// As the HTTP API would tell it.
    Failure(Failure),
    /// A row has more or fewer fields than the heading.
    Fields {
        /// How many it has.
        found: usize,
        /// How many the heading has.
        expected: usize,
    },
    /// A quote in a row is where none may be.
    Quote,
    /// Text is not UTF-8.
    Encoding,
    /// A value with a line end cannot stand in a line of text.
    LineEnd,
}

impl Cause {
    /// Stable code, as in the table of problem codes.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Failure(failure) => answer::cause_of(failure).map_or("relay/internal", |cause| cause.code),
            Self::Fields { .. } => "table/fields",
            Self::Quote => "table/quote",
            Self::Encoding => "text/encoding",
            Self::LineEnd => "text/line-end",
        }
    }

    /// One sentence.
    pub(super) fn title(&self) -> String {
        match self {
            Self::Failure(Failure::Json { cause, .. }) => format!("The record is not exactly one JSON value: {cause}."),
            Self::Failure(failure) => {
                answer::cause_of(failure).map_or("The relay failed.", |cause| cause.title).to_owned()
            }
            Self::Fields { found, expected } => format!("The row has {found} fields, and the heading {expected}."),
            Self::Quote => "A quote stands where none may be (RFC 4180).".to_owned(),
            Self::Encoding => "The text is not UTF-8.".to_owned(),
            Self::LineEnd => "The value has a line end, and would be two lines.".to_owned(),
        }
    }

    /// Whether no later record can be trusted to be one.
    pub(super) fn ends_all(&self) -> bool {
        matches!(self, Self::Quote)
    }

    /// Whether the same question may be answered in a moment.
    pub(super) fn passes(&self) -> bool {
        use e3_wire::{Refusal, RequestRefusal as R};
        match self {
            Self::Failure(Failure::EngineAway) => true,
            Self::Failure(Failure::Refused { reason: Refusal::RateLimited, .. }) => true,
            Self::Failure(Failure::Engine(refusal)) => {
                matches!(refusal, R::Overloaded | R::Deadline | R::NotReady | R::AuditUnavailable)
            }
            _ => false,
        }
    }

    /// Whether it is not the record's fault: nothing can be done about any other either.
    pub(super) fn is_of_engine(&self) -> bool {
        matches!(
            self,
            Self::Failure(Failure::Engine(_) | Failure::EngineAway | Failure::EngineAnswer | Failure::Internal)
        )
    }
}

impl Task {
    /// Adds to an engine call what is asked about a record.
    pub(super) fn ask(
        &self,
        record: &Record,
        request: &mut RequestWriter,
        plain: &mut Vec<u8>,
    ) -> Result<Vec<Edit>, Trouble> {
        let bytes = &*record.bytes;
        match self {
            Self::Lines(_) if bytes.iter().all(u8::is_ascii_whitespace) => Ok(Vec::new()),
            Self::Lines(choice) | Self::Document(choice) => {
                choice.ask(bytes, request).map_err(|fault| self.json(record, fault))
            }
            Self::Text(verb) => {
                let content = table::content(bytes);
                let text = std::str::from_utf8(content)
                    .map_err(|error| trouble(record, Cause::Encoding, Some(error.valid_up_to()), None))?;
                // An empty line has no value.
                if text.is_empty() {
                    return Ok(Vec::new());
                }
                let asked = ask(verb, Value::Text(text), request, plain);
                let asked = asked.map_err(|failure| trouble(record, Cause::Failure(failure), None, None))?;
                Ok(asked.map(|asked| Edit { at: 0..content.len(), asked }).into_iter().collect())
            }
            Self::Table { columns, names, delimiter } => {
                if table::content(bytes).is_empty() && names.len() > 1 {
                    return Ok(Vec::new());
                }
                let fields = self.fields(record, *delimiter, names.len())?;
                let mut edits = Vec::with_capacity(columns.len());
                for (index, verb) in columns {
                    let Some(field) = fields.get(*index) else { continue };
                    // Nothing between two delimiters is no value.
                    if field.at.is_empty() {
                        continue;
                    }
                    let place = || names.get(*index).cloned();
                    let text = table::text(bytes, field)
                        .ok_or_else(|| trouble(record, Cause::Encoding, Some(field.at.start), place()))?;
                    let asked = ask(verb, Value::Text(&text), request, plain)
                        .map_err(|failure| trouble(record, Cause::Failure(failure), Some(field.at.start), place()))?;
                    edits.extend(asked.map(|asked| Edit { at: field.at.clone(), asked }));
                }
                Ok(edits)
            }
        }
    }

    fn fields(&self, record: &Record, delimiter: u8, expected: usize) -> Result<Vec<Field>, Trouble> {
        let fields = table::fields(&record.bytes, delimiter)
            .map_err(|quote| trouble(record, Cause::Quote, Some(quote.at), None))?;
        if fields.len() != expected {
            return Err(trouble(record, Cause::Fields { found: fields.len(), expected }, None, None));
        }
        Ok(fields)
    }

    /// The record with the answers in it.
    pub(super) fn apply(
        &self,
        record: &Record,
        edits: &[Edit],
        items: &[ItemAnswer<'_>],
        counts: &mut Counts,
    ) -> Result<Vec<u8>, Trouble> {
        match self {
            Self::Document(_) => {
                apply(&record.bytes, edits, items, false, counts).map_err(|fault| self.json(record, fault))
            }
            Self::Lines(_) => {
                let mut line =
                    apply(&record.bytes, edits, items, false, counts).map_err(|fault| self.json(record, fault))?;
                // What was opened may be JSON over several lines. Line ends in it stand between its words alone, where a space is the same.
                let inside = line.len() - usize::from(line.ends_with(b"\n"));
                line[..inside].iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
                Ok(line)
            }
            Self::Text(_) => self.texts(record, edits, items, counts, None),
            Self::Table { delimiter, .. } => self.texts(record, edits, items, counts, Some(*delimiter)),
        }
    }

    /// The same where values are texts; in a table, with its delimiter.
    fn texts(
        &self,
        record: &Record,
        edits: &[Edit],
        items: &[ItemAnswer<'_>],
        counts: &mut Counts,
        delimiter: Option<u8>,
    ) -> Result<Vec<u8>, Trouble> {
        let fault = |cause, edit: Option<&Edit>| {
            let at = edit.map(|edit| edit.at.start);
            trouble(record, cause, at, at.and_then(|at| self.column_at(record, at)))
        };
        if edits.len() != items.len() {
            return Err(fault(Cause::Failure(Failure::EngineAnswer), None));
        }
        let now = now();
        let mut written = Vec::with_capacity(edits.len());
        for (edit, item) in edits.iter().zip(items) {
            let mut text = Vec::new();
            match edit.asked.settle(item, now, &mut text) {
                Ok(Settled::Stays(counted)) => counts.add(counted),
                Ok(Settled::Replaced(counted)) => {
                    counts.add(counted);
                    if let Some(delimiter) = delimiter {
                        let quoted = record.bytes.get(edit.at.start) == Some(&b'"');
                        let mut field = Vec::with_capacity(text.len() + 2);
                        table::write(&text, quoted, delimiter, &mut field);
                        text = field;
                    } else if text.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
                        return Err(fault(Cause::LineEnd, Some(edit)));
                    }
                    written.push((edit.at.clone(), text));
                }
                Err(failure) => return Err(fault(Cause::Failure(failure), Some(edit))),
            }
        }
        let replacements: Vec<_> =
            written.iter().map(|(at, text)| Replacement { start: at.start, end: at.end, with: text }).collect();
        json_span::splice(&record.bytes, &replacements).map_err(|_| fault(Cause::Failure(Failure::Internal), None))
    }

    /// The name of the column in which a place of a row is.
    fn column_at(&self, record: &Record, at: usize) -> Option<String> {
        let Self::Table { names, delimiter, .. } = self else { return None };
        let fields = table::fields(&record.bytes, *delimiter).ok()?;
        names.get(fields.iter().position(|field| field.at.start == at)?).cloned()
    }

    fn json(&self, record: &Record, fault: Fault) -> Trouble {
        let place = fault.at.map(|at| json_span::path_at(&record.bytes, at));
        let at = match fault.failure {
            Failure::Json { offset, .. } => Some(offset),
            _ => fault.at,
        };
        trouble(record, Cause::Failure(fault.failure), at, place)
    }
}

fn trouble(record: &Record, cause: Cause, at: Option<usize>, place: Option<String>) -> Trouble {
    let Some(at) = at else { return Trouble { cause, line: record.line, column: None, place } };
    let (line, column) = line_column(&record.bytes, at);
    Trouble { cause, line: record.line + line as u64 - 1, column: Some(column as u64), place }
}
