//! One connection with many requests in flight.
//!
//! A caller queues its frame and waits in its own slot; one driver task writes what is queued, many frames in one `writev`, and hands
//! each answer to the slot of its id. An id is never used again, and an answer to an id that nobody waits for closes the
//! connection, unless its caller is known to have given up: no answer ever reaches another request.

use std::collections::{HashSet, VecDeque};
use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use e3_wire::{Answer, FrameHeader, FrameKind, Mark, WireError};
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::LinkError;
use crate::client::Rules;
use crate::frames::FrameReader;
use crate::stream::Stream;

/// Frames gathered into one write.
const GATHER: usize = 32;

/// Calls in a row that may run out of time before the connection is given up.
const TIMEOUTS_MAX: u32 = 5;

/// The engine's answer to one call. Its bytes may be plaintext, so it has no `Debug`.
pub struct AnswerFrame(Bytes);

impl AnswerFrame {
    /// The answer, read.
    ///
    /// # Errors
    /// The bytes do not follow SPEC.md, "Answers".
    pub fn answer(&self) -> Result<Answer<'_>, WireError> {
        Answer::read(&self.0)
    }

    /// The answer, read, and the place of its audit record.
    ///
    /// # Errors
    /// The bytes do not follow SPEC.md, "Answers".
    pub fn marked(&self) -> Result<(Answer<'_>, Option<Mark>), WireError> {
        Answer::read_marked(&self.0)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        self.0
    }
}

/// What a caller waits for.
enum Slot {
    Waiting(Option<Waker>),
    Done(FrameKind, Bytes),
    Failed(LinkError),
}

#[derive(Default)]
struct State {
    next_id: u64,
    slots: foldhash::HashMap<u64, Slot>,
    /// Ids whose callers gave up; their late answers are dropped.
    abandoned: HashSet<u64>,
    /// Deadlines in the order of the calls.
    deadlines: VecDeque<(Instant, u64)>,
    queue: VecDeque<(Bytes, Bytes)>,
    /// How often the rules had been stated when this connection last said them.
    rules: u64,
    driver: Option<Waker>,
    closed: Option<LinkError>,
    draining: bool,
    /// When the session is to be left for a fresh one.
    expires: Option<Instant>,
}

/// A live connection, shared by its callers and its driver.
pub(crate) struct Connection {
    state: Mutex<State>,
    in_flight: Arc<AtomicUsize>,
    max_in_flight: usize,
    rules: Arc<Rules>,
    /// Calls in a row that ran out of time.
    timeouts: AtomicU32,
}

impl Connection {
    /// Starts the driver on this runtime. `reader` holds what was read of the stream already.
    pub(crate) fn start(
        stream: Stream,
        reader: FrameReader,
        (max_in_flight, in_flight): (usize, Arc<AtomicUsize>),
        life: Option<Duration>,
        rules: Arc<Rules>,
    ) -> Arc<Self> {
        let expires = life.map(|life| Instant::now() + life);
        let state = Mutex::new(State { expires, ..State::default() });
        let connection = Arc::new(Self { state, in_flight, max_in_flight, rules, timeouts: AtomicU32::new(0) });
        let driver = Driver {
            // When the runtime goes, the driver is dropped, and every caller learns it.
            connection: CloseOnDrop(Arc::clone(&connection)),
            stream,
            reader,
            sending: VecDeque::new(),
            sent: 0,
            timer: None,
        };
        tokio::spawn(driver.run());
        connection
    }

    // A panic while the lock is held cannot leave the state half-changed in a way that matters: the connection is closed then.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether new calls may use it.
    pub(crate) fn is_open(&self) -> bool {
        let mut state = self.lock();
        if !state.draining && state.expires.is_some_and(|at| at <= Instant::now()) {
            // What is in flight is still answered; then the driver ends.
            state.draining = true;
            if state.slots.is_empty()
                && let Some(driver) = state.driver.take()
            {
                driver.wake();
            }
        }
        state.closed.is_none() && !state.draining
    }

    /// Sends one frame and waits for the answer to it. Dropping the future gives the call up.
    pub(crate) async fn call(
        &self,
        kind: FrameKind,
        body: Bytes,
        deadline: Instant,
    ) -> Result<(FrameKind, AnswerFrame), LinkError> {
        let call = self.begin(kind, body, deadline)?;
        let answer = poll_fn(|cx| call.poll(cx)).await;
        match answer {
            Ok(_) => self.timeouts.store(0, Ordering::Relaxed),
            // A peer that lost the connection without a word answers nothing for ever: leave it, so that the next call dials.
            Err(LinkError::Timeout) if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS_MAX => {
                self.close(LinkError::Closed);
            }
            Err(_) => {}
        }
        answer.map(|(kind, body)| (kind, AnswerFrame(body)))
    }

    fn begin(&self, kind: FrameKind, body: Bytes, deadline: Instant) -> Result<Call<'_>, LinkError> {
        let mut state = self.lock();
        if let Some(error) = state.closed {
            return Err(error);
        }
        if state.draining {
            return Err(LinkError::Closed);
        }
        // Calls that were given up still occupy the engine.
        if state.slots.len() + state.abandoned.len() >= self.max_in_flight {
            return Err(LinkError::Overloaded);
        }
        let id = state.next_id;
        let header = FrameHeader { kind, id, body: body.len() }.to_bytes().map_err(|_| LinkError::TooLarge)?;
        state.next_id += 1;
        let times = self.rules.times();
        if state.rules != times && kind == FrameKind::Request {
            let hash = Bytes::copy_from_slice(&self.rules.hash());
            let rules = FrameHeader { kind: FrameKind::Rules, id: 0, body: hash.len() };
            let rules = rules.to_bytes().map_err(|_| LinkError::TooLarge)?;
            state.queue.push_back((Bytes::copy_from_slice(&rules), hash));
            state.rules = times;
        }
        state.slots.insert(id, Slot::Waiting(None));
        state.deadlines.push_back((deadline, id));
        state.queue.push_back((Bytes::copy_from_slice(&header), body));
        let driver = state.driver.take();
        drop(state);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(Call { connection: self, id })
    }

    fn close(&self, error: LinkError) {
        let mut state = self.lock();
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(error);
        state.queue.clear();
        let mut wakers: Vec<Waker> = state.driver.take().into_iter().collect();
        for slot in state.slots.values_mut() {
            if let Slot::Waiting(waker) = slot {
                wakers.extend(waker.take());
                *slot = Slot::Failed(error);
            }
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// One call that waits; dropping it gives the call up.
struct Call<'a> {
    connection: &'a Connection,
    id: u64,
}

impl Call<'_> {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<(FrameKind, Bytes), LinkError>> {
        let mut state = self.connection.lock();
        match state.slots.get_mut(&self.id) {
            Some(Slot::Waiting(waker)) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(slot) => match std::mem::replace(slot, Slot::Failed(LinkError::Closed)) {
                Slot::Done(kind, body) => Poll::Ready(Ok((kind, body))),
                // What it failed of stays: a call that ran out of time may still be answered.
                Slot::Failed(error) => {
                    *slot = Slot::Failed(error);
                    Poll::Ready(Err(error))
                }
                Slot::Waiting(_) => Poll::Pending,
            },
            None => Poll::Ready(Err(LinkError::Closed)),
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.connection.in_flight.fetch_sub(1, Ordering::Relaxed);
        let mut state = self.connection.lock();
        // Timed-out and waiting calls may still be answered; done and failed ones are over.
        match state.slots.remove(&self.id) {
            Some(Slot::Waiting(_) | Slot::Failed(LinkError::Timeout)) if state.closed.is_none() => {
                state.abandoned.insert(self.id);
            }
            _ => {}
        }
        if state.draining
            && state.slots.is_empty()
            && let Some(driver) = state.driver.take()
        {
            driver.wake();
        }
    }
}

/// Whether the peer ended the TLS session for a fault of ours: with TLS 1.3 a relay learns only here that its key is not pinned.
fn is_alert(error: &std::io::Error) -> bool {
    let error = error.get_ref().and_then(|e| e.downcast_ref::<tokio_rustls::rustls::Error>());
    matches!(error, Some(tokio_rustls::rustls::Error::AlertReceived(_)))
}

struct CloseOnDrop(Arc<Connection>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(LinkError::Closed);
    }
}

struct Driver {
    connection: CloseOnDrop,
    stream: Stream,
    reader: FrameReader,
    sending: VecDeque<Bytes>,
    /// Bytes of the first of `sending` that are out already.
    sent: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Driver {
    async fn run(mut self) {
        let error = poll_fn(|cx| self.poll(cx)).await;
        self.connection.0.close(error);
    }

    /// Ready when the connection is at its end, with the reason.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<LinkError> {
        // The waker goes in first: a caller that queues from here on wakes us again.
        {
            let mut state = self.connection.0.lock();
            if let Some(error) = state.closed {
                return Poll::Ready(error);
            }
            if state.draining && state.expires.is_some() && state.slots.is_empty() && state.queue.is_empty() {
                return Poll::Ready(LinkError::Closed);
            }
            state.driver = Some(cx.waker().clone());
        }
        if let Poll::Ready(error) = self.poll_write(cx) {
            return Poll::Ready(error);
        }
        if let Poll::Ready(error) = self.poll_read(cx) {
            return Poll::Ready(error);
        }
        self.poll_deadlines(cx);
        Poll::Pending
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<LinkError> {
        loop {
            {
                let mut state = self.connection.0.lock();
                for (header, body) in state.queue.drain(..) {
                    self.sending.push_back(header);
                    if !body.is_empty() {
                        self.sending.push_back(body);
                    }
                }
            }
            if self.sending.is_empty() {
                // A TLS session may hold back what it has encrypted.
                return match Pin::new(&mut self.stream).poll_flush(cx) {
                    Poll::Ready(Err(_)) => Poll::Ready(LinkError::Closed),
                    Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                };
            }
            let mut slices = [IoSlice::new(&[]); GATHER];
            let mut n = 0;
            for (slice, bytes) in slices.iter_mut().zip(&self.sending) {
                *slice = IoSlice::new(if n == 0 { &bytes[self.sent..] } else { bytes });
                n += 1;
            }
            match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..n]) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(LinkError::Closed),
                Poll::Ready(Ok(written)) => self.advance(written),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.sending.front() {
            let left = first.len() - self.sent;
            if written < left {
                self.sent += written;
                return;
            }
            written -= left;
            self.sent = 0;
            self.sending.pop_front();
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<LinkError> {
        loop {
            loop {
                match self.reader.buffered() {
                    Ok(Some((header, body))) => {
                        if let Err(error) = self.deliver(header, body) {
                            return Poll::Ready(error);
                        }
                    }
                    Ok(None) => break,
                    Err(_) => return Poll::Ready(LinkError::Protocol),
                }
            }
            match self.reader.poll_fill(cx, &mut self.stream) {
                Poll::Ready(Err(error)) if is_alert(&error) => return Poll::Ready(LinkError::Refused),
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(LinkError::Closed),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn deliver(&mut self, header: FrameHeader, body: Bytes) -> Result<(), LinkError> {
        let mut state = self.connection.0.lock();
        match header.kind {
            FrameKind::Answer | FrameKind::Pong | FrameKind::Document => {}
            FrameKind::GoAway if header.body == 0 => {
                state.draining = true;
                return Ok(());
            }
            _ => return Err(LinkError::Protocol),
        }
        if state.abandoned.remove(&header.id) {
            return Ok(());
        }
        match state.slots.get_mut(&header.id) {
            Some(slot) => match std::mem::replace(slot, Slot::Done(header.kind, body)) {
                Slot::Waiting(waker) => {
                    drop(state);
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                    Ok(())
                }
                // The caller gave up waiting, but did not look yet.
                failed @ Slot::Failed(LinkError::Timeout) => {
                    *slot = failed;
                    Ok(())
                }
                Slot::Done(..) | Slot::Failed(_) => Err(LinkError::Protocol),
            },
            None => Err(LinkError::Protocol),
        }
    }

    /// One timer for all calls: their deadlines come in nearly the order of the calls.
    fn poll_deadlines(&mut self, cx: &mut Context<'_>) {
        loop {
            let mut wakers = Vec::new();
            let next = {
                let mut state = self.connection.0.lock();
                let state = &mut *state;
                let now = Instant::now();
                while let Some((deadline, id)) = state.deadlines.front().copied() {
                    match state.slots.get_mut(&id) {
                        Some(Slot::Waiting(_)) if deadline > now => break,
                        Some(slot @ Slot::Waiting(_)) => {
                            if let Slot::Waiting(Some(waker)) =
                                std::mem::replace(slot, Slot::Failed(LinkError::Timeout))
                            {
                                wakers.push(waker);
                            }
                        }
                        _ => {}
                    }
                    state.deadlines.pop_front();
                }
                state.deadlines.front().map(|(deadline, _)| *deadline)
            };
            wakers.into_iter().for_each(Waker::wake);
            match (&mut self.timer, next) {
                (_, None) => return,
                // A timer that runs already is left alone: when it fires, the next deadline is looked at.
                (Some(timer), Some(_)) => {
                    if timer.as_mut().poll(cx).is_pending() {
                        return;
                    }
                    self.timer = None;
                }
                (timer @ None, Some(next)) => *timer = Some(Box::pin(sleep_until(next))),
            }
        }
    }
}
