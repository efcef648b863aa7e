//! RFC 9535 selectors, read by `jsonpath-rust` and resolved into steps that cannot be wrong.
//!
//! The grammar of `jsonpath-rust` lets some texts through that RFC 9535 does not (white space inside names and numbers,
//! badly typed functions); they are refused here, so that no selector silently means something else.

use jsonpath_rust::parser::errors::JsonPathError;
use jsonpath_rust::parser::model;
use jsonpath_rust::parser::parse_json_path;

use crate::decimal::Decimal;
use crate::error::SelectorCause::{self, Constant, FunctionType, PatternFromBody, Syntax, TooLong, UnknownFunction};
use crate::error::SelectorError;
use crate::fold::folded;
use crate::pattern;
use crate::query::{Logic, Operand, Pick, Query, Relation, Slice, Step};

/// Most segments of a selector: its positions fit one machine word.
const SEGMENTS: usize = 60;
/// Deepest nesting of filters and of functions inside one another.
const NESTING: usize = 8;

/// How a selector is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SelectorOptions {
    /// Containers stand for their scalar leaves, at any depth.
    pub each: bool,
    /// Names match under Unicode simple case folding, as case-insensitive decoders do: `S`, `s` and `ſ` (U+017F) are one,
    /// and so are `K`, `k` and the Kelvin sign (U+212A).
    pub fold_case: bool,
}

/// What a selector takes of the values that its steps lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    /// The values themselves.
    Values,
    /// Their scalar leaves, at any depth.
    Leaves,
    /// The strings among their leaves.
    Strings,
}

/// One compiled RFC 9535 query over the body's root.
#[derive(Debug, Clone)]
pub struct Selector {
    pub(crate) steps: Vec<Step>,
    pub(crate) take: Take,
    pub(crate) fold: bool,
    pub(crate) filter: bool,
}

impl Selector {
    /// Reads and compiles a selector.
    ///
    /// # Errors
    /// The text is no RFC 9535 query, or one that cannot be honoured exactly; the error says where and why.
    pub fn parse(text: &str, options: SelectorOptions) -> Result<Self, SelectorError> {
        if !text.starts_with('$') {
            return Err(SelectorError { offset: 0, cause: SelectorCause::NoRoot });
        }
        check_spaces(text)?;
        let query =
            parse_json_path(text).map_err(|error| SelectorError { offset: offset_of(&error, text), cause: Syntax })?;
        let mut resolver = Resolver { fold: options.fold_case, filter: false };
        let steps = resolver.steps(&query.segments, 0).map_err(|cause| SelectorError {
            // The parsed form names no places: point at the first filter, where all of these causes are.
            offset: if cause == TooLong { 0 } else { unquoted(text).find(|(_, c)| *c == '?').map_or(0, |(at, _)| at) },
            cause,
        })?;
        let take = if options.each { Take::Leaves } else { Take::Values };
        Ok(Self { steps, take, fold: options.fold_case, filter: resolver.filter })
    }

    /// Selects every string of the body, the root included. Names of members are no values: they stay.
    #[must_use]
    pub fn every_string() -> Self {
        Self { steps: Vec::new(), take: Take::Strings, fold: false, filter: false }
    }

    /// Whether a filter expression decides. Texts with duplicate keys are then refused: a parsed copy cannot hold them,
    /// and the filter could be evaded.
    #[must_use]
    pub fn has_filter(&self) -> bool {
        self.filter
    }

    /// Whether names, wildcards, non-negative indexes and plain slices decide, so that the automaton can.
    pub(crate) fn is_plain(&self) -> bool {
        self.steps.iter().flat_map(|step| &step.picks).all(Pick::is_plain)
    }
}

fn offset_of(error: &JsonPathError, text: &str) -> usize {
    let offset = match error {
        JsonPathError::PestError(error) => match error.location {
            pest::error::InputLocation::Pos(at) | pest::error::InputLocation::Span((at, _)) => at,
        },
        _ => 0,
    };
    offset.min(text.len())
}

/// The characters of a selector outside its quoted strings, with their offsets.
fn unquoted(text: &str) -> impl Iterator<Item = (usize, char)> {
    let mut quote = None;
    let mut escaped = false;
    text.char_indices().filter(move |&(_, character)| {
        let Some(open) = quote else {
            quote = Some(character).filter(|c| matches!(c, '"' | '\''));
            return true;
        };
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == open {
            quote = None;
        }
        false
    })
}

/// Refuses blank space between two characters of names or numbers, which no production of RFC 9535 has outside quotes,
/// and the Unicode spaces that the parser would trim off names.
fn check_spaces(text: &str) -> Result<(), SelectorError> {
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_' || !character.is_ascii();
    let mut word_before = false;
    let mut blank = None;
    for (offset, character) in unquoted(text) {
        let refuse = |offset| Err(SelectorError { offset, cause: SelectorCause::Space });
        if !character.is_ascii() && (character.is_whitespace() || character.is_control()) {
            return refuse(offset);
        }
        if character.is_ascii_whitespace() {
            blank = blank.or(Some(offset));
            continue;
        }
        if let Some(blank) = blank.take().filter(|_| word_before && is_word(character)) {
            return refuse(blank);
        }
        word_before = is_word(character);
    }
    Ok(())
}

struct Resolver {
    fold: bool,
    filter: bool,
}

type Resolved<T> = Result<T, SelectorCause>;

impl Resolver {
    fn steps(&mut self, segments: &[model::Segment], nesting: usize) -> Resolved<Vec<Step>> {
        if segments.len() > SEGMENTS || nesting > NESTING {
            return Err(TooLong);
        }
        segments.iter().map(|segment| self.step(segment, nesting)).collect()
    }

    fn step(&mut self, segment: &model::Segment, nesting: usize) -> Resolved<Step> {
        let (descend, selectors) = match segment {
            model::Segment::Descendant(inner) => match &**inner {
                model::Segment::Descendant(_) => return Err(Syntax),
                model::Segment::Selector(selector) => (true, std::slice::from_ref(selector)),
                model::Segment::Selectors(selectors) => (true, &selectors[..]),
            },
            model::Segment::Selector(selector) => (false, std::slice::from_ref(selector)),
            model::Segment::Selectors(selectors) => (false, &selectors[..]),
        };
        let picks = selectors.iter().map(|selector| self.pick(selector, nesting)).collect::<Resolved<_>>()?;
        Ok(Step { descend, picks })
    }

    fn pick(&mut self, selector: &model::Selector, nesting: usize) -> Resolved<Pick> {
        Ok(match selector {
            model::Selector::Name(name) => self.name(name),
            model::Selector::Wildcard => Pick::Any,
            model::Selector::Index(index) => Pick::Index(*index),
            model::Selector::Slice(start, end, step) => {
                Pick::Slice(Slice { start: *start, end: *end, step: step.unwrap_or(1) })
            }
            model::Selector::Filter(filter) => {
                self.filter = true;
                Pick::Filter(Box::new(self.logic(filter, nesting + 1)?))
            }
        })
    }

    fn name(&self, name: &str) -> Pick {
        Pick::Name(if self.fold { folded(name).into() } else { name.into() })
    }

    fn logic(&mut self, filter: &model::Filter, nesting: usize) -> Resolved<Logic> {
        if nesting > NESTING {
            return Err(TooLong);
        }
        let negate = |logic, not| if not { Logic::Not(Box::new(logic)) } else { logic };
        Ok(match filter {
            model::Filter::Or(all) => Logic::Or(self.logics(all, nesting)?),
            model::Filter::And(all) => Logic::And(self.logics(all, nesting)?),
            model::Filter::Atom(model::FilterAtom::Filter { expr, not }) => {
                negate(self.logic(expr, nesting + 1)?, *not)
            }
            model::Filter::Atom(model::FilterAtom::Test { expr, not }) => negate(self.test(expr, nesting)?, *not),
            model::Filter::Atom(model::FilterAtom::Comparison(comparison)) => {
                let relation = match **comparison {
                    model::Comparison::Eq(..) => Relation::Equal,
                    model::Comparison::Ne(..) => Relation::NotEqual,
                    model::Comparison::Gt(..) => Relation::Greater,
                    model::Comparison::Gte(..) => Relation::GreaterOrEqual,
                    model::Comparison::Lt(..) => Relation::Less,
                    model::Comparison::Lte(..) => Relation::LessOrEqual,
                };
                let (left, right) = comparison.vals();
                Logic::Compare(relation, self.comparable(left, nesting)?, self.comparable(right, nesting)?)
            }
        })
    }

    fn logics(&mut self, all: &[model::Filter], nesting: usize) -> Resolved<Vec<Logic>> {
        all.iter().map(|filter| self.logic(filter, nesting)).collect()
    }

    /// An expression that stands alone: a query, or a function that is itself true or false.
    fn test(&mut self, test: &model::Test, nesting: usize) -> Resolved<Logic> {
        match test {
            model::Test::RelQuery(_) | model::Test::AbsQuery(_) => Ok(Logic::Exists(self.query(test, nesting)?)),
            model::Test::Function(function) => match &**function {
                model::TestFunction::Match(text, pattern) => self.pattern(text, pattern, true, nesting),
                model::TestFunction::Search(text, pattern) => self.pattern(text, pattern, false, nesting),
                model::TestFunction::Custom(..) => Err(UnknownFunction),
                _ => Err(FunctionType),
            },
        }
    }

    fn pattern(&mut self, text: &model::FnArg, pattern: &model::FnArg, whole: bool, nesting: usize) -> Resolved<Logic> {
        let text = self.value(text, nesting)?;
        let pattern = match pattern {
            model::FnArg::Literal(model::Literal::String(pattern)) => pattern,
            model::FnArg::Literal(_) => return Err(Constant),
            other => {
                self.value(other, nesting)?;
                return Err(PatternFromBody);
            }
        };
        if matches!(text, Operand::Null | Operand::Bool(_) | Operand::Number(_) | Operand::Text(_)) {
            return Err(Constant);
        }
        Ok(Logic::Pattern(text, pattern::compile(pattern, whole).ok_or(SelectorCause::Pattern)?))
    }

    fn query(&mut self, test: &model::Test, nesting: usize) -> Resolved<Query> {
        match test {
            model::Test::RelQuery(segments) => Ok(Query { absolute: false, steps: self.steps(segments, nesting)? }),
            model::Test::AbsQuery(query) => Ok(Query { absolute: true, steps: self.steps(&query.segments, nesting)? }),
            model::Test::Function(_) => Err(FunctionType),
        }
    }

    fn comparable(&mut self, comparable: &model::Comparable, nesting: usize) -> Resolved<Operand> {
        match comparable {
            model::Comparable::Literal(literal) => Ok(literal_of(literal)),
            model::Comparable::Function(function) => self.function(function, nesting),
            model::Comparable::SingularQuery(query) => {
                let (absolute, segments) = match query {
                    model::SingularQuery::Current(segments) => (false, segments),
                    model::SingularQuery::Root(segments) => (true, segments),
                };
                let step = |segment: &model::SingularQuerySegment| Step {
                    descend: false,
                    picks: vec![match segment {
                        model::SingularQuerySegment::Name(name) => self.name(name),
                        model::SingularQuerySegment::Index(index) => Pick::Index(*index),
                    }],
                };
                if segments.len() > SEGMENTS {
                    return Err(TooLong);
                }
                Ok(Operand::Single(Query { absolute, steps: segments.iter().map(step).collect() }))
            }
        }
    }

    /// A function whose result is a value.
    fn function(&mut self, function: &model::TestFunction, nesting: usize) -> Resolved<Operand> {
        let nodes = |resolver: &mut Self, argument: &model::FnArg| match argument {
            model::FnArg::Test(test) => resolver.query(test, nesting),
            _ => Err(FunctionType),
        };
        match function {
            model::TestFunction::Length(argument) => Ok(Operand::Length(Box::new(self.value(argument, nesting + 1)?))),
            model::TestFunction::Count(argument) => Ok(Operand::Count(nodes(self, argument)?)),
            model::TestFunction::Value(argument) => Ok(Operand::Only(nodes(self, argument)?)),
            model::TestFunction::Custom(..) => Err(UnknownFunction),
            _ => Err(FunctionType),
        }
    }

    /// An argument that has to be a value: a literal, a singular query, or a function that gives a value.
    fn value(&mut self, argument: &model::FnArg, nesting: usize) -> Resolved<Operand> {
        if nesting > NESTING {
            return Err(TooLong);
        }
        match argument {
            model::FnArg::Literal(literal) => Ok(literal_of(literal)),
            model::FnArg::Filter(_) => Err(FunctionType),
            model::FnArg::Test(test) => match &**test {
                model::Test::Function(function) => self.function(function, nesting),
                test => {
                    let query = self.query(test, nesting)?;
                    let singular =
                        |step: &Step| !step.descend && matches!(step.picks[..], [Pick::Name(_) | Pick::Index(_)]);
                    if query.steps.iter().all(singular) { Ok(Operand::Single(query)) } else { Err(FunctionType) }
                }
            },
        }
    }
}

fn literal_of(literal: &model::Literal) -> Operand {
    match literal {
        model::Literal::Null => Operand::Null,
        model::Literal::Bool(value) => Operand::Bool(*value),
        model::Literal::String(text) => Operand::Text(text.as_str().into()),
        model::Literal::Int(number) => Operand::Number(Decimal::read(number.to_string().as_bytes())),
        // The shortest writing that reads back as the same number: `0.1` stays 0.1.
        model::Literal::Float(number) => Operand::Number(Decimal::read(format!("{number:e}").as_bytes())),
    }
}
