//! The program on the parent instance (`e3 host run`): what an enclave cannot do itself, and nothing secret (SPEC.md, "Host services").
//!
//! [`config`] is its settings. One endpoint for each job, each behind a [`gate`] of bounded connections: [`forwarder`] carries bytes to KMS, [`credentials`] hands over the
//! instance role's, [`store`] keeps wrapped blobs, [`audit`] takes records, [`health`] takes status and log, and [`page`] shows them. [`supervisor`] starts the enclave.
//! The messages are [`crate::parent::protocol`]'s.

pub mod audit;
pub mod config;
pub mod credentials;
pub mod forwarder;
pub mod gate;
pub mod health;
pub mod page;
pub mod store;
pub mod supervisor;

use crate::audit::Alarm;
use crate::audit::sink::file::FileSink;
use crate::error::Error;
use config::Config;
use credentials::Credentials;
use gate::Gate;
use health::Board;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;
use store::BlobFolder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// Serves the enclave until SIGTERM or SIGINT. The enclave goes on running: it is not this program's child.
///
/// # Errors
/// A service cannot start.
pub fn run(config: Config) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("e3-host")
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let served = runtime.block_on(serve(config));
    // A disk that hangs must not keep the program from ending.
    runtime.shutdown_timeout(Duration::from_millis(200));
    served
}

async fn serve(config: Config) -> Result<(), Error> {
    let stop = |kind| signal(kind).map_err(Error::Runtime);
    let (mut terminate, mut interrupt) = (stop(SignalKind::terminate())?, stop(SignalKind::interrupt())?);
    // SIGXFSZ would end the process when a file meets its size limit; caught, it is an error of the write.
    let _file_limit = stop(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
    let store = Arc::new(BlobFolder::open(&config.store.folder, config.store.versions)?);
    let records = audit::Records::open(Box::new(FileSink::new(config.audit.file.clone(), false)), &config.audit.file)?;
    let board = Arc::new(Board::new(config.health.file.clone(), Alarm::new(config.alarm)));
    let credentials = Arc::new(Credentials::new(config.credentials.metadata));
    let mut tasks = JoinSet::new();
    let (mode, limits) = (config.socket_mode, config.limits);
    for way in config.kms {
        let gate = Gate::bind(&way.listen, mode, limits, "kms").await?;
        let endpoint = way.endpoint;
        tasks.spawn(gate.serve(move |stream| forwarder::forward(stream, endpoint.clone(), limits)));
    }
    let gate = Gate::bind(&config.credentials.listen, mode, limits, "credentials").await?;
    tasks.spawn(gate.serve(move |stream| credentials::serve(stream, Arc::clone(&credentials), limits)));
    let gate = Gate::bind(&config.store.listen, mode, limits, "store").await?;
    tasks.spawn(gate.serve(move |stream| store::serve(stream, Arc::clone(&store), limits)));
    let gate = Gate::bind(&config.audit.listen, mode, limits, "audit").await?;
    tasks.spawn(gate.serve(move |stream| audit::serve(stream, records.clone(), limits)));
    let gate = Gate::bind(&config.health.listen, mode, limits, "health").await?;
    let news = Arc::clone(&board);
    tasks.spawn(gate.serve(move |stream| health::serve(stream, Arc::clone(&news), limits)));
    if let Some(address) = config.health.http {
        let page = page::Page::bind(address, Arc::clone(&board), limits).await?;
        tasks.spawn(page.serve());
    }
    if let Some(enclave) = config.enclave {
        tasks.spawn(supervisor::watch(enclave, Arc::clone(&board)));
    }
    board.write();
    tracing::info!("host services are ready");
    notify("READY=1");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    notify("STOPPING=1");
    // Whatever is under way on a blocking thread, a write or a sync, ends before the runtime does.
    tasks.shutdown().await;
    tracing::info!("stopped; an enclave goes on running");
    Ok(())
}

/// Tells systemd, where it asked for it (sd_notify(3)). Nobody depends on it, so a failure is no error.
fn notify(state: &str) {
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET")
        && let Ok(socket) = UnixDatagram::unbound()
    {
        drop(socket.send_to(state.as_bytes(), path));
    }
}
