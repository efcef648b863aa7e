//! The pass over bit masks.
use crate::automaton::Automaton;
use crate::scan::{Hit, Scanner};
use crate::simd::Level;

pub(crate) fn scan(_: Level, _: &mut Scanner, _: &Automaton, _: &[u8], _: usize, _: &mut Vec<Hit>) -> bool {
    false
}
