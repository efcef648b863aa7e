//! `relay ca`: the local certificate authority of intercepted destinations.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::{BAD_INPUT, tell};
use crate::args::{Ca, CaInit, TrustHelp};
use crate::config;
use crate::tls::ca::fresh;

/// Makes an authority, or tells how it is trusted.
pub fn run(args: &Ca) -> ExitCode {
    match args {
        Ca::Init(args) => init(args),
        Ca::TrustHelp(args) => {
            print!("{}", trust_help(args));
            ExitCode::SUCCESS
        }
    }
}

fn init(args: &CaInit) -> ExitCode {
    let hosts = match args.config.as_deref().map(config::intercepted).transpose() {
        Ok(hosts) => hosts.unwrap_or_default(),
        Err(report) => {
            tell(&report);
            return ExitCode::from(BAD_INPUT);
        }
    };
    let exact = hosts.iter().all(|host| !host.starts_with('*'));
    let limited: Vec<&str> = if exact { hosts.iter().map(String::as_str).collect() } else { Vec::new() };
    match write(args, &limited) {
        Ok(()) => {
            println!("certificate {}", args.certificate.display());
            println!("key         {}", args.key.display());
            match (limited.is_empty(), exact) {
                (false, _) => println!("limited to  {}", limited.join(", ")),
                (true, false) => {
                    println!("limited to  nothing: a pattern is intercepted, which name constraints cannot say exactly")
                }
                (true, true) => println!("limited to  nothing: no --config with intercepted destinations was given"),
            }
            ExitCode::SUCCESS
        }
        Err(cause) => {
            eprintln!("relay: {cause}");
            ExitCode::from(BAD_INPUT)
        }
    }
}

fn write(args: &CaInit, hosts: &[&str]) -> Result<(), String> {
    let time = Duration::from_secs(u64::from(args.days) * 86_400);
    let made = fresh(time, hosts).map_err(|error| error.to_string())?;
    put(&args.key, 0o600, &made.key)?;
    put(&args.certificate, 0o644, &made.certificate)
}

/// Never over a file that is there: clients may trust it.
fn put(file: &Path, mode: u32, text: &str) -> Result<(), String> {
    let opened = OpenOptions::new().create_new(true).write(true).mode(mode).open(file);
    let mut opened = opened.map_err(|error| format!("{} cannot be made: {error}", file.display()))?;
    let written = opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all());
    written.map_err(|error| format!("{} cannot be written: {error}", file.display()))
}

fn trust_help(args: &TrustHelp) -> String {
    let file = std::path::absolute(&args.certificate).unwrap_or_else(|_| args.certificate.clone());
    let (file, proxy) = (file.display(), &args.proxy);
    format!(
        "The certificate: {file}; a running relay also hands it out: curl http://127.0.0.1:9180/ca.pem
Only clients that are to go through the relay need it. Give them the certificate, never the key.

Where to go (all of them):
  export HTTPS_PROXY={proxy} https_proxy={proxy}

curl
  curl --proxy {proxy} --cacert {file} https://…        or: export CURL_CA_BUNDLE={file}

Node (fetch, axios, undici and others)
  export NODE_EXTRA_CA_CERTS={file}
  Node 24 and newer: export NODE_USE_ENV_PROXY=1; older ones set a ProxyAgent of undici or https-proxy-agent

Python
  requests:               export REQUESTS_CA_BUNDLE={file}
  urllib, httpx, aiohttp: export SSL_CERT_FILE={file}   (aiohttp: trust_env=True)
  These replace the system's authorities: append them where some hosts are reached without the relay.

Java
  keytool -importcert -noprompt -alias e3-relay -file {file} -keystore trust.p12 -storetype PKCS12 -storepass changeit
  java -Djavax.net.ssl.trustStore=trust.p12 -Djavax.net.ssl.trustStorePassword=changeit -Dhttps.proxyHost=… -Dhttps.proxyPort=…

Go
  export SSL_CERT_FILE={file}                           (replaces the system's authorities)

The system
  Debian, Ubuntu: cp {file} /usr/local/share/ca-certificates/e3-relay.crt && update-ca-certificates
  Fedora, RHEL:   cp {file} /etc/pki/ca-trust/source/anchors/e3-relay.pem && update-ca-trust
  Alpine:         cp {file} /usr/local/share/ca-certificates/e3-relay.crt && update-ca-certificates
  macOS:          security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain {file}
"
    )
}
