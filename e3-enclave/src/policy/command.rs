//! `e3 policy …`: for those who write, sign and judge policies. Needs no engine and no secret but a signer's key.

use super::decide::Subject;
use super::document::{Document, Verb};
use super::explain::{self, Question};
use super::resolve::{moment, shown};
use super::signed::{self, MAX, SignatureFault, Signers};
use super::{api_key_hash, diff, raw, table};
use crate::config::Report as Told;
use crate::error::Error;
use crate::inputs::{Inputs, Rules};
use crate::keyring::hex;
use crate::keyring::storage::replace;
use base64ct::{Base64UrlUnpadded, Encoding};
use clap::Subcommand;
use e3_link::attested::admin::AdminKey;
use e3_wire::{App, Role, TokenText};
use e3_yaml::Report;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What begins the text of an API key, so that scanners of source code know one when they see it.
const API_KEY: &str = "e3k_";

/// Check, sign, compare and try policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Check a policy: every fault with its place, warnings about wide grants, and for each condition whether it is proven or only stated.
    #[command(after_help = "\
Examples:
  e3 policy check config/policy.yaml
  e3 policy check policy.yaml --inputs inputs.json      also whether enough of the measured signers have signed it")]
    Check {
        /// The policy.
        #[arg(default_value = "config/policy.yaml")]
        file: PathBuf,
        /// Whose signatures it needs.
        #[command(flatten)]
        signers: SignersArgs,
        /// Print the faults as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON schema of policies, or with `--expectations` that of their tables.
    #[command(after_help = "Example:\n  e3 policy schema > config/schema/policy.json")]
    Schema {
        /// The schema of the files of `e3 policy test`.
        #[arg(long)]
        expectations: bool,
    },
    /// Sign a policy: adds a line behind its text, or replaces the one of this key.
    #[command(after_help = "Example:\n  e3 policy sign policy.yaml --key admin.pem")]
    Sign {
        /// The policy.
        file: PathBuf,
        /// The signer's key, as `e3 admin-key new` makes it.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Make an API key: its text, which is shown this once, and the hash by which a policy knows it.
    #[command(after_help = "Example:\n  e3 policy api-key")]
    ApiKey,
    /// Print the hash of an API key that is read from standard input.
    #[command(after_help = "Example:\n  e3 policy api-key-hash < api-key.txt")]
    ApiKeyHash,
    /// Say in plain words who gains and who loses what from one policy to another.
    #[command(after_help = "Example:\n  e3 policy diff old.yaml new.yaml")]
    Diff {
        /// The policy before.
        old: PathBuf,
        /// The policy after.
        new: PathBuf,
    },
    /// Say whether somebody may do something, by which line, and why other lines do not fit. A token is not opened: what it says of itself is taken as it stands.
    #[command(after_help = "\
Examples:
  e3 policy explain --who phone-service --may open --token 'e3v1.phone.s.….' --from 10.1.2.3
  e3 policy explain --who payout-relay --may open --role card-number --to api.stripe.com --method POST")]
    Explain {
        /// The policy.
        #[arg(long, default_value = "config/policy.yaml")]
        policy: PathBuf,
        /// A principal's name.
        #[arg(long)]
        who: String,
        /// What it asks for.
        #[arg(long, default_value = "open")]
        may: String,
        /// With which role.
        #[arg(long, required_unless_present = "token")]
        role: Option<Role>,
        /// With which token: its role, type, suite and time.
        #[arg(long, conflicts_with = "role")]
        token: Option<String>,
        /// Where the value goes: a host; to whoever asks when absent.
        #[arg(long, default_value = "")]
        to: String,
        /// The HTTP method.
        #[arg(long, default_value = "")]
        method: String,
        /// The address that the request comes from.
        #[arg(long, default_value = "")]
        from: String,
        /// When: `2027-01-01` or `2027-01-01T12:00:00Z`; now, when absent.
        #[arg(long)]
        at: Option<String>,
        /// The app; may be left out where the policy is about one.
        #[arg(long)]
        app: Option<App>,
    },
    /// Hold a policy against a table of what it is expected to say. Exits with 1 if a line does not hold.
    #[command(after_help = "\
Example:
  e3 policy test config/examples/policy-expectations.yaml

A table:
  policy: policy.yaml
  expect:
    - {who: phone-service, may: open, role: phone, from: 10.1.2.3, is: allowed}
    - {who: phone-service, may: open, role: card-number, is: denied}")]
    Test {
        /// The table.
        file: PathBuf,
    },
}

/// Whose signatures a policy needs.
#[derive(Debug, clap::Args)]
pub struct SignersArgs {
    /// A signer's public key, as `e3 admin-key show` prints it. May be given several times.
    #[arg(long = "signer", value_name = "HEX", value_parser = public_key, conflicts_with = "inputs")]
    signers: Vec<[u8; 32]>,
    /// How many of them must have signed.
    #[arg(long, default_value_t = 1, requires = "signers")]
    threshold: usize,
    /// The measured inputs that name signers and threshold.
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
}

/// Reads a public key, as arguments name it.
pub(crate) fn public_key(text: &str) -> Result<[u8; 32], String> {
    super::bytes32(text).ok_or_else(|| "64 lower-case hexadecimal digits".to_owned())
}

/// Does it.
///
/// # Errors
/// What kept it from being done, for people.
pub fn execute(command: PolicyCommand) -> Result<String, Error> {
    match command {
        PolicyCommand::Check { file, signers, json } => check(&file, &signers, json),
        PolicyCommand::Schema { expectations: false } => Ok(e3_yaml::schema::<raw::File>()),
        PolicyCommand::Schema { expectations: true } => Ok(e3_yaml::schema::<table::File>()),
        PolicyCommand::Sign { file, key } => sign(&file, &key),
        PolicyCommand::ApiKey => api_key(),
        PolicyCommand::ApiKeyHash => {
            let mut text = Zeroizing::new(String::new());
            std::io::stdin().take(4096).read_to_string(&mut text).map_err(Error::Runtime)?;
            Ok(format!("sha256:{}\n", hex(&api_key_hash(text.trim()))))
        }
        PolicyCommand::Diff { old, new } => {
            let (old, new) = (document(&old)?, document(&new)?);
            let changes = diff::diff(&old, &new);
            let lines: Vec<String> = changes.iter().map(|change| format!("{change}\n")).collect();
            Ok(if lines.is_empty() { "nobody gains or loses anything\n".to_owned() } else { lines.concat() })
        }
        PolicyCommand::Explain { policy, who, may, role, token, to, method, from, at, app } => {
            let document = document(&policy)?;
            let usage = |text: String| Error::Config(Told::new(text));
            let verb = Verb::parse(&may).ok_or_else(|| usage(format!("--may {may}: {}", explain::list(&Verb::ALL))))?;
            let (role, subject) = match (role, &token) {
                (_, Some(token)) => of_token(token).ok_or_else(|| usage("--token: no token of E3".into()))?,
                (Some(role), None) => (role, Subject::Role),
                (None, None) => return Err(usage("--role or --token is needed".into())),
            };
            let only = document.apps.first_key_value().filter(|_| document.apps.len() == 1).map(|(app, _)| *app);
            let app = app.or(only).ok_or_else(|| usage("--app: the policy is about several apps".into()))?;
            let now = super::Moment::now().ok_or(Error::Entropy)?.unix;
            let at = match &at {
                None => now,
                Some(at) => moment(at).ok_or_else(|| usage(format!("--at {at}: no time such as 2027-01-01")))?,
            };
            let question = Question { app, who: &who, verb, role, subject, to: &to, method: &method, from: &from, at };
            let explained = explain::explain(&document, &question).map_err(|e| usage(e.to_string()))?;
            Ok(explained.to_text(&question))
        }
        PolicyCommand::Test { file } => test(&file),
    }
}

fn check(file: &Path, signers: &SignersArgs, json: bool) -> Result<String, Error> {
    let bytes = read(file)?;
    let needed = match &signers.inputs {
        None => Signers {
            threshold: if signers.signers.is_empty() { 0 } else { signers.threshold },
            keys: signers.signers.clone(),
        },
        Some(inputs) => match Inputs::load(inputs)?.policy {
            Rules::Signed(signers) => signers,
            Rules::Declared(_) => {
                let text = format!("{}: these inputs name no signers of policies", inputs.display());
                return Err(Error::Config(Told::new(text)));
            }
        },
    };
    let text = needed.admit(&bytes).map_err(|fault| refused(file, &fault))?;
    let (document, said) = signed::read(file, text).map_err(|report| told(&report, json))?;
    if json {
        return Ok(said.to_json() + "\n");
    }
    let (_, by) = signed::open(&bytes).map_err(|fault| refused(file, &fault))?;
    let ends = document.valid_until.map_or_else(|| "no end".to_owned(), |end| format!("until {}", shown(end)));
    let (_, warnings) = said.count();
    Ok(format!(
        "{}{}: good, {warnings} warnings\nversion {}, {ends}\nhash {}\n{} signatures\n",
        said.to_text(std::io::stdout().is_terminal()),
        file.display(),
        document.version,
        hex(&signed::hash(text)),
        by.len(),
    ))
}

fn told(report: &Report, json: bool) -> Error {
    let text = if json { report.to_json() } else { report.to_text(std::io::stderr().is_terminal()) };
    Error::Config(Told::new(text.trim_end().to_owned()))
}

fn refused(file: &Path, fault: &SignatureFault) -> Error {
    Error::Config(Told::new(format!("{}: {fault}", file.display())))
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let unreadable = |source| Error::Read { path: file.to_owned(), source };
    if std::fs::metadata(file).map_err(unreadable)?.len() > MAX as u64 {
        return Err(refused(file, &SignatureFault::Text));
    }
    std::fs::read(file).map_err(unreadable)
}

/// The policy, whoever signed it.
fn document(file: &Path) -> Result<Document, Error> {
    let bytes = read(file)?;
    let (text, _) = signed::open(&bytes).map_err(|fault| refused(file, &fault))?;
    Ok(signed::read(file, text).map_err(|report| told(&report, false))?.0)
}

fn sign(file: &Path, key: &Path) -> Result<String, Error> {
    // Nobody signs what no engine would take.
    let policy = document(file)?;
    let pem = std::fs::read_to_string(key).map_err(|source| Error::Read { path: key.to_owned(), source })?;
    let pem = Zeroizing::new(pem);
    let unusable = || Error::Config(Told::new(format!("{}: no key that `e3 admin-key new` made", key.display())));
    let key = AdminKey::from_pem(&pem).map_err(|_| unusable())?;
    let signed = signed::sign(&read(file)?, &key).map_err(|fault| refused(file, &fault))?;
    replace(file, &signed)?;
    let (_, by) = signed::open(&signed).map_err(|fault| refused(file, &fault))?;
    Ok(format!(
        "{}: version {} signed by {}\n{} signatures\n",
        file.display(),
        policy.version,
        hex(key.public()),
        by.len()
    ))
}

fn api_key() -> Result<String, Error> {
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *secret).map_err(|_| Error::Entropy)?;
    let text = Zeroizing::new(format!("{API_KEY}{}", Base64UrlUnpadded::encode_string(&*secret)));
    Ok(format!("{}\nsha256:{}\n", &*text, hex(&api_key_hash(&text))))
}

fn of_token(text: &str) -> Option<(Role, Subject)> {
    let token = TokenText::parse(text.as_bytes()).ok()?;
    let binary = token.decode().ok()?;
    let suite = *binary.first()?;
    let time = u32::from_be_bytes(binary.get(5..9)?.try_into().ok()?);
    Some((token.role, Subject::Token { value_type: token.value_type, suite, time }))
}

fn test(file: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(file).map_err(|source| Error::Read { path: file.to_owned(), source })?;
    let mut report = Report::new(file, &text);
    let table = e3_yaml::read::<table::File>(&text, &mut report).filter(|_| !report.has_errors());
    let Some(table) = table else { return Err(told(&report, false)) };
    let table = table.get();
    let Some(policy) = &table.policy else { return Err(told(&report, false)) };
    let document = document(&file.parent().unwrap_or(Path::new("")).join(policy.get()))?;
    let now = super::Moment::now().ok_or(Error::Entropy)?.unix;
    let held = table::run(table, &document, now, &mut report);
    report.sort();
    if report.has_errors() {
        let text = report.to_text(std::io::stderr().is_terminal());
        return Err(Error::Expectations { text, held, all: table.expect.len() });
    }
    Ok(format!("{}: all {held} expectations hold\n", file.display()))
}
