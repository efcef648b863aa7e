//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub mod values;

use crate::run;

/// The inbound and the outbound encryption relay.
#[derive(Debug, Parser)]
#[command(name = "relay", version, about, after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  relay check --config config/relay.yaml        every fault of the rules file, with its place
  relay run --config config/relay.yaml          serve until SIGTERM; SIGHUP or a changed file reloads
  relay test --config config/relay.yaml --request order.http
  relay explain --config config/relay.yaml --method POST http://api.shop.example/v1/orders/7
  relay seal --column number:card-number cards.csv --output sealed.csv --resume
  relay verify engine https://relay.example --pcrs expected.json

Exit codes: 0 done; 1 could not run, or warnings with --strict, or a refused message; 2 wrong use, or a bad rules file; 3 drained with connections cut; 130 interrupted";

/// What `relay` does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve: SIGTERM drains, SIGHUP or a changed file reloads, SIGQUIT hands over to a relay started with --upgrade.
    #[command(after_help = "Example: relay run --config config/relay.yaml")]
    Run(Run),
    /// Check a rules file without starting: every fault with line, column and hint.
    #[command(
        after_help = "Examples:\n  relay check --config config/relay.yaml\n  relay check --config relay.yaml --strict --format json"
    )]
    Check(Check),
    /// Show what would be sealed and opened in a message, without an engine.
    #[command(after_help = "Examples:\n  relay test --config relay.yaml --request order.http\n  \
        relay test --config relay.yaml --side outbound --request charge.http --response answer.http\n\n\
        A sample is an HTTP message as text: request line or status line, headers, an empty line, the body.")]
    Test(Test),
    /// Tell which rules a request meets, and why it does not meet the others.
    #[command(
        after_help = "Examples:\n  relay explain --config relay.yaml --method POST http://api.shop.example/v1/orders/7\n  \
        relay explain --config relay.yaml -X GET -H 'X-Tenant: a' http://api.shop.example/v1/orders"
    )]
    Explain(Explain),
    /// Turn values into tokens, in JSON, NDJSON, tables and lines.
    #[command(after_help = values::SEAL_EXAMPLES)]
    Seal(Box<values::Seal>),
    /// Turn tokens into the values in them.
    #[command(after_help = values::OPEN_EXAMPLES)]
    Open(Box<values::Open>),
    /// Turn tokens into what is known of them, without opening them.
    #[command(after_help = values::INSPECT_EXAMPLES)]
    Inspect(Box<values::Chosen>),
    /// Turn tokens into tokens of the same values under the newest key.
    #[command(after_help = values::REWRAP_EXAMPLES)]
    Rewrap(Box<values::Chosen>),
    /// The local certificate authority of intercepted destinations.
    #[command(subcommand)]
    Ca(Ca),
    /// Make the key by which engines know this relay, or show its hash; make keys of the outbound relay's clients.
    #[command(subcommand)]
    Key(Key),
    /// Check what runs somewhere, without trusting it.
    #[command(subcommand)]
    Verify(Verify),
    /// Print the JSON schema of the rules file.
    #[command(after_help = "Example: relay schema > config/schema/relay.json")]
    Schema,
    /// Print the OpenAPI document of the HTTP API.
    #[command(name = "openapi", after_help = "Example: relay openapi > config/schema/openapi.json")]
    OpenApi,
    /// Print completions for a shell.
    #[command(after_help = "Example: relay completions bash > /etc/bash_completion.d/relay")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// `relay key`.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a key (ECDSA P-256, PKCS #8 PEM, mode 0600) and print its hash, which goes into the image's inputs.
    #[command(after_help = "Example: relay key new /etc/relay/relay.key")]
    New {
        /// The file to make.
        file: PathBuf,
    },
    /// Make a key for a client of the outbound relay, and print its hash for `keys` in the rules file.
    #[command(after_help = "Example: relay key proxy")]
    Proxy,
    /// Print the hash of a key: SHA-256 of its SubjectPublicKeyInfo.
    #[command(after_help = "Example: relay key show /etc/relay/relay.key")]
    Show {
        /// The key's file.
        file: PathBuf,
    },
}

/// `relay ca`.
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Make a key (ECDSA P-256, mode 0600) and its certificate, which clients of intercepted destinations are to trust.
    #[command(
        after_help = "Example: relay ca init --config relay.yaml --certificate relay-ca.pem --key relay-ca.key\n\n\
        With --config the authority is limited to the destinations with `intercept: true`, if all of them are exact."
    )]
    Init(CaInit),
    /// Tell how curl, Node, Python, Java, Go and the system come to trust it.
    #[command(after_help = "Example: relay ca trust-help --certificate relay-ca.pem")]
    TrustHelp(TrustHelp),
}

/// `relay ca init`.
#[derive(Debug, Args)]
pub struct CaInit {
    /// Rules whose intercepted destinations the authority is limited to.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The certificate to make.
    #[arg(long, value_name = "FILE", default_value = "relay-ca.pem")]
    pub certificate: PathBuf,
    /// The key to make.
    #[arg(long, value_name = "FILE", default_value = "relay-ca.key")]
    pub key: PathBuf,
    /// How long it is valid.
    #[arg(long, value_name = "DAYS", default_value_t = 1825, value_parser = clap::value_parser!(u32).range(1..=7300))]
    pub days: u32,
}

/// `relay ca trust-help`.
#[derive(Debug, Args)]
pub struct TrustHelp {
    /// The certificate.
    #[arg(long, value_name = "FILE", default_value = "relay-ca.pem")]
    pub certificate: PathBuf,
    /// The outbound relay, as clients reach it.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8081")]
    pub proxy: String,
}

/// `relay verify`.
#[derive(Debug, Subcommand)]
pub enum Verify {
    /// Ask an engine for its attestation document and check it: PCRs, freshness, certificate, keyring. Exit code 1 on any mismatch.
    #[command(after_help = "Examples:\n  relay verify engine https://relay.example --pcrs expected.json\n  \
        relay verify engine vsock://16:7003 --pcrs expected.json\n\n\
        expected.json holds the PCRs that the build of the image prints: {\"pcr0\": \"…\", \"pcr1\": \"…\", \"pcr2\": \"…\"}, or a list of such sets.")]
    Engine(VerifyEngine),
}

/// `relay verify engine`.
#[derive(Debug, Args)]
pub struct VerifyEngine {
    /// A relay (`https://…`, `http://…`) or an engine's endpoint (`vsock://…`, `unix://…`, `hybrid://…`).
    pub target: String,
    /// File with the expected PCRs as JSON.
    #[arg(long, value_name = "FILE")]
    pub pcrs: PathBuf,
    /// The keyring that it must have.
    #[arg(long, value_name = "ID")]
    pub keyring: Option<String>,
    /// Certificate authorities for `https://`, as PEM; the system's when absent.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

/// Where the rules are.
#[derive(Debug, Args)]
pub struct Rules {
    /// The rules file.
    #[arg(short, long, visible_alias = "rule-file", value_name = "FILE", default_value = "relay.yaml")]
    pub config: PathBuf,
}

/// `relay run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The rules.
    #[command(flatten)]
    pub rules: Rules,
    /// Take the listening sockets over from a running relay: start this, then send the other SIGQUIT.
    #[arg(long)]
    pub upgrade: bool,
    /// Unix socket over which listening sockets pass; its folder must be writable by its owner only.
    #[arg(long, value_name = "SOCKET", default_value_os_t = run::default_upgrade_socket().to_owned())]
    pub upgrade_socket: PathBuf,
}

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// `relay check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The rules.
    #[command(flatten)]
    pub rules: Rules,
    /// How the report is written.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Warnings make the exit code 1.
    #[arg(long)]
    pub strict: bool,
}

/// Which relay a message goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Side {
    /// The reverse proxy.
    Inbound,
    /// The proxy towards third parties.
    Outbound,
}

/// `relay test`.
#[derive(Debug, Args)]
pub struct Test {
    /// The rules.
    #[command(flatten)]
    pub rules: Rules,
    /// The request as text.
    #[arg(long, value_name = "FILE")]
    pub request: PathBuf,
    /// Its response as text.
    #[arg(long, value_name = "FILE")]
    pub response: Option<PathBuf>,
    /// Which relay it goes through; whichever serves the host when absent.
    #[arg(long, value_enum)]
    pub side: Option<Side>,
    /// Show the values themselves, too.
    #[arg(long)]
    pub show_values: bool,
}

/// `relay explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// The rules.
    #[command(flatten)]
    pub rules: Rules,
    /// The method.
    #[arg(short = 'X', long, default_value = "GET")]
    pub method: String,
    /// A header, as `Name: value`.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub headers: Vec<String>,
    /// Which relay it goes through; whichever serves the host when absent.
    #[arg(long, value_enum)]
    pub side: Option<Side>,
    /// The URL, as the client asks for it.
    pub url: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn without_example(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let shown = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        // A command with commands of its own shows theirs.
        let leaf = command.get_subcommands().next().is_none();
        if leaf && !shown.contains(path) {
            found.push(path.to_owned());
        }
        for inner in command.get_subcommands() {
            without_example(inner, &format!("{path} {}", inner.get_name()), found);
        }
    }

    #[test]
    fn the_help_of_every_command_has_an_example() {
        let mut found = Vec::new();
        without_example(&Cli::command(), "relay", &mut found);
        assert!(found.is_empty(), "{found:?}");
        assert!(EXAMPLES.contains("relay run"));
    }
}
