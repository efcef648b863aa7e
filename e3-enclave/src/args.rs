//! The command line.

use crate::policy::command::PolicyCommand;
use clap::{Parser, Subcommand, ValueEnum};
use e3_link::Endpoint;
use e3_link::attested::memory::KeyringId;
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

  e3 policy check config/policy.yaml            faults, wide grants, and what is proven; sign, diff, explain, test

  e3 host run --config config/e3-host.yaml      on the parent instance of an enclave: store, KMS, credentials, audit, health

Exit codes: 0 done, 1 failed at run time, 2 wrong usage or configuration, 3 keys refused (wrong root, rolled back, truncated, of another keyring),
4 the host or KMS cannot be reached, or there are no credentials, 5 KMS denies access, 6 KMS or its answer is not believed (another key, plaintext,
certificate), 7 there is no keyring yet.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve relays until SIGTERM or SIGINT, then finish what is in flight.
    #[command(after_help = "Example:\n  e3 run --config config/e3.yaml")]
    Run(ConfigFile),
    /// Check the configuration, the root key and the keyring, and serve nothing.
    #[command(after_help = "Example:\n  e3 check --config config/e3.yaml")]
    Check(ConfigFile),
    /// Make, list and rotate keys.
    #[command(subcommand)]
    Keys(Keys),
    /// Make and show keys of administrators, who may change the keys of running engines.
    #[command(subcommand)]
    AdminKey(AdminKeyCommand),
    /// Verify audit records, and show the key that signs them.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Check, sign, compare and try policies: who may do what with which roles.
    #[command(subcommand)]
    Policy(PolicyCommand),
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
    pub listen: Endpoint,
}

/// The program on the parent instance.
#[derive(Debug, Subcommand)]
pub enum Host {
    /// Serve the enclave until SIGTERM or SIGINT. The enclave goes on running.
    #[command(after_help = "Example:\n  e3 host run --config config/e3-host.yaml")]
    Run(HostFile),
    /// Check the settings and serve nothing.
    #[command(after_help = "Example:\n  e3 host check --config config/e3-host.yaml")]
    Check(HostFile),
    /// Print the JSON schema of the settings.
    #[command(after_help = "Example:\n  e3 host schema > config/schema/e3-host.json")]
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
    #[command(after_help = "Example:\n  e3 inputs check config/examples/e3-inputs.json")]
    Check {
        /// The file.
        file: PathBuf,
    },
}

/// Make, list and rotate keys.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make an empty keyring: in a file, with the root key file if there is none; or in a running engine that has none, under a root of KMS.
    #[command(after_help = "\
Examples:
  e3 keys init --config config/e3.yaml
  e3 keys init --kms arn:aws:kms:eu-central-1:111122223333:key/… --engine vsock://16:7003 --admin-key admin.pem --pcrs expected.json")]
    Init {
        /// ARN of the KMS key, which must be the one that is measured into the image.
        #[arg(long, requires = "engines")]
        kms: Option<String>,
        /// Where the keyring is.
        #[command(flatten)]
        at: At,
    },
    /// List the keys; never their bytes.
    #[command(after_help = "\
Examples:
  e3 keys list --config config/e3.yaml
  e3 keys list --engine vsock://16:7003 --admin-key admin.pem --pcrs expected.json")]
    List(At),
    /// Give an app its first keys.
    #[command(after_help = "\
Examples:
  e3 keys create-app shop --config config/e3.yaml
  e3 keys create-app shop --engine vsock://16:7003 --admin-key admin.pem --pcrs expected.json")]
    CreateApp {
        /// The app.
        app: App,
        /// Where the keyring is.
        #[command(flatten)]
        at: At,
    },
    /// Add a new key that only opens, then promote it once every engine holds it.
    #[command(after_help = "\
Examples:
  e3 keys rotate --app shop                  step 1: the new key opens tokens and makes none
  e3 keys rotate --app shop --promote        step 2: it makes new tokens; the old key still opens old ones
  e3 keys rotate --app shop --now            both at once: only where a single engine runs
  e3 keys rotate --app shop --lineage det    deterministic tokens: equal values give other tokens from then on
  e3 keys rotate --app shop --lineage public another public key is given out, and an app's first one: keyrings of older versions have none")]
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
        /// Where the keyring is.
        #[command(flatten)]
        at: At,
    },
    /// Replace tokens under old keys by tokens of the same values under the newest: read from standard input, one a line, written to standard output in their order. The
    /// values stay inside the engine.
    #[command(after_help = "\
Example:
  e3 keys rewrap --app shop --engine vsock://16:7003 --admin-key admin.pem --pcrs expected.json < old.txt > new.txt

Tokens that are under the newest key already come back as they are, so that it may be repeated. At a line that is refused it stops; what was written until then is good.")]
    Rewrap {
        /// Whose tokens.
        #[arg(long)]
        app: App,
        /// The engines.
        #[command(flatten)]
        engines: Engines,
    },
    /// Destroy keys for good: a new root is made, every other key is kept under it, and KMS is to deny the old root.
    #[command(after_help = "\
Steps:
  1. rotate, and rewrap what is under the keys that are to go;
  2. allow the next root version (`e3 keys list` shows the present one) in the KMS key policy's condition on `e3:root-version`;
  3. e3 keys destroy --kid 3 --engine … --admin-key admin.pem --pcrs expected.json
  4. take the old root version out of the key policy;
  5. e3 keys destroy --verify --engine … : exits with 0 once KMS denies every old root. Only then do old copies of the keyring open nothing.
     The host hands over the credentials and the old roots: whoever does not trust it looks at the key policy itself.")]
    Destroy {
        /// A key that is neither active nor waiting; may be given several times.
        #[arg(long = "kid", required_unless_present = "verify", conflicts_with = "verify")]
        kids: Vec<u32>,
        /// Destroy nothing; only ask KMS whether it still opens roots that were replaced.
        #[arg(long)]
        verify: bool,
        /// The engines.
        #[command(flatten)]
        engines: Engines,
    },
}

/// Where a keyring is: in a file here, or in running engines.
#[derive(Debug, clap::Args)]
pub struct At {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigFile,
    /// The engines.
    #[command(flatten)]
    pub engines: Engines,
}

/// Running engines, which prove themselves and do what an administrator signed.
#[derive(Debug, clap::Args)]
pub struct Engines {
    /// A running engine: `vsock://cid:port`, `unix:///path`, `hybrid:///path:port`. Several are alternatives with one keyring: what changes it goes to the first, the others
    /// are asked whether they follow.
    #[arg(long = "engine", value_name = "ENDPOINT", requires = "admin_key", requires = "pcrs")]
    pub engines: Vec<Endpoint>,
    /// The administrator's key, as `e3 admin-key new` makes it; its public key must be measured into the engines' image.
    #[arg(long, value_name = "FILE", requires = "engines")]
    pub admin_key: Option<PathBuf>,
    /// The PCRs of the image that must run there, as JSON: one set or a list.
    #[arg(long, value_name = "FILE", requires = "engines")]
    pub pcrs: Option<PathBuf>,
    /// The only keyring to do anything to, by its public id.
    #[arg(long, value_name = "ID", requires = "engines")]
    pub keyring: Option<KeyringId>,
}

/// About audit records.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Find records that were removed, changed or moved. Exits with 1 if there is a finding.
    #[command(after_help = "\
Examples:
  e3 audit verify --key 3b6a… /var/lib/e3/audit.jsonl
  e3 audit verify --key 3b6a… audit.1.jsonl audit.jsonl --heads relay.log      also finds records that were cut off at the end

The key is what `relay verify engine` prints as audit key; of an engine that runs here, what `e3 audit key` prints.")]
    Verify {
        /// The files, in the order in which they were written.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// A public key that signs records, 64 hexadecimal digits. Several are alternatives; without any, any key is believed.
        #[arg(long = "key", value_name = "HEX", value_parser = crate::policy::command::public_key)]
        keys: Vec<[u8; 32]>,
        /// A log of relays: what they were answered for must be there.
        #[arg(long = "heads", value_name = "FILE")]
        heads: Vec<PathBuf>,
    },
    /// Print the public key that signs records under the keyring of this configuration.
    #[command(after_help = "Example:\n  e3 audit key --config config/e3.yaml")]
    Key(ConfigFile),
}

/// Keys of administrators.
#[derive(Debug, Subcommand)]
pub enum AdminKeyCommand {
    /// Make a key in a new file that nobody else may read, and print its public key: for `admins` in the measured inputs.
    #[command(after_help = "Example:\n  e3 admin-key new admin.pem")]
    New {
        /// The file; must not exist.
        file: PathBuf,
    },
    /// Print the public key.
    #[command(after_help = "Example:\n  e3 admin-key show admin.pem")]
    Show {
        /// The file.
        file: PathBuf,
    },
}

/// Which of an app's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LineageArg {
    /// Keys of random tokens.
    Random,
    /// Keys of deterministic tokens.
    Det,
    /// Key pairs of public-key sealing.
    Public,
}

/// About the configuration file.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the JSON schema of the configuration file.
    #[command(after_help = "Example:\n  e3 config schema > config/schema/e3.json")]
    Schema,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn without_example(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let shown = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        // A command with commands of its own shows theirs.
        let leaf = command.get_subcommands().next().is_none();
        if leaf && !command.is_hide_set() && !shown.contains(path) {
            found.push(path.to_owned());
        }
        for inner in command.get_subcommands() {
            without_example(inner, &format!("{path} {}", inner.get_name()), found);
        }
    }

    #[test]
    fn the_help_of_every_command_has_an_example() {
        let mut found = Vec::new();
        without_example(&Args::command(), "e3", &mut found);
        assert!(found.is_empty(), "{found:?}");
        assert!(EXAMPLES.contains("e3 run"));
    }
}
