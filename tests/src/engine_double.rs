//! Engines that misbehave in one known way, over a real Unix socket, speaking SPEC.md's frames.
//!
//! They hold no keys: the honest ones make tokens whose binary is the value itself, so that a test can read what was sealed.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use e3_wire::{
    AnswerWriter, Direction, FRAME_HEADER, FrameHeader, FrameKind, Inspection, Item, MAX_FRAME, Refusal, Request,
    RequestRefusal, TokenText, token,
};

/// What the double does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Seals and opens as asked, with tokens that hold the value in the clear.
    Honest,
    /// Reads requests and never answers.
    Hangs,
    /// Answers honestly after this time.
    Slow(Duration),
    /// Sends half of the answer's frame, then closes.
    CutsMidFrame,
    /// Closes as soon as a request came.
    Closes,
    /// Answers with an id that was never asked.
    WrongId,
    /// Answers the same id twice.
    DuplicateId,
    /// Announces a frame over the limit.
    OversizedFrame,
    /// Answers bytes that are no frame.
    Garbage,
    /// Answers one result too few.
    TooFewResults,
    /// Answers one result too many.
    TooManyResults,
    /// Answers "kept" to every seal, which would leave the plaintext in place.
    KeepsEverything,
    /// Answers a token of another role.
    WrongRole,
    /// Answers text that would end the JSON string early.
    TokenThatBreaksOut,
    /// Refuses every request.
    RefusesRequests(RequestRefusal),
    /// Refuses every item.
    RefusesItems(Refusal),
    /// Answers pings as not ready.
    NotReady,
    /// Serves those who show this API key honestly, and knows nobody else.
    Demands(&'static str),
}

/// What a request said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which way it goes.
    pub direction: Direction,
    /// The client's address.
    pub source: String,
    /// Its method.
    pub method: String,
    /// The API key that it showed.
    pub credential: String,
    /// Its id.
    pub request_id: String,
    /// Number of its items.
    pub items: usize,
}

/// A running double; it stops when this is dropped.
pub struct EngineDouble {
    path: PathBuf,
    behaviour: Arc<Mutex<Behaviour>>,
    requests: Arc<AtomicU64>,
    last: Arc<Mutex<Option<Seen>>>,
    _dir: tempfile::TempDir,
}

impl EngineDouble {
    /// Listens on a socket in a folder of its own.
    ///
    /// # Panics
    /// The socket cannot be made.
    #[must_use]
    pub fn start(behaviour: Behaviour) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("e3.sock");
        let listener = UnixListener::bind(&path).expect("a socket to listen on");
        let behaviour = Arc::new(Mutex::new(behaviour));
        let requests = Arc::new(AtomicU64::new(0));
        let last = Arc::new(Mutex::new(None));
        let (shared, count, seen) = (Arc::clone(&behaviour), Arc::clone(&requests), Arc::clone(&last));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, count, seen) = (Arc::clone(&shared), Arc::clone(&count), Arc::clone(&seen));
                thread::spawn(move || serve(stream, &shared, &count, &seen));
            }
        });
        Self { path, behaviour, requests, last, _dir: dir }
    }

    /// The endpoint as the rules file names it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From now on behaves differently.
    ///
    /// # Panics
    /// A thread of the double panicked.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().expect("no panic in the double") = behaviour;
    }

    /// What the last request said of itself.
    ///
    /// # Panics
    /// A thread of the double panicked.
    #[must_use]
    pub fn last(&self) -> Option<Seen> {
        self.last.lock().expect("no panic in the double").clone()
    }

    /// Number of requests so far, pings not counted.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

/// A token as the honest double makes it.
#[must_use]
pub fn token_of(role: &str, value_type: char, value: &str) -> String {
    let mut out = Vec::new();
    let role = e3_wire::Role::parse(role).expect("a role");
    let value_type = e3_wire::ValueType::from_letter(value_type as u8).expect("a type");
    token::write(role, value_type, &pad(value.as_bytes()), &mut out);
    String::from_utf8(out).expect("tokens are ASCII")
}

/// The value in a token of the honest double.
///
/// # Panics
/// The text is no such token.
#[must_use]
pub fn value_in(token: &str) -> String {
    let binary = TokenText::parse(token.as_bytes()).expect("a token").decode().expect("base64url");
    String::from_utf8(binary[1..].to_vec()).expect("UTF-8")
}

/// A binary is never empty.
fn pad(value: &[u8]) -> Vec<u8> {
    [b"=", value].concat()
}

fn serve(mut stream: UnixStream, behaviour: &Mutex<Behaviour>, requests: &AtomicU64, last: &Mutex<Option<Seen>>) {
    while let Ok((header, body)) = read_frame(&mut stream) {
        let now = behaviour.lock().map_or(Behaviour::Closes, |b| *b);
        let answered = match header.kind {
            FrameKind::Ping => pong(&mut stream, header.id, now),
            FrameKind::Request => {
                requests.fetch_add(1, Ordering::SeqCst);
                if let (Ok(request), Ok(mut last)) = (Request::read(&body), last.lock()) {
                    *last = Some(Seen {
                        direction: request.context.direction,
                        source: request.context.source.to_owned(),
                        method: request.context.method.to_owned(),
                        credential: request.context.credential.0.to_owned(),
                        request_id: request.context.request_id.to_owned(),
                        items: request.items.len(),
                    });
                }
                answer(&mut stream, header.id, &body, now)
            }
            // Not answered.
            FrameKind::Rules => Ok(()),
            _ => return,
        };
        if answered.is_err() {
            return;
        }
    }
}

fn read_frame(stream: &mut UnixStream) -> io::Result<(FrameHeader, Vec<u8>)> {
    let mut header = [0; FRAME_HEADER];
    stream.read_exact(&mut header)?;
    let header = FrameHeader::parse(&header, MAX_FRAME).map_err(io::Error::other)?;
    let mut body = vec![0; header.body];
    stream.read_exact(&mut body)?;
    Ok((header, body))
}

fn frame(kind: FrameKind, id: u64, body: &[u8]) -> Vec<u8> {
    let header = FrameHeader { kind, id, body: body.len() }.to_bytes().expect("a frame within the limit");
    [&header[..], body].concat()
}

fn pong(stream: &mut UnixStream, id: u64, now: Behaviour) -> io::Result<()> {
    match now {
        Behaviour::Hangs => Ok(()),
        Behaviour::NotReady => stream.write_all(&frame(FrameKind::Pong, id, &[0])),
        _ => stream.write_all(&frame(FrameKind::Pong, id, &[1])),
    }
}

fn answer(stream: &mut UnixStream, id: u64, body: &[u8], now: Behaviour) -> io::Result<()> {
    let request = Request::read(body).map_err(io::Error::other)?;
    let closed = || Err(io::Error::other("closed on purpose"));
    let whole = frame(FrameKind::Answer, id, &results(&request, now));
    match now {
        Behaviour::Hangs => Ok(()),
        Behaviour::Closes => closed(),
        Behaviour::Slow(time) => {
            thread::sleep(time);
            stream.write_all(&whole)
        }
        Behaviour::CutsMidFrame => {
            stream.write_all(&whole[..whole.len() / 2])?;
            closed()
        }
        Behaviour::WrongId => stream.write_all(&frame(FrameKind::Answer, id ^ (1 << 40), &results(&request, now))),
        Behaviour::DuplicateId => stream.write_all(&[whole.clone(), whole].concat()),
        Behaviour::OversizedFrame => {
            let mut long = whole;
            long[..4].copy_from_slice(&u32::MAX.to_be_bytes());
            stream.write_all(&long)
        }
        Behaviour::Garbage => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        Behaviour::Demands(key) if request.context.credential.0 != key => {
            let refusal = RequestRefusal::UnknownCredential;
            stream.write_all(&frame(FrameKind::Answer, id, &refusal.to_body()))
        }
        Behaviour::RefusesRequests(refusal) => stream.write_all(&frame(FrameKind::Answer, id, &refusal.to_body())),
        _ => stream.write_all(&whole),
    }
}

fn results(request: &Request<'_>, now: Behaviour) -> Vec<u8> {
    let mut out = AnswerWriter::new(0);
    let mut items = request.items.iter();
    if now == Behaviour::TooFewResults {
        items.next();
    }
    if now == Behaviour::TooManyResults {
        out.kept();
    }
    for item in items {
        if let Behaviour::RefusesItems(refusal) = now {
            out.refused(refusal);
            continue;
        }
        match *item {
            Item::Seal { .. } | Item::SealDeterministic { .. } | Item::KeepOrSeal { .. }
                if now == Behaviour::KeepsEverything =>
            {
                out.kept();
            }
            Item::KeepOrSeal { value, .. } if TokenText::parse(value).is_ok() => out.kept(),
            Item::Seal { role, value_type, value }
            | Item::SealDeterministic { role, value_type, value }
            | Item::KeepOrSeal { role, value_type, value, .. } => out.token(|text| match now {
                Behaviour::TokenThatBreaksOut => text.extend_from_slice(b"e3v1.r.s.AA.\",\"x\":\""),
                Behaviour::WrongRole => {
                    let other = e3_wire::Role::parse("other-role").expect("a role");
                    token::write(other, value_type, &pad(value), text);
                }
                _ => token::write(role, value_type, &pad(value), text),
            }),
            Item::Open { roles, token } => match TokenText::parse(token).map(|t| (t, t.decode())) {
                Ok((text, Ok(binary))) if roles.contains(text.role) => {
                    out.value(text.value_type, text.role, &binary[1..]);
                }
                Ok((_, Ok(_))) => out.refused(Refusal::RoleNotAllowed),
                _ => out.refused(Refusal::NotAuthentic),
            },
            Item::Inspect { token } => match TokenText::parse(token) {
                Ok(TokenText { role, value_type, .. }) => {
                    out.inspection(&Inspection { role, value_type, suite: 1, kid: 7, time: 1_700_000_000 });
                }
                Err(_) => out.refused(Refusal::NotAuthentic),
            },
            // The same value, in a token that differs.
            Item::Rewrap { token } => match TokenText::parse(token).map(|t| (t, t.decode())) {
                Ok((text, Ok(mut binary))) => out.token(|out| {
                    binary[0] ^= 1;
                    token::write(text.role, text.value_type, &binary, out);
                }),
                _ => out.refused(Refusal::NotAuthentic),
            },
            Item::PublicKey { .. } => out.public_key(1, &[9; 32]),
        }
    }
    out.finish()
}
