//! `relay seal`, `open`, `inspect`, `rewrap`: values in files.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use e3_wire::Role;

/// What the four commands say after their options.
pub(super) const SEAL_EXAMPLES: &str = "Examples:\n  \
    relay seal --config relay.yaml --format ndjson --select '$.card.number:card-number' --select '$.email:email:deterministic' < orders.ndjson > sealed.ndjson\n  \
    relay seal --column number:card-number --column email:email:deterministic cards.csv --output sealed.csv --resume\n  \
    printf 4111111111111111 | relay seal --format lines --role card-number\n\n\
    Genuine tokens of the role stay as they are, so that a table that is partly sealed can be sealed again.\n\
    With --output, FILE.part grows until all is done and then becomes FILE; after a kill, the same command with --resume goes on behind the last record\n\
    that is certainly on disk. Fields of a table keep their quotes, and an empty field without quotes is no value.";

pub(super) const OPEN_EXAMPLES: &str = "Examples:\n  \
    relay open --format ndjson --api-key-file key sealed.ndjson\n  \
    relay open --roles card-number --column number sealed.csv --output cards.csv --on-refused leave --rejects refused.ndjson";

pub(super) const INSPECT_EXAMPLES: &str = "Example: relay inspect --format lines tokens.txt";

pub(super) const REWRAP_EXAMPLES: &str =
    "Example: relay rewrap --column number --column email cards.csv --output rewrapped.csv --resume";

/// How an input is made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InputFormat {
    /// A JSON value on each line.
    Ndjson,
    /// A table with a heading (RFC 4180).
    Csv,
    /// One JSON value.
    Json,
    /// A value on each line, as text.
    Lines,
}

/// What happens to a record that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnRefused {
    /// It ends the run.
    Stop,
    /// It is left out.
    Skip,
    /// It stays as it was, all of it.
    Leave,
}

/// What happens to text that is a token already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Tokens {
    /// A genuine token of the role stays as it is.
    Keep,
    /// It is sealed as the text that it is.
    Seal,
}

fn role(text: &str) -> Result<Role, String> {
    Role::parse(text).map_err(|error| error.to_string())
}

/// What all of them have.
#[derive(Debug, Args)]
pub struct Values {
    /// The input; standard input when absent or `-`.
    pub input: Option<PathBuf>,
    /// The rules file, of which `engine` is read.
    #[arg(short, long, value_name = "FILE", default_value = "relay.yaml")]
    pub config: PathBuf,
    /// How the input is made up; by the end of its name when absent.
    #[arg(short, long, value_enum)]
    pub format: Option<InputFormat>,
    /// Where the records go; standard output when absent.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Goes on where an earlier run with the same output was killed, if there was one.
    #[arg(long, requires = "output")]
    pub resume: bool,
    /// What happens to a record that is refused.
    #[arg(long, value_enum, default_value_t = OnRefused::Stop)]
    pub on_refused: OnRefused,
    /// List of the refused records: a JSON object on each line with line, column, place, code.
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<PathBuf>,
    /// File with the API key by which the engine knows the caller; E3_API_KEY when absent; else the relay itself is the caller.
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// What stands between two fields of a table.
    #[arg(long, value_name = "CHARACTER", default_value = ",")]
    pub delimiter: String,
    /// Records in one engine call.
    #[arg(long, value_name = "RECORDS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub batch: u32,
    /// Engine calls at once.
    #[arg(long, value_name = "CALLS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub in_flight: u32,
    /// How long an engine that cannot answer now is asked again, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub patience: u32,
    /// Neither progress nor a summary.
    #[arg(short, long)]
    pub quiet: bool,
}

/// `relay seal`.
#[derive(Debug, Args)]
pub struct Seal {
    /// What all have.
    #[command(flatten)]
    pub values: Values,
    /// JSONPath (RFC 9535) of the values, with their role: `$.card.number:card-number`, `$.email:email:deterministic`. Objects and arrays stand for their leaves.
    #[arg(short, long, value_name = "SELECTOR[:ROLE]")]
    pub select: Vec<String>,
    /// A column of a table, with its role: `number:card-number`, `email:email:deterministic`.
    #[arg(long, value_name = "NAME[:ROLE]")]
    pub column: Vec<String>,
    /// The role where none is named; without selectors, of every value.
    #[arg(short, long, value_parser = role)]
    pub role: Option<Role>,
    /// Equal values give equal tokens. The engine must declare the roles so.
    #[arg(long)]
    pub deterministic: bool,
    /// What happens to text that is a token already.
    #[arg(long, value_enum, default_value_t = Tokens::Keep)]
    pub tokens: Tokens,
}

/// `relay open`.
#[derive(Debug, Args)]
pub struct Open {
    /// What inspect and rewrap have too.
    #[command(flatten)]
    pub chosen: Chosen,
    /// The roles that may be opened, by commas; any that the engine's policy grants when absent.
    #[arg(short, long, value_parser = role, value_delimiter = ',')]
    pub roles: Vec<Role>,
}

/// `relay inspect` and `relay rewrap`.
#[derive(Debug, Args)]
pub struct Chosen {
    /// What all have.
    #[command(flatten)]
    pub values: Values,
    /// JSONPath (RFC 9535) of the values; every token when absent.
    #[arg(short, long, value_name = "SELECTOR")]
    pub select: Vec<String>,
    /// A column of a table; every one when absent.
    #[arg(long, value_name = "NAME")]
    pub column: Vec<String>,
}
