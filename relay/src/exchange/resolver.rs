//! Looks names up that clients chose, off the worker threads and few at a time.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use tokio::sync::Semaphore;

/// Look-ups of the system that run at once: each holds a thread for as long as the name's servers are silent.
const AT_ONCE: usize = 32;

/// Most that wait for one of these to end.
const MOST_WAITING: usize = 512;

/// All of the process that ask the system.
static OF_THE_SYSTEM: LazyLock<Arc<Turns>> = LazyLock::new(|| Arc::new(Turns::new(AT_ONCE, MOST_WAITING)));

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookUpError {
    /// The system finds none.
    None,
    /// Too many wait for their turn.
    Full,
}

/// Look-ups that run at once, and those that wait for one to end.
struct Turns {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    most_waiting: usize,
}

/// One that waits, or has given up.
struct Waiting<'t>(&'t Turns);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turns {
    fn new(at_once: usize, most_waiting: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(at_once)), waiting: AtomicUsize::new(0), most_waiting }
    }

    /// Does `work` in its turn. A caller that gives up before takes nobody's turn; one that gives up later gives its turn back when the work is done, not before.
    async fn take<T: Send + 'static>(
        &self,
        work: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> Result<T, LookUpError> {
        let turn = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(turn) => turn,
            Err(_) => {
                let before = self.waiting.fetch_add(1, Ordering::Relaxed);
                let _waiting = Waiting(self);
                if before >= self.most_waiting {
                    return Err(LookUpError::Full);
                }
                Arc::clone(&self.free).acquire_owned().await.map_err(|_| LookUpError::None)?
            }
        };
        let done = tokio::spawn(async move {
            let _turn = turn;
            work.await
        });
        done.await.map_err(|_| LookUpError::None)?.map_err(|_| LookUpError::None)
    }
}

type Table = dyn Fn(&str) -> Vec<IpAddr> + Send + Sync;

/// What knows the addresses of names.
#[derive(Clone)]
pub struct Resolver {
    table: Option<Arc<Table>>,
    turns: Arc<Turns>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { table: None, turns: Arc::clone(&OF_THE_SYSTEM) }
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.table.is_some() { "Resolver(own)" } else { "Resolver(system)" })
    }
}

impl Resolver {
    /// One of the caller's own instead of the system's; it may take its time, too.
    pub fn own(table: impl Fn(&str) -> Vec<IpAddr> + Send + Sync + 'static) -> Self {
        Self { table: Some(Arc::new(table)), turns: Arc::new(Turns::new(AT_ONCE, MOST_WAITING)) }
    }

    /// The same with this many look-ups at once, and so many more that wait.
    #[must_use]
    pub fn with_turns(self, at_once: usize, most_waiting: usize) -> Self {
        Self { turns: Arc::new(Turns::new(at_once, most_waiting)), ..self }
    }

    /// The addresses of a name now. The caller bounds the time.
    ///
    /// # Errors
    /// The system finds none, or too many look-ups wait.
    pub async fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, LookUpError> {
        let (host, table) = (host.to_owned(), self.table.clone());
        let looking = async move {
            let Some(table) = table else { return Ok(tokio::net::lookup_host((host, port)).await?.collect()) };
            let found = tokio::task::spawn_blocking(move || table(&host)).await.map_err(io::Error::other)?;
            Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect())
        };
        self.turns.take(looking).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;

    /// A look-up that is answered when the sender is dropped.
    fn silent() -> (oneshot::Sender<()>, impl Future<Output = io::Result<()>> + Send + 'static) {
        let (answer, answered) = oneshot::channel::<()>();
        (answer, async move {
            let _ = answered.await;
            Ok(())
        })
    }

    fn begin(
        turns: &Arc<Turns>,
        work: impl Future<Output = io::Result<()>> + Send + 'static,
    ) -> JoinHandle<Result<(), LookUpError>> {
        let turns = Arc::clone(turns);
        tokio::spawn(async move { turns.take(work).await })
    }

    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_look_up_that_nobody_waits_for_takes_no_turn() {
        static RAN: AtomicBool = AtomicBool::new(false);
        let turns = Arc::new(Turns::new(1, 8));
        let (answer, first) = silent();
        let first = begin(&turns, first);
        settle().await;
        let second = begin(&turns, async {
            RAN.store(true, Ordering::Relaxed);
            Ok(())
        });
        settle().await;
        second.abort();
        assert!(second.await.is_err(), "it gave up while it waited");
        drop(answer);
        assert_eq!(first.await.unwrap(), Ok(()));
        settle().await;
        assert!(!RAN.load(Ordering::Relaxed));
        assert_eq!(turns.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(turns.take(async { Ok(7) }).await, Ok(7));
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_keeps_its_turn_until_the_thread_is_free() {
        let turns = Arc::new(Turns::new(1, 8));
        let (answer, first) = silent();
        let first = begin(&turns, first);
        settle().await;
        first.abort();
        assert!(first.await.is_err(), "it gave up");
        let second = begin(&turns, async { Ok(()) });
        settle().await;
        assert!(!second.is_finished(), "the thread still waits for the name's servers");
        drop(answer);
        assert_eq!(second.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn look_ups_beyond_the_queue_are_refused_at_once() {
        let turns = Arc::new(Turns::new(1, 2));
        let (answer, first) = silent();
        let first = begin(&turns, first);
        settle().await;
        let waiting: Vec<_> = (0..2).map(|_| begin(&turns, async { Ok(()) })).collect();
        settle().await;
        assert_eq!(turns.take(async { Ok(()) }).await, Err(LookUpError::Full));
        drop(answer);
        assert_eq!(first.await.unwrap(), Ok(()));
        for one in waiting {
            assert_eq!(one.await.unwrap(), Ok(()));
        }
        assert_eq!(turns.take(async { Ok(()) }).await, Ok(()));
    }
}
