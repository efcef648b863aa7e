//! Streams of records (NDJSON, event streams), up and down.
//!
//! Of a message whose first record is good the head goes on, and record after record follows as it is good. When one fails, what was sent before it stays
//! sent, it and everything after it is withheld, and the connection is cut: a stream of unknown length that just stops is seen to be incomplete.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use hyper::body::{Body, Frame};

use super::BoxError;
use super::arriving::Arriving;
use super::flow::{Exchange, Passed, count};
use super::headers;
use super::up::Driven;
use crate::admit::Conversation;
use crate::admit::conversation::BodyFailure;
use crate::answer;
use crate::body::room::Room;
use crate::body::{Opening, Outgoing, Records, Sealed, SealedRecords, Source, Work};
use crate::error::{Failure, Side};
use crate::log::Message;
use crate::metrics::NONE;
use crate::rules::media::RecordForm;
use crate::rules::plan::Plan;
use crate::state::SiteState;

/// A stream of records was cut, and why.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a stream of records was cut")]
pub struct Cut(pub Failure);

/// A body whose records are taken out of it. Its trailers are not: what they say of it may no longer hold.
struct Watched<B> {
    body: B,
    conversation: Arc<Conversation>,
    broken: Failure,
}

impl<B: Body<Data = Bytes> + Send + Unpin> Source for Watched<B> {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(_)) => return Poll::Ready(Some(Err(self.broken))),
                None => return Poll::Ready(None),
            };
            self.conversation.moves();
            if let Ok(bytes) = frame.into_data() {
                return Poll::Ready(Some(Ok(bytes)));
            }
        }
    }
}

/// What both directions do with the records of a stream.
struct Sending {
    records: Box<SealedRecords>,
    conversation: Arc<Conversation>,
    /// The failure of a deadline.
    late: Failure,
    cut: Option<Failure>,
}

impl Sending {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        if let Some(failure) = self.cut {
            return Poll::Ready(Some(Err(failure)));
        }
        let failure = match self.records.poll_bytes(cx) {
            Poll::Ready(Some(Ok(bytes))) => {
                self.conversation.moves();
                return Poll::Ready(Some(Ok(bytes)));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(Err(failure))) => failure,
            Poll::Pending if self.conversation.deadline.is_due() => self.late,
            Poll::Pending => return Poll::Pending,
        };
        // The codec throws away what it has not written when a body fails, and writes when a body has nothing for it: earlier records are to arrive.
        self.cut = Some(failure);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Records on their way up. With their end, the time for the response begins.
pub struct Rising {
    sending: Sending,
    response_time: Duration,
}

impl Rising {
    /// What one attempt sends.
    #[must_use]
    pub fn new(records: Box<SealedRecords>, conversation: &Arc<Conversation>, response_time: Duration) -> Self {
        conversation.set_streaming(true);
        conversation.moves();
        let conversation = Arc::clone(conversation);
        Self { sending: Sending { records, conversation, late: Failure::RequestTimeout, cut: None }, response_time }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let conversation = &self.sending.conversation;
        if conversation.is_stopped() {
            // The upstream has said all it has to say. The connection ends with its answer, or over HTTP/2 this stream, so nobody waits for the rest.
            return Poll::Pending;
        }
        match ready!(self.sending.poll_bytes(cx)) {
            Some(Ok(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Err(failure)) => {
                self.sending.conversation.body_failed(BodyFailure { failure, cut: true });
                Poll::Ready(Some(Err(Box::new(Cut(failure)))))
            }
            None => {
                let conversation = &self.sending.conversation;
                conversation.set_streaming(false);
                conversation.deadline.set(self.response_time);
                Poll::Ready(None)
            }
        }
    }
}

/// Records on their way down, and how their cut is told: the client has its status by then.
pub struct Falling {
    sending: Sending,
    site: Arc<SiteState>,
    request_id: HeaderValue,
    rule: Option<usize>,
    status: StatusCode,
}

impl Falling {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let told = self.sending.cut.is_some();
        let next = self.sending.poll_bytes(cx);
        if let (false, Some(failure)) = (told, self.sending.cut) {
            self.tell(&failure);
        }
        next.map(|next| next.map(|next| next.map(Frame::data).map_err(|failure| Cut(failure).into())))
    }

    fn tell(&self, failure: &Failure) {
        let code = answer::cause_of(failure).map_or(NONE, |cause| cause.code);
        self.site.metrics.cut(self.rule, code);
        Message {
            request_id: self.request_id.to_str().unwrap_or("-"),
            site: &self.site.site.name,
            rule: self.rule.and_then(|index| self.site.site.rules().get(index)).map(|rule| &*rule.name),
            status: self.status.as_u16(),
        }
        .cut(code, failure);
    }
}

impl Exchange<'_> {
    /// The request's records, of which the first is good.
    pub(super) async fn request_records(
        &self,
        head: &mut Parts,
        body: Arriving,
        plan: Arc<Plan>,
        form: RecordForm,
    ) -> Result<Sealed<Arriving>, Failure> {
        let conversation = self.shared.conversation;
        let limits = &self.site.site.limits;
        conversation.stream(limits.stream_idle, limits.stream_time);
        let source = Watched { body, conversation: Arc::clone(conversation), broken: Failure::ClientGone };
        let records = Records::new(Box::new(source), self.work(plan, form, head.method.as_str(), Side::Request));
        let begun = conversation.deadline.bound(records.begin(Opening::Record)).await;
        let sealed = begun.unwrap_or(Err(Failure::RequestTimeout))?;
        // Nobody knows now whether a later record is edited.
        headers::drop_integrity(&mut head.headers);
        head.headers.remove(header::TRAILER);
        Ok(sealed)
    }

    /// The response with its records, of which the first is good.
    pub(super) async fn response_records(
        &mut self,
        mut head: http::response::Parts,
        body: Driven,
        plan: Arc<Plan>,
        form: RecordForm,
        method: &Method,
    ) -> Result<Passed, Failure> {
        let conversation = self.shared.conversation;
        let limits = &self.site.site.limits;
        conversation.stream(limits.stream_idle, limits.stream_time);
        let source = Watched { body, conversation: Arc::clone(conversation), broken: Failure::UpstreamProtocol };
        let opens = plan.opens();
        let opening = if form == RecordForm::Events { Opening::Piece } else { Opening::Record };
        let records = Records::new(Box::new(source), self.work(plan, form, method.as_str(), Side::Response));
        let waited = self.clock();
        let begun = conversation.deadline.bound(records.begin::<Driven>(opening)).await;
        self.upstream_time += super::flow::since(waited);
        let sealed = begun.unwrap_or(Err(Failure::UpstreamTimeout))?;
        headers::drop_integrity(&mut head.headers);
        if opens {
            head.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        for gone in [header::TRAILER, header::CONTENT_LENGTH, header::ACCEPT_RANGES] {
            head.headers.remove(gone);
        }
        let mut records = match sealed.send() {
            Outgoing::Records(records) => records,
            Outgoing::None => return Ok(Passed::Whole(head, Bytes::new().into())),
            Outgoing::Whole(_) | Outgoing::Stream(_) => return Err(Failure::Internal),
        };
        if self.old_client {
            // Its answer would end with the connection, and a cut would look like an end: it gets all of it or nothing.
            let room = self.shared.state.room;
            let whole = conversation.deadline.bound(whole(&mut records, limits.body, room)).await;
            return Ok(Passed::Whole(head, whole.unwrap_or(Err(Failure::UpstreamTimeout))?.into()));
        }
        let falling = Falling {
            sending: Sending {
                records,
                conversation: Arc::clone(conversation),
                late: Failure::UpstreamTimeout,
                cut: None,
            },
            site: Arc::clone(self.site),
            request_id: self.id.clone(),
            rule: self.rule,
            status: head.status,
        };
        Ok(Passed::Records(head, Box::new(falling)))
    }

    fn work(&self, plan: Arc<Plan>, form: RecordForm, method: &str, side: Side) -> Work {
        let asked = self.asked(method, side);
        let state = Arc::clone(self.shared.state);
        Work {
            plan,
            form,
            limit: self.site.site.limits.body,
            room: state.room,
            engine: self.shared.state.engine.clone(),
            side,
            direction: asked.direction,
            request_id: asked.request_id.into(),
            destination: asked.destination.into(),
            source: asked.source.into(),
            method: asked.method.into(),
            note: Box::new(move |report| count(&state.roles, report)),
        }
    }
}

/// All records of a stream that ends, at most `limit` bytes.
async fn whole(records: &mut SealedRecords, limit: usize, room: Room) -> Result<Bytes, Failure> {
    let mut whole = BytesMut::new();
    let mut taken = room.begin();
    while let Some(bytes) = poll_fn(|cx| records.poll_bytes(cx)).await {
        whole.extend_from_slice(&bytes?);
        if whole.len() > limit {
            return Err(Failure::TooLarge(Side::Response));
        }
        taken.reach(whole.len()).map_err(|full| full.failure(Side::Response))?;
    }
    Ok(taken.keep(whole.freeze()))
}
