//! The harness of the whole-system tests: real processes, real sockets, and doubles that are named for their behaviour.

pub mod engine_double;
