//! The engine as the data path sees it: one call for each message, within one total time.

use std::time::{Duration, Instant};

use e3_link::{AnswerFrame, Client, ClientOptions, LinkError};
use e3_wire::{App, RequestWriter};

use crate::config::resolved;
use crate::error::Failure;

/// A handle on the engine; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    client: Client,
    app: App,
    timeout: Duration,
}
