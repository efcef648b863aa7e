//! The framing gate: what is not beyond doubt never reaches the codec.
//!
//! HTTP codecs are lenient, and two that read one message differently are an attack. The gate stands between the socket and the
//! codec and reads every head and every chunk strictly (RFC 9112), for every message of a connection.
//!
//! 1. [`head`]: the grammar of one head, and how its body is framed;
//! 2. [`chunked`]: the grammar of a chunked body;
//! 3. [`gate`]: the byte stream that lets pass what the two accept, and marks what they refuse;
//! 4. [`decoded`]: the same for requests that come in frames and not as text;
//! 5. [`blocks`]: the byte stream of HTTP/2, in which heads come whole or not at all;
//! 6. [`conversation`]: what gate, handlers and the connection's task tell each other.
//!
//! [`proxy_protocol`] stands before all of it: who opened the connection, where a balancer says so.

pub mod blocks;
pub mod chunked;
pub mod conversation;
pub mod decoded;
pub mod gate;
pub mod head;
pub mod proxy_protocol;

pub use blocks::Blocks;
pub use conversation::Conversation;
pub use gate::Gate;
