//! Whether two selectors can claim one value, or a value and one inside it.

use std::collections::HashSet;

use crate::fold::folded;
use crate::query::{Pick, Slice, Step};
use crate::selector::{Selector, Take};

/// How far two selectors can get into each other's way, from harmless to certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Overlap {
    /// No document has a value that both select, or a value of one inside a value of the other.
    Never,
    /// A descendant segment may find something inside what the other selects; only odd documents have that.
    Nested,
    /// Both may select one value, depending on a filter or on an array's length.
    Possible,
    /// Some document has a value that both select, or the path of one leads straight through the other's.
    Proven,
}

/// How sure it is that a document has the path so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Certainty {
    Maybe,
    Certain,
}

impl Selector {
    /// Whether it takes members of the root whole, by their names: `$.card`.
    #[must_use]
    pub fn is_member_of_the_root(&self) -> bool {
        let named = |step: &Step| !step.descend && step.picks.iter().all(|pick| matches!(pick, Pick::Name(_)));
        self.take == Take::Values && self.steps.len() == 1 && self.steps.iter().all(named)
    }

    /// Looks for documents in which both selectors meet, and tells the worst that can happen. Symmetric.
    ///
    /// Exact for names, wildcards, descendants, non-negative indexes and plain slices; a path that needs a filter or a
    /// place counted from an array's end makes it [`Overlap::Possible`] at most.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> Overlap {
        let mut worst = Overlap::Never;
        let mut seen = HashSet::new();
        let mut todo = vec![(0, 0, Certainty::Certain)];
        while let Some(pair) = todo.pop() {
            if !seen.insert(pair) {
                continue;
            }
            let (i, j, certainty) = pair;
            worst = worst.max(self.meeting(i, other, j, certainty)).max(other.meeting(j, self, i, certainty));
            let mut go = |i, j, further: Option<Certainty>| {
                todo.extend(further.map(|further| (i, j, certainty.min(further))));
            };
            let any = [Pick::Any];
            // What one does while the other has arrived and takes leaves: any child is on its way.
            let picks = |selector: &Self, at: usize| selector.steps.get(at).map(|step| step.picks.clone());
            let stays = |selector: &Self, at: usize| match selector.steps.get(at) {
                Some(step) => step.descend,
                None => selector.take != Take::Values,
            };
            let (a, b) = (picks(self, i), picks(other, j));
            if let (Some(a), Some(b)) = (&a, &b) {
                go(i + 1, j + 1, meet(a, self.fold, b, other.fold));
            }
            if let (Some(b), true) = (&b, stays(self, i)) {
                go(i, j + 1, meet(&any, false, b, other.fold));
            }
            if let (Some(a), true) = (&a, stays(other, j)) {
                go(i + 1, j, meet(a, self.fold, &any, false));
            }
        }
        worst
    }

    /// What it means that a path brings `self` to step `i` and `other` to step `j`: something where `self` has arrived.
    fn meeting(&self, i: usize, other: &Self, j: usize, certainty: Certainty) -> Overlap {
        if i < self.steps.len() {
            return Overlap::Never;
        }
        let sure = |certainty| if certainty == Certainty::Certain { Overlap::Proven } else { Overlap::Possible };
        let rest = &other.steps[j..];
        if rest.is_empty() {
            return sure(certainty);
        }
        if self.take != Take::Values {
            // Only leaves are taken: the search goes on with this selector staying.
            return Overlap::Never;
        }
        // The value holds what the other selects, if a document can have the rest of the other's path.
        let mut certainty = certainty;
        for step in rest {
            match meet(&step.picks, other.fold, &[Pick::Any], false) {
                Some(further) => certainty = certainty.min(further),
                None => return Overlap::Never,
            }
        }
        let descends = self.steps.iter().chain(&other.steps).any(|step| step.descend);
        if descends { Overlap::Nested } else { sure(certainty) }
    }
}

/// Whether some child is taken by a pick of each list.
fn meet(a: &[Pick], a_folds: bool, b: &[Pick], b_folds: bool) -> Option<Certainty> {
    a.iter().flat_map(|x| b.iter().filter_map(move |y| meet_picks(x, a_folds, y, b_folds))).max()
}

fn meet_picks(a: &Pick, a_folds: bool, b: &Pick, b_folds: bool) -> Option<Certainty> {
    use Certainty::{Certain, Maybe};
    let certain = |meets: bool| meets.then_some(Certain);
    match (a, b) {
        _ if is_empty(a) || is_empty(b) => None,
        (Pick::Filter(_), _) | (_, Pick::Filter(_)) => Some(Maybe),
        (Pick::Any, _) | (_, Pick::Any) => Some(Certain),
        (Pick::Name(x), Pick::Name(y)) => certain(match (a_folds, b_folds) {
            (true, false) => **x == *folded(y),
            (false, true) => folded(x) == **y,
            _ => x == y,
        }),
        (Pick::Name(_), _) | (_, Pick::Name(_)) => None,
        _ if !(a.is_plain() && b.is_plain()) => match (a, b) {
            // Two places counted from the same end.
            (Pick::Index(x), Pick::Index(y)) if (*x < 0) == (*y < 0) => certain(x == y),
            _ => Some(Maybe),
        },
        (Pick::Index(index), other) | (other, Pick::Index(index)) => certain(other.takes_element(*index, i64::MAX)),
        (Pick::Slice(x), Pick::Slice(y)) => certain(share_an_index(x, y)),
    }
}

/// Whether a pick takes nothing of any document.
fn is_empty(pick: &Pick) -> bool {
    match pick {
        Pick::Slice(slice) if slice.step == 0 => true,
        Pick::Slice(slice) if slice.is_plain() => slice.end.is_some_and(|end| end <= slice.start.unwrap_or(0)),
        _ => false,
    }
}

/// Whether two non-empty plain slices of an array that is long enough have an element in common.
fn share_an_index(a: &Slice, b: &Slice) -> bool {
    let wide = |slice: &Slice| {
        let end = slice.end.map_or(i128::MAX, i128::from);
        (i128::from(slice.start.unwrap_or(0)), end, i128::from(slice.step))
    };
    let ((a_start, a_end, a_step), (b_start, b_end, b_step)) = (wide(a), wide(b));
    // Solve a_start + m·a_step = b_start + n·b_step: the steps' common divisor has to divide the difference.
    let (divisor, inverse) = bezout(a_step, b_step);
    let difference = b_start - a_start;
    if difference % divisor != 0 {
        return false;
    }
    let (modulus, common) = (b_step / divisor, a_step / divisor * b_step);
    let first = a_start + a_step * ((difference / divisor % modulus) * inverse).rem_euclid(modulus);
    // `first` is the least common index from a_start on; bring it up to b_start.
    let low = a_start.max(b_start);
    let first = if first < low { first + (low - first + common - 1) / common * common } else { first };
    first < a_end.min(b_end)
}

/// The greatest common divisor of `a` and `b`, and an x with a·x ≡ divisor (mod b).
fn bezout(a: i128, b: i128) -> (i128, i128) {
    let (mut r, mut next_r, mut x, mut next_x) = (a, b, 1, 0);
    while next_r != 0 {
        let quotient = r / next_r;
        (r, next_r) = (next_r, r - quotient * next_r);
        (x, next_x) = (next_x, x - quotient * next_x);
    }
    (r, x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SelectorOptions;

    fn overlap(a: &str, b: &str) -> Overlap {
        let parse = |s| Selector::parse(s, SelectorOptions::default()).unwrap();
        let (a, b) = (parse(a), parse(b));
        assert_eq!(a.overlap(&b), b.overlap(&a));
        a.overlap(&b)
    }

    #[test]
    fn overlaps_are_found_and_no_others() {
        use Overlap::{Nested, Never, Possible, Proven};
        let cases = [
            ("$.a", "$.a", Proven),
            ("$.a", "$.b", Never),
            ("$.a", "$.a.b", Proven),
            ("$..cvc", "$.card.cvc", Proven),
            ("$..cvc", "$.card.number", Nested),
            ("$..cvc", "$.card", Nested),
            ("$.a.*", "$.a.b", Proven),
            ("$.a[0]", "$.a[1]", Never),
            ("$.a[0:4:2]", "$.a[2]", Proven),
            ("$.a[0:4:2]", "$.a[3]", Never),
            ("$.a[0]", "$.a.b", Never),
            ("$.a[?@.x]", "$.a[0]", Possible),
            ("$.a[?@.x]", "$.b[0]", Never),
            ("$..a", "$..b", Nested),
            ("$..a", "$..a.b", Nested),
            ("$..*", "$.a.b", Proven),
            ("$.a[-1]", "$.a[0]", Possible),
            ("$['a','b'].c", "$.b.c", Proven),
            ("$", "$.x", Proven),
            ("$.a[2:1]", "$.a[*]", Never),
            ("$.a[::0]", "$.a", Never),
            ("$.a[1::2]", "$.a[0::2]", Never),
            ("$.a[1::2]", "$.a[0::3]", Proven),
            ("$.a[1:3:2]", "$.a[0::3]", Never),
            ("$.a[-1]", "$.a[-2]", Never),
            ("$.a[-1]", "$.a.b", Never),
            ("$.a[0].b", "$.a[?@.x].c", Never),
            ("$.a", "$.a[2:1]", Never),
        ];
        for (a, b, expected) in cases {
            assert_eq!(overlap(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn folding_and_leaves_count() {
        let selector = |text, each, fold_case| Selector::parse(text, SelectorOptions { each, fold_case }).unwrap();
        let (exact, fold) = (selector("$.card", false, false), selector("$.CARD", false, true));
        assert_eq!(exact.overlap(&fold), Overlap::Proven);
        assert_eq!(selector("$.CARD", false, false).overlap(&exact), Overlap::Never);
        let each = selector("$.a", true, false);
        assert_eq!(each.overlap(&selector("$.a.b", false, false)), Overlap::Proven);
        assert_eq!(selector("$.a.b", true, false).overlap(&each), Overlap::Proven);
        assert_eq!(each.overlap(&selector("$.b", true, false)), Overlap::Never);
        assert_eq!(Selector::every_string().overlap(&exact), Overlap::Proven);
        assert_eq!(Selector::every_string().overlap(&Selector::every_string()), Overlap::Proven);
    }

    #[test]
    fn slices_share_what_counting_finds() {
        for (a_start, a_end, a_step) in triples() {
            for (b_start, b_end, b_step) in triples() {
                let slice = |start, end, step| Slice { start: Some(start), end, step };
                let (a, b) = (slice(a_start, a_end, a_step), slice(b_start, b_end, b_step));
                let counted = (0..200).any(|index| a.takes(index, 200) && b.takes(index, 200));
                let shared = meet_picks(&Pick::Slice(a), false, &Pick::Slice(b), false).is_some();
                assert_eq!(shared, counted, "{a:?} {b:?}");
            }
        }
    }

    fn triples() -> impl Iterator<Item = (i64, Option<i64>, i64)> {
        [0, 1, 2, 5].into_iter().flat_map(|start| {
            [None, Some(1), Some(4), Some(7)]
                .into_iter()
                .flat_map(move |end| [1, 2, 3, 4, 6].into_iter().map(move |step| (start, end, step)))
        })
    }
}
