//! From the configuration as written to one that cannot be wrong: every fault in one run.

use super::{
    AuditPlaces, Config, Limits, Octal, Raw, RawAudit, RawPolicy, RawSink, Rules, Said, SinkPlace, SocketMode, Text,
    Undeclared, socket_mode,
};
use crate::policy::signed::Signers;
use crate::policy::{AppRules, Policy, RoleRules};
use e3_link::Endpoint;
use e3_wire::{App, Role};
use e3_yaml::{At, Place, Report};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The configuration, if nothing keeps it from being one; the report says what there is to say.
pub(super) fn resolve(raw: &At<Raw>, text: &str, path: &Path, report: &mut Report) -> Option<Config> {
    let wanted = raw.get().development.as_ref().is_some_and(|on| *on.get());
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let development = wanted && cfg!(feature = "development");
    Resolver { report, text, folder, development }.config(raw, wanted)
}

struct Resolver<'a> {
    report: &'a mut Report,
    text: &'a str,
    folder: PathBuf,
    development: bool,
}

impl Resolver<'_> {
    fn error(&mut self, place: Place, cause: impl Into<String>, hint: &str) {
        self.report.error(place, cause, Some(hint.to_owned()));
    }

    /// What was read, or why not.
    fn said<T: Clone>(&mut self, said: &At<Said<T>>) -> Option<T> {
        match &said.get().0 {
            Ok(value) => Some(value.clone()),
            Err(why) => {
                self.report.error(said.place(), why.clone(), None);
                None
            }
        }
    }

    fn config(&mut self, at: &At<Raw>, wanted: bool) -> Option<Config> {
        let raw = at.get();
        if let Some(on) = raw.development.as_ref().filter(|_| wanted && !self.development) {
            self.error(on.place(), "this build has no development mode", "build with the feature `development`");
        }
        let listen = self.listen(raw);
        let socket_mode = self.socket_mode(raw.socket_mode.as_ref());
        let create_apps = raw.create_apps.as_ref().filter(|on| *on.get());
        if let Some(on) = create_apps.filter(|_| !self.development) {
            let hint = "`e3 keys create-app` makes the keys of an app";
            self.error(on.place(), "`create_apps` needs `development: true`", hint);
        }
        let allow = raw.undeclared_roles.as_ref().filter(|undeclared| *undeclared.get() == Undeclared::Allow);
        if let Some(allow) = allow.filter(|_| !self.development) {
            self.error(allow.place(), "`allow` needs `development: true`", "declare the roles under `apps`");
        }
        let declared = self.apps(raw);
        let policy = match &raw.policy {
            None => Some(Rules::Declared(Policy::declared(declared, allow.is_some()))),
            Some(policy) => {
                let both = raw.apps.values().map(At::place).next().or(allow.map(At::place));
                if let Some(place) = both {
                    self.error(place, "the policy declares apps and roles", "take `apps` and `undeclared_roles` out");
                }
                self.policy(policy)
            }
        };
        let limits = self.limits(raw);
        let audit = raw.audit.as_ref().and_then(|audit| self.audit(audit));
        #[cfg(feature = "development")]
        let root = raw.root.as_ref().and_then(|root| self.root(root));
        #[cfg(feature = "test-module")]
        let attested = raw.attested.as_ref().map(|attested| self.attested(attested));
        Some(Config {
            development: self.development,
            listen,
            socket_mode: socket_mode?.0,
            keyring: self.folder.join(raw.keyring.as_ref()?),
            #[cfg(feature = "development")]
            root: root?,
            #[cfg(feature = "test-module")]
            attested: match attested {
                Some(attested) => Some(attested?),
                None => None,
            },
            create_apps: create_apps.is_some(),
            policy: policy?,
            audit: audit?,
            alarm: raw.alarm.command.clone(),
            limits,
            threads: raw.threads,
            log: raw.log.clone(),
        })
    }

    fn listen(&mut self, raw: &Raw) -> Vec<Endpoint> {
        let Some(listen) = &raw.listen else { return Vec::new() };
        if listen.get().is_empty() && !listen.is_pruned() {
            self.error(listen.place(), "no endpoint", "for example `listen: [\"unix:///run/e3/e3.sock\"]`");
        }
        listen.get().iter().filter_map(|endpoint| self.said(endpoint)).collect()
    }

    fn socket_mode(&mut self, written: Option<&At<Octal>>) -> Option<SocketMode> {
        let Some(written) = written else { return Some(socket_mode().0) };
        let digits = match written.get() {
            Octal::Text(text) => text.clone(),
            Octal::Number => self.plain(written.place()),
        };
        match SocketMode::read(&digits) {
            Ok(mode) => Some(mode),
            Err(why) => {
                self.report.error(written.place(), format!("`{digits}`: {why}"), None);
                None
            }
        }
    }

    /// The word that stands at this place of the file.
    fn plain(&self, place: Place) -> String {
        let line = place.line.checked_sub(1).and_then(|at| self.text.lines().nth(at)).unwrap_or_default();
        let rest = line.chars().skip(place.column.saturating_sub(1));
        rest.take_while(|c| !c.is_whitespace() && !matches!(c, ',' | '}' | ']' | '#')).collect()
    }

    fn apps(&mut self, raw: &Raw) -> HashMap<App, AppRules> {
        let mut apps = HashMap::new();
        for (name, app) in &raw.apps {
            let named = self.name::<App>(app.place(), name);
            let mut roles: Vec<(Role, RoleRules)> = Vec::new();
            for (name, role) in &app.get().roles {
                roles.extend(self.name::<Role>(role.place(), name).map(|name| (name, role.get().rules())));
            }
            let rules = AppRules::new(roles.into_iter().collect(), app.get().deterministic_rate);
            apps.extend(named.map(|app| (app, rules)));
        }
        apps
    }

    /// A name that is a key: what stands behind it says where.
    fn name<T: Text>(&mut self, place: Place, text: &str) -> Option<T> {
        match T::read(text) {
            Ok(name) => Some(name),
            Err(why) => {
                self.report.error(place, format!("`{text}`: {why}"), None);
                None
            }
        }
    }

    fn policy(&mut self, at: &At<RawPolicy>) -> Option<Rules> {
        let raw = at.get();
        if raw.signers.is_empty() && !at.is_pruned() && !self.development {
            self.error(at.place(), "an unsigned policy needs `development: true`", "list the signers' keys: `signers`");
        }
        let threshold = raw.threshold.as_ref().map(|threshold| *threshold.get());
        let needed = threshold.map_or(usize::from(!raw.signers.is_empty()), NonZeroUsize::get);
        if let Some(threshold) = raw.threshold.as_ref().filter(|_| needed > raw.signers.len() && !at.is_pruned()) {
            self.error(threshold.place(), "more signatures than there are signers", "at most their number");
        }
        let keys: Vec<_> = raw.signers.iter().filter_map(|key| self.said(key)).map(|key| key.0).collect();
        let signers = Signers { threshold: needed, keys };
        Some(Rules::Policy { file: self.folder.join(raw.file.as_ref()?), signers })
    }

    fn limits(&mut self, raw: &Raw) -> Limits {
        let (raw, usual) = (&raw.limits, Limits::default());
        let frame_bytes = raw.frame_bytes.as_ref().map_or(usual.frame_bytes, |bytes| *bytes.get());
        let held_bytes = raw.held_bytes.as_ref().map_or(usual.held_bytes, |bytes| *bytes.get());
        let place = raw.held_bytes.as_ref().or(raw.frame_bytes.as_ref()).map(At::place);
        if let Some(place) = place.filter(|_| held_bytes < frame_bytes) {
            self.error(place, "`held_bytes` is less than one frame", "at least `limits.frame_bytes`");
        }
        let time = |ms: Option<u64>, usual| ms.map_or(usual, Duration::from_millis);
        Limits {
            frame_bytes,
            connections: raw.connections.map_or(usual.connections, NonZeroUsize::get),
            requests: raw.requests.map_or(usual.requests, NonZeroUsize::get),
            held_bytes,
            frame: time(raw.frame_ms, usual.frame),
            write: time(raw.write_ms, usual.write),
            drain: time(raw.drain_ms, usual.drain),
        }
    }

    fn audit(&mut self, at: &At<RawAudit>) -> Option<AuditPlaces> {
        let raw = at.get();
        let mut sinks: Vec<SinkPlace> = raw.file.iter().map(|file| SinkPlace::File(self.folder.join(file))).collect();
        for sink in &raw.sinks {
            let Some(place) = self.sink(sink) else { continue };
            if sinks.contains(&place) {
                self.error(sink.place(), "a sink stands twice", "name each once");
            }
            sinks.push(place);
        }
        // Sinks that were taken out, or that are none, are told already.
        if at.is_pruned() || sinks.is_empty() && !raw.sinks.is_empty() {
            return None;
        }
        if sinks.is_empty() {
            self.error(at.place(), "no sink", "for example `audit: {file: /var/lib/e3/audit.jsonl}`");
            return None;
        }
        let durable = sinks.iter().any(|sink| matches!(sink, SinkPlace::File(_) | SinkPlace::Socket(_)));
        if !durable && !self.development {
            let hint = "add a file, or a socket whose reader acknowledges";
            self.error(at.place(), "stdout and syslog acknowledge only that the kernel took a record", hint);
        }
        Some(AuditPlaces { sinks, seals: Duration::from_millis(raw.seals_ms.unwrap_or(1_000)) })
    }

    fn sink(&mut self, at: &At<RawSink>) -> Option<SinkPlace> {
        let path = |path: &PathBuf| self.folder.join(path);
        match at.get() {
            RawSink { file: Some(file), socket: None, syslog: None, stdout: None } => Some(SinkPlace::File(path(file))),
            RawSink { file: None, socket: Some(socket), syslog: None, stdout: None } => {
                Some(SinkPlace::Socket(path(socket)))
            }
            RawSink { file: None, socket: None, syslog: Some(syslog), stdout: None } => {
                Some(SinkPlace::Syslog(path(syslog)))
            }
            RawSink { file: None, socket: None, syslog: None, stdout: Some(true) } => Some(SinkPlace::Stdout),
            RawSink { file: None, socket: None, syslog: None, stdout: Some(false) } => {
                self.error(at.place(), "`stdout: false`", "`true`, or leave the sink out");
                None
            }
            _ => {
                if !at.is_pruned() {
                    let hint = "one of `file`, `socket`, `syslog` and `stdout` for each sink of the list";
                    self.error(at.place(), "a sink is one place", hint);
                }
                None
            }
        }
    }

    #[cfg(feature = "development")]
    fn root(&mut self, at: &At<super::RawRoot>) -> Option<super::RootSource> {
        match at.get() {
            super::RawRoot { file: Some(file), env: None } => Some(super::RootSource::File(self.folder.join(file))),
            super::RawRoot { file: None, env: Some(name) } => Some(super::RootSource::Environment(name.clone())),
            _ => {
                if !at.is_pruned() {
                    self.error(at.place(), "the root key has one source", "`{file: root.key}` or `{env: E3_ROOT_KEY}`");
                }
                None
            }
        }
    }

    #[cfg(feature = "test-module")]
    fn attested(&mut self, raw: &super::RawAttested) -> Option<super::Attested> {
        Some(super::Attested {
            relays: raw.relays.iter().filter_map(|hash| self.said(hash)).map(|hash| hash.0).collect(),
            admins: raw.admins.iter().filter_map(|key| self.said(key)).map(|key| key.0).collect(),
            module: self.folder.join(raw.module.as_ref()?),
        })
    }
}
