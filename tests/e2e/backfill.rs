//! `relay seal`, `open`, `inspect` and `rewrap` over files, through real programs: what is not sealed stays byte for byte, and what is killed is gone on with.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use e3_tests::PATIENCE;
use e3_tests::engine_double::{Behaviour, EngineDouble, token_of, value_in};
use e3_tests::process::Program;
use e3_tests::stack::{Engine, folder};
use e3_wire::{Refusal, RequestRefusal};

const KEY: &str = "e3k-Zq7pR2vN8wX1sT5uY9aB3cD4eF6gH0jK";

/// A folder with the rules of a relay that serves nothing.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new(endpoint: &str) -> Self {
        Self::within(folder(), endpoint)
    }

    fn within(folder: tempfile::TempDir, endpoint: &str) -> Self {
        let rules = format!("engine: {{endpoints: [\"{endpoint}\"], app: shop, development: true}}\n");
        fs::write(folder.path().join("relay.yaml"), rules).expect("the rules are written");
        let desk = Self { folder };
        fs::write(desk.path("key"), format!("{KEY}\n")).expect("the key is written");
        fs::set_permissions(desk.path("key"), fs::Permissions::from_mode(0o600)).expect("permissions");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file is written");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(Program::Relay.path());
        command.current_dir(self.folder.path()).env_remove("E3_API_KEY").args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the relay runs")
    }

    /// What a run prints that ends well.
    fn done(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("UTF-8")
    }

    /// The same, of what it is given.
    fn given(&self, arguments: &[&str], input: &str) -> String {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().expect("the relay runs");
        let mut stdin = child.stdin.take().expect("its input");
        let input = input.to_owned();
        let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let done = child.wait_with_output().expect("it ends");
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        let _ = writing.join();
        String::from_utf8(done.stdout).expect("UTF-8")
    }

    /// How a run fails: exit code and what it says.
    fn failed(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let done = self.run(arguments);
        (done.status.code(), String::from_utf8(done.stderr).expect("UTF-8"))
    }
}

fn policy() -> String {
    let hash: String = e3_enclave::policy::api_key_hash(KEY).iter().map(|b| format!("{b:02x}")).collect();
    format!(
        "version: 1\napp: shop\nroles: {{card: {{}}, other: {{}}, email: {{deterministic: true}}}}\nprincipals: {{backfill: {{api_key: 'sha256:{hash}'}}}}\n\
         grants:\n  - {{who: backfill, may: [seal, seal-deterministic, keep, inspect, rewrap], roles: '*'}}\n  - {{who: backfill, may: [open], roles: [card, email]}}\n"
    )
}

fn tokens(text: &str) -> Vec<&str> {
    text.split(['"', ',', '\n', '\r', '\t']).filter(|part| part.starts_with("e3v1.")).collect()
}

#[test]
fn lines_of_json_are_sealed_once_and_come_back_byte_for_byte() {
    let folder = folder();
    let engine = Engine::start_under(folder.path(), &policy());
    let desk = Desk::within(folder, &engine.endpoint());
    let input = "{\"card\":{\"number\":\"41\\u00311\", \"cvc\":12.30},\"email\":\"a@b\",\"n\":1E400}\r\n\n \t\n{\"email\":\"a@b\"}\n[]\n{\"card\": null}";
    desk.write("in.ndjson", input);
    let select = ["--select", "$.card:card", "--select", "$.email:email:deterministic", "--api-key-file", "key"];
    let seal = |input| desk.done(&[&["seal", input], &select[..]].concat());
    let sealed = seal("in.ndjson");
    let found = tokens(&sealed);
    let kinds: Vec<String> =
        found.iter().map(|token| token.split('.').skip(1).take(2).collect::<Vec<_>>().join(".")).collect();
    assert_eq!(kinds, ["card.j", "card.n", "email.s", "email.s", "card.z"], "{sealed}");
    assert_eq!(found[2], found[3], "deterministic");
    let mut shape = sealed.clone();
    for token in &found {
        shape = shape.replacen(&format!("\"{token}\""), "_", 1);
    }
    assert_eq!(
        shape,
        "{\"card\":{\"number\":_, \"cvc\":_},\"email\":_,\"n\":1E400}\r\n\n \t\n{\"email\":_}\n[]\n{\"card\": _}"
    );
    // Sealed again, nothing is sealed twice.
    desk.write("sealed.ndjson", &sealed);
    assert_eq!(seal("sealed.ndjson"), sealed);
    let doubled = desk.done(&[&["seal", "sealed.ndjson", "--tokens", "seal"], &select[..]].concat());
    assert!(doubled != sealed && tokens(&doubled).len() == 5);
    assert_eq!(desk.done(&["open", "sealed.ndjson", "--api-key-file", "key"]), input);
    // By standard input, and the key by the environment.
    let mut open = desk.command(&["open", "-", "--format", "ndjson", "--roles", "email,card"]);
    let sealed_file = fs::File::open(desk.path("sealed.ndjson")).expect("the sealed file");
    let done = open.env("E3_API_KEY", KEY).stdin(sealed_file).output().expect("the relay runs");
    assert_eq!(String::from_utf8_lossy(&done.stdout), input);
    assert!(
        String::from_utf8_lossy(&done.stderr).contains("6 records, 5 opened"),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let known = desk.done(&["inspect", "sealed.ndjson", "--api-key-file", "key", "--select", "$.email"]);
    assert_eq!(known.matches(r#"{"role":"email","type":"string","suite":3,"#).count(), 2, "{known}");
    let rewrapped = desk.done(&["rewrap", "sealed.ndjson", "--api-key-file", "key"]);
    desk.write("new.ndjson", &rewrapped);
    assert_eq!(desk.done(&["open", "new.ndjson", "--api-key-file", "key"]), input);
    // One document, and lines of text.
    let document = "{\n  \"a\": [1, {\"b\": \"x\"}]\n}\n";
    let sealed = desk.given(&["seal", "--format", "json", "--role", "card", "--api-key-file", "key"], document);
    assert_eq!(tokens(&sealed).len(), 2);
    assert_eq!(desk.given(&["open", "--format", "json", "--api-key-file", "key"], &sealed), document);
    let lines = "4111 1111\r\n\n\"quoted\"\n\u{e9}";
    let sealed = desk.given(&["seal", "--format", "lines", "--role", "card", "--api-key-file", "key"], lines);
    assert_eq!((tokens(&sealed).len(), sealed.lines().count()), (3, 4), "{sealed}");
    assert_eq!(desk.given(&["open", "--format", "lines", "--api-key-file", "key"], &sealed), lines);
}

#[test]
fn columns_of_a_table_are_sealed_and_every_other_byte_stays() {
    let double = EngineDouble::start(Behaviour::Honest);
    let desk = Desk::new(&double.endpoint());
    let table = "\u{feff}id,\"card, number\",note,email\r\n1,4111,\"x \"\"y\"\"\n z\",a@b\r\n2,\"41,11\", spaced ,\n3,,\"\",\"\"\n\n4,\"4\"\"1\n1\",,\"c@d\"";
    desk.write("in.csv", table);
    let arguments = ["seal", "in.csv", "--column", "card, number:card", "--column", "email:email:deterministic"];
    let sealed = desk.done(&arguments);
    let of = |role: &str, value: &str| token_of(role, 's', value);
    let expected = table
        .replace("4111", &of("card", "4111"))
        .replace("\"41,11\"", &format!("\"{}\"", of("card", "41,11")))
        .replace("\"4\"\"1\n1\"", &format!("\"{}\"", of("card", "4\"1\n1")))
        .replace("a@b", &of("email", "a@b"))
        .replace("\"\",\"\"\n", &format!("\"\",\"{}\"\n", of("email", "")))
        .replace("c@d", &of("email", "c@d"));
    assert_eq!(sealed, expected);
    desk.write("sealed.csv", &sealed);
    assert_eq!(desk.done(&["open", "sealed.csv"]), table);
    assert_eq!(desk.done(&["open", "sealed.csv", "--column", "id"]), sealed);
    let again =
        desk.done(&["seal", "sealed.csv", "--column", "card, number:card", "--column", "email:email:deterministic"]);
    assert_eq!(again, sealed);
    // What does not fit without quotes gets them, and an empty value is not an empty field.
    let line = |value: &str| format!("a;b\n{};x\n", of("card", value));
    for (value, field) in [("1;2", "\"1;2\""), ("", "\"\""), ("1,2", "1,2"), ("\"", "\"\"\"\"")] {
        let opened = desk.given(&["open", "--format", "csv", "--delimiter", ";"], &line(value));
        assert_eq!(opened, format!("a;b\n{field};x\n"));
    }
    // Sealed by a relay as JSON with escapes of its own, a string is its text here; half a surrogate pair has none.
    for (value, field) in
        [(r#""caf\u00e9\/""#, "caf\u{e9}/"), (r#""\"\u0041;""#, r#""""A;""#), (r#""\ud83d""#, r#""""\ud83d""""#)]
    {
        let text = format!("a;b\n{};x\n", token_of("card", 'j', value));
        let opened = desk.given(&["open", "--format", "csv", "--delimiter", ";"], &text);
        assert_eq!(opened, format!("a;b\n{field};x\n"), "{value}");
    }
    let lines = format!("{}\n{}\n", token_of("card", 'j', r#""\u00e9""#), token_of("card", 'j', r#"["\u00e9"]"#));
    assert_eq!(desk.given(&["open", "--format", "lines"], &lines), "\u{e9}\n[\"\\u00e9\"]\n");
    let rewrapped = desk.done(&["rewrap", "sealed.csv", "--column", "email"]);
    assert!(rewrapped != sealed && rewrapped.contains(&of("card", "4111")));
    desk.write("rewrapped.csv", &rewrapped);
    assert_eq!(desk.done(&["open", "rewrapped.csv"]), table);
}

/// Runs until it has told how far it is at least once more, then kills it as the system would; whether it was killed before it was done.
fn run_and_kill(desk: &Desk, arguments: &[&str], output: &str) -> bool {
    let checkpoint = desk.path(&format!("{output}.resume"));
    let before = fs::read(&checkpoint).ok();
    let mut child = desk.command(arguments).spawn().expect("the relay runs");
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a status") {
            assert!(status.success(), "the run fails by itself");
            return false;
        }
        if fs::read(&checkpoint).ok().is_some_and(|now| before.as_ref() != Some(&now)) {
            // A moment later there is more in the output than the checkpoint says.
            std::thread::sleep(Duration::from_millis(150));
            child.kill().expect("it is killed");
            child.wait().expect("it ends");
            return true;
        }
        assert!(Instant::now() < end, "no checkpoint in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_killed_run_goes_on_behind_the_last_record_that_is_certainly_there() {
    let double = EngineDouble::start(Behaviour::Slow(Duration::from_millis(10)));
    let desk = Desk::new(&double.endpoint());
    let records: u32 = 40_000;
    let row = |n: u32| format!("{n},\"card {n}\nof many\",{}\r\n", n * 7);
    let table: String = std::iter::once("id,card,n\r\n".to_owned()).chain((1..=records).map(row)).collect();
    desk.write("in.csv", &table);
    let common = ["seal", "in.csv", "--column", "card:card", "--batch", "100", "--in-flight", "2"];
    let arguments = [&common[..], &["--output", "out.csv", "--resume"]].concat();
    let mut killed = 0;
    while killed < 2 && run_and_kill(&desk, &arguments, "out.csv") {
        killed += 1;
        assert!(!desk.path("out.csv").exists(), "what is not whole does not have its name");
        let part = fs::metadata(desk.path("out.csv.part")).expect("the part").len();
        // Half a record may stand behind what is certain.
        let mut half = fs::File::options().append(true).open(desk.path("out.csv.part")).expect("the part");
        half.write_all(b"half of a reco").expect("written");
        let told: serde_json::Value = serde_json::from_str(&desk.read("out.csv.resume")).expect("a checkpoint");
        assert!(told["output"].as_u64().is_some_and(|told| told > 0 && told <= part), "{told} of {part}");
    }
    assert_eq!(killed, 2, "the runs were too fast to be killed");
    // A run for another task, or of another input, does not go on with it.
    let other = desk.failed(&["seal", "in.csv", "--column", "n:card", "--output", "out.csv", "--resume"]);
    assert!(other.0 == Some(1) && other.1.contains("told to do something else"), "{other:?}");
    let unasked = desk.failed(&[&common[..], &["--output", "out.csv"]].concat());
    assert!(unasked.0 == Some(1) && unasked.1.contains("--resume goes on"), "{unasked:?}");
    desk.write("in.csv", &table.replace("card ", "kard "));
    let changed = desk.failed(&arguments);
    assert!(changed.0 == Some(1) && changed.1.contains("is not the input of the run that stopped"), "{changed:?}");
    desk.write("in.csv", &table);
    double.behave(Behaviour::Honest);
    desk.done(&arguments);
    assert!(!desk.path("out.csv.part").exists() && !desk.path("out.csv.resume").exists());
    let resumed = desk.read("out.csv");
    assert!(resumed == desk.done(&common), "as of a run that nobody killed");
    assert_eq!(tokens(&resumed.replace('"', ",")).len(), records as usize);
    desk.write("resumed.csv", &resumed);
    assert!(desk.done(&["open", "resumed.csv"]) == table);
    // Once more changes nothing.
    assert!(desk.run(&arguments).status.success());
    assert_eq!(fs::metadata(desk.path("out.csv")).expect("the output").permissions().mode() & 0o777, 0o600);
    assert!(desk.read("out.csv") == resumed);
}

#[test]
fn a_run_through_a_real_engine_that_was_killed_loses_and_doubles_nothing() {
    let folder = folder();
    let engine = Engine::start_under(folder.path(), &policy());
    let desk = Desk::within(folder, &engine.endpoint());
    let input: String = (0..150_000).map(|n| format!("{{\"n\":{n},\"email\":\"user-{n}@shop.example\"}}\n")).collect();
    desk.write("in.ndjson", &input);
    let common = [
        "seal",
        "in.ndjson",
        "--select",
        "$.email:email:deterministic",
        "--api-key-file",
        "key",
        "--in-flight",
        "1",
        "--batch",
        "50",
    ];
    let arguments = [&common[..], &["--output", "out.ndjson", "--resume"]].concat();
    // On a machine that is faster than a checkpoint the run is done before it can be killed.
    let killed = run_and_kill(&desk, &arguments, "out.ndjson");
    desk.done(&arguments);
    let whole = desk.read("out.ndjson");
    assert!(whole == desk.done(&common), "killed: {killed}");
    assert!(desk.done(&["open", "out.ndjson", "--api-key-file", "key"]) == input);
}

#[test]
fn a_refused_record_is_told_with_its_place_and_ends_the_run_unless_asked_otherwise() {
    let double = EngineDouble::start(Behaviour::Honest);
    let desk = Desk::new(&double.endpoint());
    let good = |n: u32| format!("{{\"a\":\"{}\"}}\n", token_of("card", 'n', &n.to_string()));
    let other = token_of("other", 's', "secret");
    let input =
        [good(1), format!("{{\"b\":1, \"it's\":[\"{other}\"]}}\n"), good(3), "{\"a\":}\n".to_owned(), good(5)].concat();
    desk.write("in.ndjson", &input);
    let stop = ["open", "in.ndjson", "--roles", "card", "--output", "out.ndjson"];
    let (code, said) = desk.failed(&stop);
    assert_eq!(code, Some(1));
    assert_eq!(
        said,
        "relay: in.ndjson:2:17: $['it\\'s'][0]: A token's role may not be opened here. (token/role); --resume goes on from here\n"
    );
    assert!(desk.read("out.ndjson.part") == "{\"a\":1}\n" && !desk.path("out.ndjson").exists());
    // The record is put right, and the run goes on behind those that are done.
    desk.write("in.ndjson", &input.replace(&other, "taken out").replace("{\"a\":}", "{\"a\":4}"));
    desk.done(&[&stop[..], &["--resume"]].concat());
    assert_eq!(
        desk.read("out.ndjson"),
        "{\"a\":1}\n{\"b\":1, \"it's\":[\"taken out\"]}\n{\"a\":3}\n{\"a\":4}\n{\"a\":5}\n"
    );
    desk.write("in.ndjson", &input);
    let skipped = desk.done(&["open", "in.ndjson", "--roles", "card", "--on-refused", "skip", "--rejects", "skipped"]);
    assert_eq!(skipped, "{\"a\":1}\n{\"a\":3}\n{\"a\":5}\n");
    let left = desk.done(&["open", "in.ndjson", "--roles", "card", "--on-refused", "leave", "--rejects", "left"]);
    assert_eq!(
        left,
        format!("{{\"a\":1}}\n{{\"b\":1, \"it's\":[\"{other}\"]}}\n{{\"a\":3}}\n{{\"a\":}}\n{{\"a\":5}}\n")
    );
    assert_eq!(desk.read("skipped"), desk.read("left"));
    let listed: Vec<serde_json::Value> =
        desk.read("left").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let told = |n: usize| {
        (
            listed[n]["record"].as_u64(),
            listed[n]["line"].as_u64(),
            listed[n]["column"].as_u64(),
            listed[n]["code"].as_str(),
        )
    };
    assert_eq!(told(0), (Some(2), Some(2), Some(17), Some("token/role")));
    assert_eq!(told(1), (Some(4), Some(4), Some(6), Some("body/json")));
    assert_eq!((listed.len(), &listed[0]["place"]), (2, &"$['it\\'s'][0]".into()));
    assert!(!desk.read("left").contains("e3v1"));
    // Tables: rows of another length, quotes that are none, text that is no UTF-8.
    desk.write("in.csv", "a,b\n1,2\n3\n4,5\n");
    let (code, said) = desk.failed(&["seal", "in.csv", "--column", "b:card"]);
    assert!(
        code == Some(1) && said.contains("in.csv:3: The row has 1 fields, and the heading 2. (table/fields)"),
        "{said}"
    );
    let passed = desk.done(&["seal", "in.csv", "--column", "b:card", "--on-refused", "skip"]);
    assert_eq!(tokens(&passed).iter().map(|token| value_in(token)).collect::<Vec<_>>(), ["2", "5"]);
    desk.write("in.csv", "a,b\n1,x\"y\n");
    let (code, said) = desk.failed(&["seal", "in.csv", "--column", "b:card", "--on-refused", "skip"]);
    assert!(code == Some(1) && said.contains("in.csv:2:4: A quote stands where none may be"), "{said}");
    fs::write(desk.path("in.csv"), b"a,b\n1,\"x\n\xff\"\n").expect("written");
    let (code, said) = desk.failed(&["seal", "in.csv", "--column", "b:card"]);
    assert!(code == Some(1) && said.contains("in.csv:2:3: b: The text is not UTF-8. (text/encoding)"), "{said}");
    // Two lines cannot be one.
    desk.write("in.txt", &format!("{}\n", token_of("card", 's', "one\ntwo")));
    let (code, said) = desk.failed(&["open", "in.txt"]);
    assert!(code == Some(1) && said.contains("in.txt:1:1: ") && said.contains("(text/line-end)"), "{said}");
    // JSON over several lines stays on its own.
    desk.write("in.jsonl", &format!("\"{}\"\n", token_of("card", 'j', "[1,\n\n2]")));
    assert_eq!(desk.done(&["open", "in.jsonl"]), "[1,  2]\n");
}

#[test]
fn an_engine_that_cannot_answer_now_is_asked_again_and_one_that_refuses_is_not() {
    let double = EngineDouble::start(Behaviour::RefusesRequests(RequestRefusal::Overloaded));
    let desk = Desk::new(&double.endpoint());
    desk.write("in.txt", "one\ntwo\n");
    let seal = ["seal", "in.txt", "--role", "card", "--batch", "1"];
    let (code, said) = desk.failed(&[&seal[..], &["--patience", "0", "--on-refused", "skip"]].concat());
    assert!(code == Some(1) && said.contains("in.txt:1: ") && said.contains("(engine/overloaded)"), "{said}");
    let child = desk.command(&seal).spawn().expect("the relay runs");
    let asked = double.requests();
    e3_tests::eventually("another question", || (double.requests() > asked + 2).then_some(()));
    double.behave(Behaviour::RefusesItems(Refusal::RateLimited));
    let asked = double.requests();
    e3_tests::eventually("another question", || (double.requests() > asked + 1).then_some(()));
    double.behave(Behaviour::Honest);
    let done = child.wait_with_output().expect("it ends");
    assert_eq!(
        String::from_utf8_lossy(&done.stdout),
        format!("{}\n{}\n", token_of("card", 's', "one"), token_of("card", 's', "two"))
    );
    for (behaviour, code) in [
        (Behaviour::Demands(KEY), "engine/unknown-key"),
        (Behaviour::RefusesItems(Refusal::NotPermitted), "engine/not-permitted"),
        (Behaviour::KeepsEverything, "engine/answer"),
        (Behaviour::TooFewResults, "engine/answer"),
    ] {
        double.behave(behaviour);
        let (status, said) = desk.failed(&seal);
        assert!(status == Some(1) && said.contains(code), "{behaviour:?}: {said}");
    }
    double.behave(Behaviour::Demands(KEY));
    assert_eq!(tokens(&desk.done(&[&seal[..], &["--api-key-file", "key"]].concat())).len(), 2);
    let seen = double.last().expect("a request");
    assert_eq!((seen.credential.as_str(), seen.items), (KEY, 1));
    assert!(seen.request_id.starts_with("cli-") && seen.request_id.ends_with("-2"), "{}", seen.request_id);
}

#[test]
fn what_a_command_cannot_do_is_told_before_anything_is_written() {
    let double = EngineDouble::start(Behaviour::Honest);
    let desk = Desk::new(&double.endpoint());
    desk.write("in.csv", "a,b,a\n1,2,3\n");
    desk.write("in.ndjson", "{}\n");
    desk.write("there", "mine\n");
    desk.write("open.key", KEY);
    fs::set_permissions(desk.path("open.key"), fs::Permissions::from_mode(0o644)).expect("permissions");
    for (arguments, code, said) in [
        (&["seal", "--role", "card"][..], 2, "say how the input is made up"),
        (&["seal", "in.ndjson"], 2, "--select"),
        (&["seal", "in.ndjson", "--select", "$.a"], 2, "names no role"),
        (&["seal", "in.ndjson", "--select", "a:card"], 2, "at byte 0: a selector starts with $"),
        (&["seal", "in.ndjson", "--column", "a:card"], 2, "use --select"),
        (&["seal", "in.csv", "--select", "$.a:card"], 2, "use --column"),
        (&["seal", "in.csv", "--role", "card"], 2, "which columns"),
        (&["seal", "in.csv", "--column", "c:card"], 2, "has no column `c`; it has a, b, a"),
        (&["seal", "in.csv", "--column", "a:card"], 2, "more than one column `a`"),
        (&["seal", "in.csv", "--column", "b:card", "--column", "b:card"], 2, "named twice"),
        (&["seal", "in.csv", "--column", "b:card", "--delimiter", "ab"], 2, "is no delimiter"),
        (&["seal", "in.csv", "--column", "b:Card"], 2, "names no role"),
        (&["seal", "nothing.csv", "--column", "b:card"], 1, "cannot be read"),
        (&["seal", "in.csv", "--column", "b:card", "--output", "there"], 1, "there is there already"),
        (&["seal", "in.csv", "--column", "b:card", "--rejects", "there"], 1, "there is there already"),
        (&["seal", "in.csv", "--column", "b:card", "--resume"], 2, "--output"),
        (&["seal", "in.csv", "--column", "b:card", "--api-key-file", "open.key"], 2, "others may read the API key"),
        (&["open", "in.csv", "--config", "nothing.yaml"], 2, "nothing.yaml"),
    ] {
        let (was, text) = desk.failed(arguments);
        assert!(was == Some(code) && text.contains(said), "{arguments:?}: {was:?} {text}");
        assert!(!text.contains(KEY));
    }
    assert_eq!(desk.read("there"), "mine\n");
    let left: Vec<String> = fs::read_dir(desk.folder.path())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert!(!left.iter().any(|name| name.contains(".part") || name.contains(".resume")), "{left:?}");
}

#[test]
fn a_pipe_gets_each_batch_as_soon_as_it_is_done() {
    let double = EngineDouble::start(Behaviour::Honest);
    let desk = Desk::new(&double.endpoint());
    let mut child = desk
        .command(&["seal", "--format", "lines", "--role", "card", "--batch", "1"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the relay runs");
    let (mut stdin, stdout) = (child.stdin.take().expect("its input"), child.stdout.take().expect("its output"));
    let mut lines = BufReader::new(stdout).lines();
    for value in ["one", "two"] {
        writeln!(stdin, "{value}").expect("written");
        // Its input stays open: nothing else makes it write.
        assert_eq!(lines.next().expect("a line").expect("text"), token_of("card", 's', value));
    }
    drop(stdin);
    assert!(child.wait().expect("it ends").success());
}
