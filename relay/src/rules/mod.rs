//! Which rules a request meets, and what they plan for its bodies.

pub mod action;
pub(crate) mod evasion;
pub mod glob;
pub mod host;
pub mod media;
pub mod path;
pub mod plan;
pub mod route;
