//! The engine as an enclave: the machine's first program, and its only one.
//!
//! [`boot`] makes the machine ready, [`entropy`] and [`clock`] check what keys and documents depend on, [`start`] brings the engine from wrapped blobs to service;
//! [`door`] tells relays why it is not there yet, and leads administrators to the [`reception`].

pub mod boot;
pub mod clock;
pub mod door;
pub mod entropy;
pub mod reception;
pub mod start;
