//! One relay's connection: frames in, answers out, in whatever order they are ready.
//!
//! Small requests are answered on the connection's own task, and the answers of all frames that one read brought leave in one write. Large ones go
//! to a blocking thread. Answers that wait for their audit record stay here, withheld, until the record is durable or the deadline has passed.

use super::command::Commanded;
use super::engine::{Engine, LONGEST, Outcome, Place, deadline};
use super::inbox::{Inbox, Next, SMALL};
use super::link::Link;
use super::outbox::Outbox;
use crate::audit::{Finished, Opened, Recorded, Ticket};
use crate::session::{Challenge, Session};
use e3_wire::{AdminAnswer, AdminRefusal, FRAME_HEADER, FrameHeader, FrameKind, Request, RequestRefusal};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, watch};
use tokio::time::Sleep;
use zeroize::Zeroizing;

/// Requests of one connection that may wait for a worker or for the audit; further frames are not read.
const WAITING: usize = 1024;
/// Items that are done on the connection's own task.
const SMALL_ITEMS: usize = 128;
/// Time for a caller whose key is on no list to prove its image.
const PROVE: Duration = Duration::from_secs(10);
/// How long a draining connection stays quiet before it is closed.
const QUIET: Duration = Duration::from_millis(200);
/// How long and how much is read from a relay that broke the protocol, so that it can still read why it is cut off.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: u64 = 1024 * 1024;

type Room = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// News for the connection from other threads. At most one for each waiting request, so its channel is bounded by [`WAITING`].
enum News {
    Done { id: u64, outcome: Outcome, deadline: Instant },
    Commanded { id: u64, done: Commanded },
    Recorded(Result<Recorded, Ticket>),
}

/// An answer that waits for its record.
struct Held {
    id: u64,
    deadline: Instant,
    opened: Opened,
    _place: Place,
}

struct Connection {
    engine: Arc<Engine>,
    link: Link,
    /// Who is at the other end. Replaced when it proves more; requests keep the one that they arrived in.
    session: Arc<Session>,
    /// Only where there is a TLS session to prove something in.
    challenge: Option<Challenge>,
    inbox: Inbox,
    outbox: Outbox,
    news: UnboundedSender<News>,
    held: HashMap<Ticket, Held>,
    /// No held answer has an earlier deadline.
    earliest: Option<Instant>,
    working: usize,
    /// When the connection began.
    began: Instant,
    /// When what is in the inbox arrived.
    arrived: Instant,
    /// When the frame at the front of the inbox began, if it is not whole yet.
    partial: Option<Instant>,
    /// When something was last written, or last began to wait for it.
    moved: Instant,
    room: Option<(FrameHeader, Room)>,
    /// No further frames are read: the relay left, or broke the protocol.
    closing: bool,
    /// The relay broke the protocol.
    broken: bool,
    /// The relay was told to go away.
    draining: bool,
}

/// Serves one connection until it ends.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Send>(
    stream: S,
    engine: Arc<Engine>,
    link: Link,
    (session, challenge): (Session, Option<Challenge>),
    mut draining: watch::Receiver<bool>,
) {
    let (mut reader, mut writer) = tokio::io::split(Box::pin(stream));
    let (sender, mut receiver) = unbounded_channel();
    let mut it = Connection::new(engine, link, (session, challenge), sender);
    let timer = tokio::time::sleep(LONGEST);
    tokio::pin!(timer);
    let mut armed = Instant::now() + LONGEST;
    loop {
        it.take_frames();
        if !it.draining && *draining.borrow_and_update() {
            it.draining = true;
            it.send(FrameKind::GoAway, 0, Vec::new());
        }
        if it.closing && it.is_idle() {
            break;
        }
        let wake = it.next_wake();
        if wake < armed {
            armed = wake;
            timer.as_mut().reset(wake.into());
        }
        let may_read = it.may_read();
        let has_room = it.room.is_some();
        tokio::select! {
            biased;
            written = it.outbox.write(&mut writer), if !it.outbox.is_empty() => match written {
                Ok(()) => it.moved = Instant::now(),
                Err(_) => return,
            },
            Some(news) = receiver.recv() => it.hear(news, &mut receiver),
            room = wait_for_room(&mut it.room), if has_room => it.admit(room),
            read = it.inbox.read(&mut reader), if may_read => match read {
                Ok(0) => it.closing = true,
                Ok(_) => it.arrived = Instant::now(),
                Err(_) => return,
            },
            changed = draining.changed(), if !it.draining => {
                if changed.is_err() {
                    return;
                }
            }
            () = &mut timer => {
                if !it.on_time() {
                    break;
                }
                armed = rearm(timer.as_mut(), it.next_wake());
            }
        }
    }
    drop(writer.shutdown().await);
    if it.broken {
        // Closing with bytes unread would discard the answer that says why.
        let rest = async { drop(tokio::io::copy(&mut reader.take(LINGER_BYTES), &mut tokio::io::sink()).await) };
        drop(tokio::time::timeout(LINGER, rest).await);
    }
}

fn rearm(timer: Pin<&mut Sleep>, at: Instant) -> Instant {
    timer.reset(at.into());
    at
}

async fn wait_for_room(room: &mut Option<(FrameHeader, Room)>) -> Result<OwnedSemaphorePermit, AcquireError> {
    match room {
        Some((_, room)) => room.await,
        None => std::future::pending().await,
    }
}

impl Connection {
    fn new(
        engine: Arc<Engine>,
        link: Link,
        (session, challenge): (Session, Option<Challenge>),
        news: UnboundedSender<News>,
    ) -> Self {
        let now = Instant::now();
        Self {
            engine,
            link,
            session: Arc::new(session),
            challenge,
            inbox: Inbox::new(),
            outbox: Outbox::default(),
            news,
            held: HashMap::new(),
            earliest: None,
            working: 0,
            began: now,
            arrived: now,
            partial: None,
            moved: now,
            room: None,
            closing: false,
            broken: false,
            draining: false,
        }
    }

    /// Whether nothing is in flight and nothing is left to be written.
    fn is_idle(&self) -> bool {
        self.outbox.is_empty() && self.held.is_empty() && self.working == 0
    }

    /// Backpressure: a relay that does not take its answers, or has too much in flight, is not read from.
    fn takes_on(&self) -> bool {
        !self.closing && !self.outbox.is_high() && self.held.len() + self.working < WAITING
    }

    fn may_read(&self) -> bool {
        self.takes_on() && self.room.is_none()
    }

    fn send(&mut self, kind: FrameKind, id: u64, body: Vec<u8>) {
        if self.outbox.is_empty() {
            self.moved = Instant::now();
        }
        self.outbox.frame(kind, id, body);
    }

    fn refuse(&mut self, id: u64, refusal: RequestRefusal) {
        self.send(FrameKind::Answer, id, refusal.to_body());
    }

    /// The relay broke the protocol: nothing more is read, what is in flight is still answered.
    fn give_up(&mut self, id: u64) {
        self.refuse(id, RequestRefusal::Malformed);
        self.closing = true;
        self.broken = true;
    }

    /// Deals with every frame that has arrived.
    fn take_frames(&mut self) {
        while self.takes_on() && self.room.is_none() {
            match self.inbox.next(self.engine.limits().frame_bytes) {
                Next::Empty => {
                    self.partial = None;
                    return;
                }
                Next::Partial => {
                    self.partial.get_or_insert(self.arrived);
                    return;
                }
                Next::NeedsRoom(header) => {
                    // Waiting for room is the engine's time, not the relay's.
                    self.partial = None;
                    let kib = u32::try_from(header.body.div_ceil(1024)).unwrap_or(u32::MAX);
                    let room = Arc::clone(self.engine.held()).acquire_many_owned(kib);
                    self.room = Some((header, Box::pin(room)));
                    return;
                }
                Next::Bad(error, id) => {
                    tracing::warn!(%error, "a relay sent a frame that cannot be followed");
                    self.give_up(id);
                }
                Next::Small(header, range) => {
                    self.partial = None;
                    let end = range.end;
                    self.small(header, range);
                    self.inbox.consume(end);
                }
                Next::Large(header, body, room) => {
                    self.partial = None;
                    match (header.kind, self.session.admin()) {
                        (FrameKind::Request, None) if !self.session.is_unknown() => {
                            self.hand_over(header.id, body, Some(room))
                        }
                        (FrameKind::Admin, Some(_)) => self.command(header.id, body, Some(room)),
                        _ => self.give_up(header.id),
                    }
                }
            }
        }
    }

    fn small(&mut self, header: FrameHeader, range: std::ops::Range<usize>) {
        // A session is either a relay's or an administrator's, and neither asks what is the other's to ask.
        let either = matches!(header.kind, FrameKind::Attest | FrameKind::Challenge);
        let proves = either || matches!(header.kind, FrameKind::Ping | FrameKind::Prove);
        if self.session.is_unknown() && !proves {
            tracing::warn!(caller = self.session.name(), "a caller asked before it proved its image");
            return self.give_up(header.id);
        }
        if !either && (header.kind == FrameKind::Admin) != self.session.admin().is_some() {
            return self.give_up(header.id);
        }
        match header.kind {
            FrameKind::Ping if header.body == 0 => {
                self.send(FrameKind::Pong, header.id, vec![u8::from(!self.draining)])
            }
            FrameKind::Attest => {
                let document = self.link.answer(self.inbox.bytes(range), &self.engine).unwrap_or_default();
                self.send(FrameKind::Document, header.id, document);
            }
            FrameKind::Challenge if header.body == 0 => {
                match self.challenge.as_mut().and_then(|challenge| challenge.nonce(Instant::now())) {
                    Some(nonce) => self.send(FrameKind::Nonce, header.id, nonce.to_vec()),
                    None => self.give_up(header.id),
                }
            }
            FrameKind::Prove => self.prove(header.id, range),
            FrameKind::Rules => match self.inbox.bytes(range).try_into() {
                Ok(hash) => self.session = Arc::new(self.session.with_rules(hash)),
                Err(_) => self.give_up(header.id),
            },
            FrameKind::Admin => {
                let body = Zeroizing::new(self.inbox.bytes(range).to_vec());
                self.command(header.id, body, None);
            }
            FrameKind::Request => {
                let body = self.inbox.bytes(range);
                let Ok(request) = Request::read(body) else {
                    tracing::warn!("a relay sent a request that cannot be read");
                    return self.give_up(header.id);
                };
                if request.items.len() <= SMALL_ITEMS {
                    let deadline = deadline(self.arrived, request.timeout_ms);
                    match self.engine.process(&self.session, &request, deadline, false) {
                        Outcome::MustBlock => {}
                        outcome => return self.answer(header.id, outcome, deadline),
                    }
                }
                let body = Zeroizing::new(body.to_vec());
                self.hand_over(header.id, body, None);
            }
            _ => self.give_up(header.id),
        }
    }

    /// Takes the document with which a caller proves its image. One that is not believed ends the session.
    fn prove(&mut self, id: u64, document: std::ops::Range<usize>) {
        let Some(challenge) = &mut self.challenge else { return self.give_up(id) };
        match self.link.image(challenge, self.inbox.bytes(document)) {
            Ok(image) => {
                tracing::info!(caller = self.session.name(), module = image.module(), "a caller proved its image");
                self.session = Arc::new(self.session.with_image(image));
                self.send(FrameKind::Proven, id, vec![1]);
            }
            Err(cause) => {
                tracing::warn!(caller = self.session.name(), %cause, "a caller did not prove its image");
                self.send(FrameKind::Proven, id, vec![0]);
                self.closing = true;
                self.broken = true;
            }
        }
    }

    /// Lets a blocking thread do the request.
    fn hand_over(&mut self, id: u64, body: Zeroizing<Vec<u8>>, room: Option<OwnedSemaphorePermit>) {
        let Some(place) = self.engine.place() else { return self.refuse(id, RequestRefusal::Overloaded) };
        self.working += 1;
        let (engine, news, arrived) = (Arc::clone(&self.engine), self.news.clone(), self.arrived);
        let session = Arc::clone(&self.session);
        tokio::task::spawn_blocking(move || {
            let (outcome, deadline) = match Request::read(&body) {
                // Nobody waits for the answer when the connection is gone.
                Ok(_) if news.is_closed() => (Outcome::Refused(RequestRefusal::Deadline), arrived),
                Ok(request) => {
                    let deadline = deadline(arrived, request.timeout_ms);
                    (engine.process(&session, &request, deadline, true), deadline)
                }
                Err(_) => (Outcome::Refused(RequestRefusal::Malformed), arrived),
            };
            drop((body, room, place));
            drop(news.send(News::Done { id, outcome, deadline }));
        });
    }

    /// Lets a blocking thread do an administrator's command. The nonce is used up here, whatever comes of it.
    fn command(&mut self, id: u64, body: Zeroizing<Vec<u8>>, room: Option<OwnedSemaphorePermit>) {
        let Some(nonce) = self.challenge.as_mut().map(|challenge| challenge.redeem(Instant::now())) else {
            return self.give_up(id);
        };
        let Some(place) = self.engine.place() else {
            let busy = AdminAnswer::Refused(AdminRefusal::NotReady, 0);
            return self.send(FrameKind::Done, id, busy.write());
        };
        self.working += 1;
        let (engine, news, arrived) = (Arc::clone(&self.engine), self.news.clone(), self.arrived);
        let session = Arc::clone(&self.session);
        tokio::task::spawn_blocking(move || {
            let done = engine.command(&session, nonce, &body, arrived);
            drop((body, room, place));
            drop(news.send(News::Commanded { id, done }));
        });
    }

    fn commanded(&mut self, id: u64, done: Commanded) {
        match done {
            Commanded::Rewrapped(outcome, deadline) => self.answer(id, outcome, deadline),
            Commanded::Malformed => self.give_up(id),
            Commanded::Answer(body, end) => {
                self.send(FrameKind::Done, id, body);
                self.closing |= end;
                self.broken |= end;
            }
        }
    }

    fn answer(&mut self, id: u64, outcome: Outcome, deadline: Instant) {
        match outcome {
            Outcome::Answer(Finished::Free(body)) => self.send(FrameKind::Answer, id, body),
            Outcome::Answer(Finished::Held(record, opened)) => {
                let news = self.news.clone();
                let ticket = opened.ticket();
                let reply = Box::new(move |recorded| drop(news.send(News::Recorded(recorded))));
                let Some(place) = self.engine.place() else { return self.refuse(id, RequestRefusal::Overloaded) };
                if self.engine.audit().submit(record, reply).is_err() {
                    return self.refuse(id, RequestRefusal::AuditUnavailable);
                }
                self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
                self.held.insert(ticket, Held { id, deadline, opened, _place: place });
            }
            Outcome::Answer(Finished::Unrecordable) => self.refuse(id, RequestRefusal::AuditUnavailable),
            Outcome::Refused(RequestRefusal::Malformed) => self.give_up(id),
            Outcome::Refused(refusal) => self.refuse(id, refusal),
            Outcome::MustBlock => self.refuse(id, RequestRefusal::NotReady),
        }
    }

    /// Takes all news there is, so that their answers leave in one write.
    fn hear(&mut self, first: News, receiver: &mut UnboundedReceiver<News>) {
        let mut next = Some(first);
        while let Some(news) = next {
            match news {
                News::Done { id, outcome, deadline } => {
                    self.working -= 1;
                    self.answer(id, outcome, deadline);
                }
                News::Commanded { id, done } => {
                    self.working -= 1;
                    self.commanded(id, done);
                }
                News::Recorded(recorded) => self.recorded(recorded),
            }
            next = receiver.try_recv().ok();
        }
    }

    fn recorded(&mut self, recorded: Result<Recorded, Ticket>) {
        let ticket = recorded.as_ref().map_or_else(|t| *t, Recorded::ticket);
        // What is not held any more was refused when its deadline passed.
        let Some(held) = self.held.remove(&ticket) else { return };
        match recorded.map(|proof| held.opened.release(proof)) {
            Ok(Ok(mut body)) => self.send(FrameKind::Answer, held.id, std::mem::take(&mut *body)),
            Ok(Err(_)) | Err(_) => self.refuse(held.id, RequestRefusal::AuditUnavailable),
        }
    }

    fn admit(&mut self, room: Result<OwnedSemaphorePermit, AcquireError>) {
        if let (Some((header, _)), Ok(room)) = (self.room.take(), room) {
            self.inbox.admit(header, room);
            self.partial = Some(Instant::now());
        }
    }

    /// When something has to be looked at, at the latest.
    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let mut wake = now + LONGEST;
        if self.session.is_unknown() {
            wake = wake.min(self.began + PROVE);
        }
        let limits = self.engine.limits();
        if let Some(began) = self.partial {
            wake = wake.min(began + limits.frame);
        }
        if !self.outbox.is_empty() {
            wake = wake.min(self.moved + limits.write);
        }
        if self.draining && self.is_idle() {
            wake = wake.min(self.arrived.max(self.moved) + QUIET).max(now);
        }
        self.earliest.map_or(wake, |earliest| wake.min(earliest))
    }

    /// Looks at everything that has a time; answers whether the connection goes on.
    fn on_time(&mut self) -> bool {
        let now = Instant::now();
        let limits = *self.engine.limits();
        let late: Vec<Ticket> = self.held.iter().filter(|(_, h)| h.deadline <= now).map(|(t, _)| *t).collect();
        for ticket in late {
            if let Some(held) = self.held.remove(&ticket) {
                self.refuse(held.id, RequestRefusal::AuditUnavailable);
            }
        }
        self.earliest = self.held.values().map(|h| h.deadline).min();
        if self.session.is_unknown() && self.began + PROVE <= now {
            tracing::warn!(caller = self.session.name(), "a caller did not prove its image in time");
            return false;
        }
        if self.partial.is_some_and(|began| began + limits.frame <= now) {
            tracing::warn!("a relay began a frame and did not end it in time");
            return false;
        }
        if !self.outbox.is_empty() && self.moved + limits.write <= now {
            tracing::warn!("a relay did not take its answers in time");
            return false;
        }
        if self.is_idle() {
            self.inbox.rest();
            self.outbox.rest();
        }
        !(self.draining && self.is_idle() && self.arrived.max(self.moved) + QUIET <= now)
    }
}

const _: () = assert!(SMALL > FRAME_HEADER);
