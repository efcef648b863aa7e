//! What must stay inside: no plaintext and no key in what the programs say, and none in what is left of a process.

mod keys;
mod memory;
mod search;
mod shop;
