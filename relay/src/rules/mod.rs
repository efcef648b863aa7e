//! Which rules a request meets, and what they plan for its bodies.

pub mod action;
pub mod path;
pub mod plan;
pub mod route;
