//! One request and its response, from the rules' verdict to the last byte.
//!
//! 1. [`flow`]: the order of things: route, hold, transform, and only then a byte upstream; the same for the response;
//! 2. [`headers`]: what ends at this hop and what goes on; [`forwarded`]: who asked, as a backend is told;
//! 3. [`arriving`], [`stream`]: the bodies as the codec takes them in and sends them;
//! 4. [`records`]: streams of records, each of which is good before it goes on;
//! 5. [`up`], [`pool`], [`balance`], [`resolver`]: upstream connections, ours to drive, keep and choose, and their names;
//! 6. [`multiplexed`], [`lane`], [`tied`]: connections of HTTP/2, which of them a request shares, and how long its body lasts.

pub mod arriving;
pub mod balance;
pub mod flow;
pub mod forwarded;
pub mod headers;
pub mod lane;
pub mod multiplexed;
pub mod pool;
pub mod records;
pub mod resolver;
pub mod stream;
pub mod tied;
pub mod up;

/// The error type that the codec asks of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
