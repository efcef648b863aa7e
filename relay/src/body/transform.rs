//! Asks the engine once for every value that a plan claims, and splices its answers in.

use std::cell::RefCell;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use e3_wire::{Answer, Context, ItemAnswer, Refusal, RequestWriter, Role, ValueType, WireError};
use json_span::{Kind, Replacement, Spliced};

use super::room::Held;
use super::sealed::{Replaced, Sealed};
use super::select::{Selection, Target};
use super::text::Text;
use super::tokens::{Decoded, each_token, is_token_of};
use crate::engine::{self, Engine};
use crate::error::{Failure, Side};
use crate::rules::action::Verb;
use crate::rules::plan::Plan;

/// A body with every planned value replaced, and what was done to it.
#[derive(Debug)]
pub struct Transformed<S> {
    /// What may be sent.
    pub body: Sealed<S>,
    /// What was done, for headers and metrics.
    pub report: Report,
}

/// What was done to a body. Counts only, never a value.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether any byte differs from what came in: digests and strong entity tags no longer hold.
    pub edited: bool,
    /// Whether a token was opened: the answer must not be stored.
    pub opened: bool,
    /// Number of values by what happened to them and role; few entries, so a list.
    pub fields: Vec<(FieldOutcome, Role, u32)>,
    /// Time spent waiting for the engine.
    pub engine_time: Duration,
}

/// What happened to one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldOutcome {
    /// It became a token.
    Sealed,
    /// A token was opened.
    Opened,
    /// A genuine token stayed as it was (`tokens: keep`).
    Kept,
    /// A token that may not be opened stayed as it was (`on_refused: leave`).
    Left,
}

impl Report {
    fn count(&mut self, outcome: FieldOutcome, role: Role) {
        match self.fields.iter_mut().find(|(o, r, _)| (*o, *r) == (outcome, role)) {
            Some((_, _, n)) => *n += 1,
            None => self.fields.push((outcome, role, 1)),
        }
    }
}

/// One item of the engine call and the bytes of the body that its answer replaces.
struct Edit {
    start: usize,
    end: usize,
    kind: EditKind,
}

#[derive(Clone, Copy)]
enum EditKind {
    /// A value becomes a token in quotes; only where the engine was asked to keep genuine tokens may it stay.
    Seal { role: Role, keep: bool },
    /// A string that is one token becomes the value it holds.
    OpenWhole { leave: bool },
    /// A token inside a longer string becomes text inside that string.
    OpenInside { leave: bool },
}

/// Scratch space kept between messages.
#[derive(Default)]
struct Scratch {
    selection: Selection,
    decoded: Decoded,
    plain: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Replaces every value of a body that the plan claims, with one engine call at most, and yields what may be sent.
///
/// Empty text has no values, so there is nothing to do.
///
/// # Errors
/// Anything that keeps a planned value from being replaced; nothing of the message may be sent then.
pub async fn transform<S>(
    plan: &Plan,
    mut held: Held,
    engine: &Engine,
    context: &Context<'_>,
    side: Side,
) -> Result<Transformed<S>, Failure> {
    let mut report = Report::default();
    if held.text.is_empty() {
        return Ok(Transformed { body: Sealed::none(), report });
    }
    let edits = edits(plan, &held.text, engine, context, side, &mut report).await?;
    // Where there is nothing to edit, the scan went over every byte, and all of nothing is replaced.
    let text = if edits.is_empty() {
        Text::from(held.keep())
    } else if edits.part_far(held.text.len()) {
        let both = held.text.len() + edits.written.capacity();
        held.taken.reach_blocks(both).map_err(|full| full.failure(side))?;
        Text::spliced(Spliced::new(held, edits.written, edits.places).map_err(|_| Failure::Internal)?)
    } else {
        let spliced = json_span::splice(&held.text, &edits.replacements()).map_err(|_| Failure::Internal)?;
        held.taken.reach(spliced.len()).map_err(|full| full.failure(side))?;
        Text::from(held.taken.keep(spliced.into()))
    };
    Ok(Transformed { body: Sealed::replaced(Replaced::all(text)), report })
}

/// Bytes of a piece, in the mean, from which on a spliced text is sent in pieces. Many short ones would cost the codec, TLS and the kernel more than one copy.
const PIECE_WORTH_SENDING: usize = 1024;

/// What replaces every value of a text that a plan claims.
#[derive(Default)]
pub(super) struct Edits {
    written: Vec<u8>,
    /// Spans of the text, in order, and what replaces them in `written`.
    places: Vec<(Range<usize>, Range<usize>)>,
}

impl Edits {
    /// Whether the text stays as it is.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether they part a text of this length into pieces that are worth sending by themselves.
    fn part_far(&self, text: usize) -> bool {
        (text + self.written.len()) / (2 * self.places.len() + 1) >= PIECE_WORTH_SENDING
    }

    /// The spans and their replacements, in order.
    pub(super) fn replacements(&self) -> Vec<Replacement<'_>> {
        let with = |range: &Range<usize>| &self.written[range.clone()];
        self.places.iter().map(|(at, r)| Replacement { start: at.start, end: at.end, with: with(r) }).collect()
    }
}

/// Finds every value of `text` that the plan claims and asks the engine for what replaces it, in one call at most.
async fn edits(
    plan: &Plan,
    text: &[u8],
    engine: &Engine,
    context: &Context<'_>,
    side: Side,
    report: &mut Report,
) -> Result<Edits, Failure> {
    let (edits, request) = prepare(plan, text, engine, context, side)?;
    if edits.is_empty() {
        return Ok(Edits::default());
    }
    let (frame, took) = engine.timed_call(request, side).await?;
    report.engine_time = took;
    let items = match engine::read(&frame, context.request_id) {
        Ok(Answer::Items(items)) => items,
        Ok(Answer::Refused(refusal)) => return Err(Failure::Engine(refusal)),
        Err(_) => return Err(Failure::EngineAnswer),
    };
    apply(text, &edits, &items, side, report)
}

/// As [`edits`], of several texts in one call at most: the edits of each, up to the first that fails, and that failure. Without a failure there may be fewer
/// than texts too, though not none: one call takes no more.
pub(super) async fn edits_of_all(
    plan: &Plan,
    texts: &[Bytes],
    engine: &Engine,
    context: &Context<'_>,
    side: Side,
) -> (Vec<(Edits, Report)>, Option<Failure>) {
    let Prepared { edits, request, mut failed } = match prepare_all(plan, texts, engine, context, side) {
        Ok(prepared) => prepared,
        Err(failure) => return (Vec::new(), Some(failure)),
    };
    let none = |edits: &&Vec<Edit>| edits.is_empty();
    // Texts of which nothing is asked are good whatever the engine says.
    let free = edits.iter().take_while(none).count();
    let only_free = || std::iter::repeat_with(Default::default).take(free).collect();
    if free == edits.len() {
        return (only_free(), failed);
    }
    let frame = match engine.call(request, side).await {
        Ok(frame) => frame,
        Err(failure) => return (only_free(), Some(failure)),
    };
    let items = match engine::read(&frame, context.request_id) {
        Ok(Answer::Items(items)) if items.len() == edits.iter().map(Vec::len).sum::<usize>() => items,
        Ok(Answer::Refused(refusal)) => return (only_free(), Some(Failure::Engine(refusal))),
        Ok(Answer::Items(_)) | Err(_) => return (only_free(), Some(Failure::EngineAnswer)),
    };
    let mut rest = &items[..];
    let mut done = Vec::with_capacity(edits.len());
    for (text, edits) in texts.iter().zip(&edits) {
        let (own, others) = rest.split_at(edits.len());
        rest = others;
        let mut report = Report::default();
        match apply(text, edits, own, side, &mut report) {
            Ok(edits) => done.push((edits, report)),
            Err(failure) => {
                failed = Some(failure);
                break;
            }
        }
    }
    (done, failed)
}

/// The call for several texts.
struct Prepared {
    edits: Vec<Vec<Edit>>,
    request: RequestWriter,
    failed: Option<Failure>,
}

fn prepare_all(
    plan: &Plan,
    mut texts: &[Bytes],
    engine: &Engine,
    context: &Context<'_>,
    side: Side,
) -> Result<Prepared, Failure> {
    SCRATCH.with(|scratch| {
        let mut scratch = scratch.try_borrow_mut().map_err(|_| Failure::Internal)?;
        let Scratch { selection, decoded, plain } = &mut *scratch;
        'again: loop {
            let mut request = RequestWriter::new(engine.app(), context, texts.len() * 96);
            let mut edits = Vec::with_capacity(texts.len());
            for text in texts {
                let targets = match selection.targets(plan, text, side) {
                    Ok(targets) => targets,
                    Err(failure) => return Ok(Prepared { edits, request, failed: Some(failure) }),
                };
                match ask(plan, text, targets, (decoded, plain), &mut request, side) {
                    Ok(of_text) => edits.push(of_text),
                    Err(failure) if edits.is_empty() => return Err(failure),
                    // Some of its values are in the call by now: without it, once more.
                    Err(_) => {
                        texts = &texts[..edits.len()];
                        continue 'again;
                    }
                }
            }
            return Ok(Prepared { edits, request, failed: None });
        }
    })
}

/// Scans the body and writes the engine call. No await in here: the scratch space is the thread's.
fn prepare(
    plan: &Plan,
    text: &[u8],
    engine: &Engine,
    context: &Context<'_>,
    side: Side,
) -> Result<(Vec<Edit>, RequestWriter), Failure> {
    SCRATCH.with(|scratch| {
        let mut scratch = scratch.try_borrow_mut().map_err(|_| Failure::Internal)?;
        let Scratch { selection, decoded, plain } = &mut *scratch;
        let targets = selection.targets(plan, text, side)?;
        let mut request = RequestWriter::new(engine.app(), context, targets.len() * 48);
        let edits = ask(plan, text, targets, (decoded, plain), &mut request, side)?;
        Ok((edits, request))
    })
}

/// Asks the engine for what replaces these values of a text.
fn ask(
    plan: &Plan,
    text: &[u8],
    targets: &[Target],
    (decoded, plain): (&mut Decoded, &mut Vec<u8>),
    request: &mut RequestWriter,
    side: Side,
) -> Result<Vec<Edit>, Failure> {
    let mut edits = Vec::with_capacity(targets.len());
    let too_much = |_: WireError| Failure::TooMuchForEngine(side);
    for target in targets {
        let Some(action) = plan.actions().get(target.action) else { return Err(Failure::Internal) };
        match &action.verb {
            Verb::Seal { role, deterministic, keep } => {
                let raw = text.get(target.start..target.end).ok_or(Failure::Internal)?;
                let (value_type, value) = sealed_form(raw, target.kind, target.escaped, *deterministic, plain)?;
                let keep = *keep && value_type == ValueType::String && is_token_of(value, *role);
                if keep {
                    request.keep_or_seal(*role, value_type, value, *deterministic).map_err(too_much)?;
                } else {
                    request.seal(*role, value_type, value, *deterministic).map_err(too_much)?;
                }
                let kind = EditKind::Seal { role: *role, keep };
                edits.push(Edit { start: target.start, end: target.end, kind });
            }
            Verb::Open { roles, leave, .. } => {
                let inside = target.start + 1..target.end - 1;
                let raw = text.get(inside.clone()).ok_or(Failure::Internal)?;
                each_token(raw, target.escaped, decoded, |range, token| {
                    request.open(roles, token).map_err(too_much)?;
                    edits.push(if range == (0..raw.len()) {
                        let kind = EditKind::OpenWhole { leave: *leave };
                        Edit { start: target.start, end: target.end, kind }
                    } else {
                        let (start, end) = (inside.start + range.start, inside.start + range.end);
                        Edit { start, end, kind: EditKind::OpenInside { leave: *leave } }
                    });
                    Ok(())
                })?;
            }
        }
    }
    Ok(edits)
}

/// The type and bytes under which a value is sealed, so that it comes back exactly (SPEC.md, "Value types").
pub(crate) fn sealed_form<'a>(
    raw: &'a [u8],
    kind: Kind,
    escaped: bool,
    deterministic: bool,
    plain: &'a mut Vec<u8>,
) -> Result<(ValueType, &'a [u8]), Failure> {
    Ok(match kind {
        Kind::Number => (ValueType::Number, raw),
        Kind::Bool => (ValueType::Bool, raw),
        Kind::Null => (ValueType::Null, raw),
        Kind::Object | Kind::Array => (ValueType::Json, raw),
        // Without a backslash, what stands between the quotes is the decoded text, and writing it again gives the same.
        Kind::String if !escaped => (ValueType::String, raw.get(1..raw.len() - 1).ok_or(Failure::Internal)?),
        Kind::String => {
            plain.clear();
            let decodes = json_span::decode_string(raw, plain).is_ok();
            // Equal strings must give equal tokens, however they are escaped; elsewhere the escapes must come back as they were.
            if decodes && (deterministic || json_span::is_canonical_string(raw)) {
                (ValueType::String, plain)
            } else {
                (ValueType::Json, raw)
            }
        }
    })
}

/// Writes the answers down. Every edit has its answer, or there are no [`Edits`].
fn apply(
    text: &[u8],
    edits: &[Edit],
    items: &[ItemAnswer<'_>],
    side: Side,
    report: &mut Report,
) -> Result<Edits, Failure> {
    if edits.len() != items.len() {
        return Err(Failure::EngineAnswer);
    }
    let mut written = Vec::with_capacity(items.len() * 160);
    let mut places = Vec::with_capacity(items.len());
    for (edit, item) in edits.iter().zip(items) {
        let from = written.len();
        match (edit.kind, item) {
            (EditKind::Seal { role, .. }, ItemAnswer::Token(token)) => {
                // A token needs no escape in JSON; anything else in its place could end the string early.
                if !is_token_of(token, role) {
                    return Err(Failure::EngineAnswer);
                }
                written.push(b'"');
                written.extend_from_slice(token);
                written.push(b'"');
                report.count(FieldOutcome::Sealed, role);
            }
            (EditKind::Seal { role, keep: true }, ItemAnswer::Kept) => {
                report.count(FieldOutcome::Kept, role);
                continue;
            }
            (EditKind::OpenWhole { .. }, ItemAnswer::Value { value_type, role, value }) => {
                match value_type {
                    ValueType::String => json_span::encode_string(utf8(value)?, &mut written),
                    _ => written.extend_from_slice(value),
                }
                report.opened = true;
                report.count(FieldOutcome::Opened, *role);
            }
            (EditKind::OpenInside { .. }, ItemAnswer::Value { value_type, role, value }) => {
                write_inside(*value_type, value, &mut written)?;
                report.opened = true;
                report.count(FieldOutcome::Opened, *role);
            }
            (
                EditKind::OpenWhole { leave: true } | EditKind::OpenInside { leave: true },
                ItemAnswer::Refused(Refusal::NotAuthentic | Refusal::RoleNotAllowed),
            ) => {
                // Nothing depends on the role that such a token claims: it is only counted.
                if let Some((token, _)) =
                    text.get(edit.start..edit.end).and_then(|raw| e3_wire::TokenText::find(raw, 0))
                {
                    report.count(FieldOutcome::Left, token.role);
                }
                continue;
            }
            (_, ItemAnswer::Refused(reason)) => return Err(Failure::Refused { side, reason: *reason }),
            _ => return Err(Failure::EngineAnswer),
        }
        places.push((edit.start..edit.end, from..written.len()));
    }
    report.edited |= !places.is_empty();
    Ok(Edits { written, places })
}

/// Writes an opened value as a part of a longer string. A string that was sealed as JSON text has its escapes already: what stands between its quotes comes
/// back as it is.
fn write_inside(value_type: ValueType, value: &[u8], written: &mut Vec<u8>) -> Result<(), Failure> {
    match value {
        [b'"', inside @ .., b'"'] if value_type == ValueType::Json => {
            // Anything but one string could end the longer one early.
            match json_span::is_exactly_one_value(value, &json_span::Limits::default()) {
                Ok(Kind::String) => written.extend_from_slice(inside),
                _ => return Err(Failure::EngineAnswer),
            }
        }
        _ => json_span::encode_string_body(utf8(value)?, written),
    }
    Ok(())
}

fn utf8(value: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(value).map_err(|_| Failure::EngineAnswer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_opened_inside_a_string_ends_it() {
        let inside = |value_type, value: &str| {
            let mut written = Vec::new();
            write_inside(value_type, value.as_bytes(), &mut written).map(|()| String::from_utf8(written).unwrap())
        };
        assert_eq!(inside(ValueType::Json, r#""\u00e9\/\ud800""#).unwrap(), r"\u00e9\/\ud800");
        assert_eq!(inside(ValueType::Json, r#"{"a":"b"}"#).unwrap(), r#"{\"a\":\"b\"}"#);
        assert_eq!(inside(ValueType::String, r#""a""#).unwrap(), r#"\"a\""#);
        for broken in [r#""a","x":"b""#, r#""\""#, "\"\n\"", r#""a" "b""#] {
            assert_eq!(inside(ValueType::Json, broken), Err(Failure::EngineAnswer), "{broken}");
        }
    }
}
