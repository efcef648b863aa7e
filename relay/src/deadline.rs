//! Total times without a timer for each request: every connection has one coarse deadline, and one ticker of its worker thread looks at them all.
//!
//! A timer of the runtime is set and cancelled several times for each request, though it hardly ever fires. Here setting a deadline is one store.
//! A deadline comes due at most two [`TICK`]s late and never early.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Time between two looks at the deadlines of a worker thread.
pub const TICK: Duration = Duration::from_millis(100);

const NEVER: u64 = u64::MAX;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since [`START`] at the last tick of any thread.
static NOW: AtomicU64 = AtomicU64::new(0);

/// A moment on the coarse clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// The moment that is surely not before `time` from now.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        let time = u64::try_from((time + TICK).as_millis()).unwrap_or(NEVER);
        Self(NOW.load(Ordering::Relaxed).saturating_add(time))
    }

    /// Whether the moment has come.
    #[must_use]
    pub fn has_come(self) -> bool {
        NOW.load(Ordering::Relaxed) >= self.0
    }
}

/// A moment that can be replaced.
#[derive(Debug)]
pub struct Moments(AtomicU64);

impl Default for Moments {
    fn default() -> Self {
        Self(AtomicU64::new(NEVER))
    }
}

impl Moments {
    /// The moment that holds now; at first one that never comes.
    #[must_use]
    pub fn get(&self) -> Moment {
        Moment(self.0.load(Ordering::Relaxed))
    }

    /// Another moment holds.
    pub fn set(&self, moment: Moment) {
        self.0.store(moment.0, Ordering::Relaxed);
    }
}

/// The one deadline of a connection; whoever works on the connection sets it anew.
#[derive(Debug)]
pub struct Deadline {
    due: AtomicU64,
    /// However it is set, it comes due then.
    cap: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

impl Deadline {
    /// A deadline that is not set, looked at by the current worker thread's ticker.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let deadline =
            Arc::new(Self { due: AtomicU64::new(NEVER), cap: AtomicU64::new(NEVER), waker: Mutex::default() });
        watch(Arc::downgrade(&deadline));
        deadline
    }

    /// The same, for the task that calls: it is woken when the deadline is due.
    pub async fn of_this_task() -> Arc<Self> {
        let deadline = Self::new();
        poll_fn(|cx| {
            deadline.wake(cx);
            Poll::Ready(())
        })
        .await;
        deadline
    }

    /// Comes due after `time`.
    pub fn set(&self, time: Duration) {
        self.set_at(Moment::after(time));
    }

    /// Comes due at a moment.
    pub fn set_at(&self, moment: Moment) {
        self.due.store(moment.0.min(self.cap.load(Ordering::Relaxed)), Ordering::Relaxed);
    }

    /// Comes due then, unless it does before.
    pub fn not_after(&self, moment: Moment) {
        self.due.fetch_min(moment.0, Ordering::Relaxed);
    }

    /// Does not come due any more, but for [`Deadline::cap`].
    pub fn clear(&self) {
        self.due.store(self.cap.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Comes due then at the latest, whatever it is set to, until [`Deadline::uncap`].
    pub fn cap(&self, moment: Moment) {
        self.cap.store(moment.0, Ordering::Relaxed);
        self.due.fetch_min(moment.0, Ordering::Relaxed);
    }

    /// From now on it may be set to any moment.
    pub fn uncap(&self) {
        self.cap.store(NEVER, Ordering::Relaxed);
    }

    /// Whether it is due.
    #[must_use]
    pub fn is_due(&self) -> bool {
        Moment(self.due.load(Ordering::Relaxed)).has_come()
    }

    /// The task that is woken when it is due: the connection's own.
    pub fn wake(&self, cx: &Context<'_>) {
        let mut waker = self.waker();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Works on `work` until it is through, or the deadline is due: `None`. The task must be the one of [`Deadline::wake`].
    pub async fn bound<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut work = std::pin::pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.is_due() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The deadlines of one worker thread.
type Watched = Mutex<Vec<Weak<Deadline>>>;

fn watch(deadline: Weak<Deadline>) {
    thread_local!(static WATCHED: RefCell<Weak<Watched>> = RefCell::default());
    WATCHED.with_borrow_mut(|watched| match watched.upgrade() {
        Some(watched) => watched.lock().unwrap_or_else(PoisonError::into_inner).push(deadline),
        None => {
            NOW.fetch_max(now(), Ordering::Relaxed);
            let fresh = Arc::new(Mutex::new(vec![deadline]));
            *watched = Arc::downgrade(&fresh);
            tokio::spawn(tick(fresh));
        }
    });
}

fn now() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(NEVER - 1)
}

/// Ends with the runtime. Ticks on while there is no connection: one wake-up in a while costs less than a start for each burst.
async fn tick(watched: Arc<Watched>) {
    loop {
        tokio::time::sleep(TICK).await;
        NOW.fetch_max(now(), Ordering::Relaxed);
        watched.lock().unwrap_or_else(PoisonError::into_inner).retain(|deadline| {
            let Some(deadline) = deadline.upgrade() else { return false };
            if deadline.is_due()
                && let Some(waker) = &*deadline.waker()
            {
                waker.wake_by_ref();
            }
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_cut_when_its_deadline_is_due_and_not_before() {
        let deadline = Deadline::new();
        poll_fn(|cx| {
            deadline.wake(cx);
            Poll::Ready(())
        })
        .await;
        let started = Instant::now();
        deadline.set(Duration::from_millis(250));
        assert_eq!(deadline.bound(std::future::pending::<()>()).await, None);
        assert!(started.elapsed() >= Duration::from_millis(250));
        deadline.set(Duration::from_secs(3600));
        assert_eq!(deadline.bound(async { 7 }).await, Some(7));
    }

    #[tokio::test]
    async fn a_capped_deadline_comes_whatever_it_is_set_to() {
        let deadline = Deadline::new();
        deadline.cap(Moment::after(Duration::ZERO));
        deadline.set(Duration::from_secs(3600));
        deadline.clear();
        tokio::time::sleep(TICK * 4).await;
        assert!(deadline.is_due());
        deadline.uncap();
        deadline.set(Duration::from_secs(3600));
        assert!(!deadline.is_due());
    }

    #[tokio::test]
    async fn a_cleared_deadline_never_comes() {
        let deadline = Deadline::new();
        deadline.set(Duration::ZERO);
        deadline.clear();
        tokio::time::sleep(TICK * 3).await;
        assert!(!deadline.is_due());
    }
}
