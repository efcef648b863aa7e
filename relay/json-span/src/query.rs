//! A selector as it is evaluated: the steps of a query and the expressions of its filters (RFC 9535, sections 2.3 to 2.5).

use crate::decimal::Decimal;

/// One segment: from a value to its children and, with `descend`, to those of its descendants too.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) descend: bool,
    pub(crate) picks: Vec<Pick>,
}

/// Which children a segment takes.
#[derive(Debug, Clone)]
pub(crate) enum Pick {
    /// Members of this name; already folded when the selector folds.
    Name(Box<str>),
    /// Every member and element.
    Any,
    /// The element at this index; negative ones count from the end.
    Index(i64),
    /// Some elements (RFC 9535, section 2.3.4).
    Slice(Slice),
    /// Members and elements for which the expression holds.
    Filter(Box<Logic>),
}

/// `[start:end:step]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slice {
    pub(crate) start: Option<i64>,
    pub(crate) end: Option<i64>,
    pub(crate) step: i64,
}

impl Slice {
    /// Whether the element at `index` of an array of `length` elements is taken (RFC 9535, section 2.3.4.2.2).
    pub(crate) fn takes(&self, index: i64, length: i64) -> bool {
        let normal = |at: i64| if at >= 0 { at } else { length.saturating_add(at) };
        match self.step {
            0 => false,
            step if step > 0 => {
                let start = normal(self.start.unwrap_or(0)).clamp(0, length);
                let end = normal(self.end.unwrap_or(length)).clamp(0, length);
                index >= start && index < end && (index - start) % step == 0
            }
            step => {
                let start = self.start.map_or(length - 1, normal).clamp(-1, length - 1);
                let end = self.end.map_or(-1, |end| normal(end).clamp(-1, length - 1));
                index <= start && index > end && start.saturating_sub(index) % step.saturating_neg() == 0
            }
        }
    }

    /// Whether the taken elements do not depend on the array's length.
    pub(crate) fn is_plain(&self) -> bool {
        self.step == 0 || self.step > 0 && self.start.unwrap_or(0) >= 0 && self.end.unwrap_or(0) >= 0
    }
}

impl Pick {
    /// Whether the scan decides it while it reads, without the array's length or a look at the value.
    pub(crate) fn is_plain(&self) -> bool {
        match self {
            Self::Name(_) | Self::Any => true,
            Self::Index(index) => *index >= 0,
            Self::Slice(slice) => slice.is_plain(),
            Self::Filter(_) => false,
        }
    }

    /// Whether the element at `index` of an array of `length` elements is taken, filters aside.
    pub(crate) fn takes_element(&self, index: i64, length: i64) -> bool {
        match self {
            Self::Any => true,
            Self::Index(wanted) => index == if *wanted < 0 { length.saturating_add(*wanted) } else { *wanted },
            Self::Slice(slice) => slice.takes(index, length),
            Self::Name(_) | Self::Filter(_) => false,
        }
    }
}

/// A query inside a filter.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    /// From the root (`$`) instead of the current value (`@`).
    pub(crate) absolute: bool,
    pub(crate) steps: Vec<Step>,
}

/// An expression that is true or false.
#[derive(Debug, Clone)]
pub(crate) enum Logic {
    Or(Vec<Logic>),
    And(Vec<Logic>),
    Not(Box<Logic>),
    /// The query finds something.
    Exists(Query),
    Compare(Relation, Operand, Operand),
    /// `match()` and `search()`; the pattern is anchored for the former.
    Pattern(Operand, regex::Regex),
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// An expression that is a value, or nothing.
#[derive(Debug, Clone)]
pub(crate) enum Operand {
    Null,
    Bool(bool),
    Number(Decimal),
    Text(Box<str>),
    /// A query that finds one value at most.
    Single(Query),
    Length(Box<Operand>),
    Count(Query),
    /// `value()`: the value that a query finds, if it is the only one.
    Only(Query),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_take_what_the_loops_of_the_rfc_take() {
        let bounds = [None, Some(-7), Some(-3), Some(-1), Some(0), Some(1), Some(2), Some(5), Some(9), Some(i64::MAX)];
        for length in 0i64..7 {
            for (start, end) in bounds.iter().flat_map(|s| bounds.iter().map(move |e| (*s, *e))) {
                for step in [-i64::MAX, -3, -2, -1, 0, 1, 2, 3, i64::MAX] {
                    let mut taken = Vec::new();
                    let normal = |at: i64| i128::from(if at >= 0 { at } else { length + at });
                    let (length, step_wide) = (i128::from(length), i128::from(step));
                    if step > 0 {
                        let mut at = normal(start.unwrap_or(0)).max(0).min(length);
                        let upper = end.map_or(length, normal).max(0).min(length);
                        while at < upper {
                            taken.push(at as i64);
                            at += step_wide;
                        }
                    } else if step < 0 {
                        let mut at = start.map_or(length - 1, normal).max(-1).min(length - 1);
                        let lower = end.map_or(-1, normal).max(-1).min(length - 1);
                        while lower < at {
                            taken.push(at as i64);
                            at += step_wide;
                        }
                    }
                    let slice = Slice { start, end, step };
                    for index in 0..length as i64 {
                        assert_eq!(slice.takes(index, length as i64), taken.contains(&index), "{slice:?} {index}");
                    }
                }
            }
        }
    }
}
