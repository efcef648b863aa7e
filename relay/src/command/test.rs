//! `relay test`: what would be sealed and opened in a message, without an engine.

use std::path::Path;
use std::process::ExitCode;

use e3_wire::{Refusal, TokenText};
use http::{StatusCode, header};
use json_span::{Kind, Replacement, line_column, splice};

use super::{BAD_INPUT, admission, rules, sample, serve};
use crate::admit::head::BodyFraming;
use crate::answer;
use crate::args::Test;
use crate::body::pieces::Pieces;
use crate::body::records::{may_pass_unread, text_of};
use crate::body::select::{Selection, Target};
use crate::body::tokens::tokens_in;
use crate::error::{Failure, Side};
use crate::exchange::headers::has_no_body;
use crate::rules::action::Verb;
use crate::rules::media::{RecordForm, Shape};
use crate::rules::plan::Plan;
use crate::rules::route::Direction;

/// Shows what the rules do to a sample.
#[must_use]
pub fn run(args: &Test) -> ExitCode {
    let config = match rules(&args.rules.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let fault = |file: &Path, cause: &dyn std::fmt::Display| {
        eprintln!("{}: {cause}", file.display());
        ExitCode::from(BAD_INPUT)
    };
    let mut request = match std::fs::read(&args.request)
        .map_err(|e| e.to_string())
        .and_then(|t| sample::request(&t).map_err(|e| e.to_string()))
    {
        Ok(request) => request,
        Err(error) => return fault(&args.request, &error),
    };
    let host = request
        .head
        .headers
        .get(header::HOST)
        .and_then(|h| h.to_str().ok())
        .or_else(|| request.head.uri.host())
        .unwrap_or_default();
    let served = serve(&config, args.side, host, request.head.uri.path());
    let limits = served.as_ref().map(|s| (s.listener.limits.head_fields, s.listener.limits.head_bytes));
    let written = admission::Written { text: std::mem::take(&mut request.written), is_http2: request.is_http2 };
    match admission::framing(&written, &mut request.head, limits) {
        Err(failure) => return refuse("request", &failure),
        Ok(BodyFraming::Length(stated)) if request.head.headers.contains_key(header::CONTENT_LENGTH) => {
            let length = request.body.len();
            if stated != length as u64 {
                println!(
                    "length    Content-Length says {stated}, the sample's body has {length} bytes: all of them are shown"
                );
            }
        }
        Ok(_) => {}
    }
    let Some(served) = served else { return refuse("request", &Failure::UnknownHost) };
    println!("site      {} at {}", served.site.name, served.listener.listen);
    if let Err(failure) = admission::site(&request.head, served.site) {
        return refuse("request", &failure);
    }
    if served.site.redirect {
        println!("request   is sent on to https");
        return ExitCode::SUCCESS;
    }
    let (route, direction) = match served.site.rules.route(&request.head, &served.path) {
        Ok(found) => found,
        Err(failure) => return refuse("request", &failure),
    };
    if let Err(failure) = admission::protocol(&request.head, &route) {
        return refuse("request", &failure);
    }
    let names: Vec<_> = route.rules().filter_map(|r| served.site.rules().get(r)).map(|r| &*r.name).collect();
    println!("rules     {}", if names.is_empty() { "none: passes untouched".to_owned() } else { names.join(", ") });
    let (site, limit) = (&served.site.rules, served.site.limits.body);
    if let Err(failure) = show(
        "request",
        &direction,
        &request.body,
        || site.check_request_media(&route, &request.head.headers),
        (Side::Request, limit),
        args,
    ) {
        return refuse("request", &failure);
    }
    let Some(file) = &args.response else { return ExitCode::SUCCESS };
    let response = match std::fs::read(file)
        .map_err(|e| e.to_string())
        .and_then(|t| sample::response(&t).map_err(|e| e.to_string()))
    {
        Ok(response) => response,
        Err(error) => return fault(file, &error),
    };
    let direction = served.site.rules.response(&route, response.status);
    if has_no_body(&request.head.method, response.status) {
        println!("response  has no body: nothing to do");
        return ExitCode::SUCCESS;
    }
    if response.status == StatusCode::PARTIAL_CONTENT && matches!(direction, Direction::Planned(_)) {
        return refuse("response", &Failure::UpstreamPartial);
    }
    match show(
        "response",
        &direction,
        &response.body,
        || site.check_response_media(&route, response.status, &response.headers),
        (Side::Response, limit),
        args,
    ) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => refuse("response", &failure),
    }
}

/// What a client would be told. The sample is at fault, not the command.
fn refuse(what: &str, failure: &Failure) -> ExitCode {
    if let Some(cause) = answer::cause_of(failure) {
        println!("{what}   refused: {} {} — {}", cause.status.as_u16(), cause.code, cause.title);
        if let Failure::Json { offset, cause, .. } = failure {
            println!("          {cause} at byte {offset} of the body");
        }
    }
    ExitCode::FAILURE
}

fn show(
    what: &str,
    direction: &Direction,
    body: &[u8],
    media: impl FnOnce() -> Result<Shape, Failure>,
    (side, limit): (Side, usize),
    args: &Test,
) -> Result<(), Failure> {
    let plan = match direction {
        Direction::Untouched(_) => {
            println!("{what:<9} no rule selects its body: it passes untouched");
            return Ok(());
        }
        Direction::Planned(plan) => plan,
    };
    if body.is_empty() {
        println!("{what:<9} no body: nothing to do");
        return Ok(());
    }
    let shape = match media() {
        Err(failure) if side == Side::Request || plan.seals() => return Err(failure),
        Err(_) => {
            println!("{what:<9} no JSON and nothing to seal: it passes untouched");
            return Ok(());
        }
        Ok(shape) => shape,
    };
    let edited = match shape {
        Shape::Document if body.len() > limit => return Err(Failure::TooLarge(side)),
        Shape::Document => {
            let marks = marks(plan, body, side, args)?;
            if marks.is_empty() {
                println!("{what:<9} nothing selected: it passes as it is");
                return Ok(());
            }
            splice(body, &replacements(&marks)).map_err(|_| Failure::Internal)?
        }
        Shape::Records(form) => records(what, plan, body, form, (side, limit), args)?,
    };
    println!("{what:<9} becomes\n{}", String::from_utf8_lossy(&edited));
    Ok(())
}

/// Tells what happens to each record of a stream, and what becomes of all of them. One that is refused is the last that is told.
fn records(
    what: &str,
    plan: &Plan,
    body: &[u8],
    form: RecordForm,
    (side, limit): (Side, usize),
    args: &Test,
) -> Result<Vec<u8>, Failure> {
    let mut pieces = Pieces::new(form, limit);
    pieces.push(body);
    pieces.end();
    let (mut edited, mut number) = (Vec::with_capacity(body.len()), 0);
    while let Some(piece) = pieces.next().map_err(|_| Failure::TooLarge(side))? {
        let Some(text) = text_of(&piece, plan, form, side)? else {
            edited.extend_from_slice(&piece.into_bytes());
            continue;
        };
        number += 1;
        println!("{what:<9} record {number}");
        let marks = match marks(plan, &text, side, args) {
            Ok(marks) => marks,
            Err(Failure::Json { .. }) if may_pass_unread(plan, form, side) => {
                println!("  no JSON and nothing to seal: it passes untouched");
                Vec::new()
            }
            Err(Failure::Json { side, offset, cause }) => {
                return Err(Failure::Json { side, offset: piece.place(offset), cause });
            }
            Err(failure) => return Err(failure),
        };
        if marks.is_empty() {
            edited.extend_from_slice(&piece.into_bytes());
            continue;
        }
        edited.extend(piece.weave(&replacements(&marks)).map_err(|_| Failure::Internal)?);
    }
    Ok(edited)
}

/// A span of a text and the mark that stands for what replaces it.
struct Mark {
    start: usize,
    end: usize,
    with: String,
}

fn marks(plan: &Plan, text: &[u8], side: Side, args: &Test) -> Result<Vec<Mark>, Failure> {
    let mut selection = Selection::default();
    let targets = selection.targets(plan, text, side)?;
    let mut refused = None;
    let mut marks = Vec::with_capacity(targets.len());
    for target in targets {
        let told = tell(plan, text, target, args.show_values);
        if told.is_refused {
            refused = Some(Failure::Refused { side, reason: Refusal::RoleNotAllowed });
        }
        marks.push(Mark { start: target.start, end: target.end, with: told.mark });
    }
    refused.map_or(Ok(marks), Err)
}

fn replacements(marks: &[Mark]) -> Vec<Replacement<'_>> {
    marks.iter().map(|m| Replacement { start: m.start, end: m.end, with: m.with.as_bytes() }).collect()
}

/// What happens to one value.
struct Told {
    /// What stands for it.
    mark: String,
    /// Whether the message is refused for it.
    is_refused: bool,
}

/// Prints what happens to one value.
fn tell(plan: &Plan, body: &[u8], target: &Target, show_values: bool) -> Told {
    let raw = body.get(target.start..target.end).unwrap_or_default();
    let (line, column) = line_column(body, target.start);
    let good = |mark| Told { mark, is_refused: false };
    let Some(action) = plan.actions().get(target.action) else { return good(String::new()) };
    let value = if show_values { format!("  {}", String::from_utf8_lossy(raw)) } else { String::new() };
    let kind = match target.kind {
        Kind::String => "string",
        Kind::Number => "number",
        Kind::Bool => "boolean",
        Kind::Null => "null",
        Kind::Object => "object",
        Kind::Array => "array",
    };
    match &action.verb {
        Verb::Seal { role, deterministic, keep } => {
            let how = match (deterministic, keep) {
                (true, _) => ", deterministic",
                (false, true) => ", genuine tokens kept",
                (false, false) => "",
            };
            println!("  seal    {line}:{column}  {kind} as {role}{how}  ({}){value}", action.source);
            good(format!("\"<{role}>\""))
        }
        Verb::Open { roles, leave, .. } => {
            let allowed = roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let (mut what, mut mark, mut is_refused, mut from) = (Vec::new(), Vec::new(), false, 0);
            let inside = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
            for (range, token) in tokens_in(inside, target.escaped) {
                let Ok(token) = TokenText::parse(&token) else { continue };
                mark.extend_from_slice(inside.get(from..range.start).unwrap_or_default());
                from = range.end;
                if roles.contains(&token.role) {
                    what.push(format!("a token of {}", token.role));
                    mark.extend_from_slice(format!("<{} opened>", token.role).as_bytes());
                } else {
                    is_refused |= !leave;
                    let fate = if *leave { "stays as it is" } else { "the message is refused" };
                    what.push(format!("a token of {}, which may not be opened here ({allowed}): {fate}", token.role));
                    mark.extend_from_slice(inside.get(range).unwrap_or_default());
                }
            }
            if what.is_empty() {
                what.push("no token: stays as it is".to_owned());
            }
            mark.extend_from_slice(inside.get(from..).unwrap_or_default());
            println!("  open    {line}:{column}  {kind}, {}  ({}){value}", what.join("; "), action.source);
            Told { mark: format!("\"{}\"", String::from_utf8_lossy(&mark)), is_refused }
        }
    }
}
