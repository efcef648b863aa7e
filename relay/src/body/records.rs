//! Takes a stream of records in one by one, replaces every planned value of each, and only then lets it go on.
//!
//! A record that fails is withheld with everything after it, and the stream then has no end: whoever receives it sees that it is incomplete.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use e3_wire::{Context as Asked, Credential, Direction};
use json_span::ScanCause;

use super::pieces::{Piece, Pieces};
use super::room::{NoRoom, Room, Taken};
use super::sealed::{Replaced, Sealed};
use super::transform::{Report, edits_of_all};
use crate::engine::Engine;
use crate::error::{Failure, Side};
use crate::rules::media::RecordForm;
use crate::rules::plan::Plan;

/// Where the bytes of a stream come from.
pub trait Source: Send {
    /// The next bytes; `None` when the message ended as it should.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>>;
}

/// What is done to each record of a stream, and what the engine is told about it.
pub struct Work {
    /// What the rules say.
    pub plan: Arc<Plan>,
    /// How records stand in the stream.
    pub form: RecordForm,
    /// Most bytes of a record.
    pub limit: usize,
    /// The room that bodies share.
    pub room: Room,
    /// Seals and opens.
    pub engine: Engine,
    /// Which body of the exchange it is.
    pub side: Side,
    /// Which way it goes.
    pub direction: Direction,
    /// Id of the request.
    pub request_id: Box<str>,
    /// Where the message goes.
    pub destination: Box<str>,
    /// Who sent the request.
    pub source: Box<str>,
    /// Its method.
    pub method: Box<str>,
    /// Told what was done to each record.
    pub note: Box<dyn Fn(&Report) + Send + Sync>,
}

/// What has to be good before anything of a message leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// A record, and what stands before it.
    Record,
    /// A record, or what may stand between two of them: who waits for events learns from a comment that he is connected.
    Piece,
}

/// Most records that share an engine call, of those that are there together: enough to be rid of most of its cost.
const TOGETHER_MAX: usize = 64;

/// Most bytes of records that share an engine call, but for the first.
const TOGETHER_BYTES: usize = 64 * 1024;

/// A piece and its JSON text, if it has one.
type Read = (Piece, Option<Bytes>);

type Replacing = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What became of some pieces, in their order.
struct Outcome {
    good: VecDeque<Next>,
    /// Pieces of which the engine was not asked yet.
    left: VecDeque<Read>,
    /// What became of the piece after the good ones.
    failed: Option<Failure>,
}

/// A stream of records on its way through the engine.
pub struct Records {
    source: Box<dyn Source>,
    pieces: Pieces,
    /// Of everything that was read and has not left.
    taken: Taken,
    work: Arc<Work>,
    /// The records that the engine has.
    replacing: Option<Replacing>,
    good: VecDeque<Next>,
    /// What comes after them.
    left: VecDeque<Read>,
    /// What comes after those.
    broken: Option<Failure>,
    failed: Option<Failure>,
    ended: bool,
}

/// A part of the stream that may leave.
struct Next {
    replaced: Replaced,
    /// Whether it is a record, or something between two.
    record: bool,
    /// Bytes that it had when it came.
    bytes: usize,
}

impl Next {
    fn record(bytes: usize, replaced: Replaced) -> Self {
        Self { replaced, record: true, bytes }
    }

    /// Nothing is in it that could be selected: all of nothing is replaced.
    fn between(piece: Piece) -> Self {
        Self { bytes: piece.len(), replaced: Replaced::all(piece.into_bytes()), record: false }
    }

    /// With the room that it takes from here on, of that of the whole stream.
    fn leave(self, taken: &mut Taken) -> Result<Self, NoRoom> {
        let mut own = taken.part(self.bytes);
        own.reach(self.replaced.len())?;
        Ok(Self { replaced: self.replaced.within(own), ..self })
    }
}

impl Records {
    /// A stream of which nothing was read yet.
    #[must_use]
    pub fn new(source: Box<dyn Source>, work: Work) -> Self {
        let pieces = Pieces::new(work.form, work.limit);
        Self {
            source,
            pieces,
            taken: work.room.begin(),
            work: Arc::new(work),
            replacing: None,
            good: VecDeque::new(),
            left: VecDeque::new(),
            broken: None,
            failed: None,
            ended: false,
        }
    }

    /// Waits until so much of the stream is good that it may begin. The caller bounds the time.
    ///
    /// # Errors
    /// Anything that keeps a planned value of the first record from being replaced; nothing of the message may be sent then.
    pub async fn begin<S>(mut self, opening: Opening) -> Result<Sealed<S>, Failure> {
        let mut good = VecDeque::new();
        let mut bytes = 0;
        while let Some(next) = poll_fn(|cx| self.poll_piece(cx)).await {
            let Next { replaced, record, bytes: more } = next?;
            good.push_back(replaced);
            bytes += more;
            if record || opening == Opening::Piece {
                return Ok(Sealed::records(good, self));
            }
            if bytes > self.work.limit {
                return Err(Failure::TooLarge(self.work.side));
            }
        }
        Ok(if good.is_empty() { Sealed::none() } else { Sealed::records(good, self) })
    }

    /// The next part of the stream that may leave; `None` at its end. After a failure there is nothing but that failure.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Replaced, Failure>>> {
        self.poll_piece(cx).map(|next| next.map(|next| next.map(|next| next.replaced)))
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Next, Failure>>> {
        if let Some(failure) = self.failed {
            return Poll::Ready(Some(Err(failure)));
        }
        let next = ready!(self.poll_good(cx));
        if let Err(failure) = &next {
            self.failed = Some(*failure);
        }
        Poll::Ready(next.transpose())
    }

    fn poll_good(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Next>, Failure>> {
        loop {
            if let Some(good) = self.good.pop_front() {
                let left = good.leave(&mut self.taken).map_err(|full| full.failure(self.work.side));
                return Poll::Ready(left.map(Some));
            }
            if let Some(replacing) = &mut self.replacing {
                let Outcome { good, left, failed } = ready!(replacing.as_mut().poll(cx));
                self.replacing = None;
                (self.good, self.left) = (good, left);
                // It comes before what else may be wrong further on.
                self.broken = failed.or(self.broken);
                continue;
            }
            if self.left.is_empty() {
                if let Some(failure) = self.broken {
                    return Poll::Ready(Err(failure));
                }
                self.gather();
            }
            match self.left.front() {
                Some((_, Some(_))) => {
                    let batch = std::mem::take(&mut self.left);
                    self.replacing = Some(Box::pin(replace(Arc::clone(&self.work), batch)));
                }
                Some((_, None)) => self.good.extend(self.left.pop_front().map(|(piece, _)| Next::between(piece))),
                None if self.broken.is_some() => {}
                None if self.ended => return Poll::Ready(Ok(None)),
                None => match ready!(self.source.poll_bytes(cx)) {
                    Some(bytes) => {
                        let bytes = bytes?;
                        self.taken.more(bytes.len()).map_err(|full| full.failure(self.work.side))?;
                        self.pieces.push(&bytes);
                    }
                    None => {
                        self.ended = true;
                        self.pieces.end();
                    }
                },
            }
        }
    }

    /// Takes whole pieces that are there together.
    fn gather(&mut self) {
        let Work { plan, form, side, .. } = &*self.work;
        let mut bytes = 0;
        while self.left.len() < TOGETHER_MAX && bytes < TOGETHER_BYTES {
            let read = match self.pieces.next() {
                Ok(Some(piece)) => text_of(&piece, plan, *form, *side).map(|text| (piece, text)),
                Ok(None) => return,
                Err(_) => Err(Failure::TooLarge(*side)),
            };
            match read {
                Ok((piece, text)) => {
                    bytes += piece.len();
                    self.left.push_back((piece, text));
                }
                Err(failure) => {
                    self.broken = Some(failure);
                    return;
                }
            }
        }
    }
}

/// The JSON text of a piece, if it has one.
///
/// # Errors
/// Whether the piece has one depends on who reads it, and it may not pass unread.
pub(crate) fn text_of(piece: &Piece, plan: &Plan, form: RecordForm, side: Side) -> Result<Option<Bytes>, Failure> {
    match piece.odd() {
        Some(offset) if !may_pass_unread(plan, form, side) => {
            Err(Failure::Json { side, offset, cause: ScanCause::UnexpectedByte })
        }
        _ => Ok(piece.text()),
    }
}

/// Whether an event whose data is no JSON may go on as it is. Event streams do not say what their data is, so each event is what a body's media type is
/// elsewhere: one that is not read may pass where nothing is to be sealed, for its tokens stay tokens.
pub(crate) fn may_pass_unread(plan: &Plan, form: RecordForm, side: Side) -> bool {
    form == RecordForm::Events && side == Side::Response && !plan.seals() && !plan.has_required()
}

impl Work {
    fn asked(&self) -> Asked<'_> {
        Asked {
            request_id: &self.request_id,
            direction: self.direction,
            destination: &self.destination,
            source: &self.source,
            method: &self.method,
            credential: Credential::default(),
        }
    }
}

async fn replace(work: Arc<Work>, mut left: VecDeque<Read>) -> Outcome {
    let texts: Vec<Bytes> = left.iter().filter_map(|(_, text)| text.clone()).collect();
    let (edited, mut failed) = edits_of_all(&work.plan, &texts, &work.engine, &work.asked(), work.side).await;
    let mut edited = edited.into_iter();
    let mut good = VecDeque::with_capacity(left.len());
    while let Some((piece, text)) = left.pop_front() {
        if text.is_none() {
            good.push_back(Next::between(piece));
            continue;
        }
        let Some((edits, report)) = edited.next() else {
            // The first piece of which the engine was not asked.
            match failed {
                None => left.push_front((piece, text)),
                Some(Failure::Json { .. }) if may_pass_unread(&work.plan, work.form, work.side) => {
                    good.push_back(Next::record(piece.len(), Replaced::all(piece.into_bytes())));
                    failed = None;
                }
                Some(Failure::Json { side, offset, cause }) => {
                    failed = Some(Failure::Json { side, offset: piece.place(offset), cause });
                }
                Some(_) => {}
            }
            break;
        };
        let bytes = piece.len();
        let replaced = if edits.is_empty() {
            Replaced::all(piece.into_bytes())
        } else {
            match piece.weave(&edits.replacements()) {
                Ok(woven) => Replaced::all(Bytes::from(woven)),
                Err(_) => {
                    failed = Some(Failure::Internal);
                    break;
                }
            }
        };
        (work.note)(&report);
        good.push_back(Next::record(bytes, replaced));
    }
    if failed.is_some() {
        left.clear();
    }
    Outcome { good, left, failed }
}
