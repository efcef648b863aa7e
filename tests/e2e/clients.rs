//! Clients that are not ours, unmodified: each knows no more than `HTTPS_PROXY` with a key in it, and an authority by its usual setting. `.ci/clients` installs them.

#[path = "../src/proxied.rs"]
#[allow(dead_code, reason = "its clients are for other tests")]
mod proxied;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use e3_tests::backend::Backend;
use e3_tests::engine_double::{Behaviour, EngineDouble, token_of};
use e3_tests::port;
use e3_tests::process::Program;
use e3_tests::stack::{Relay, folder};
use proxied::TestCa;
use sha2::{Digest, Sha256};

const HOST: &str = "api.pay.example";
const CARD: &str = "4111111111111111";
const KEY: &str = "q7-Zm_0key.of~this~test";

/// A program with its arguments before the URL and the text to post, and whether it speaks TLS to a proxy.
struct Client {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    /// By `https://` in `HTTPS_PROXY`.
    secure: bool,
}

fn clients(installed: &Path, authorities: &Path) -> Vec<Client> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/clients");
    let text = |path: PathBuf| path.display().to_string();
    let python = |name, file: &str| Client {
        name,
        program: installed.join("venv/bin/python"),
        arguments: vec![text(own.join(file))],
        // aiohttp does not heed an https:// proxy of the environment.
        secure: name != "aiohttp",
    };
    // Modules are found beside the file.
    let node = |name, file: &str| Client {
        name,
        program: "node".into(),
        arguments: vec![text(installed.join(file))],
        secure: true,
    };
    let json = "content-type: application/json";
    let curl = ["-sS", "--fail-with-body", "--max-time", "30", "--proxy-cacert", &text(authorities.into()), "-H", json];
    let curl: Vec<_> = curl.into_iter().map(str::to_owned).chain(["--url".to_owned()]).collect();
    vec![
        Client { name: "curl", program: "curl".into(), arguments: curl, secure: true },
        python("requests", "with_requests.py"),
        python("httpx", "with_httpx.py"),
        python("aiohttp", "with_aiohttp.py"),
        node("fetch of Node", "fetch.mjs"),
        node("https of Node", "agent.mjs"),
        Client { name: "net/http of Go", program: installed.join("client-go"), arguments: Vec::new(), secure: true },
    ]
}

/// What the client prints.
fn run(client: &Client, proxy: &str, authorities: &Path, url: &str, body: &str) -> Result<String, String> {
    let mut command = Command::new(&client.program);
    command.args(&client.arguments).arg(url);
    if client.name == "curl" {
        command.arg("-d");
    }
    command.arg(body).stdin(Stdio::null());
    // Each reads its own of these, and nothing else is said.
    for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"] {
        command.env(name, authorities);
    }
    for name in ["NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "SSL_CERT_DIR"] {
        command.env_remove(name);
    }
    command.env("HTTPS_PROXY", proxy).env("https_proxy", proxy);
    let output = command.output().map_err(|error| format!("{} does not start: {error}", client.name))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    Err(format!("{} through {proxy}: {printed} {}", client.name, String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn clients_that_are_not_ours_need_their_proxy_setting_and_the_authority_alone() {
    let installed = PathBuf::from(std::env::var_os("E3_CLIENTS").expect("run by .ci/clients"));
    let (folder, ca, engine) = (folder(), TestCa::new(), EngineDouble::start(Behaviour::Honest));
    let path = |name: &str| folder.path().join(name);
    let made = Program::Relay.output([
        "ca".as_ref(),
        "init".as_ref(),
        "--certificate".as_ref(),
        path("relay-ca.pem").as_os_str(),
        "--key".as_ref(),
        path("relay-ca.key").as_os_str(),
    ]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let tls = ca.site_with(folder.path(), "127.0.0.1", |leaf| leaf.use_authority_key_identifier_extension = true);
    let read = |name: &str| std::fs::read_to_string(path(name)).expect("an authority");
    let authorities = path("authorities.pem");
    std::fs::write(&authorities, read("relay-ca.pem") + &read("site-ca.pem")).expect("written");

    let hash: String = Sha256::digest(KEY).iter().map(|byte| format!("{byte:02x}")).collect();
    let provider = Backend::echo();
    let listener = |listen: SocketAddr, more: &str| {
        format!(
            "  - listen: {listen}\n    keys: [{hash}]\n{more}    destinations:\n      - host: {HOST}\n        upstream: http://{}\n        intercept: true\n        \
             rules: [{{match: {{path: /charges/**}}, request: {{open: [{{select: $.number, roles: [card-number]}}]}}}}]\n",
            provider.address()
        )
    };
    let (plain, secure) = (port::free(), port::free());
    let rules = format!(
        "engine: {{endpoints: [\"{}\"], app: shop, development: true}}\nca: {{certificate: {}, key: {}}}\noutbound:\n{}{}",
        engine.endpoint(),
        path("relay-ca.pem").display(),
        path("relay-ca.key").display(),
        listener(plain, ""),
        listener(secure, &format!("    tls: {{{tls}}}\n")),
    );
    let relay = Relay::start(folder.path(), "relay", &rules);
    relay.wait_ready();

    let (url, body) =
        (format!("https://{HOST}/charges/1"), format!(r#"{{"number":"{}"}}"#, token_of("card-number", 's', CARD)));
    let clear = format!(r#"{{"number":"{CARD}"}}"#);
    let mut faults = Vec::new();
    for client in clients(&installed, &authorities) {
        let ways = [format!("http://app:{KEY}@{plain}"), format!("https://app:{KEY}@{secure}")];
        for proxy in ways.into_iter().take(if client.secure { 2 } else { 1 }) {
            let before = provider.requests().len();
            match run(&client, &proxy, &authorities, &url, &body) {
                Ok(printed) if printed == clear => {}
                Ok(printed) => faults.push(format!("{} through {proxy} printed {printed}", client.name)),
                Err(fault) => faults.push(fault),
            }
            let got = provider.requests().split_off(before);
            if got.is_empty() || !got.iter().all(|request| request.text() == clear) {
                faults.push(format!("{} through {proxy}: the provider got {got:?}", client.name));
            }
            if got.iter().any(|request| request.header("proxy-authorization").is_some()) {
                faults.push(format!("{} through {proxy}: the key went on", client.name));
            }
        }
        // Without the key, or without the authority, nothing is sent.
        let before = provider.requests().len();
        let wrong = format!("http://app:{KEY}x@{plain}");
        if run(&client, &wrong, &authorities, &url, &body).is_ok() || provider.requests().len() != before {
            faults.push(format!("{} came through with a wrong key", client.name));
        }
        let right = format!("http://app:{KEY}@{plain}");
        if run(&client, &right, &path("site-ca.pem"), &url, &body).is_ok() || provider.requests().len() != before {
            faults.push(format!("{} came through without knowing the authority", client.name));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn programs_that_are_not_ours_call_the_api_and_understand_its_document() {
    let installed = PathBuf::from(std::env::var_os("E3_CLIENTS").expect("run by .ci/clients"));
    let (folder, engine, address) = (folder(), EngineDouble::start(Behaviour::Demands(KEY)), port::free());
    let rules = format!(
        "engine: {{endpoints: [\"{}\"], app: shop, development: true}}\napi: {{listen: \"{address}\"}}\n",
        engine.endpoint()
    );
    let relay = Relay::start(folder.path(), "relay", &rules);
    relay.wait_ready();
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut caller = Command::new(installed.join("venv/bin/python"));
    caller.arg(own.join("conformance/clients/api_with_requests.py")).args([&format!("http://{address}"), KEY]);
    let done = caller.output().expect("Python runs");
    assert_eq!(String::from_utf8_lossy(&done.stdout), "ok\n", "{}", String::from_utf8_lossy(&done.stderr));
    let document = own.join("../config/schema/openapi.json");
    let done = Command::new(installed.join("venv/bin/openapi-spec-validator")).arg(document).output();
    let done = done.expect("the validator runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}
