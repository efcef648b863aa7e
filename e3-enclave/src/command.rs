//! What each command does.

use crate::args::{
    AdminKeyCommand, Args, At, AuditCommand, Command, ConfigCommand, Engines, Host, InputsCommand, Keys, LineageArg,
};
use crate::audit::Alarm;
use crate::audit::verify::{self, Verifier};
use crate::config::{self, Config, Report, Rules};
use crate::error::Error;
use crate::inputs::Inputs;
use crate::keyring::storage::create_private;
use crate::keyring::{Keyring, Lineage, Live, RootKey, RotateError, Store, hex};
use crate::operator::{self, Listed, Operator, OperatorError};
use crate::policy::Policy;
use crate::policy::live::{Live as LivePolicy, PolicyFault, Source};
use crate::serve::Settings;
use crate::serve::link::Link;
use crate::{harden, host, log, serve};
use clap::CommandFactory;
use e3_link::attested::admin::AdminKey;
use e3_link::attested::engine::Admitted;
use e3_wire::{App, KeyUse, KeyringNow, ListedKey, RootFate};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// Does what the command line asks.
///
/// # Errors
/// What kept it from being done, for people; [`Error::exit_code`] is the process's.
pub fn execute(args: Args) -> Result<(), Error> {
    harden::harden()?;
    match args.command {
        Command::Run(file) => {
            let mut config = Config::load(&file.config)?;
            log::start(&config.log);
            let policy = policy(&mut config)?;
            let live = Live::open(Store::new(config.keyring.clone(), root(&config)?))?;
            let link = link(&config, &live)?;
            let audit = config.audit.open(config.development)?;
            serve::run(settings(config, policy), live, audit, link)
        }
        Command::Check(file) => check(&file.config),
        Command::Keys(keys) => manage(keys),
        Command::AdminKey(command) => admin_key(command),
        Command::Audit(command) => audit(command),
        Command::Policy(command) => print(&crate::policy::command::execute(command)?),
        Command::Config(ConfigCommand::Schema) => print(&config::schema().map_err(|e| Error::Runtime(e.into()))?),
        Command::Host(Host::Run(file)) => {
            let config = host::config::Config::load(&file.config)?;
            log::start(&config.log);
            host::run(config)
        }
        Command::Host(Host::Check(file)) => print(&host::config::Config::load(&file.config)?.summary(&file.config)),
        Command::Host(Host::Schema) => print(&host::config::schema().map_err(|e| Error::Runtime(e.into()))?),
        Command::Inputs(InputsCommand::Check { file }) => print(&Inputs::load(&file)?.summary(&file)),
        #[cfg(feature = "test-module")]
        Command::Enclave(args) => enclave(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "e3", &mut script);
            std::io::stdout().write_all(&script).map_err(Error::Runtime)
        }
    }
}

#[cfg(feature = "test-module")]
fn enclave(args: crate::args::EnclaveArgs) -> Result<(), Error> {
    use crate::parent::{Health, Parent};
    let at = |name: &str| e3_link::Endpoint::Unix(args.parent.join(name));
    let parent = Parent {
        kms: at("kms"),
        credentials: at("credentials"),
        store: at("store"),
        audit: at("audit"),
        health: at("health"),
    };
    let module = crate::module::FileModule::open(&args.module)?;
    let callers = module.verifier().map_err(|_| Error::TestModule { path: args.module.clone() })?;
    let health = Health::start(parent.health.clone())?;
    log::start_at_host(health.clone());
    let inputs = Inputs::load(&args.inputs)?;
    crate::enclave::start::run(inputs, &parent, &health, Arc::new(module), callers, vec![args.listen])
}

/// The policy of this configuration, in force; a file that is refused keeps the engine from starting.
fn policy(config: &mut Config) -> Result<Arc<LivePolicy>, Error> {
    let rules = std::mem::replace(&mut config.policy, Rules::Declared(Policy::nothing()));
    let (file, signers) = match rules {
        Rules::Declared(policy) => return Ok(Arc::new(LivePolicy::fixed(policy))),
        Rules::Policy { file, signers } => (file, signers),
    };
    let live = LivePolicy::following(Source::File(file.clone()), signers, config.development);
    match live.reload(true) {
        Ok(_) => Ok(Arc::new(live)),
        Err(PolicyFault::Refused(report)) => Err(Error::Config(Report::new(report.to_text(false)))),
        Err(fault) => Err(Error::Config(Report::new(format!("{}: {fault}", file.display())))),
    }
}

#[cfg(feature = "test-module")]
fn admitted(config: &Config) -> Admitted {
    let Some(attested) = &config.attested else { return Admitted::default() };
    Admitted {
        relays: attested.relays.iter().copied().collect(),
        admins: attested.admins.iter().copied().collect(),
        strangers: false,
    }
}

/// Outside the enclave image there are no measured lists.
#[cfg(not(feature = "test-module"))]
fn admitted(_: &Config) -> Admitted {
    Admitted::default()
}

fn settings(config: Config, policy: Arc<LivePolicy>) -> Settings {
    let admitted = admitted(&config);
    let Config { listen, socket_mode, create_apps, limits, threads, audit, alarm, .. } = config;
    let (seals, alarm) = (audit.seals, Alarm::new(alarm));
    Settings {
        listen,
        socket_mode,
        policy,
        create_apps,
        limits,
        threads,
        health: None,
        roots: None,
        admitted,
        seals,
        alarm,
    }
}

fn audit(command: AuditCommand) -> Result<(), Error> {
    let (files, keys, heads) = match command {
        AuditCommand::Key(file) => {
            let config = Config::load(&file.config)?;
            let keyring = Store::new(config.keyring.clone(), root(&config)?).load()?;
            let key = keyring.audit_key().ok_or(Error::Entropy)?;
            return print(&format!("{}\n", hex(key.public())));
        }
        AuditCommand::Verify { files, keys, heads } => (files, keys, heads),
    };
    let pinned = !keys.is_empty();
    let mut verifier = Verifier::new(keys);
    let read = |path: &Path| {
        let opened = std::fs::File::open(path).map(std::io::BufReader::new);
        opened.map_err(|source| Error::Read { path: path.to_owned(), source })
    };
    for log in &heads {
        let marks = verify::marks(read(log)?).map_err(|source| Error::Read { path: log.clone(), source })?;
        marks.into_iter().for_each(|mark| verifier.expect(mark));
    }
    for file in &files {
        let reading = verifier.read(&file.display().to_string(), read(file)?);
        reading.map_err(|source| Error::Read { path: file.clone(), source })?;
    }
    let verified = verifier.finish();
    let told = format!("{} records of {} runs, {} signatures\n", verified.records, verified.runs, verified.signatures);
    if !verified.findings.is_empty() {
        let lines: Vec<String> = verified.findings.iter().map(|finding| format!("{finding}\n")).collect();
        return Err(Error::AuditFindings { text: lines.concat() + &told });
    }
    let whose = match (pinned, verified.keys.is_empty()) {
        (true, _) => String::new(),
        (false, true) => "nothing is signed\n".to_owned(),
        (false, false) => {
            format!("signed by {}: compare that with what `relay verify engine` prints\n", verified.keys.join(", "))
        }
    };
    print(&format!("{told}{whose}nothing was removed, changed or moved\n"))
}

fn check(path: &Path) -> Result<(), Error> {
    let mut config = Config::load(path)?;
    check_link(&config)?;
    policy(&mut config)?;
    let keyring = Store::new(config.keyring.clone(), root(&config)?).load()?;
    print(&format!(
        "{}: good\nkeyring {} at epoch {}: {} keys\n",
        path.display(),
        keyring.id(),
        keyring.epoch(),
        keyring.list().count()
    ))
}

fn manage(keys: Keys) -> Result<(), Error> {
    match keys {
        Keys::Init { kms, at } => match (Operator::of(&at.engines)?, kms) {
            (Some(operator), Some(kms)) => {
                let id = operator.init(&kms)?;
                print(&format!("made keyring {id} under a root of {kms}\n"))
            }
            (Some(_), None) => {
                Err(Error::Config(Report::new("--kms: the KMS key is needed for a running engine".into())))
            }
            (None, _) => {
                let config = Config::load(&at.config.config)?;
                let made = init_root(&config)?;
                let keyring = Store::new(config.keyring.clone(), root(&config)?).create()?;
                print(&format!("{made}made keyring {} in {}\n", keyring.id(), config.keyring.display()))
            }
        },
        Keys::List(at) => {
            if let Some(operator) = Operator::of(&at.engines)? {
                for Listed { endpoint, now, keys } in operator.list()? {
                    print(&format!("{endpoint}\n{}", list(now, &keys)))?;
                }
                return Ok(());
            }
            let keyring = store(&at)?.load()?;
            print(&list(keyring.now(), &keyring.listed()))
        }
        Keys::CreateApp { app, at } => {
            let epoch = match Operator::of(&at.engines)? {
                Some(operator) => operator.create_app(app)?,
                None => store(&at)?.update(|k| k.create_app(app).map(Some))?.0.epoch(),
            };
            print(&format!("made the keys of app {app}; the keyring is at epoch {epoch}\n"))
        }
        Keys::Rotate { app, lineage, promote, now, at } => {
            let lineage = match lineage {
                LineageArg::Random => Lineage::Random,
                LineageArg::Det => Lineage::Deterministic,
                LineageArg::Public => Lineage::Public,
            };
            if let Some(operator) = Operator::of(&at.engines)? {
                return print(&operator.rotate(app, lineage, promote, now)?);
            }
            let (keyring, report) = store(&at)?.update(|k| rotate(k, app, lineage, promote, now).map(Some))?;
            print(&format!("{}the keyring is at epoch {}\n", report.unwrap_or_default(), keyring.epoch()))
        }
        Keys::Rewrap { app, engines } => {
            let operator = operator(&engines)?;
            let out = std::io::BufWriter::new(std::io::stdout().lock());
            let (new, kept) = operator.rewrap(app, std::io::stdin().lock(), out)?;
            eprintln!("e3: {new} tokens rewrapped, {kept} were under the newest key already");
            Ok(())
        }
        Keys::Destroy { kids, verify: _, engines } => destroy(&operator(&engines)?, kids),
    }
}

fn destroy(operator: &Operator, kids: Vec<u32>) -> Result<(), Error> {
    let names: Vec<String> = kids.iter().map(ToString::to_string).collect();
    let (now, roots) = operator.destroy(kids)?;
    let mut text = match &names[..] {
        [] => String::new(),
        names => format!("destroyed keys {}; ", names.join(", ")),
    };
    text.push_str(&format!("the keyring is at epoch {}, under root version {}\n", now.epoch, now.root_version));
    if roots.is_empty() {
        text.push_str("KMS was asked about no earlier root: the host's root record holds none\n");
    }
    let mut allowed = None;
    for (version, fate) in roots {
        let said = match fate {
            RootFate::Denied => "KMS denies it: old copies of the keyring open nothing",
            RootFate::StillAllowed => "KMS STILL OPENS IT",
            RootFate::Unknown => "KMS did not say",
        };
        if fate != RootFate::Denied {
            allowed = allowed.or(Some(version));
        }
        text.push_str(&format!("root version {version}: {said}\n"));
    }
    print(&text)?;
    allowed.map_or(Ok(()), |version| Err(OperatorError::StillAllowed(version).into()))
}

/// The engines of a command that only running engines do.
fn operator(engines: &Engines) -> Result<Operator, Error> {
    let missing = || Error::Config(Report::new("--engine: only a running engine does this; name one".into()));
    Operator::of(engines)?.ok_or_else(missing)
}

fn store(at: &At) -> Result<Store, Error> {
    let config = Config::load(&at.config.config)?;
    Ok(Store::new(config.keyring.clone(), root(&config)?))
}

fn admin_key(command: AdminKeyCommand) -> Result<(), Error> {
    let key = match command {
        AdminKeyCommand::New { file } => {
            let fault = |cause| OperatorError::Key { path: file.clone(), cause };
            let key = AdminKey::generate().map_err(fault)?;
            let pem = zeroize::Zeroizing::new(key.to_pem());
            create_private(&file, pem.as_bytes())?;
            key
        }
        AdminKeyCommand::Show { file } => operator::admin_key(&file)?,
    };
    print(&format!("{}\n", hex(key.public())))
}

/// Rotates one app or all of them; answers what was done, for people.
fn rotate(
    keyring: &mut Keyring,
    app: Option<App>,
    lineage: Lineage,
    promote: bool,
    now: bool,
) -> Result<String, RotateError> {
    let mut apps: Vec<App> = match app {
        Some(app) => vec![app],
        None => keyring.list().map(|k| k.app).collect(),
    };
    apps.sort_unstable();
    apps.dedup();
    let mut report = String::new();
    for app in apps {
        let done = if promote {
            format!("key {} now makes the tokens", keyring.promote(app, lineage)?)
        } else if now {
            keyring.distribute(app, lineage)?;
            format!("key {} now makes the tokens", keyring.promote(app, lineage)?)
        } else {
            format!(
                "key {} only opens tokens for now; once every engine has loaded this keyring, add --promote",
                keyring.distribute(app, lineage)?
            )
        };
        report.push_str(&format!("{app} ({lineage}): {done}\n"));
    }
    Ok(report)
}

fn list(now: KeyringNow, keys: &[ListedKey]) -> String {
    let mut text = format!(
        "keyring {}  epoch {}  root version {}\n{:>6}  {:<32}  {:<7}  {:<12}  created (Unix seconds)\n",
        hex(&now.id),
        now.epoch,
        now.root_version,
        "kid",
        "app",
        "lineage",
        "state"
    );
    for key in keys {
        let state = match key.state {
            KeyUse::Active => "active",
            KeyUse::Distributed => "distributed",
            KeyUse::DecryptOnly => "decrypt-only",
        };
        let lineage = Lineage::from(key.lineage).to_string();
        text.push_str(&format!(
            "{:>6}  {:<32}  {lineage:<7}  {state:<12}  {}\n",
            key.kid,
            key.app.as_str(),
            key.created
        ));
    }
    text
}

#[cfg(feature = "development")]
fn link(config: &Config, live: &Live) -> Result<Link, Error> {
    #[cfg(feature = "test-module")]
    if let Some(attested) = &config.attested {
        let module = crate::module::FileModule::open(&attested.module)?;
        let state = serve::link::stated(&live.current());
        let refused = |_| Error::TestModule { path: attested.module.clone() };
        let callers = module.verifier().map_err(refused)?;
        return Link::attested(Arc::new(module), admitted(config), callers, state);
    }
    let _ = live;
    Ok(Link::Plain(serve::link::Development::allowed(config)?))
}

/// Outside the enclave image there is nothing to prove.
#[cfg(not(feature = "development"))]
fn link(_: &Config, _: &Live) -> Result<Link, Error> {
    Err(Error::PlainLink)
}

/// Whether the configuration may serve the links that it names.
fn check_link(config: &Config) -> Result<(), Error> {
    if config.development { Ok(()) } else { Err(Error::PlainLink) }
}

#[cfg(feature = "development")]
fn root(config: &Config) -> Result<RootKey, Error> {
    match &config.root {
        config::RootSource::File(path) => RootKey::from_file(path),
        config::RootSource::Environment(name) => RootKey::from_environment(name),
    }
}

#[cfg(not(feature = "development"))]
fn root(_: &Config) -> Result<RootKey, Error> {
    Err(Error::NoRootSource)
}

/// Makes the root key file if the configuration names one that is missing; answers what was done, for people.
#[cfg(feature = "development")]
fn init_root(config: &Config) -> Result<String, Error> {
    let config::RootSource::File(path) = &config.root else { return Ok(String::new()) };
    if config.keyring.symlink_metadata().is_ok() {
        return Err(Error::KeyringExists { path: config.keyring.clone() });
    }
    if path.symlink_metadata().is_ok() {
        return Ok(String::new());
    }
    let (_, text) = RootKey::generate().ok_or(Error::Entropy)?;
    let mut line = zeroize::Zeroizing::new(text.as_bytes().to_vec());
    line.push(b'\n');
    create_private(path, &line)?;
    Ok(format!("made root key file {}; keep a copy: without it no token can be opened\n", path.display()))
}

#[cfg(not(feature = "development"))]
fn init_root(_: &Config) -> Result<String, Error> {
    Err(Error::NoRootSource)
}

fn print(text: &str) -> Result<(), Error> {
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::Runtime)
}
