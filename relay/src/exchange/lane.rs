//! The connections to one server that a worker thread's requests share, when it speaks HTTP/2.
//!
//! A request takes the first connection that has room. A connection carries few enough requests that none of them can hold its window, and never more than the
//! server takes; beyond that another one is opened, up to a bound, and beyond that requests are refused. While a connection is being opened, as many requests
//! as it may carry wait for it, so that a burst opens no more connections than it needs.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::oneshot;

use super::multiplexed::Sender;
use super::pool::PoolKey;
use super::tied::Tasks;
use crate::deadline::{Moment, Moments};
use crate::error::{Failure, Side};

/// Most requests that share a connection at once.
pub const STREAMS: usize = 32;

/// Most connections of a worker thread to one server.
const CONNECTIONS: usize = 64;

/// Responses that may be left before their end, and then a connection takes no more requests. What still comes for them weighs on the codec for good, and too
/// much of it ends a connection for everybody.
const MOST_LEFT: usize = 16;

/// One connection that requests share.
pub struct Connection {
    sender: Sender,
    tasks: Tasks,
    /// Most streams at once that the server takes, as it said last.
    limit: AtomicUsize,
    /// Requests that share it now.
    carries: AtomicUsize,
    /// Responses that were left before their end.
    left: AtomicUsize,
    keep: Duration,
    until: Moments,
    /// Which one of its lane it is, as far as it is in it.
    number: AtomicUsize,
    /// Dropped with it.
    _in_use: oneshot::Sender<Infallible>,
}

impl Connection {
    /// A connection that idles for `keep` at most, and what resolves when nobody has it any more. What the server takes is not known yet.
    #[must_use]
    pub fn new(sender: Sender, tasks: Tasks, keep: Duration) -> (Arc<Self>, oneshot::Receiver<Infallible>) {
        let (in_use, unused) = oneshot::channel();
        let connection = Arc::new(Self {
            sender,
            tasks,
            limit: AtomicUsize::new(0),
            carries: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
            keep,
            until: Moments::default(),
            number: AtomicUsize::new(0),
            _in_use: in_use,
        });
        (connection, unused)
    }

    /// The server takes as many streams at once.
    pub fn takes(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    fn has_room(&self) -> bool {
        self.carries.load(Ordering::Relaxed) < self.limit.load(Ordering::Relaxed).min(STREAMS)
    }

    fn is_spent(&self) -> bool {
        self.left.load(Ordering::Relaxed) >= MOST_LEFT
    }

    /// Whether it is of use to no request, neither one that is on it nor one to come.
    fn is_over(&self) -> bool {
        self.sender.is_closed() || self.is_spent() && self.carries.load(Ordering::Relaxed) == 0
    }
}

/// A request's share in a connection, until its response is over.
pub struct Share {
    connection: Arc<Connection>,
    ended: bool,
}

impl Share {
    /// One more request is on it.
    #[must_use]
    pub fn of(connection: &Arc<Connection>) -> Self {
        connection.carries.fetch_add(1, Ordering::Relaxed);
        Self { connection: Arc::clone(connection), ended: false }
    }

    /// The response came to its end.
    pub fn ended(&mut self) {
        self.ended = true;
    }

    /// What sends a request on it.
    #[must_use]
    pub fn sender(&self) -> Sender {
        self.connection.sender.clone()
    }

    /// What its tasks are started with.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.connection.tasks
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let connection = &self.connection;
        if !self.ended {
            connection.left.fetch_add(1, Ordering::Relaxed);
        }
        connection.carries.fetch_sub(1, Ordering::Relaxed);
        connection.until.set(Moment::after(connection.keep));
    }
}

/// All that one worker thread has to one server.
struct Lane {
    key: PoolKey,
    server: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connections: Vec<Arc<Connection>>,
    /// Connections that are dialled, or whose server has not said yet how many streams it takes.
    opening: usize,
    /// Requests that wait for one of these.
    waiting: Vec<oneshot::Sender<()>>,
    /// How many were opened so far.
    opened: usize,
    /// The server chose HTTP/1 the last time.
    http1: bool,
    until: Moments,
}

impl Lane {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A share in the first connection with room, of those that were opened after the first `after` ones.
    fn share(&mut self, after: usize) -> Option<Share> {
        self.connections.retain(|one| !one.is_over());
        let good =
            |one: &&Arc<Connection>| one.has_room() && !one.is_spent() && one.number.load(Ordering::Relaxed) > after;
        self.connections.iter().find(good).map(Share::of)
    }

    /// A share in any connection with room.
    fn share_any(&self) -> Option<Share> {
        self.connections.iter().find(|one| one.has_room()).map(Share::of)
    }
}

thread_local! {
    static LANES: RefCell<Vec<Arc<Lane>>> = const { RefCell::new(Vec::new()) };
}

fn find(key: PoolKey, server: SocketAddr) -> Option<Arc<Lane>> {
    LANES.with_borrow(|all| all.iter().find(|lane| lane.key == key && lane.server == server).cloned())
}

fn find_or_make(key: PoolKey, server: SocketAddr) -> Arc<Lane> {
    find(key, server).unwrap_or_else(|| {
        let lane = Arc::new(Lane { key, server, state: Mutex::default() });
        LANES.with_borrow_mut(|all| all.push(Arc::clone(&lane)));
        lane
    })
}

/// A share in a connection that has room, if there is one.
#[must_use]
pub fn share(key: PoolKey, server: SocketAddr) -> Option<Share> {
    find(key, server)?.state().share(0)
}

/// What a request without a connection is to do next.
pub enum Turn {
    /// Use this one.
    Share(Share),
    /// Open one.
    Open(Opening),
    /// Ask again when this resolves.
    Wait(oneshot::Receiver<()>),
}

/// A request that looks for a connection to a server.
pub struct Search {
    lane: Arc<Lane>,
    after: usize,
}

impl Search {
    /// Begins to look; a `fresh` connection is one that was not open yet at this moment.
    #[must_use]
    pub fn new(key: PoolKey, server: SocketAddr, fresh: bool) -> Self {
        let lane = find_or_make(key, server);
        let after = if fresh { lane.state().opened } else { 0 };
        Self { lane, after }
    }

    /// What to do next. What the server speaks is remembered for `keep`.
    ///
    /// # Errors
    /// There are as many connections as may be, and none has room.
    pub fn turn(&self, keep: Duration) -> Result<Turn, Failure> {
        let mut state = self.lane.state();
        state.until.set(Moment::after(keep));
        if let Some(share) = state.share(self.after) {
            return Ok(Turn::Share(share));
        }
        // Over HTTP/1 each request has its own, so there is nothing to wait for.
        if !state.http1 {
            state.waiting.retain(|one| !one.is_closed());
            // Whoever opens one takes the first place on it.
            if state.waiting.len() < state.opening * (STREAMS - 1) {
                let (wake, news) = oneshot::channel();
                state.waiting.push(wake);
                return Ok(Turn::Wait(news));
            }
            if state.connections.len() + state.opening >= CONNECTIONS {
                // Rather one that is older, or spent, than none.
                return state.share_any().map(Turn::Share).ok_or(Failure::Overloaded(Side::Request));
            }
        }
        state.opening += 1;
        Ok(Turn::Open(Opening(Arc::clone(&self.lane))))
    }
}

/// A connection that is being opened. Whoever waits for it looks again when this is dropped.
pub struct Opening(Arc<Lane>);

impl Opening {
    /// The server speaks HTTP/1, or HTTP/2.
    pub fn speaks(&self, http1: bool) {
        self.0.state().http1 = http1;
    }

    /// The server has said how many streams it takes: others may share the connection, if it is still used.
    pub fn settled(self, connection: &Weak<Connection>) {
        let Some(connection) = connection.upgrade() else { return };
        let mut state = self.0.state();
        state.opened += 1;
        connection.number.store(state.opened, Ordering::Relaxed);
        state.connections.push(connection);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.opening -= 1;
        // Each sender that is dropped wakes its request.
        state.waiting.clear();
    }
}

/// Lets go of connections that nobody has used for their time.
pub fn sweep() {
    LANES.with_borrow_mut(|all| {
        all.retain(|lane| {
            let mut state = lane.state();
            state.connections.retain(|one| {
                let kept = one.carries.load(Ordering::Relaxed) > 0 || !one.until.get().has_come();
                kept && !one.is_over()
            });
            state.opening > 0 || !state.connections.is_empty() || !state.until.get().has_come()
        });
    });
}
