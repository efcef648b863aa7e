//! Tells whoever started the enclave that its machine is up: `nitro-cli run-enclave` waits for one byte, sends it back, and ends an enclave from which it does not come.

use super::Blocking;
use e3_link::Endpoint;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The starter's port on the parent instance.
const PORT: u32 = 9000;

/// The byte.
const UP: u8 = 0xb7;

/// Time for the starter to take the byte and to send it back.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Says it to the parent instance with this context id, on a thread of its own: the engine does not depend on how it was started.
pub fn tell(cid: u32) {
    let say = move || match said(&Endpoint::Vsock { cid, port: PORT }) {
        Ok(()) => tracing::debug!("the enclave's starter heard that it is up"),
        Err(error) => tracing::info!(%error, "nobody on the parent instance waits to hear that the enclave is up"),
    };
    if let Err(error) = std::thread::Builder::new().name("e3-starter".to_owned()).spawn(say) {
        tracing::warn!(%error, "the enclave's starter does not hear that it is up");
    }
}

fn said(starter: &Endpoint) -> io::Result<()> {
    let exchange = async {
        let mut stream = starter.connect(TIMEOUT).await.map_err(io::Error::other)?;
        stream.write_all(&[UP]).await?;
        if stream.read_u8().await? == UP { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    };
    let exchanged = Blocking::new()?.wait(async { tokio::time::timeout(TIMEOUT, exchange).await });
    exchanged.unwrap_or(Ok(Err(io::ErrorKind::Other.into())))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_starter_hears_the_byte_and_sends_it_back() {
        for (answer, good) in [(&[UP][..], true), (&[0][..], false), (&[][..], false)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("9000");
            let listener = UnixListener::bind(&path).unwrap();
            let starter = std::thread::spawn(move || {
                let (mut enclave, _) = listener.accept().unwrap();
                let mut byte = [0];
                enclave.read_exact(&mut byte).unwrap();
                enclave.write_all(answer).unwrap();
                byte[0]
            });
            assert_eq!(said(&Endpoint::Unix(path)).is_ok(), good);
            assert_eq!(starter.join().unwrap(), UP);
        }
    }
}
