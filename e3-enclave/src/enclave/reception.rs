//! What an administrator can have done while there is no keyring: *init*, once (SPEC.md, "Admin sessions").

use crate::admin::{AdminPermit, Decided, Signed, verb_name};
use crate::audit::{Audit, Record};
use crate::keyring::{HostRoots, Live};
use crate::serve::command::{AUDIT, Refused, refused};
use crate::serve::link::NONCE as ATTEST;
use crate::session::{Challenge, Session, Unproven};
use e3_attest::{EXPORTER_LABEL, State};
use e3_link::attested::engine::{EngineTls, Peer};
use e3_link::{FrameReader, Stream};
use e3_wire::{
    AdminAnswer, AdminRefusal, AdminVerb, Command, Done, FrameHeader, FrameKind, KeyringNow, NONCE, RequestRefusal,
};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

/// Most bytes of a frame: commands here are small.
const FRAME: usize = 16 * 1024;

/// Time for one frame of the administrator's.
const PATIENCE: Duration = Duration::from_secs(60);

/// Serves administrators until there is a keyring.
pub struct Reception {
    tls: Arc<EngineTls>,
    audit: Audit,
    roots: Arc<HostRoots>,
    made: SyncSender<Live>,
    /// One at a time.
    commands: Mutex<()>,
}

impl Reception {
    /// A reception that hands over the keyring that it makes.
    #[must_use]
    pub fn new(tls: Arc<EngineTls>, audit: Audit, roots: Arc<HostRoots>, made: SyncSender<Live>) -> Self {
        Self { tls, audit, roots, made, commands: Mutex::default() }
    }

    /// Serves one session, until its administrator leaves, breaks the protocol, or the keyring is there.
    pub async fn serve(self: Arc<Self>, mut stream: Stream, peer: Peer) {
        let session = Arc::new(Session::of(&peer));
        let Some(exporter) = stream.exporter(EXPORTER_LABEL) else { return };
        let mut challenge = Challenge::new(exporter);
        let mut reader = FrameReader::new(FRAME);
        while let Ok(Ok((header, body))) = tokio::time::timeout(PATIENCE, reader.next(&mut stream)).await {
            let (kind, answer, end) = match header.kind {
                FrameKind::Challenge if body.is_empty() => match challenge.nonce(Instant::now()) {
                    Some(nonce) => (FrameKind::Nonce, nonce.to_vec(), None),
                    None => malformed(),
                },
                FrameKind::Attest if ATTEST.contains(&body.len()) => {
                    let document = self.tls.answer(&body, State::default()).unwrap_or_default();
                    (FrameKind::Document, document, None)
                }
                FrameKind::Admin => {
                    let nonce = challenge.redeem(Instant::now());
                    let (reception, session) = (Arc::clone(&self), Arc::clone(&session));
                    let done = tokio::task::spawn_blocking(move || reception.command(&session, nonce, &body)).await;
                    match done {
                        Ok(Commanded::Answer(answer, end)) => (FrameKind::Done, answer.write(), end),
                        Ok(Commanded::Malformed) | Err(_) => malformed(),
                    }
                }
                _ => malformed(),
            };
            let sent = send(&mut stream, kind, header.id, &answer).await;
            match end {
                // Handed over only now: whoever takes it closes this door.
                Some(End::Made(live)) => {
                    drop(self.made.send(*live));
                    return;
                }
                Some(End::Refused) => return,
                None if sent.is_err() => return,
                None => {}
            }
        }
    }

    fn command(&self, session: &Session, nonce: Result<[u8; NONCE], Unproven>, body: &[u8]) -> Commanded {
        let deadline = Instant::now() + AUDIT;
        let signed = match Signed::verify(session, nonce, body) {
            Ok(signed) => signed,
            Err(cause) => {
                tracing::warn!(admin = session.name(), %cause, "a command is not its administrator's");
                let Some(refusal) = cause.refusal() else { return Commanded::Malformed };
                self.tell(Record::of_unbelieved_command(session, &Decided::Denied(refusal), deadline));
                return Commanded::Answer(AdminAnswer::Refused(refusal, 0), Some(End::Refused));
            }
        };
        let _one = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(refusal) = self.fits(signed.command()) {
            self.tell(Record::of_command(session, signed.command(), &Decided::Denied(refusal), deadline));
            return Commanded::Answer(AdminAnswer::Refused(refusal, 0), None);
        }
        let Some((command, permit)) = self.permit(session, signed, deadline) else {
            return Commanded::Answer(AdminAnswer::Refused(AdminRefusal::AuditUnavailable, 0), None);
        };
        let (decided, done) = match self.roots.init(&permit) {
            Ok(live) => {
                let now = live.current().now();
                tracing::info!(admin = session.name(), verb = verb_name(&command.verb), "a command was done");
                (Decided::Done(now.epoch), Ok((now, live)))
            }
            Err(error) => {
                let Refused(refusal, detail) = refused(&error);
                (Decided::Failed(refusal), Err((refusal, detail)))
            }
        };
        self.tell(Record::of_command(session, &command, &decided, Instant::now() + AUDIT));
        match done {
            Ok((now, live)) => Commanded::Answer(AdminAnswer::Done(now, Done::Plain), Some(End::Made(Box::new(live)))),
            Err((refusal, detail)) => Commanded::Answer(AdminAnswer::Refused(refusal, detail), None),
        }
    }

    /// Whether the command makes this image's keyring, and says that it knows that there is none.
    fn fits(&self, command: &Command<'_>) -> Result<(), AdminRefusal> {
        let AdminVerb::Init { key } = command.verb else { return Err(AdminRefusal::NotReady) };
        let none = KeyringNow::default();
        if (command.keyring, command.epoch) != (none.id, none.epoch) {
            return Err(AdminRefusal::OtherKeyring);
        }
        if key == self.roots.key() { Ok(()) } else { Err(AdminRefusal::OtherKey) }
    }

    fn permit<'a>(
        &self,
        session: &Session,
        mut signed: Signed<'a>,
        deadline: Instant,
    ) -> Option<(Command<'a>, AdminPermit)> {
        let proof = self.audit.record(signed.record(session, deadline)?, AUDIT)?;
        signed.permit(&proof).ok()
    }

    fn tell(&self, record: Option<Record>) {
        if record.and_then(|record| self.audit.record(record, AUDIT)).is_none() {
            tracing::error!("the audit did not take the record of what became of a command");
        }
    }
}

enum Commanded {
    Answer(AdminAnswer, Option<End>),
    Malformed,
}

/// Why a session ends.
enum End {
    Made(Box<Live>),
    Refused,
}

fn malformed() -> (FrameKind, Vec<u8>, Option<End>) {
    (FrameKind::Answer, RequestRefusal::Malformed.to_body(), Some(End::Refused))
}

async fn send(stream: &mut Stream, kind: FrameKind, id: u64, body: &[u8]) -> std::io::Result<()> {
    let header = FrameHeader { kind, id, body: body.len() }.to_bytes().map_err(std::io::Error::other)?;
    stream.write_all(&header).await?;
    stream.write_all(body).await?;
    stream.flush().await
}
