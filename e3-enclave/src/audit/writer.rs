//! The thread that writes records, many at a time: while one group is being synced, the next one gathers.
//!
//! Every sink takes every line, in the same order. What a sink may have taken in part, or what others have taken, it is offered again before anything else, and until it has
//! taken it nothing is answered: so all sinks hold the same chain. What no sink has was never written: the chain goes back to where it was.

use super::chain::Chain;
use super::host::HostSink;
use super::record::Record;
use super::sink::{Opened, Sink};
use super::{Recorded, Ticket};
use crate::error::Error;
use crate::keyring::AuditKey;
use arc_swap::ArcSwapOption;
use e3_link::Endpoint;
use e3_wire::Mark;
use std::io;
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
    key: Arc<ArcSwapOption<AuditKey>>,
}

struct Job {
    record: Record,
    reply: Reply,
}

impl Audit {
    /// Opens the sinks and starts their thread. A pipe without a reader is no error: nothing is answered until it has one.
    ///
    /// # Errors
    /// A sink cannot be opened, or the thread not started.
    pub fn start(sinks: Vec<Box<dyn Sink>>) -> Result<Self, Error> {
        let mut slots = Vec::new();
        let mut before = None;
        for mut sink in sinks {
            match sink.ensure_open() {
                Ok(Opened::Continued(head)) => before = before.or(head),
                Ok(_) => {}
                Err(source) if source.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                    tracing::warn!("nobody reads the audit pipe; no token is opened until somebody does");
                }
                Err(source) => return Err(Error::Audit { path: PathBuf::from(sink.name()), source }),
            }
            slots.push(Slot { sink, behind: Vec::new() });
        }
        Self::write_to(slots, before)
    }

    /// Starts the thread of a sink at the host's audit service. A host that does not answer is no error: nothing is opened until it does.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start_at_host(endpoint: Endpoint, timeout: Duration) -> Result<Self, Error> {
        let sink = Box::new(HostSink::new(endpoint, timeout).map_err(Error::Runtime)?);
        Self::write_to(vec![Slot { sink, behind: Vec::new() }], None)
    }

    /// `before` is the head of the chain that the sinks hold already.
    fn write_to(slots: Vec<Slot>, before: Option<[u8; 32]>) -> Result<Self, Error> {
        let (queue, jobs) = sync_channel(QUEUE);
        let (bytes, key) = (Arc::new(AtomicUsize::new(0)), Arc::new(ArcSwapOption::empty()));
        let chain = Chain::begin().ok_or(Error::Entropy)?;
        let mut writer = Writer { slots, chain, before, begun: false, key: Arc::clone(&key), failing: false };
        let waiting = Arc::clone(&bytes);
        std::thread::Builder::new()
            .name("e3-audit".to_owned())
            .spawn(move || writer.run(&jobs, &waiting))
            .map_err(Error::Runtime)?;
        Ok(Self { queue, bytes, key })
    }

    /// From now on groups of records are signed with this key.
    pub fn sign_with(&self, key: Option<Arc<AuditKey>>) {
        self.key.store(key);
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

/// A sink, and what it has not taken yet.
struct Slot {
    sink: Box<dyn Sink>,
    behind: Vec<u8>,
}

impl Slot {
    /// Offers what the sink has not taken. Its file may have begun meanwhile; nothing new is written there before.
    fn catch_up(&mut self) -> io::Result<()> {
        if !self.behind.is_empty() {
            self.sink.commit(&self.behind)?;
            self.behind = Vec::new();
        }
        Ok(())
    }
}

struct Writer {
    slots: Vec<Slot>,
    chain: Chain,
    /// The head that the sinks held before this run.
    before: Option<[u8; 32]>,
    /// Whether a file was begun of which the chain says nothing yet.
    begun: bool,
    key: Arc<ArcSwapOption<AuditKey>>,
    failing: bool,
}

impl Writer {
    fn run(&mut self, jobs: &Receiver<Job>, waiting: &AtomicUsize) {
        let mut group = Vec::new();
        while let Ok(first) = jobs.recv() {
            let now = Instant::now();
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(job) = next {
                let len = job.record.line.len();
                waiting.fetch_sub(len, Ordering::Relaxed);
                // The answer of a record that comes too late was refused; a record would tell of an opening that was not.
                if job.record.deadline > now {
                    bytes += len;
                    group.push(job);
                }
                next = if bytes < GROUP_BYTES { jobs.try_recv().ok() } else { None };
            }
            if group.is_empty() {
                continue;
            }
            let marks = self.commit(&group);
            for (at, job) in group.drain(..).enumerate() {
                let ticket = job.record.ticket;
                let mark = marks.as_ref().and_then(|marks| marks.get(at));
                (job.reply)(mark.map(|mark| Recorded { ticket, mark: *mark }).ok_or(ticket));
            }
        }
    }

    /// Where each record is, once all sinks hold all of them.
    fn commit(&mut self, group: &[Job]) -> Option<Vec<Mark>> {
        let mut failed = None;
        for slot in &mut self.slots {
            let opened = slot.sink.ensure_open().and_then(|opened| slot.catch_up().map(|()| opened));
            match opened {
                Ok(Opened::Begun) => self.begun = true,
                Ok(Opened::Continued(head)) => self.before = self.before.or(head),
                Ok(Opened::Same) => {}
                Err(error) => failed = Some((slot.sink.name(), error)),
            }
        }
        // Nothing new enters the chain while a sink is behind: what it lacks stays one group.
        if failed.is_some() {
            self.tell(failed);
            return None;
        }
        let before = self.chain.last();
        let mut lines = Vec::new();
        if self.chain.is_new() {
            self.chain.boot(self.before, &mut lines)?;
        } else if self.begun {
            self.chain.file(&mut lines)?;
        }

        let marks = group.iter().map(|job| self.chain.place(&job.record.line, &mut lines)).collect();
        if let Some(key) = &*self.key.load() {
            self.chain.sign(key, &mut lines);
        }
        let mut anywhere = false;
        for slot in &mut self.slots {
            let taken = slot.sink.commit(&lines);
            if let Err(error) = taken {
                failed = Some((slot.sink.name(), error));
                if !anywhere && slot.sink.fails_clean() {
                    break;
                }
                slot.behind.clone_from(&lines);
            }
            anywhere = true;
        }
        if anywhere {
            self.begun = false;
        } else {
            self.chain.go_back(before);
        }
        let taken = failed.is_none();
        self.tell(failed);
        taken.then_some(marks)
    }

    fn tell(&mut self, failed: Option<(String, io::Error)>) {
        match (&failed, self.failing) {
            (Some((sink, error)), false) => {
                tracing::error!(sink, %error, "the audit sink takes no records; no token is opened");
            }
            (None, true) => tracing::info!("the audit sink takes records again"),
            _ => {}
        }
        self.failing = failed.is_some();
    }
}
