//! Which filter expressions are honoured: what RFC 9535 §2.4.3 finds badly typed is refused, though the parser lets it through, and
//! so is what the evaluator is known to answer wrongly.

use jsonpath_rust::parser::model::{
    Comparable, Comparison, Filter, FilterAtom, FnArg, JpQuery, Segment, Selector, Test, TestFunction,
};

use crate::error::SelectorCause::{self, NotHonoured, Syntax};

/// Checks every filter of a query.
pub(crate) fn check_query(query: &JpQuery) -> Result<(), SelectorCause> {
    each_filter(&query.segments, &mut check_filter)
}

fn each_filter(
    segments: &[Segment],
    check: &mut impl FnMut(&Filter) -> Result<(), SelectorCause>,
) -> Result<(), SelectorCause> {
    for segment in segments {
        match segment {
            Segment::Descendant(inner) => each_filter(std::slice::from_ref(&**inner), check)?,
            Segment::Selector(Selector::Filter(filter)) => check(filter)?,
            Segment::Selector(_) => {}
            Segment::Selectors(all) => {
                for selector in all {
                    if let Selector::Filter(filter) = selector {
                        check(filter)?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn check_filter(filter: &Filter) -> Result<(), SelectorCause> {
    match filter {
        Filter::Or(all) | Filter::And(all) => all.iter().try_for_each(check_filter),
        Filter::Atom(FilterAtom::Filter { expr, .. }) => check_filter(expr),
        Filter::Atom(FilterAtom::Test { expr, .. }) => check_test(expr),
        Filter::Atom(FilterAtom::Comparison(comparison)) => {
            let (Comparison::Eq(a, b)
            | Comparison::Ne(a, b)
            | Comparison::Gt(a, b)
            | Comparison::Gte(a, b)
            | Comparison::Lt(a, b)
            | Comparison::Lte(a, b)) = &**comparison;
            check_comparable(a)?;
            check_comparable(b)
        }
    }
}

/// An expression that stands alone: a query is true when it finds anything, a function must itself be true or false.
fn check_test(test: &Test) -> Result<(), SelectorCause> {
    match test {
        Test::RelQuery(segments) => check_inner_query(segments),
        Test::AbsQuery(query) => check_inner_query(&query.segments),
        Test::Function(function) => match &**function {
            TestFunction::Search(..) | TestFunction::Match(..) => check_function(function),
            TestFunction::Length(_) | TestFunction::Value(_) | TestFunction::Count(_) | TestFunction::Custom(..) => {
                Err(Syntax)
            }
        },
    }
}

/// The evaluator mishandles a filter inside a filter's query (`$[?@[?@>1]]`).
fn check_inner_query(segments: &[Segment]) -> Result<(), SelectorCause> {
    each_filter(segments, &mut |_| Err(NotHonoured))
}

fn check_comparable(comparable: &Comparable) -> Result<(), SelectorCause> {
    match comparable {
        Comparable::Function(function) => check_function(function),
        // The parser lets only singular queries and literals through.
        Comparable::Literal(_) | Comparable::SingularQuery(_) => Ok(()),
    }
}

fn check_function(function: &TestFunction) -> Result<(), SelectorCause> {
    match function {
        TestFunction::Length(value) => check_value_argument(value),
        TestFunction::Search(a, b) | TestFunction::Match(a, b) => {
            check_value_argument(a)?;
            check_value_argument(b)
        }
        TestFunction::Value(nodes) | TestFunction::Count(nodes) => match nodes {
            FnArg::Test(test) => match &**test {
                Test::RelQuery(segments) => check_inner_query(segments),
                Test::AbsQuery(query) => check_inner_query(&query.segments),
                Test::Function(_) => Err(Syntax),
            },
            FnArg::Literal(_) | FnArg::Filter(_) => Err(Syntax),
        },
        // Extensions of the evaluator, unknown to the RFC.
        TestFunction::Custom(..) => Err(NotHonoured),
    }
}

/// A literal, a query that finds one value at most, or a function that gives a value.
fn check_value_argument(argument: &FnArg) -> Result<(), SelectorCause> {
    let singular = |segments: &[Segment]| {
        let one = |s: &Segment| matches!(s, Segment::Selector(Selector::Name(_) | Selector::Index(_)));
        if segments.iter().all(one) { Ok(()) } else { Err(Syntax) }
    };
    match argument {
        FnArg::Literal(_) => Ok(()),
        FnArg::Filter(_) => Err(Syntax),
        FnArg::Test(test) => match &**test {
            Test::RelQuery(segments) => singular(segments),
            Test::AbsQuery(query) => singular(&query.segments),
            Test::Function(function) => match &**function {
                TestFunction::Search(..) | TestFunction::Match(..) => Err(Syntax),
                other => check_function(other),
            },
        },
    }
}
