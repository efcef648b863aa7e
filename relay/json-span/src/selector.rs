//! RFC 9535 selectors, compiled.

use jsonpath_rust::parser::model::{JpQuery, Segment as Parsed, Selector as ParsedSelector};
use jsonpath_rust::parser::parse_json_path;

use crate::error::{SelectorCause, SelectorError};
use crate::filter::check_query;
use crate::fold::fold_text;

/// How a selector is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SelectorOptions {
    /// Containers stand for their scalar leaves, at any depth.
    pub each: bool,
    /// Names match under Unicode case folding, as case-insensitive decoders do.
    pub fold_case: bool,
}

/// One compiled RFC 9535 query over the body's root.
#[derive(Debug, Clone)]
pub struct Selector {
    pub(crate) steps: Vec<Step>,
    pub(crate) options: SelectorOptions,
    /// Set when the steps alone do not decide: the query is evaluated over a parsed copy.
    pub(crate) query: Option<JpQuery>,
    pub(crate) filter: bool,
}

/// One segment: from a value to its children, and with `descend` to those of its descendants too.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) descend: bool,
    pub(crate) labels: Vec<Label>,
}

/// Which children a segment takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Label {
    /// Members of this name; folded when the selector folds.
    Name(Box<str>),
    /// Every member and element.
    Any,
    /// The element at this index.
    Index(u64),
    /// Elements `start, start + step, …` below `end`.
    Slice { start: u64, end: u64, step: u64 },
    /// Elements or members that only a look at the whole array or value decides.
    Late,
}

impl Selector {
    /// Reads and compiles a selector.
    ///
    /// # Errors
    /// The text is no RFC 9535 query, or one that cannot be honoured exactly.
    pub fn parse(text: &str, options: SelectorOptions) -> Result<Self, SelectorError> {
        if !text.starts_with('$') {
            return Err(SelectorError { offset: 0, cause: SelectorCause::NoRoot });
        }
        let query = parse_json_path(text)
            .map_err(|error| SelectorError { offset: offset_of(&error), cause: SelectorCause::Syntax })?;
        // The parser names no position for these; the whole selector is at fault.
        check_query(&query).map_err(|cause| SelectorError { offset: 0, cause })?;
        let mut steps = Vec::new();
        let mut late = false;
        let mut filter = false;
        for segment in &query.segments {
            steps.push(step(segment, options, &mut late, &mut filter));
        }
        let query = (late || filter).then_some(query);
        Ok(Self { steps, options, query, filter })
    }

    /// Selects every string of the body, the root included.
    #[must_use]
    pub fn every_string() -> Self {
        Self {
            steps: Vec::new(),
            options: SelectorOptions { each: true, fold_case: false },
            query: None,
            filter: false,
        }
    }

    /// Whether a filter expression decides.
    #[must_use]
    pub fn has_filter(&self) -> bool {
        self.filter
    }
}

fn offset_of(error: &jsonpath_rust::parser::errors::JsonPathError) -> usize {
    use jsonpath_rust::parser::errors::JsonPathError;
    match error {
        JsonPathError::PestError(e) => match e.location {
            pest::error::InputLocation::Pos(at) | pest::error::InputLocation::Span((at, _)) => at,
        },
        _ => 0,
    }
}

fn step(segment: &Parsed, options: SelectorOptions, late: &mut bool, filter: &mut bool) -> Step {
    let mut labels = Vec::new();
    let descend = match segment {
        Parsed::Descendant(inner) => {
            let inner = step(inner, options, late, filter);
            labels = inner.labels;
            true
        }
        Parsed::Selector(selector) => {
            labels.extend(label(selector, options, late, filter));
            false
        }
        Parsed::Selectors(selectors) => {
            labels.extend(selectors.iter().filter_map(|s| label(s, options, late, filter)));
            false
        }
    };
    Step { descend, labels }
}

fn label(selector: &ParsedSelector, options: SelectorOptions, late: &mut bool, filter: &mut bool) -> Option<Label> {
    Some(match selector {
        ParsedSelector::Name(name) if options.fold_case => Label::Name(fold_text(name).into()),
        ParsedSelector::Name(name) => Label::Name(name.as_str().into()),
        ParsedSelector::Wildcard => Label::Any,
        ParsedSelector::Index(index) => match u64::try_from(*index) {
            Ok(index) => Label::Index(index),
            Err(_) => {
                *late = true;
                Label::Late
            }
        },
        ParsedSelector::Slice(start, end, step) => {
            let (step, start) = (step.unwrap_or(1), start.unwrap_or(0));
            let end = end.map_or(Ok(u64::MAX), u64::try_from);
            match (u64::try_from(step), u64::try_from(start), end) {
                // A step of zero selects nothing (RFC 9535 §2.3.4.2.2).
                (Ok(0), _, _) => return None,
                (Ok(step), Ok(start), Ok(end)) => Label::Slice { start, end, step },
                _ => {
                    *late = true;
                    Label::Late
                }
            }
        }
        ParsedSelector::Filter(_) => {
            *filter = true;
            Label::Late
        }
    })
}

impl Label {
    pub(crate) fn takes_index(&self, index: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Index(i) => *i == index,
            Self::Slice { start, end, step } => {
                (*start..*end).contains(&index) && (index - start).is_multiple_of(*step)
            }
            Self::Name(_) | Self::Late => false,
        }
    }
}

/// Several selectors that are looked for in one scan.
#[derive(Debug, Clone)]
pub struct Program {
    pub(crate) selectors: Vec<Selector>,
    /// Automaton states of all selectors that the scan decides, numbered through.
    pub(crate) states: Vec<State>,
    /// States that are alive at the root.
    pub(crate) initial: Vec<u64>,
    pub(crate) folds: bool,
    pub(crate) has_late: bool,
    pub(crate) has_filter: bool,
}

/// What one state does when the scan goes from a value to one of its children.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) selector: u32,
    pub(crate) fold: bool,
    /// Set in the accepting state.
    pub(crate) accepts: bool,
    /// The state stays alive in every child: a descendant segment, or the accepting state of `each`.
    pub(crate) stays: bool,
    pub(crate) each: bool,
    pub(crate) labels: Vec<Label>,
}

impl Program {
    /// Compiles the selectors; the selector of a [`crate::Hit`] is an index into this list.
    #[must_use]
    pub fn new(selectors: Vec<Selector>) -> Self {
        let mut states = Vec::new();
        let mut first = Vec::new();
        for (index, selector) in selectors.iter().enumerate() {
            if selector.query.is_some() {
                continue;
            }
            let SelectorOptions { each, fold_case: fold } = selector.options;
            let number = index as u32;
            first.push(states.len());
            for step in &selector.steps {
                let labels = step.labels.clone();
                states.push(State { selector: number, fold, accepts: false, stays: step.descend, each, labels });
            }
            states.push(State { selector: number, fold, accepts: true, stays: each, each, labels: Vec::new() });
        }
        let mut initial = vec![0; states.len().div_ceil(64)];
        for at in first {
            initial[at / 64] |= 1 << (at % 64);
        }
        Self {
            folds: selectors.iter().any(|s| s.options.fold_case),
            has_late: selectors.iter().any(|s| s.query.is_some()),
            has_filter: selectors.iter().any(|s| s.filter),
            selectors,
            states,
            initial,
        }
    }

    /// Number of selectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.selectors.len()
    }

    /// Whether nothing is selected; the scan is as strict as ever.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.selectors.is_empty()
    }
}
