//! Attestation documents of real machines, of test authorities, and faulty ones.

mod binding;
mod chain;
mod freshness;
mod payload;
mod pcr;
mod real;
mod sample;
