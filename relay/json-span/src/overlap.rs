//! Whether two selectors can claim one value, or a value and one inside it.

use std::collections::HashSet;

use crate::selector::{Label, Selector};

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

impl Selector {
    /// Looks for documents in which both selectors meet, and tells the worst that can happen. Symmetric.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> Overlap {
        let same = if self.query.is_some() || other.query.is_some() { Overlap::Possible } else { Overlap::Proven };
        let descends = self.steps.iter().chain(&other.steps).any(|s| s.descend);
        let nested = if descends { Overlap::Nested } else { same };
        let fold = self.options.fold_case || other.options.fold_case;
        let mut worst = Overlap::Never;
        let mut seen = HashSet::new();
        let mut todo = vec![(0, 0)];
        while let Some(pair) = todo.pop() {
            if !seen.insert(pair) {
                continue;
            }
            let (i, j) = pair;
            let (a, b) = match (self.steps.get(i), other.steps.get(j)) {
                (None, None) => return same,
                (None, _) | (_, None) => {
                    worst = worst.max(nested);
                    continue;
                }
                (Some(a), Some(b)) => (a, b),
            };
            if a.labels.iter().any(|x| b.labels.iter().any(|y| meets(x, y, fold))) {
                todo.push((i + 1, j + 1));
            }
            if a.descend && !b.labels.is_empty() {
                todo.push((i, j + 1));
            }
            if b.descend && !a.labels.is_empty() {
                todo.push((i + 1, j));
            }
        }
        worst
    }
}

/// Whether some child is taken by both labels.
fn meets(a: &Label, b: &Label, fold: bool) -> bool {
    use Label::{Any, Index, Late, Name, Slice};
    match (a, b) {
        (Any | Late, _) | (_, Any | Late) => true,
        (Name(x), Name(y)) if fold => crate::fold::fold_text(x) == crate::fold::fold_text(y),
        (Name(x), Name(y)) => x == y,
        (Index(i), slice_or_index) | (slice_or_index, Index(i)) => slice_or_index.takes_index(*i),
        // Two slices: assume that they share an element, unless their ranges do not even touch.
        (Slice { start: s, end: e, .. }, Slice { start: t, end: f, .. }) => s < f && t < e,
        (Name(_), _) | (_, Name(_)) => false,
    }
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
        ];
        for (a, b, expected) in cases {
            assert_eq!(overlap(a, b), expected, "{a} {b}");
        }
    }
}
