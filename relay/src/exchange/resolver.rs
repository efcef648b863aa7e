//! Looks names up that clients chose, off the worker threads and few at a time.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

/// Those of the system: each runs on a thread for as long as the name's servers are silent.
static OF_THE_SYSTEM: Turns = Turns::new(32, 512);

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
    free: Semaphore,
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
    const fn new(at_once: usize, most_waiting: usize) -> Self {
        Self { free: Semaphore::const_new(at_once), waiting: AtomicUsize::new(0), most_waiting }
    }

    /// Does `work` in its turn. A caller that gives up before takes nobody's turn; one that gives up later gives its turn back when the work is done, not before.
    async fn take<T: Send + 'static>(
        &'static self,
        work: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> Result<T, LookUpError> {
        let turn = match self.free.try_acquire() {
            Ok(turn) => turn,
            Err(_) => {
                let before = self.waiting.fetch_add(1, Ordering::Relaxed);
                let _waiting = Waiting(self);
                if before >= self.most_waiting {
                    return Err(LookUpError::Full);
                }
                self.free.acquire().await.map_err(|_| LookUpError::None)?
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
#[derive(Clone, Default)]
pub struct Resolver(Option<Arc<Table>>);

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Resolver(own)" } else { "Resolver(system)" })
    }
}

impl Resolver {
    /// One of the caller's own instead of the system's.
    pub fn own(table: impl Fn(&str) -> Vec<IpAddr> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(table)))
    }

    /// The addresses of a name now. The caller bounds the time.
    ///
    /// # Errors
    /// The system finds none, or too many look-ups wait.
    pub async fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, LookUpError> {
        if let Some(table) = &self.0 {
            return Ok(table(host).into_iter().map(|address| SocketAddr::new(address, port)).collect());
        }
        let host = host.to_owned();
        OF_THE_SYSTEM.take(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) }).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use tokio::sync::oneshot;

    use super::*;

    /// A look-up that is answered when the sender is dropped.
    fn silent() -> (oneshot::Sender<()>, impl Future<Output = io::Result<()>> + Send + 'static) {
        let (answer, answered) = oneshot::channel::<()>();
        (answer, async move {
            let _ = answered.await;
            Ok(())
        })
    }

    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_look_up_that_nobody_waits_for_takes_no_turn() {
        static TURNS: Turns = Turns::new(1, 8);
        static RAN: AtomicBool = AtomicBool::new(false);
        let (answer, first) = silent();
        let first = tokio::spawn(TURNS.take(first));
        settle().await;
        let second = tokio::spawn(TURNS.take(async {
            RAN.store(true, Ordering::Relaxed);
            Ok(())
        }));
        settle().await;
        second.abort();
        assert!(second.await.is_err(), "it gave up while it waited");
        drop(answer);
        assert_eq!(first.await.unwrap(), Ok(()));
        settle().await;
        assert!(!RAN.load(Ordering::Relaxed));
        assert_eq!(TURNS.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(TURNS.take(async { Ok(7) }).await, Ok(7));
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_keeps_its_turn_until_the_thread_is_free() {
        static TURNS: Turns = Turns::new(1, 8);
        let (answer, first) = silent();
        let first = tokio::spawn(TURNS.take(first));
        settle().await;
        first.abort();
        assert!(first.await.is_err(), "it gave up");
        let second = tokio::spawn(TURNS.take(async { Ok(()) }));
        settle().await;
        assert!(!second.is_finished(), "the thread still waits for the name's servers");
        drop(answer);
        assert_eq!(second.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn look_ups_beyond_the_queue_are_refused_at_once() {
        static TURNS: Turns = Turns::new(1, 2);
        let (answer, first) = silent();
        let first = tokio::spawn(TURNS.take(first));
        settle().await;
        let waiting: Vec<_> = (0..2).map(|_| tokio::spawn(TURNS.take(async { Ok(()) }))).collect();
        settle().await;
        assert_eq!(TURNS.take(async { Ok(()) }).await, Err(LookUpError::Full));
        drop(answer);
        assert_eq!(first.await.unwrap(), Ok(()));
        for one in waiting {
            assert_eq!(one.await.unwrap(), Ok(()));
        }
        assert_eq!(TURNS.take(async { Ok(()) }).await, Ok(()));
    }
}
