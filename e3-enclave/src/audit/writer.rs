//! The thread that writes records, many at a time: while one group is being synced, the next one gathers.

use super::host::HostSink;
use super::record::Record;
use super::sink::{FileSink, Sink};
use super::{Recorded, Ticket};
use crate::error::Error;
use e3_link::Endpoint;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Records that wait for the sink, at most; and their bytes.
const QUEUE: usize = 8192;
const QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes written between two syncs, about.
const GROUP_BYTES: usize = 1024 * 1024;

/// Takes the proof, or the ticket of a record that the sink did not take.
pub type Reply = Box<dyn FnOnce(Result<Recorded, Ticket>) + Send>;

/// The record was not even queued: the sink is too far behind, or gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit queue is full")]
pub struct Refused;

/// The way to the sink. Never blocks.
#[derive(Clone)]
pub struct Audit {
    queue: SyncSender<Job>,
    bytes: Arc<AtomicUsize>,
}

struct Job {
    record: Record,
    reply: Reply,
}

impl Audit {
    /// Opens the sink and starts its thread. A pipe without a reader is no error: nothing is answered until it has one.
    ///
    /// `unsynced` lets pipes and devices be sinks, which is for development.
    ///
    /// # Errors
    /// The sink cannot be opened, or the thread not started.
    pub fn start(path: PathBuf, unsynced: bool) -> Result<Self, Error> {
        let mut sink = FileSink::new(path, unsynced);
        if let Err(source) = sink.ensure_open() {
            if source.raw_os_error() != Some(rustix::io::Errno::NXIO.raw_os_error()) {
                return Err(Error::Audit { path: PathBuf::from(sink.name()), source });
            }
            tracing::warn!("nobody reads the audit pipe; no token is opened until somebody does");
        }
        Self::write_to(Box::new(sink))
    }

    /// Starts the thread of a sink at the host's audit service. A host that does not answer is no error: nothing is opened until it does.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start_at_host(endpoint: Endpoint, timeout: Duration) -> Result<Self, Error> {
        Self::write_to(Box::new(HostSink::new(endpoint, timeout).map_err(Error::Runtime)?))
    }

    fn write_to(mut sink: Box<dyn Sink>) -> Result<Self, Error> {
        let (queue, jobs) = sync_channel(QUEUE);
        let bytes = Arc::new(AtomicUsize::new(0));
        let waiting = Arc::clone(&bytes);
        std::thread::Builder::new()
            .name("e3-audit".to_owned())
            .spawn(move || write(sink.as_mut(), &jobs, &waiting))
            .map_err(Error::Runtime)?;
        Ok(Self { queue, bytes })
    }

    /// Waits until a record is durable; `None` when it is not taken in time. Not for threads that serve requests.
    #[must_use]
    pub fn record(&self, record: Record, patience: Duration) -> Option<Recorded> {
        let (sender, receiver) = sync_channel(1);
        self.submit(record, Box::new(move |recorded| drop(sender.send(recorded)))).ok()?;
        receiver.recv_timeout(patience).ok()?.ok()
    }

    /// Queues a record; `reply` is called from the writer's thread, and never when nobody waits any more.
    ///
    /// # Errors
    /// The queue is full.
    pub fn submit(&self, record: Record, reply: Reply) -> Result<(), Refused> {
        let len = record.line.len();
        if self.bytes.fetch_add(len, Ordering::Relaxed) + len > QUEUE_BYTES {
            self.bytes.fetch_sub(len, Ordering::Relaxed);
            return Err(Refused);
        }
        self.queue.try_send(Job { record, reply }).map_err(|_| {
            self.bytes.fetch_sub(len, Ordering::Relaxed);
            Refused
        })
    }
}

fn write(sink: &mut dyn Sink, jobs: &Receiver<Job>, waiting: &AtomicUsize) {
    let mut failing = false;
    let mut lines = Vec::new();
    let mut group = Vec::new();
    while let Ok(first) = jobs.recv() {
        let now = Instant::now();
        let mut next = Some(first);
        while let Some(job) = next {
            waiting.fetch_sub(job.record.line.len(), Ordering::Relaxed);
            // The answer of a record that comes too late was refused; a record would tell of an opening that was not.
            if job.record.deadline > now {
                lines.extend_from_slice(&job.record.line);
                group.push((job.record.ticket, job.reply));
            }
            next = if lines.len() < GROUP_BYTES { jobs.try_recv().ok() } else { None };
        }
        if group.is_empty() {
            continue;
        }
        let taken = sink.commit(&lines);
        lines.clear();
        match (&taken, failing) {
            (Err(e), false) => {
                tracing::error!(sink = sink.name(), error = %e, "the audit sink takes no records; no token is opened");
            }
            (Ok(()), true) => tracing::info!("the audit sink takes records again"),
            _ => {}
        }
        failing = taken.is_err();
        for (ticket, reply) in group.drain(..) {
            reply(if failing { Err(ticket) } else { Ok(Recorded { ticket }) });
        }
    }
}
