//! `relay seal`, `open`, `inspect`, `rewrap`: the values of a file, for example of a table that was there before its values were sealed.
//!
//! 1. [`record`]: cuts the input into records; [`table`]: the fields of one;
//! 2. [`task`]: what is asked about a record, and how the answers stand in it;
//! 3. [`batch`]: several records in an engine call; [`work`]: several calls at once;
//! 4. [`output`]: writes them, and remembers how far that is; [`progress`] tells.

mod batch;
mod output;
mod progress;
mod record;
mod table;
mod task;
mod work;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use e3_wire::Role;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use self::batch::Shared;
use self::output::{Opened, Output, OutputError, hash};
use self::progress::Progress;
use self::record::{CutError, Cutter, Ends, Record};
use self::task::{Task, Trouble};
use self::work::{Sums, Work, at};
use super::{BAD_INPUT, tell};
use crate::api::auth::Key;
use crate::api::query::{Roled, roled};
use crate::args::values::{Chosen, InputFormat, Open, Seal, Tokens, Values};
use crate::config;
use crate::engine::Engine;
use crate::metrics::Metrics;
use crate::values::Verb;
use crate::values::choice::{Choice, selector};

/// Longest time of one engine call: a batch may take longer than a message, which somebody waits for.
const CALL_TIME: Duration = Duration::from_secs(30);

/// Most bytes of the records of one batch.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The environment variable of the API key.
const KEY_VARIABLE: &str = "E3_API_KEY";

/// Why a run ended before its input did.
enum Stop {
    /// It was asked for something that cannot be: exit code 2.
    Use(String),
    /// A file, the engine, or a record: exit code 1.
    Run(String),
}

impl From<OutputError> for Stop {
    fn from(error: OutputError) -> Self {
        Self::Run(error.to_string())
    }
}

/// What is done to which values, before the heading of a table is known.
struct Wish<'a> {
    name: &'static str,
    /// Selectors or columns, each with what is done.
    select: Vec<(&'a str, Verb)>,
    columns: Vec<(&'a str, Verb)>,
    /// A column's whole text, where it could be a name too.
    rest: Option<Verb>,
}

/// `relay seal`
#[must_use]
pub fn seal(args: &Seal) -> ExitCode {
    let keep = args.tokens == Tokens::Keep;
    let verb = |role: Role, deterministic| Verb::Seal { role, deterministic, keep };
    let chosen = |list: &'_ [String]| -> Result<Vec<(usize, Verb)>, Stop> {
        let mut chosen = Vec::new();
        for text in list {
            let Roled { text: before, role, deterministic } = roled(text);
            let Some(role) = role.or(args.role) else {
                return Err(Stop::Use(format!("`{text}` names no role: write {text}:card-number, or --role")));
            };
            chosen.push((before.len(), verb(role, deterministic || args.deterministic)));
        }
        Ok(chosen)
    };
    let wish = || {
        let select = chosen(&args.select)?;
        let columns = chosen(&args.column)?;
        let of = |list: &'_ [String], chosen: Vec<(usize, Verb)>| -> Vec<(String, Verb)> {
            list.iter().zip(chosen).map(|(text, (end, verb))| (text[..end].to_owned(), verb)).collect()
        };
        Ok((of(&args.select, select), of(&args.column, columns)))
    };
    let (select, columns) = match wish() {
        Ok(wish) => wish,
        Err(stop) => return ended(Err(stop)),
    };
    let wish = Wish {
        name: "seal",
        select: select.iter().map(|(text, verb)| (text.as_str(), verb.clone())).collect(),
        columns: columns.iter().map(|(text, verb)| (text.as_str(), verb.clone())).collect(),
        rest: args.role.map(|role| verb(role, args.deterministic)),
    };
    run(&args.values, &wish)
}

/// `relay open`
#[must_use]
pub fn open(args: &Open) -> ExitCode {
    let mut roles = args.roles.clone();
    roles.dedup();
    chosen("open", &args.chosen, &Verb::Open { roles: roles.into() })
}

/// `relay inspect`
#[must_use]
pub fn inspect(args: &Chosen) -> ExitCode {
    chosen("inspect", args, &Verb::Inspect)
}

/// `relay rewrap`
#[must_use]
pub fn rewrap(args: &Chosen) -> ExitCode {
    chosen("rewrap", args, &Verb::Rewrap)
}

fn chosen(name: &'static str, args: &Chosen, verb: &Verb) -> ExitCode {
    let each = |texts: &[String]| texts.iter().map(|text| (text.clone(), verb.clone())).collect::<Vec<_>>();
    let (select, columns) = (each(&args.select), each(&args.column));
    let rest = (select.is_empty() && columns.is_empty()).then(|| verb.clone());
    let wish = Wish {
        name,
        select: select.iter().map(|(text, verb)| (text.as_str(), verb.clone())).collect(),
        columns: columns.iter().map(|(text, verb)| (text.as_str(), verb.clone())).collect(),
        rest,
    };
    run(&args.values, &wish)
}

fn run(args: &Values, wish: &Wish<'_>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(Stop::Run(error.to_string()))),
    };
    let engine = match config::load_engine(&args.config) {
        Ok(engine) => engine,
        Err(report) => {
            tell(&report);
            return ExitCode::from(BAD_INPUT);
        }
    };
    ended(runtime.block_on(go(args, wish, engine)))
}

fn ended(outcome: Result<(), Stop>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Use(cause)) => {
            eprintln!("relay: {cause}");
            ExitCode::from(BAD_INPUT)
        }
        Err(Stop::Run(cause)) => {
            eprintln!("relay: {cause}");
            ExitCode::FAILURE
        }
    }
}

/// A source that a thread can read.
type Source = Box<dyn Read + Send>;

async fn go(args: &Values, wish: &Wish<'_>, mut engine: config::resolved::Engine) -> Result<(), Stop> {
    let input = args.input.as_deref().filter(|input| *input != Path::new("-"));
    let name = input.map_or_else(|| "standard input".to_owned(), |input| input.display().to_string());
    let format = format(args, input)?;
    let delimiter = delimiter(&args.delimiter)?;
    let key = key(args)?;
    let (source, total): (Source, Option<u64>) = match input {
        None => (Box::new(std::io::stdin()), None),
        Some(path) => {
            let file = File::open(path).map_err(|error| Stop::Run(format!("{name}: cannot be read: {error}")))?;
            let total = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|file| file.len());
            (Box::new(file), total)
        }
    };
    let ends = match format {
        InputFormat::Ndjson | InputFormat::Lines => Ends::Line,
        InputFormat::Json => Ends::Input,
        InputFormat::Csv => Ends::Row { delimiter },
    };
    let mut cutter = Cutter::new(source, ends);
    let cut = |error: CutError| Stop::Run(format!("{name}: {error}"));
    let heading = if format == InputFormat::Csv { cutter.heading().map_err(cut)? } else { None };
    let task = task(wish, format, delimiter, heading.as_ref(), &name)?;
    let wanted = wanted(args, wish, &task, &engine.app.to_string());
    let (mut output, before) =
        match Output::open(args.output.as_deref(), args.rejects.as_deref(), args.resume, &wanted)? {
            Opened::Ready(output, before) => (output, before),
            Opened::Done => {
                if !args.quiet {
                    eprintln!("relay: all of it was done already");
                }
                return Ok(());
            }
        };
    if let Some(before) = &before {
        let tail = cutter.skip(before.input, before.tail, before.records, before.line).map_err(cut)?;
        if tail.len() != before.tail || hash(&tail) != before.tail_hash {
            let cause = "is not the input of the run that stopped: it differs before the place where that was";
            return Err(Stop::Run(format!("{name}: {cause}")));
        }
    } else if let Some(heading) = &heading {
        output.write(&heading.bytes)?;
    }
    engine.timeout = engine.timeout.max(CALL_TIME);
    let metrics = Metrics::new().map_err(|error| Stop::Run(error.to_string()))?;
    let engine = Engine::new(&engine, metrics.engine()).map_err(|error| Stop::Run(error.to_string()))?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|_| Stop::Run("the system has no random numbers".to_owned()))?;
    let id = format!("cli-{:016x}", u64::from_be_bytes(random));
    let patience = Duration::from_secs(args.patience.into());
    let shared = Arc::new(Shared { task, engine, key, id, patience });
    let records = read(cutter, args);
    let mut progress = Progress::new(args.quiet, total, before.as_ref().map_or((0, 0), |b| (b.input, b.records)));
    let mut work = Work { args, name: &name, output: *output, wanted, last: None, sums: Sums::default() };
    let outcome = work.all(&shared, records, &mut progress).await;
    progress.clear();
    // What was done before a failure is not done again.
    let synced = work.sync();
    let stopped = outcome.err().or_else(|| synced.err());
    if let Some(stop) = stopped {
        return Err(stop);
    }
    let Work { output, sums, .. } = work;
    output.finish()?;
    if !args.quiet {
        eprintln!("relay: {}", sums.text());
    }
    Ok(())
}

fn format(args: &Values, input: Option<&Path>) -> Result<InputFormat, Stop> {
    let end = input.and_then(Path::extension).and_then(|end| end.to_str());
    match (args.format, end) {
        (Some(format), _) => Ok(format),
        (None, Some("ndjson" | "jsonl")) => Ok(InputFormat::Ndjson),
        (None, Some("csv")) => Ok(InputFormat::Csv),
        (None, Some("json")) => Ok(InputFormat::Json),
        (None, Some("txt")) => Ok(InputFormat::Lines),
        (None, _) => Err(Stop::Use("say how the input is made up: --format ndjson, csv, json or lines".to_owned())),
    }
}

fn delimiter(text: &str) -> Result<u8, Stop> {
    match text.as_bytes() {
        b"tab" | b"\\t" => Ok(b'\t'),
        [one] if one.is_ascii() && !matches!(one, b'"' | b'\r' | b'\n') => Ok(*one),
        _ => Err(Stop::Use(format!("`{text}` is no delimiter: one ASCII character, or tab"))),
    }
}

/// The API key, from a file that others may not read, or from the environment.
fn key(args: &Values) -> Result<Option<Key>, Stop> {
    let (text, place) = match (&args.api_key_file, std::env::var(KEY_VARIABLE)) {
        (Some(file), _) => {
            let told = |error: std::io::Error| Stop::Run(format!("{}: cannot be read: {error}", file.display()));
            let text = Zeroizing::new(std::fs::read_to_string(file).map_err(told)?);
            let mode = std::fs::metadata(file).map_err(told)?.permissions().mode();
            if mode & 0o007 != 0 {
                return Err(Stop::Use(format!("{0}: others may read the API key: chmod 600 {0}", file.display())));
            }
            (text, file.display().to_string())
        }
        (None, Ok(text)) if !text.is_empty() => (Zeroizing::new(text), KEY_VARIABLE.to_owned()),
        (None, _) => return Ok(None),
    };
    let key = Key::new(text.trim().as_bytes());
    key.map(Some).ok_or_else(|| Stop::Use(format!("{place} holds no API key: visible ASCII characters, at most 255")))
}

/// What is done to each record.
fn task(
    wish: &Wish<'_>,
    format: InputFormat,
    delimiter: u8,
    heading: Option<&Record>,
    name: &str,
) -> Result<Task, Stop> {
    let wrong = |what: &str, right: &str| Stop::Use(format!("{what} does not go with this format: {right}"));
    match format {
        InputFormat::Ndjson | InputFormat::Json => {
            if !wish.columns.is_empty() {
                return Err(wrong("--column", "use --select"));
            }
            let choice = if wish.select.is_empty() {
                let verb = wish.rest.clone();
                Choice::all(verb.ok_or_else(|| Stop::Use("say what is to be sealed: --select, or --role".to_owned()))?)
            } else {
                let mut chosen = Vec::new();
                for (text, verb) in &wish.select {
                    let read = selector(text);
                    let read =
                        read.map_err(|error| Stop::Use(format!("`{text}`, at byte {}: {error}", error.offset)))?;
                    chosen.push((read, verb.clone()));
                }
                Choice::select(chosen)
            };
            Ok(if format == InputFormat::Json { Task::Document(choice) } else { Task::Lines(choice) })
        }
        InputFormat::Lines => {
            if !wish.columns.is_empty() || !wish.select.is_empty() {
                return Err(wrong("--select or --column", "every line is a value"));
            }
            let verb = wish.rest.clone();
            Ok(Task::Text(verb.ok_or_else(|| Stop::Use("say the role of the lines: --role".to_owned()))?))
        }
        InputFormat::Csv => {
            if !wish.select.is_empty() {
                return Err(wrong("--select", "use --column"));
            }
            let Some(heading) = heading else { return Err(Stop::Run(format!("{name}: the table has no heading"))) };
            let names = names(heading, delimiter).map_err(|trouble| Stop::Run(at(name, &trouble)))?;
            let mut columns = Vec::new();
            for (text, verb) in &wish.columns {
                let mut found = names.iter().enumerate().filter(|(_, name)| name == text).map(|(index, _)| index);
                match (found.next(), found.next()) {
                    (Some(index), None) => columns.push((index, verb.clone())),
                    (None, _) => {
                        return Err(Stop::Use(format!("{name} has no column `{text}`; it has {}", names.join(", "))));
                    }
                    (Some(_), Some(_)) => {
                        return Err(Stop::Use(format!("{name} has more than one column `{text}`")));
                    }
                }
            }
            if wish.columns.is_empty() {
                match &wish.rest {
                    Some(verb) if wish.name != "seal" => {
                        columns = (0..names.len()).map(|index| (index, verb.clone())).collect();
                    }
                    _ => return Err(Stop::Use("say which columns are to be sealed: --column NAME:ROLE".to_owned())),
                }
            }
            columns.sort_by_key(|(index, _)| *index);
            if columns.windows(2).any(|pair| pair[0].0 == pair[1].0) {
                return Err(Stop::Use("a column is named twice".to_owned()));
            }
            Ok(Task::Table { columns, names, delimiter })
        }
    }
}

/// The names in the heading of a table. A byte order mark before the first one is none of it.
fn names(heading: &Record, delimiter: u8) -> Result<Vec<String>, Trouble> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let fault = |cause, at: usize| Trouble { cause, line: heading.line, column: Some(at as u64 + 1), place: None };
    let skipped = if heading.bytes.starts_with(MARK) { MARK.len() } else { 0 };
    let row = &heading.bytes[skipped..];
    let fields = table::fields(row, delimiter).map_err(|quote| fault(task::Cause::Quote, quote.at + skipped))?;
    fields
        .iter()
        .map(|field| match table::text(row, field) {
            Some(text) => Ok(text.into_owned()),
            None => Err(fault(task::Cause::Encoding, field.at.start + skipped)),
        })
        .collect()
}

/// What a run is told to do, for a later one that goes on with it.
fn wanted(args: &Values, wish: &Wish<'_>, task: &Task, app: &str) -> String {
    let told = match task {
        Task::Table { columns, names, delimiter } => format!("{columns:?} {names:?} {delimiter}"),
        Task::Lines(_) => format!("lines {:?} {:?}", wish.select, wish.rest),
        Task::Document(_) => format!("document {:?} {:?}", wish.select, wish.rest),
        Task::Text(verb) => format!("text {verb:?}"),
    };
    hash(format!("{} {app} {told} {:?} {}", wish.name, args.on_refused, args.rejects.is_some()).as_bytes())
}

/// Batches of records, cut by a thread of their own: an input may be slow.
fn read<R: Read + Send + 'static>(
    mut cutter: Cutter<R>,
    args: &Values,
) -> mpsc::Receiver<Result<Vec<Record>, CutError>> {
    let (send, records) = mpsc::channel(1);
    let most = args.batch as usize;
    std::thread::spawn(move || {
        loop {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            let ended = loop {
                match cutter.next() {
                    Ok(Some(record)) => {
                        bytes += record.bytes.len();
                        batch.push(record);
                        if batch.len() >= most || bytes >= BATCH_BYTES {
                            break None;
                        }
                    }
                    Ok(None) => break Some(None),
                    Err(error) => break Some(Some(error)),
                }
            };
            if !batch.is_empty() && send.blocking_send(Ok(batch)).is_err() {
                return;
            }
            match ended {
                None => {}
                Some(None) => return,
                Some(Some(error)) => {
                    let _ = send.blocking_send(Err(error));
                    return;
                }
            }
        }
    });
    records
}
