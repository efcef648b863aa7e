//! What is held of any input. Each function takes any bytes and panics when a promise breaks: the fuzzer calls it with what it makes up, and a test with the seeds.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::{LazyLock, OnceLock};
use std::task::{Context as TaskContext, Poll, Waker};

use e3_enclave::envelope::{Authentic, SealTime, Sealer};
use e3_enclave::keyring::{Keyring, RootKey, Store};
use e3_enclave::kms::RecipientKey;
use e3_enclave::kms::ber::Element;
use e3_enclave::policy::{AppRules, Asking, Moment, Policy, RoleRules, Subject, Verb};
use e3_enclave::session::Session;
use e3_wire::{
    AdminAnswer, Answer, AnswerWriter, App, Command, Context, FRAME_HEADER, FrameHeader, Item, ItemAnswer, MAX_FRAME,
    Request, RequestWriter, Role, TokenText, ValueType, token,
};
use json_span::{
    Hit, Limits, Program, Replacement, ScanCause, Scanner, Selector, SelectorOptions, is_exactly_one_value, splice,
};
use relay::admit::chunked::Chunked;
use relay::admit::head::{self, BodyFraming};
use relay::admit::proxy_protocol::{self, Fault, Header, Version};
use relay::rules::path::NormalPath;

/// A PROXY header that is read ends at one place, whatever follows it, and is read the same when it is written again.
pub fn proxy_header(bytes: &[u8]) {
    let read = |bytes: &[u8]| {
        let mut rest = bytes;
        // A slice is never pending.
        let heard = match pin!(proxy_protocol::receive(&mut rest)).poll(&mut TaskContext::from_waker(Waker::noop())) {
            Poll::Ready(heard) => heard,
            Poll::Pending => panic!("it waits for more than there is"),
        };
        (heard, bytes.len() - rest.len())
    };
    let (heard, used) = read(bytes);
    let Ok(header) = heard else { return };
    assert_eq!(read(&bytes[..used]), (Ok(header), used));
    assert_eq!(read(&bytes[..used - 1]).0, Err(Fault::Gone), "a part of it is none");
    if let Header::Passed(ends) = header {
        for version in [Version::V1, Version::V2] {
            assert_eq!(read(&version.write(Some(&ends))).0, Ok(header));
        }
    }
}

/// Both passes over the text say the same, serde_json agrees on what is JSON, and what is selected is exactly one value each, in order, and can be replaced.
pub fn json_scan(text: &[u8]) {
    static PROGRAMS: LazyLock<[Program; 5]> = LazyLock::new(|| {
        let program = |selectors: &[&str]| {
            let parse = |selector: &&str| Selector::parse(selector, SelectorOptions::default()).expect("a selector");
            Program::new(selectors.iter().map(parse).collect())
        };
        [
            program(&[]),
            program(&["$.a", "$..b", "$[0]", "$[*].a", "$.a[1:3]", "$['\\u0061','c'].b", "$..*"]),
            program(&["$[-1]", "$[?@.a == 1]", "$..[?@.b]", "$.a[::-1]"]),
            // Little else than names at any depth: most brackets are matched and no more.
            program(&["$..b", "$.a.a", "$..['a name of fifty-nine bytes, the longest one that has a tail']"]),
            // Spelled with an escape, this one can begin two blocks before it ends.
            program(&["$..['a name of sixty bytes, as long as none may be to have a tail']"]),
        ]
    });
    let limits = Limits::default();
    for (number, program) in PROGRAMS.iter().enumerate() {
        let (mut fast, mut slow) = (Vec::new(), Vec::new());
        let quick = Scanner::new().scan(program, text, &limits, &mut fast);
        let portable = Scanner::portable().scan(program, text, &limits, &mut slow);
        assert_eq!(quick, portable, "the passes differ on what is wrong");
        assert_eq!(fast, slow, "the passes differ on what is selected");
        let cause = quick.err().map(|error| error.cause);
        if number == 0 && cause != Some(ScanCause::Depth) {
            // It skips over strings without a look at their encoding.
            let other =
                std::str::from_utf8(text).is_ok() && serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok();
            assert_eq!(cause.is_none(), other, "serde_json has another opinion: {cause:?}");
        }
        if let Some(error) = quick.err() {
            assert!(error.offset <= text.len() && fast.is_empty());
            continue;
        }
        selected(text, &fast, &limits);
    }
}

fn selected(text: &[u8], hits: &[Hit], limits: &Limits) {
    let mut outer = Vec::new();
    let mut last = (0, 0);
    let mut end = 0;
    for hit in hits {
        assert!(last <= (hit.start, hit.selector), "out of order");
        last = (hit.start, hit.selector);
        let value = text.get(hit.start..hit.end).expect("a span inside the text");
        assert_eq!(is_exactly_one_value(value, limits), Ok(hit.kind), "a span that is not its value");
        if hit.start >= end {
            end = hit.end;
            outer.push(Replacement { start: hit.start, end: hit.end, with: b"\"e3v1.r.s.AA.\"" });
        }
    }
    let spliced = splice(text, &outer).expect("replacements in order");
    json_span::validate(&spliced, limits).expect("JSON after the splice");
}

/// A head that is accepted ends where its first empty line ends, and a reader that knows nothing but lines sees the same framing in it.
pub fn framing_head(bytes: &[u8]) {
    let Ok(read) = head::read(bytes, 100) else { return };
    let text = std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes).into_owned(), str::to_owned);
    assert_eq!(text.find("\r\n\r\n"), Some(text.len() - 4), "an empty line inside the head");
    let lines: Vec<&str> = text[..text.len() - 4].split("\r\n").collect();
    assert!(lines.iter().all(|line| !line.contains(['\r', '\n', '\0'])), "a bare line end, or a NUL");
    assert_eq!(lines[0].split(' ').count(), 3);
    // Every name that some reader takes for the one that frames: in any case, with blanks around it, with `_` for `-`.
    let values = |name: &str| -> Vec<&str> {
        let fields = lines[1..].iter().map(|line| line.split_once(':').expect("a colon in every field"));
        fields
            .filter(|(field, _)| field.trim().replace('_', "-").eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    let seen = match (&*lengths, &*codings) {
        ([], []) => BodyFraming::Length(0),
        ([length], []) => BodyFraming::Length(length.parse().expect("digits")),
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => BodyFraming::Chunked,
        _ => panic!("framing in doubt was accepted"),
    };
    assert_eq!(read.body, seen);
    assert_eq!(values("host").len(), 1);
}

/// The first byte says where the rest is cut in two: the verdict is the same as on the whole, and another reader finds the same end.
pub fn framing_chunked(bytes: &[u8]) {
    let Some((cut, body)) = bytes.split_first() else { return };
    let mut whole = Chunked::default();
    let read = whole.read(body);
    let (first, second) = body.split_at(usize::from(*cut).min(body.len()));
    let mut split = Chunked::default();
    let pieces =
        split.read(first).and_then(|n| if n < first.len() { Ok(n) } else { split.read(second).map(|m| n + m) });
    assert_eq!(read, pieces, "a cut makes a difference");
    if read.is_ok() {
        assert_eq!(whole.is_done(), split.is_done(), "a cut makes a difference");
    }
    let Ok(used) = read else { return };
    assert!(used <= body.len());
    if whole.is_done() {
        assert_eq!(chunked_end(body), Some(used), "another reader finds another end");
    } else {
        assert_eq!(used, body.len());
    }
}

/// Where a chunked body ends, read the simple way.
fn chunked_end(body: &[u8]) -> Option<usize> {
    let line = |at: usize| body[at..].windows(2).position(|two| two == b"\r\n").map(|end| at + end);
    let mut at = 0;
    loop {
        let end = line(at)?;
        let size = std::str::from_utf8(&body[at..end]).ok()?.split(';').next()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        at = end + 2;
        if size == 0 {
            break;
        }
        at = at.checked_add(size)?;
        if body.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    loop {
        let end = line(at)?;
        if end == at {
            return Some(end + 2);
        }
        at = end + 2;
    }
}

/// Headers, requests and answers that can be read are written again as the very bytes that they were.
pub fn wire_frames(bytes: &[u8]) {
    if let Some(first) = bytes.first_chunk::<FRAME_HEADER>()
        && let Ok(header) = FrameHeader::parse(first, MAX_FRAME)
    {
        assert!(header.body + FRAME_HEADER <= MAX_FRAME);
        assert_eq!(header.to_bytes().as_ref(), Ok(first));
    }
    if let Ok(request) = Request::read(bytes) {
        assert_eq!(rewritten(&request), bytes, "a request has two spellings");
    }
    if let Ok(command) = Command::read(bytes) {
        assert_eq!(command.write().as_deref(), Ok(bytes), "a command has two spellings");
    }
    if let Ok(answer) = AdminAnswer::read(bytes) {
        assert_eq!(answer.write(), bytes, "the answer to a command has two spellings");
    }
    match Answer::read(bytes) {
        Ok(Answer::Refused(refusal)) => assert_eq!(refusal.to_body(), bytes),
        Ok(Answer::Items(items)) => assert_eq!(answered(&items), bytes, "an answer has two spellings"),
        Err(_) => {}
    }
}

fn rewritten(request: &Request<'_>) -> Vec<u8> {
    let mut writer = RequestWriter::new(request.app, &request.context, 0);
    for item in &request.items {
        let written = match *item {
            Item::Seal { role, value_type, value } => writer.seal(role, value_type, value, false),
            Item::SealDeterministic { role, value_type, value } => writer.seal(role, value_type, value, true),
            Item::KeepOrSeal { role, value_type, value, deterministic } => {
                writer.keep_or_seal(role, value_type, value, deterministic)
            }
            Item::Open { roles, token } => writer.open(&roles.iter().collect::<Vec<_>>(), token),
            Item::Inspect { token } => writer.inspect(token),
            Item::Rewrap { token } => writer.rewrap(token),
            Item::PublicKey { role } => writer.public_key(role),
        };
        written.expect("room for what was read");
    }
    writer.finish(request.timeout_ms)
}

fn answered(items: &[ItemAnswer<'_>]) -> Vec<u8> {
    let mut writer = AnswerWriter::new(0);
    for item in items {
        match item {
            ItemAnswer::Token(text) => writer.token(|out| out.extend_from_slice(text)),
            ItemAnswer::Value { value_type, role, value } => writer.value(*value_type, *role, value),
            ItemAnswer::Refused(refusal) => writer.refused(*refusal),
            ItemAnswer::Inspection(inspection) => writer.inspection(inspection),
            ItemAnswer::Kept => writer.kept(),
            ItemAnswer::PublicKey { kid, key } => writer.public_key(*kid, key),
        }
    }
    writer.finish()
}

/// Text that is a token has one spelling; any binary that is written as a token is read again and found inside other text.
pub fn token_text(bytes: &[u8]) {
    if let Ok(text) = TokenText::parse(bytes) {
        assert_eq!(TokenText::find(bytes, 0), Some((text, 0..bytes.len())));
        if let Ok(binary) = text.decode() {
            assert_eq!(written(text.role, text.value_type, &binary), bytes, "a token has two spellings");
        }
    }
    let mut at = 0;
    while let Some((found, range)) = TokenText::find(bytes, at) {
        assert!(range.start >= at && range.end > range.start);
        assert_eq!(TokenText::parse(&bytes[range.clone()]), Ok(found));
        at = range.end;
    }
    let Some((first, binary)) = bytes.split_first().filter(|(_, binary)| !binary.is_empty()) else { return };
    let value_type = [ValueType::String, ValueType::Number, ValueType::Bool, ValueType::Null, ValueType::Json];
    let role = Role::parse(&"abcdefghij-123456789"[..1 + usize::from(first >> 4)]).expect("a role");
    let value_type = value_type[usize::from(first & 15) % 5];
    let text = written(role, value_type, binary);
    assert_eq!(text.len(), token::text_len(role, binary.len()));
    let parsed = TokenText::parse(&text).expect("a token that was written");
    assert_eq!((parsed.role, parsed.value_type), (role, value_type));
    assert_eq!(parsed.decode().as_deref(), Ok(binary));
    let inside = [b"e3v1.".as_slice(), &text, b"x"].concat();
    assert_eq!(TokenText::find(&inside, 0), Some((parsed, 5..5 + text.len())));
}

fn written(role: Role, value_type: ValueType, binary: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    token::write(role, value_type, binary, &mut text);
    text
}

/// What is read as BER says the same in definite and in indefinite lengths; and no envelope opens that was not made for the key.
pub fn kms_answer(bytes: &[u8]) {
    static KEY: LazyLock<RecipientKey> = LazyLock::new(|| RecipientKey::generate().expect("a key"));
    for writing in [Lengths::Definite, Lengths::Indefinite] {
        let Ok(element) = Element::read(bytes) else { break };
        let written = ber(element, writing);
        assert!(Element::read(&written).expect("it is BER") == Element::read(bytes).expect("it was BER"));
    }
    assert!(KEY.open(bytes).is_err(), "an envelope of somebody else's opened");
}

#[derive(Clone, Copy)]
enum Lengths {
    Definite,
    Indefinite,
}

fn ber(element: Element<'_>, lengths: Lengths) -> Vec<u8> {
    let tag = element.tag;
    let definite = |content: &[u8]| [&[tag, 0x84][..], &(content.len() as u32).to_be_bytes(), content].concat();
    if let Ok(bytes) = element.bytes(tag) {
        return definite(bytes);
    }
    let inside = element.inside(tag).expect("elements");
    let content: Vec<u8> = inside.into_iter().flat_map(|inner| ber(inner, lengths)).collect();
    match lengths {
        Lengths::Definite => definite(&content),
        Lengths::Indefinite => [&[tag, 0x80][..], &content, &[0, 0]].concat(),
    }
}

/// Nothing opens but what the engine sealed: not the bytes themselves, not as a sealed binary under a key that there is, and not a genuine token that they alter.
pub fn token_open(bytes: &[u8]) {
    struct Known {
        keyring: Keyring,
        app: App,
        role: Role,
        genuine: Vec<u8>,
    }
    static KNOWN: OnceLock<Known> = OnceLock::new();
    let Known { keyring, app, role, genuine } = KNOWN.get_or_init(|| {
        let (app, role) = (App::parse("shop").expect("an app"), Role::parse("card").expect("a role"));
        let keyring = keyring(app);
        let rules = AppRules::new([(role, RoleRules::default())].into(), 0);
        let context = Context::default();
        let session = Session::plain();
        let asking = Asking { proven: session.proven(), app, context: &context, epoch: 1 };
        let policy = Policy::declared([(app, rules)].into(), false);
        let asker = policy.asker(&asking, Moment::now().expect("a clock")).expect("an asker");
        let allowed = asker.decide(Verb::Seal, role, Subject::Role).result.expect("allowed");
        let mut genuine = Vec::new();
        let mut sealer = Sealer::new(&keyring, SealTime::now().expect("a clock"));
        sealer.seal(&allowed, ValueType::String, b"4111111111111111", &mut genuine).expect("a token");
        Known { keyring, app, role, genuine }
    });
    assert!(Authentic::read(keyring, *app, genuine).is_ok(), "the genuine one opens");
    assert!(Authentic::read(keyring, *app, bytes).is_err(), "any bytes open");
    for (suite, kid) in [(1, 1), (3, 2)] {
        let binary = [&[suite], &u32::to_be_bytes(kid)[..], bytes].concat();
        let text = written(*role, ValueType::String, &binary);
        assert!(Authentic::read(keyring, *app, &text).is_err(), "a made-up binary opens");
    }
    let mut altered = genuine.clone();
    for pair in bytes.chunks_exact(2) {
        let at = usize::from(pair[0]) % altered.len();
        altered[at] ^= pair[1];
    }
    assert_eq!(Authentic::read(keyring, *app, &altered).is_ok(), altered == *genuine, "an altered token opens");
}

/// New keys of one app; kid 1 is of the random lineage, kid 2 of the deterministic one.
fn keyring(app: App) -> Keyring {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("root.key");
    std::fs::write(&root, "5a".repeat(32)).expect("a root key");
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&root, owner_only).expect("its mode");
    let store = Store::new(folder.path().join("keyring"), RootKey::from_file(&root).expect("a root key"));
    store.create().expect("a keyring");
    store.update(|keyring| keyring.create_app(app).map(Some)).expect("an app's keys").0
}

/// Any text is a configuration or a report about it, and a report can be shown.
pub fn rules_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(report) = relay::config::check(Path::new("/nowhere/relay.yaml"), text) {
        assert!(!report.to_string().is_empty());
    }
}

/// A path that is read has no segment with a second meaning, and writing what was read gives the same path again.
pub fn path_normalise(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(path) = NormalPath::read(text) else { return };
    let shown = path.shown();
    let segments: Vec<&str> = shown[1..].split('/').collect();
    let dots = |segment: &&str| matches!(*segment, "." | "..");
    assert!(!segments.iter().any(dots), "a dot segment in {shown:?}");
    assert!(segments == [""] || !segments.contains(&""), "an empty segment in {shown:?}");
    assert!(!shown.contains(['\\', '\0', ';']), "{shown:?}");
    let escape = |byte: u8| match byte {
        b'/' | b'-' | b'_' | b'~' | b'.' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    let again: String = shown.bytes().map(escape).collect();
    assert_eq!(NormalPath::read(&again).as_ref(), Ok(&path), "{again:?} has another reading");
    // Where the read path needs no escapes, it is its own reading.
    if let Ok(itself) = NormalPath::read(&shown) {
        assert_eq!(itself, path);
    }
    assert_eq!(path.clone().folded().folded(), path.folded());
}
