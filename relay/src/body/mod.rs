//! A ruled body is held whole, every planned value in it is replaced, and only then a [`Sealed`] exists that can be sent.
//!
//! 1. [`select`]: one strict scan finds the values that the plan claims, and settles which action each gets;
//! 2. [`transform`]: asks the engine once for all of them, and splices its answers in;
//! 3. [`sealed`]: the only type that the exchange can send.
//!
//! Of a stream of records (NDJSON, event streams) each record is such a body of its own: [`pieces`] cuts it into them, [`records`] replaces their values
//! one after the other. What all bodies take together is bounded: [`room`].

pub mod hold;
pub(crate) mod pieces;
pub mod records;
pub mod room;
pub mod sealed;
pub mod select;
pub mod text;
pub(crate) mod tokens;
pub mod transform;

pub use records::{Opening, Records, Source, Work};
pub use sealed::{Outgoing, Sealed, SealedRecords};
pub use text::Text;
pub use transform::{FieldOutcome, Report, Transformed, transform};
