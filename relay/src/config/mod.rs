//! The rules file: read raw, then resolved into types that cannot be wrong. Nothing after start-up parses its strings again.

pub mod resolved;
