//! Equal failures in a flood: the first ones of each second are written, the others are counted and told in one line.
//!
//! A kind is a site and a problem code, so their number is bounded by the rules file, and the first of a kind is always written. The counts are atomic; only the first
//! failure of a kind in the life of the process copies a map.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

/// Most lines of one kind in one second.
pub(super) const LINES: u32 = 10;

/// What is known of every kind of failure that happened.
#[derive(Debug, Default)]
pub(super) struct Flood {
    sites: ArcSwap<Sites>,
}

type Sites = HashMap<Box<str>, HashMap<&'static str, Arc<Window>>>;

/// One kind, in one second.
#[derive(Debug)]
struct Window {
    /// Status of the first of its kind: whose fault it is.
    status: u16,
    /// The second in the upper half, how many came in it in the lower half: one word, so that they change together.
    state: AtomicU64,
}

/// What is to be done about one failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Whether its line is written.
    pub(super) write: bool,
    /// How many of its kind an earlier second kept back; told before the line.
    pub(super) suppressed: u32,
}

/// How many of a kind were kept back in a second that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) site: Box<str>,
    pub(super) code: &'static str,
    pub(super) status: u16,
    pub(super) suppressed: u32,
}

impl Flood {
    /// One more failure of this kind in this second, counted from any fixed moment.
    pub(super) fn turn(&self, site: &str, code: &'static str, status: u16, second: u32) -> Turn {
        let known = self.sites.load().get(site).and_then(|codes| codes.get(code)).map(Arc::clone);
        known.unwrap_or_else(|| self.add(site, code, status)).turn(second)
    }

    fn add(&self, site: &str, code: &'static str, status: u16) -> Arc<Window> {
        let mut window = Arc::new(Window { status, state: AtomicU64::new(0) });
        self.sites.rcu(|sites| {
            let mut sites = Sites::clone(sites);
            // Another thread may have been first; then its window counts for both.
            window = Arc::clone(sites.entry(site.into()).or_default().entry(code).or_insert(Arc::clone(&window)));
            sites
        });
        window
    }

    /// What was kept back in seconds before this one and is not told yet.
    pub(super) fn due(&self, second: u32) -> Vec<Told> {
        let mut due = Vec::new();
        for (site, codes) in &**self.sites.load() {
            for (code, window) in codes {
                let suppressed = window.end(second);
                if suppressed > 0 {
                    due.push(Told { site: site.clone(), code, status: window.status, suppressed });
                }
            }
        }
        due
    }
}

impl Window {
    fn turn(&self, second: u32) -> Turn {
        let step = |state| {
            let (then, count) = parts(state);
            // A thread that read the clock late counts into the second that has begun.
            Some(if then >= second { pack(then, count.saturating_add(1)) } else { pack(second, 1) })
        };
        // `step` always yields a state, so this cannot fail.
        let before = match self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step) {
            Ok(before) | Err(before) => before,
        };
        let (then, count) = parts(before);
        if then >= second {
            Turn { write: count < LINES, suppressed: 0 }
        } else {
            Turn { write: true, suppressed: count.saturating_sub(LINES) }
        }
    }

    /// Closes the window if its second is over; answers how many lines it kept back.
    fn end(&self, second: u32) -> u32 {
        let step = |state| {
            let (then, count) = parts(state);
            (then < second && count > LINES).then_some(pack(second, 0))
        };
        match self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step) {
            Ok(before) => parts(before).1 - LINES,
            Err(_) => 0,
        }
    }
}

fn parts(state: u64) -> (u32, u32) {
    ((state >> 32) as u32, state as u32)
}

fn pack(second: u32, count: u32) -> u64 {
    u64::from(second) << 32 | u64::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: Turn = Turn { write: true, suppressed: 0 };
    const KEPT_BACK: Turn = Turn { write: false, suppressed: 0 };

    #[test]
    fn the_first_lines_of_a_second_are_written_and_the_rest_is_told_once() {
        let flood = Flood::default();
        for _ in 0..LINES {
            assert_eq!(flood.turn("a", "engine/unavailable", 503, 7), WRITTEN);
        }
        for _ in 0..90 {
            assert_eq!(flood.turn("a", "engine/unavailable", 503, 7), KEPT_BACK);
        }
        assert_eq!(flood.due(7), [], "the second is not over");
        let told = Told { site: "a".into(), code: "engine/unavailable", status: 503, suppressed: 90 };
        assert_eq!(flood.due(8), [told]);
        assert_eq!(flood.due(9), [], "told once");
        assert_eq!(flood.turn("a", "engine/unavailable", 503, 9), WRITTEN);
    }

    #[test]
    fn a_flood_that_goes_on_tells_of_each_second_with_the_next_one() {
        let flood = Flood::default();
        let second = |second| -> Vec<Turn> { (0..25).map(|_| flood.turn("a", "body/json", 400, second)).collect() };
        let kept_back = |turns: &[Turn]| turns.iter().filter(|turn| !turn.write).count();
        assert_eq!((second(0)[0], kept_back(&second(1))), (WRITTEN, 15));
        let third = second(2);
        assert_eq!(third[0], Turn { write: true, suppressed: 15 });
        assert_eq!(third.iter().map(|turn| turn.suppressed).sum::<u32>(), 15);
        // A clock read late does not open the second before again.
        assert_eq!(flood.turn("a", "body/json", 400, 1), KEPT_BACK);
    }

    #[test]
    fn the_first_of_a_kind_is_written_whatever_floods() {
        let flood = Flood::default();
        for _ in 0..1_000 {
            flood.turn("a", "engine/unavailable", 503, 0);
        }
        assert_eq!(flood.turn("a", "engine/answer", 503, 0), WRITTEN);
        assert_eq!(flood.turn("b", "engine/unavailable", 503, 0), WRITTEN);
    }

    #[test]
    fn many_threads_lose_no_count() {
        let flood = Flood::default();
        let written: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..10_000).filter(|_| flood.turn("a", "x/y", 500, 3).write).count() as u32))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(written, LINES);
        assert_eq!(flood.due(4)[0].suppressed, 40_000 - LINES);
    }
}
