//! The walk over brackets: matches them, and follows the automaton through the containers where it can select something.
//!
//! Most of most texts lies where only some names, at any depth, select anything, and holds none of these. There, a stride's brackets are matched and no more
//! ([`Walk::pass`]); elsewhere, block by block, each is looked at together with what lies before it ([`Walk::block`]).

use crate::automaton::{Automaton, DEAD, State, StateId, Tail};
use crate::blocks::{BLOCK, Tokens, WORDS};
use crate::scan::{Hit, Kind, is_white, string_end};

/// In a packed container: it is an object; it is an array. At the outermost level it is neither.
const OBJECT: u64 = 1;
const ARRAY: u64 = 2;
/// It is itself selected; it is not there: the outermost level.
const MARKED: u64 = 1 << 31;
const OUTSIDE: u64 = 1 << 30;
/// Its state loops: what opens inside it is in the same state, unless it has a known name.
const LOOPS: u64 = 1 << 29;
/// What a container inside a looping one keeps: its state, and that it loops.
const STATE: u64 = (1 << 30) - 4;
/// All but the number of its elements and what kind it is.
const PLACE: u64 = (1 << 32) - 4;

/// The state of a packed container.
#[inline(always)]
fn state_of(container: u64) -> StateId {
    (container & STATE & !LOOPS) as u32 >> 2
}

/// What the walk keeps between chunks.
pub(crate) struct Walk<'a> {
    automaton: &'a Automaton,
    text: &'a [u8],
    depth: usize,
    hits: &'a mut Vec<Hit>,
    key: &'a mut Vec<u8>,
    /// The containers around the present one, packed as that is.
    stack: &'a mut Vec<u64>,
    /// Selected containers that are open: first hit, number of hits.
    marks: &'a mut Vec<(usize, usize)>,
    /// Number of open containers.
    level: usize,
    /// The present container: `OBJECT` or `ARRAY`, perhaps `MARKED` and `LOOPS`, its state from bit 2 on (`DEAD` when its inside need not be followed),
    /// and from bit 32 on the number of its elements before the present region.
    container: u64,
    /// Where the value of the last known name starts, and its state.
    child_at: usize,
    child: StateId,
    /// Opening quotes of the block before, and whether it has a backslash.
    open_before: u64,
    escapes_before: bool,
    /// There was a backslash: names may hold escapes.
    escapes: bool,
    /// The looping state that the stride began in, packed as in a container; else that of the dead one, which knows no names.
    looping: u64,
}

/// The bytes of a block behind a bracket, up to and with the next.
struct Region<'t> {
    tokens: &'t Tokens,
    base: usize,
    bytes: u64,
    /// This block or the one before has a backslash.
    escapes: bool,
}

/// The brackets of a stride, and which of them end a region that has a colon, or one that shows that its container is an array.
pub(crate) struct RegionEnds<'t> {
    pub(crate) all: &'t [u64; WORDS],
    pub(crate) colons: &'t [u64; WORDS],
    pub(crate) elements: &'t [u64; WORDS],
}

/// How far [`Walk::pass`] came.
pub(crate) enum Passed {
    /// Through all of it.
    All,
    /// Into this block, through these bytes of it, if any. What follows takes more than matching brackets.
    To { block: usize, done: u64 },
    /// The text is invalid.
    Wrong,
}

/// One of the four brackets: `{` and `[` have bit 1, `{` and `}` bit 5.
struct Bracket {
    /// 1 if it opens a container, else 0.
    opens: u64,
    kind: u64,
}

// Without a branch, for which bracket comes next cannot be predicted.
impl Bracket {
    #[inline(always)]
    fn of(byte: u8) -> Self {
        Self { opens: u64::from(byte >> 1 & 1), kind: ARRAY >> (byte >> 5 & 1) }
    }

    /// Not zero when it closes a container of another kind.
    #[inline(always)]
    fn mismatch(&self, container: u64) -> u64 {
        !self.opens & 1 & u64::from(container & self.kind == 0)
    }

    /// The level behind it; there is none below the outermost, so that wraps around.
    #[inline(always)]
    fn next(&self, level: usize) -> usize {
        level.wrapping_add_signed(2 * self.opens as isize - 1)
    }

    /// The container behind it, of the one around and the one inside.
    #[inline(always)]
    fn choose(&self, around: u64, inside: u64) -> u64 {
        around ^ (around ^ inside) & 0u64.wrapping_sub(self.opens)
    }
}

/// The brackets before which stands what may not stand in such a container: `colons` only in objects, `elements` only in arrays.
#[inline(always)]
fn misplaced(container: u64, colons: u64, elements: u64) -> u64 {
    let (not_object, not_array) = ((container & 1).wrapping_sub(1), (container >> 1 & 1).wrapping_sub(1));
    colons & not_object | elements & not_array
}

/// Every byte below the lowest bracket and that itself; every byte if there is none.
#[inline(always)]
fn up_to_lowest(brackets: u64) -> u64 {
    brackets ^ brackets.wrapping_sub(1)
}

impl<'a> Walk<'a> {
    pub(crate) fn new(
        automaton: &'a Automaton,
        text: &'a [u8],
        depth: usize,
        hits: &'a mut Vec<Hit>,
        stack: &'a mut Vec<u64>,
        marks: &'a mut Vec<(usize, usize)>,
        key: &'a mut Vec<u8>,
    ) -> Self {
        // Whatever it holds of earlier texts is written before it is read.
        if stack.len() <= depth {
            stack.resize(depth + 1, 0);
        }
        marks.clear();
        Self {
            automaton,
            text,
            depth,
            hits,
            key,
            stack,
            marks,
            level: 0,
            container: OUTSIDE,
            child_at: 0,
            child: DEAD,
            open_before: 0,
            escapes_before: false,
            escapes: false,
            looping: LOOPS,
        }
    }

    /// A stride begins: what the known names end like where the present container's state loops, and the opening quotes of the block before.
    #[inline(always)]
    pub(crate) fn looping(&mut self) -> Option<(&[Tail], u64)> {
        if self.container & (LOOPS | MARKED) != LOOPS {
            self.looping = LOOPS;
            return None;
        }
        self.looping = self.container & STATE;
        Some((&self.automaton.state(state_of(self.container)).tails, self.open_before))
    }

    /// Whether brackets are all there is to see in a stride that begins in a looping state, and has neither a backslash nor what may be a known name.
    #[inline(always)]
    pub(crate) fn may_pass(&self, base: usize) -> bool {
        // Not where a known name may close that began with an escape, or the value behind one has yet to begin.
        !self.escapes_before && self.child_at < base
    }

    /// Matches the brackets of such a stride, up to the one that leads back into a container in another state, or a selected one: that one is left to
    /// [`Walk::block`]. `opens` are the opening quotes.
    #[inline(always)]
    pub(crate) fn pass(&mut self, base: usize, ends: &RegionEnds<'_>, opens: &[u64; WORDS]) -> Passed {
        // Kept out of memory, where every bracket would wait for the one before.
        let (mut container, mut level) = (self.container, self.level);
        let place = container & PLACE;
        let mut errors = 0;
        for (at, &open) in opens.iter().enumerate() {
            let mut rest = ends.all[at];
            while rest != 0 {
                let lowest = rest & rest.wrapping_neg();
                let bracket = Bracket::of(self.text[base + at * BLOCK + rest.trailing_zeros() as usize]);
                errors |= lowest & misplaced(container, ends.colons[at], ends.elements[at]);
                errors |= bracket.mismatch(container);
                let next = bracket.next(level);
                if next > self.depth {
                    return Passed::Wrong;
                }
                self.stack[level] = container;
                let behind = bracket.choose(self.stack[next], place | bracket.kind);
                if behind & PLACE != place {
                    (self.container, self.level) = (container, level);
                    let before = ends.all[at] & (lowest - 1);
                    let done = u64::MAX.checked_shr(before.leading_zeros()).unwrap_or(0);
                    return if errors == 0 { Passed::To { block: at, done } } else { Passed::Wrong };
                }
                (container, level) = (behind, next);
                rest &= rest - 1;
            }
            self.open_before = open;
        }
        (self.container, self.level) = (container, level);
        if errors == 0 { Passed::All } else { Passed::Wrong }
    }

    /// Passes over a stride inside a string.
    #[inline(always)]
    pub(crate) fn skip(&mut self) {
        self.open_before = 0;
        self.escapes_before = false;
    }

    /// Visits the brackets of a block; not zero when the text is invalid. `equal` tells where in the block a byte stands.
    #[inline(always)]
    pub(crate) fn block(&mut self, base: usize, tokens: &Tokens, escapes: bool, equal: impl Fn(u8) -> u64) -> u64 {
        let mut errors = 0;
        let mut done = tokens.done;
        let mut brackets = tokens.brackets & !done;
        self.escapes |= escapes;
        let near_escapes = escapes | self.escapes_before;
        // Kept out of memory, where every bracket would wait for the one before.
        let (mut container, mut level) = (self.container, self.level);
        // Closing quotes of what may be known names in the looping state that was met last.
        let (mut looping, mut known) = (self.looping, tokens.known);
        loop {
            let reached = up_to_lowest(brackets);
            let bytes = reached & !done;
            errors |= brackets & brackets.wrapping_neg() & misplaced(container, tokens.colons, tokens.elements);
            let quiet = container & (LOOPS | MARKED) == LOOPS;
            if quiet && !near_escapes {
                if container & STATE != looping {
                    looping = container & STATE;
                    known = self.known_closes(self.automaton.state(state_of(container)), tokens, base, &equal);
                }
                if known & bytes != 0 {
                    self.known_members(self.automaton.state(state_of(container)), base, known & bytes);
                }
            } else if state_of(container) != DEAD {
                self.container = container;
                self.follow(&Region { tokens, base, bytes, escapes: near_escapes }, &equal);
                container = self.container;
            }
            if brackets == 0 {
                break;
            }
            let at = base + brackets.trailing_zeros() as usize;
            let bracket = Bracket::of(self.text[at]);
            errors |= bracket.mismatch(container);
            let next_level = bracket.next(level);
            if next_level > self.depth {
                // Too deep, or closed too often. Nothing that follows matters.
                return 1;
            }
            if quiet && self.child_at != at {
                // Only the brackets' own match is left.
                self.stack[level] = container;
                container = bracket.choose(self.stack[next_level], container & STATE | bracket.kind);
            } else {
                (self.container, self.level) = (container, level);
                if bracket.opens != 0 {
                    self.enter(bracket.kind, at);
                } else {
                    self.leave(at);
                }
                container = self.container;
            }
            level = next_level;
            done = reached;
            brackets &= brackets - 1;
        }
        (self.container, self.level) = (container, level);
        self.open_before = tokens.string_open;
        self.escapes_before = escapes;
        errors
    }

    /// A bracket opens a container.
    #[inline(always)]
    fn enter(&mut self, kind: u64, at: usize) {
        let mut child = if self.container & OUTSIDE != 0 {
            self.automaton.start
        } else if self.child_at == at {
            self.child
        } else {
            let state = self.automaton.state(state_of(self.container));
            if self.container & OBJECT != 0 { state.other } else { state.element(self.container >> 32) }
        };
        self.stack[self.level] = self.container;
        self.level += 1;
        let mut marked = 0;
        let state = self.automaton.state(child);
        if state.takes_scalars {
            marked = self.mark(child, if kind == OBJECT { Kind::Object } else { Kind::Array }, at);
        }
        if state.barren {
            child = DEAD;
        }
        let loops = if state.loops || child == DEAD { LOOPS } else { 0 };
        self.container = u64::from(child) << 2 | marked | loops | kind;
    }

    /// A bracket closes a container. There is one: the level was checked.
    #[inline(always)]
    fn leave(&mut self, at: usize) {
        if self.container & MARKED != 0
            && let Some((first, count)) = self.marks.pop()
        {
            for hit in &mut self.hits[first..first + count] {
                hit.end = at + 1;
            }
        }
        self.level -= 1;
        self.container = self.stack[self.level];
    }

    /// Follows the members or elements of a region.
    #[inline(always)]
    fn follow(&mut self, region: &Region<'_>, equal: &impl Fn(u8) -> u64) {
        let state = self.automaton.state(state_of(self.container));
        if self.container & OBJECT == 0 {
            self.elements(state, region);
        } else if state.by_tail && !region.escapes {
            let closes = self.known_closes(state, region.tokens, region.base, equal) & region.bytes;
            self.known_members(state, region.base, closes);
        } else {
            self.members(state, region);
        }
    }

    /// The closing quotes of strings that end like a known name, and are as long. Only for states that need no look at other members.
    #[inline(always)]
    fn known_closes(&self, state: &State, tokens: &Tokens, base: usize, equal: &impl Fn(u8) -> u64) -> u64 {
        let mut closes = 0;
        for tail in &state.tails {
            let apart = tokens.string_open << tail.distance | self.open_before >> (64 - tail.distance);
            let before = base.checked_sub(1).is_some_and(|at| self.text[at] == tail.last);
            closes |= apart & (equal(tail.last) << 1 | u64::from(before));
        }
        closes & tokens.string_close
    }

    /// Follows the members whose names may close there.
    #[inline(never)]
    fn known_members(&mut self, state: &State, base: usize, mut closes: u64) {
        while closes != 0 {
            self.known_member(state, base + closes.trailing_zeros() as usize);
            closes &= closes - 1;
        }
    }

    /// Follows the member whose name closes at `close`, if it is a name, and a known one.
    fn known_member(&mut self, state: &State, close: usize) {
        if let Some(colon) = colon_behind(self.text, close)
            && let Some(child) = state.known_before(&self.text[..close])
        {
            self.value_of(child, colon + 1);
        }
    }

    /// Notes or reports the value behind a colon.
    fn value_of(&mut self, child: StateId, from: usize) {
        let blank = self.text.get(from..).and_then(|rest| rest.iter().position(|byte| !is_white(*byte)));
        let Some(blank) = blank else { return };
        (self.child_at, self.child) = (from + blank, child);
        if self.automaton.state(child).takes_scalars {
            self.scalar(child, from + blank);
        }
    }

    /// Looks at each member of a region, by the end of its name.
    #[inline(never)]
    fn members(&mut self, state: &State, region: &Region<'_>) {
        let mut closes = region.tokens.string_close & region.bytes;
        while closes != 0 {
            let bit = closes.trailing_zeros();
            let close = region.base + bit as usize;
            closes &= closes - 1;
            let Some(colon) = colon_behind(self.text, close) else { continue };
            let open = match region.tokens.string_open & ((1 << bit) - 1) {
                0 => opening_quote(self.text, close),
                here => region.base + 63 - here.leading_zeros() as usize,
            };
            let Some(name) = self.text.get(open + 1..close) else { return };
            let escaped = self.escapes && name.contains(&b'\\');
            let child = state.member(name, escaped, self.key);
            if child != state.other || self.automaton.state(child).takes_scalars {
                self.value_of(child, colon + 1);
            }
        }
    }

    /// Reports the selected scalars among the elements of a region, and counts its commas.
    #[inline(always)]
    fn elements(&mut self, state: &State, region: &Region<'_>) {
        let commas = region.tokens.comma & region.bytes;
        if state.elements_taken {
            let mut starts = (region.tokens.string_open | region.tokens.primitive_start) & region.bytes;
            while starts != 0 {
                let bit = starts.trailing_zeros();
                let before = (commas & ((1 << bit) - 1)).count_ones();
                let child = state.element((self.container >> 32) + u64::from(before));
                if self.automaton.state(child).takes_scalars {
                    self.scalar(child, region.base + bit as usize);
                }
                starts &= starts - 1;
            }
        }
        self.container += u64::from(commas.count_ones()) << 32;
    }

    /// Notes the hits of a container that opens; gives `MARKED` if there are any.
    #[inline(never)]
    fn mark(&mut self, state: StateId, kind: Kind, start: usize) -> u64 {
        let first = self.hits.len();
        for &(selector, _) in self.automaton.state(state).takes.iter().filter(|(_, kinds)| kinds.has(kind)) {
            self.hits.push(Hit { selector, start, end: start, kind, escaped: false });
        }
        if self.hits.len() == first {
            return 0;
        }
        self.marks.push((first, self.hits.len() - first));
        MARKED
    }

    /// Reports the scalar that begins at `from`, white space aside; a container is left to its bracket.
    #[inline(never)]
    fn scalar(&mut self, state: StateId, from: usize) {
        let Some((start, end, kind, escaped)) = scalar_at(self.text, from) else { return };
        for &(selector, _) in self.automaton.state(state).takes.iter().filter(|(_, kinds)| kinds.has(kind)) {
            self.hits.push(Hit { selector, start, end, kind, escaped });
        }
    }

    /// Whether every bracket is closed. Reports the outermost value if it is a selected scalar.
    pub(crate) fn finish(&mut self) -> bool {
        if self.level == 0 && self.automaton.state(self.automaton.start).takes_scalars {
            self.scalar(self.automaton.start, 0);
        }
        self.level == 0
    }
}

/// The opening quote of the string that closes at `close`: the last one before that no backslash escapes.
fn opening_quote(text: &[u8], close: usize) -> usize {
    let quotes = memchr::memrchr_iter(b'"', &text[..close]);
    quotes.into_iter().find(|at| at.checked_sub(1).is_none_or(|before| text[before] != b'\\')).unwrap_or(close)
}

/// The colon behind the string that closes at `close`, if it is a name.
#[inline(always)]
fn colon_behind(text: &[u8], close: usize) -> Option<usize> {
    let mut at = close + 1;
    while text.get(at).is_some_and(|byte| is_white(*byte)) {
        at += 1;
    }
    (text.get(at) == Some(&b':')).then_some(at)
}

/// The span of the scalar behind white space at `from`, in a text that may yet turn out to be invalid.
fn scalar_at(text: &[u8], from: usize) -> Option<(usize, usize, Kind, bool)> {
    let start = from + text.get(from..)?.iter().position(|byte| !is_white(*byte))?;
    let kind = match text[start] {
        b'{' | b'[' => return None,
        b'"' => {
            let (end, escaped) = string_end(text, start);
            return Some((start, end, Kind::String, escaped));
        }
        b't' | b'f' => Kind::Bool,
        b'n' => Kind::Null,
        _ => Kind::Number,
    };
    let is_end = |byte: &u8| is_white(*byte) || matches!(byte, b',' | b'}' | b']');
    let end = text[start..].iter().position(is_end).map_or(text.len(), |length| start + length);
    Some((start, end, kind, false))
}
