//! Selectors compiled together into one deterministic automaton that runs along the scan.
//!
//! A state stands for the set of positions that the selectors have reached at a value; reading a member's name or an
//! element's index leads to the state of the child. State 0 is the empty set: below it nothing can be selected.

use std::collections::{BTreeSet, HashMap};

use crate::blocks::BLOCK;
use crate::fold::{fold_name, folded};
use crate::query::Pick;
use crate::scan::Kind;
use crate::selector::{Selector, Take};
use crate::string::decode_name;

/// Number of a state.
pub(crate) type StateId = u32;

/// The state of values below which nothing can be selected.
pub(crate) const DEAD: StateId = 0;

/// States beyond which the selectors are evaluated over a parsed copy instead: only unusual descendant segments get there.
const MOST_STATES: usize = 1024;
/// Positions of one state that look at indexes; each doubles its table.
const MOST_INDEXED: usize = 5;

/// Different endings of names beyond which every member is looked at.
const MOST_TAILS: usize = 8;

/// What a known name looks like from its closing quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tail {
    /// Bytes from the opening quote to the closing one, 2 to [`Tail::FARTHEST`].
    pub(crate) distance: u8,
    /// The byte before the closing quote.
    pub(crate) last: u8,
}

/// The kinds of values that a selector takes at a state, as a set of [`Kind`] bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kinds(u8);

impl Kinds {
    const ALL: Self = Self(0x3f);
    const SCALARS: Self = Self(Kind::String.bit() | Kind::Number.bit() | Kind::Bool.bit() | Kind::Null.bit());
    const STRINGS: Self = Self(Kind::String.bit());

    pub(crate) fn of(take: Take) -> Self {
        match take {
            Take::Values => Self::ALL,
            Take::Leaves => Self::SCALARS,
            Take::Strings => Self::STRINGS,
        }
    }

    pub(crate) fn has(self, kind: Kind) -> bool {
        self.0 & kind.bit() != 0
    }
}

impl Kind {
    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What a value in this state means, and where its children go.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// The selectors that take a value in this state, by number.
    pub(crate) takes: Box<[(u32, Kinds)]>,
    /// Some selector takes scalars in this state.
    pub(crate) takes_scalars: bool,
    /// Some state of the elements of an array in this state takes scalars.
    pub(crate) elements_taken: bool,
    /// Names are compared folded.
    pub(crate) folds: bool,
    /// No child leads anywhere: the value's inside need not be followed.
    pub(crate) barren: bool,
    /// Only members whose names end like one of `tails` need a look: they are compared as they are written, they are neither empty
    /// nor nearly as long as a block, and other members are not taken themselves.
    pub(crate) by_tail: bool,
    pub(crate) tails: Box<[Tail]>,
    /// Every element, and every member but the known ones, is in this very state and not taken: below it, containers open and close
    /// without a look at the automaton.
    pub(crate) loops: bool,
    /// Bit `min(length, 63)` is set when `names` has a name of that many bytes.
    pub(crate) lengths: u64,
    /// Names that lead elsewhere than `other`, as they are written without escapes.
    names: Box<[(Box<[u8]>, StateId)]>,
    /// Folded names that lead elsewhere than `other`.
    folded: Box<[(Box<[u8]>, StateId)]>,
    /// Where every other member goes.
    pub(crate) other: StateId,
    /// Positions that look at the index: bit k of an element's entry in `elements` is set when the k-th takes it.
    indexed: Box<[Box<[Pick]>]>,
    /// Where elements go, by the bits of `indexed`; a single entry when no position looks at the index.
    elements: Box<[StateId]>,
}

/// The compiled form of the plain selectors of a program.
#[derive(Debug, Clone)]
pub(crate) struct Automaton {
    pub(crate) states: Vec<State>,
    pub(crate) start: StateId,
}

/// Bits of the positions that are reached.
type Positions = Box<[u64]>;

impl Automaton {
    /// Compiles the selectors of these numbers; `None` when the automaton would become too large.
    pub(crate) fn compile(selectors: &[Selector], numbers: &[u32]) -> Option<Self> {
        let chosen: Vec<_> = numbers.iter().map(|&number| (number, &selectors[number as usize])).collect();
        let mut builder = Builder { chosen: &chosen, positions: Vec::new(), ids: HashMap::new(), sets: Vec::new() };
        let mut start = Vec::new();
        for (at, (_, selector)) in chosen.iter().enumerate() {
            start.push(builder.positions.len());
            builder.positions.extend((0..=selector.steps.len()).map(|step| (at, step)));
        }
        let mut first = builder.empty();
        start.into_iter().for_each(|position| set(&mut first, position));
        builder.id(builder.empty());
        let start = builder.id(first);
        let mut states = Vec::new();
        while let Some(positions) = builder.sets.get(states.len()).cloned() {
            states.push(builder.state(&positions)?);
            if builder.sets.len() > MOST_STATES {
                return None;
            }
        }
        for at in 0..states.len() {
            let (one, id) = (&states[at], at as StateId);
            let tails: BTreeSet<Tail> = one.names.iter().filter_map(|(name, _)| Tail::of(name)).collect();
            let fit = one.names.iter().all(|(name, _)| Tail::of(name).is_some()) && tails.len() <= MOST_TAILS;
            let by_tail = fit && !one.folds && !states[one.other as usize].takes_scalars;
            let loops = by_tail && one.other == id && one.elements.iter().all(|&child| child == id);
            states[at].by_tail = by_tail;
            states[at].tails = tails.into_iter().collect();
            states[at].loops = loops;
            states[at].elements_taken = states[at].elements.iter().any(|&child| states[child as usize].takes_scalars);
        }
        Some(Self { states, start })
    }

    /// The automaton that selects nothing.
    pub(crate) fn empty() -> Self {
        let dead = State {
            takes: Box::default(),
            takes_scalars: false,
            elements_taken: false,
            folds: false,
            by_tail: true,
            tails: Box::default(),
            loops: true,
            barren: true,
            lengths: 0,
            names: Box::default(),
            folded: Box::default(),
            other: DEAD,
            indexed: Box::default(),
            elements: Box::new([DEAD]),
        };
        Self { states: vec![dead], start: DEAD }
    }

    pub(crate) fn state(&self, id: StateId) -> &State {
        &self.states[id as usize]
    }
}

impl Tail {
    /// However a name of `n` bytes is written with an escape, its last backslash stands at most `n + 5` bytes before the closing quote: the walk looks for one
    /// in the quote's block and the one before, so these have to be less than a block and one byte.
    const FARTHEST: u8 = BLOCK as u8 - 4;

    /// The tail of a name as it is written without escapes; none if it is empty or too long.
    fn of(name: &[u8]) -> Option<Self> {
        let distance = u8::try_from(name.len() + 1).ok().filter(|distance| *distance <= Self::FARTHEST)?;
        Some(Self { distance, last: *name.last()? })
    }
}

impl State {
    /// Where the member with this name goes. `raw` is the inside of the name's literal; `escaped` says whether it holds
    /// a backslash; `scratch` is overwritten.
    pub(crate) fn member(&self, raw: &[u8], escaped: bool, scratch: &mut Vec<u8>) -> StateId {
        if !escaped && self.folded.is_empty() {
            return self.named(raw).unwrap_or(self.other);
        }
        self.odd_member(raw, scratch)
    }

    fn named(&self, name: &[u8]) -> Option<StateId> {
        if self.lengths >> name.len().min(63) & 1 == 0 {
            return None;
        }
        self.names.iter().find(|(known, _)| **known == *name).map(|(_, id)| *id)
    }

    /// Where the member goes whose name, written without escapes, is the end of `before`; nothing when it is not known.
    pub(crate) fn known_before(&self, before: &[u8]) -> Option<StateId> {
        let known = |name: &[u8]| before.strip_suffix(name).is_some_and(|rest| rest.last() == Some(&b'"'));
        self.names.iter().find(|(name, _)| known(name)).map(|(_, child)| *child)
    }

    #[cold]
    fn odd_member(&self, raw: &[u8], scratch: &mut Vec<u8>) -> StateId {
        scratch.clear();
        decode_name(raw, scratch);
        if let Some(id) = self.named(scratch) {
            return id;
        }
        if self.folded.is_empty() {
            return self.other;
        }
        let name = std::mem::take(scratch);
        fold_name(&name, scratch);
        self.folded.iter().find(|(known, _)| **known == **scratch).map_or(self.other, |(_, id)| *id)
    }

    /// Where the element at `index` goes.
    #[inline(always)]
    pub(crate) fn element(&self, index: u64) -> StateId {
        if self.indexed.is_empty() { self.elements[0] } else { self.element_at(index) }
    }

    fn element_at(&self, index: u64) -> StateId {
        let index = i64::try_from(index).unwrap_or(i64::MAX);
        let takes = |picks: &[Pick]| picks.iter().any(|pick| pick.takes_element(index, i64::MAX));
        let entry = self.indexed.iter().enumerate().map(|(bit, picks)| usize::from(takes(picks)) << bit).sum::<usize>();
        self.elements[entry]
    }
}

fn set(positions: &mut Positions, position: usize) {
    positions[position / 64] |= 1 << (position % 64);
}

struct Builder<'a> {
    chosen: &'a [(u32, &'a Selector)],
    /// Selector (by its place in `chosen`) and step of each position.
    positions: Vec<(usize, usize)>,
    ids: HashMap<Positions, StateId>,
    sets: Vec<Positions>,
}

/// How a child is reached.
enum Edge<'a> {
    /// By a name that some exact selector knows, and its fold; or by a fold alone; or by neither.
    Member { exact: Option<&'a str>, fold: Option<&'a str> },
    /// By an index; the positions that take it.
    Element { taking: &'a [usize] },
}

impl Builder<'_> {
    fn empty(&self) -> Positions {
        vec![0; self.positions.len().div_ceil(64)].into()
    }

    fn id(&mut self, positions: Positions) -> StateId {
        if let Some(id) = self.ids.get(&positions) {
            return *id;
        }
        let id = self.sets.len() as StateId;
        self.sets.push(positions.clone());
        self.ids.insert(positions, id);
        id
    }

    fn alive(&self, positions: &Positions) -> Vec<usize> {
        (0..self.positions.len()).filter(|at| positions[at / 64] >> (at % 64) & 1 == 1).collect()
    }

    fn follow(&mut self, alive: &[usize], edge: &Edge<'_>) -> StateId {
        let mut next = self.empty();
        for &position in alive {
            let (at, step) = self.positions[position];
            let selector = self.chosen[at].1;
            let Some(step) = selector.steps.get(step) else {
                if selector.take != Take::Values {
                    set(&mut next, position);
                }
                continue;
            };
            if step.descend {
                set(&mut next, position);
            }
            let taken = match edge {
                Edge::Member { exact, fold } => {
                    let wanted = if selector.fold { fold } else { exact };
                    step.picks.iter().any(|pick| match pick {
                        Pick::Any => true,
                        Pick::Name(name) => *wanted == Some(&**name),
                        _ => false,
                    })
                }
                Edge::Element { taking } => {
                    step.picks.iter().any(|pick| matches!(pick, Pick::Any)) || taking.contains(&position)
                }
            };
            if taken {
                set(&mut next, position + 1);
            }
        }
        self.id(next)
    }

    fn state(&mut self, positions: &Positions) -> Option<State> {
        let alive = self.alive(positions);
        let takes = alive.iter().filter_map(|&position| {
            let (at, step) = self.positions[position];
            let (number, selector) = self.chosen[at];
            (step == selector.steps.len()).then(|| (number, Kinds::of(selector.take)))
        });
        let takes: Box<[_]> = takes.collect();
        let (mut exact, mut folds, mut indexed) = (Vec::<&str>::new(), Vec::<&str>::new(), Vec::new());
        let chosen = self.chosen;
        for &position in &alive {
            let (at, step) = self.positions[position];
            let selector = chosen[at].1;
            let Some(step) = selector.steps.get(step) else { continue };
            let names = if selector.fold { &mut folds } else { &mut exact };
            names.extend(step.picks.iter().filter_map(|pick| match pick {
                Pick::Name(name) => Some(&**name),
                _ => None,
            }));
            let indexes: Box<[Pick]> =
                step.picks.iter().filter(|pick| matches!(pick, Pick::Index(_) | Pick::Slice(_))).cloned().collect();
            if !indexes.is_empty() && !step.picks.iter().any(|pick| matches!(pick, Pick::Any)) {
                indexed.push((position, indexes));
            }
        }
        if indexed.len() > MOST_INDEXED {
            return None;
        }
        let other = self.follow(&alive, &Edge::Member { exact: None, fold: None });
        let mut table = |names: Vec<&str>, edge: &dyn Fn(&str, &mut Self) -> StateId| {
            let mut names: Vec<_> =
                names.into_iter().map(|name| (Box::from(name.as_bytes()), edge(name, self))).collect();
            names.sort_unstable();
            names.dedup();
            names.into_boxed_slice()
        };
        let folded_names =
            table(folds, &|name, builder| builder.follow(&alive, &Edge::Member { exact: None, fold: Some(name) }));
        let names = table(exact, &|name, builder| {
            builder.follow(&alive, &Edge::Member { exact: Some(name), fold: Some(&folded(name)) })
        });
        let elements: Box<[_]> = (0..1usize << indexed.len())
            .map(|entry| {
                let taking: Vec<_> = indexed
                    .iter()
                    .enumerate()
                    .filter(|(bit, _)| entry >> bit & 1 == 1)
                    .map(|(_, (at, _))| *at)
                    .collect();
                self.follow(&alive, &Edge::Element { taking: &taking })
            })
            .collect();
        let lengths = names.iter().fold(0, |lengths, (name, _): &(Box<[u8]>, _)| lengths | 1 << name.len().min(63));
        let targets = names.iter().chain(&folded_names).map(|(_, id)| *id).chain(elements.iter().copied());
        Some(State {
            takes_scalars: !takes.is_empty(),
            takes,
            elements_taken: false,
            folds: !folded_names.is_empty(),
            by_tail: false,
            tails: Box::default(),
            loops: false,
            barren: other == DEAD && targets.into_iter().all(|id| id == DEAD),
            lengths,
            names,
            folded: folded_names,
            other,
            indexed: indexed.into_iter().map(|(_, picks)| picks).collect(),
            elements,
        })
    }
}
