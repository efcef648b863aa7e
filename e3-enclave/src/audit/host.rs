//! The sink of an engine that has no disk: the host's audit service (SPEC.md, "Host services").

use super::sink::{Opened, Sink};
use crate::parent::HostFault;
use crate::parent::channel::Channel;
use crate::parent::protocol::{AUDIT_MAX, Ask, Reply};
use e3_link::Endpoint;
use std::io;
use std::time::Duration;

/// Longest answer: a batch number.
const ANSWER_MAX: usize = 64;

/// Sends batches of records, and takes nothing but the acknowledgement of that very batch for their being durable.
pub(super) struct HostSink {
    channel: Channel,
    batch: u64,
}

impl HostSink {
    pub(super) fn new(endpoint: Endpoint, timeout: Duration) -> io::Result<Self> {
        Ok(Self { channel: Channel::new(endpoint, timeout, ANSWER_MAX)?, batch: 0 })
    }
}

impl Sink for HostSink {
    fn name(&self) -> String {
        self.channel.endpoint().to_string()
    }

    fn ensure_open(&mut self) -> io::Result<Opened> {
        Ok(Opened::Same)
    }

    fn commit(&mut self, lines: &[u8]) -> io::Result<()> {
        self.batch += 1;
        let message = Ask::Records { batch: self.batch, lines }.encode();
        if message.len() > AUDIT_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let answer = self.channel.ask(&message).map_err(io::Error::other)?;
        match Reply::decode(&answer) {
            Ok(Reply::Recorded(batch)) if batch == self.batch => Ok(()),
            Ok(Reply::NotRecorded(_)) => Err(io::Error::other(HostFault::Failed)),
            _ => Err(io::Error::other(HostFault::Protocol)),
        }
    }
}
