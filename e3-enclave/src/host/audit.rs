//! Takes audit records, and acknowledges a batch when it is on the disk.

use super::config::Limits;
use super::gate::{Ended, next_message};
use crate::audit::sink::Sink;
use crate::error::Error;
use crate::parent::protocol::{AUDIT_MAX, Ask, Reply};
use e3_link::Stream;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncWriteExt;

/// The sink that all connections write to, one batch at a time.
#[derive(Clone)]
pub struct Records(Arc<Mutex<Box<dyn Sink>>>);

impl Records {
    /// Opens the sink.
    ///
    /// # Errors
    /// It cannot be opened: a host that could record nothing does not start.
    pub(crate) fn open(mut sink: Box<dyn Sink>, path: &Path) -> Result<Self, Error> {
        sink.ensure_open().map_err(|source| Error::Audit { path: path.to_owned(), source })?;
        Ok(Self(Arc::new(Mutex::new(sink))))
    }

    fn commit(&self, lines: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).commit(lines)
    }
}

/// Takes the batches of one connection, in order.
///
/// # Errors
/// How it ended.
pub async fn serve(mut stream: Stream, records: Records, limits: Limits) -> Result<(), Ended> {
    loop {
        let Some(body) = next_message(&mut stream, AUDIT_MAX, limits).await? else { return Ok(()) };
        let records = records.clone();
        let recorded = tokio::task::spawn_blocking(move || record(&records, &body)).await.map_err(io::Error::other)?;
        let answer = recorded.ok_or(Ended::BadMessage)?;
        tokio::time::timeout(limits.message, stream.write_all(&answer)).await.map_err(|_| Ended::Idle)??;
    }
}

fn record(records: &Records, body: &[u8]) -> Option<Vec<u8>> {
    let Ok(Ask::Records { batch, lines }) = Ask::decode(body) else { return None };
    Some(match records.commit(lines) {
        Ok(()) => Reply::Recorded(batch).encode(),
        Err(error) => {
            tracing::error!(%error, "the audit sink takes no records; the engine opens no token");
            Reply::NotRecorded(batch).encode()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::sink::Opened;
    use std::sync::mpsc;
    use std::time::Duration;
    use tokio::io::AsyncReadExt;

    /// A disk whose sync ends when it is told to.
    struct HeldSink {
        begun: mpsc::Sender<()>,
        end: mpsc::Receiver<io::Result<()>>,
    }

    impl Sink for HeldSink {
        fn name(&self) -> String {
            "held".to_owned()
        }
        fn ensure_open(&mut self) -> io::Result<Opened> {
            Ok(Opened::Same)
        }
        fn commit(&mut self, _: &[u8]) -> io::Result<()> {
            self.begun.send(()).unwrap();
            self.end.recv().unwrap()
        }
    }

    #[tokio::test]
    async fn a_batch_is_acknowledged_only_when_its_sync_has_ended() {
        let (begun, has_begun) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let records = Records::open(Box::new(HeldSink { begun, end: ended }), Path::new("held")).unwrap();
        let (mut engine, host) = tokio::net::UnixStream::pair().unwrap();
        let serving = tokio::spawn(serve(host.into(), records, Limits::default()));
        for (batch, outcome, code) in [(7u64, Ok(()), 135), (8, Err(io::ErrorKind::StorageFull.into()), 136)] {
            engine.write_all(&Ask::Records { batch, lines: b"{}\n" }.encode()).await.unwrap();
            while has_begun.try_recv().is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let early = tokio::time::timeout(Duration::from_millis(200), engine.read_u8()).await;
            assert!(early.is_err(), "acknowledged before the sync ended");
            end.send(outcome).unwrap();
            let mut answer = [0; 13];
            engine.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer[4], code);
            assert_eq!(answer[5..], batch.to_be_bytes());
        }
        drop(engine);
        serving.await.unwrap().unwrap();
    }
}
