//! The command line.

use clap::{Parser, Subcommand, ValueEnum};
use e3_wire::App;
use std::path::PathBuf;

/// The encryption engine: holds every key, seals and opens tokens.
#[derive(Debug, Parser)]
#[command(name = "e3", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  e3 keys init --config config/e3.yaml          make the keyring (and the root key file, if it is missing)
  e3 keys create-app shop                       give an app its first keys
  e3 run --config config/e3.yaml                serve relays until SIGTERM; SIGHUP reads the keyring again
  e3 check --config config/e3.yaml              check configuration and keys without serving
  e3 keys rotate --app shop                     distribute a new key; later: e3 keys rotate --app shop --promote

  e3 host run --config config/e3-host.yaml      on the parent instance of an enclave: store, KMS, credentials, audit, health

Exit codes: 0 done, 1 failed at run time, 2 wrong usage or configuration, 3 keys refused (wrong root, rolled back, truncated, of another keyring),
4 the host or KMS cannot be reached, or there are no credentials, 5 KMS denies access, 6 KMS or its answer is not believed (another key, plaintext,
certificate), 7 there is no keyring yet.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve relays until SIGTERM or SIGINT, then finish what is in flight.
    Run(ConfigFile),
    /// Check the configuration, the root key and the keyring, and serve nothing.
    Check(ConfigFile),
    /// Make, list and rotate keys.
    #[command(subcommand)]
    Keys(Keys),
    /// About the configuration file.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The program on the parent instance: serves an enclave with what it cannot do itself. Holds nothing secret.
    #[command(subcommand)]
    Host(Host),
    /// About the inputs that are measured into an image.
    #[command(subcommand)]
    Inputs(InputsCommand),
    /// What the enclave image does once its machine is ready, with a security module in a file: builds for tests alone.
    #[cfg(feature = "test-module")]
    #[command(hide = true)]
    Enclave(EnclaveArgs),
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  e3 completions bash > /etc/bash_completion.d/e3")]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
pub struct ConfigFile {
    /// The configuration file.
    #[arg(long, short, default_value = "config/e3.yaml")]
    pub config: PathBuf,
}

/// An enclave without its machine.
#[cfg(feature = "test-module")]
#[derive(Debug, clap::Args)]
pub struct EnclaveArgs {
    /// The security module.
    #[arg(long)]
    pub module: PathBuf,
    /// The measured inputs.
    #[arg(long)]
    pub inputs: PathBuf,
    /// The folder of the host's Unix sockets: kms, credentials, store, audit, health.
    #[arg(long)]
    pub parent: PathBuf,
    /// Where relays find the engine.
    #[arg(long)]
    pub listen: e3_link::Endpoint,
}

/// The program on the parent instance.
#[derive(Debug, Subcommand)]
pub enum Host {
    /// Serve the enclave until SIGTERM or SIGINT. The enclave goes on running.
    Run(HostFile),
    /// Check the settings and serve nothing.
    Check(HostFile),
    /// Print the JSON schema of the settings.
    Schema,
}

/// Where the host's settings are.
#[derive(Debug, clap::Args)]
pub struct HostFile {
    /// The settings.
    #[arg(long, short, default_value = "config/e3-host.yaml")]
    pub config: PathBuf,
}

/// About the inputs that are measured into an image.
#[derive(Debug, Subcommand)]
pub enum InputsCommand {
    /// Check a file of inputs before it is built into an image.
    Check {
        /// The file.
        file: PathBuf,
    },
}

/// Make, list and rotate keys.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make an empty keyring, and the root key file if there is none.
    Init(ConfigFile),
    /// List the keys; never their bytes.
    List(ConfigFile),
    /// Give an app its first keys.
    CreateApp {
        /// The app.
        app: App,
        /// Where the configuration is.
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Add a new key that only opens, then promote it once every engine holds it.
    #[command(after_help = "\
Examples:
  e3 keys rotate --app shop                  step 1: the new key opens tokens and makes none
  e3 keys rotate --app shop --promote        step 2: it makes new tokens; the old key still opens old ones
  e3 keys rotate --app shop --now            both at once: only where a single engine runs
  e3 keys rotate --app shop --lineage det    deterministic tokens: equal values give other tokens from then on")]
    Rotate {
        /// The app; every app when absent.
        #[arg(long)]
        app: Option<App>,
        /// Which of an app's keys.
        #[arg(long, value_enum, default_value = "random")]
        lineage: LineageArg,
        /// Promote the key that waits.
        #[arg(long, conflicts_with = "now")]
        promote: bool,
        /// Add and promote in one step. With several engines, some would refuse each other's tokens for a moment.
        #[arg(long)]
        now: bool,
        /// Where the configuration is.
        #[command(flatten)]
        config: ConfigFile,
    },
}

/// Which of an app's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LineageArg {
    /// Keys of random tokens.
    Random,
    /// Keys of deterministic tokens.
    Det,
}

/// About the configuration file.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the JSON schema of the configuration file.
    Schema,
}
