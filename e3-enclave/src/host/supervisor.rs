//! Starts the enclave with a command of `nitro-cli`'s shape, watches it, and starts it again when it has ended.

use super::config::Enclave;
use super::health::Board;
use serde::Deserialize;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

/// Time for one command. Starting an enclave takes some seconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two starts, at most.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// One entry of `describe-enclaves`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Described {
    enclave_name: Option<String>,
    state: String,
    #[serde(default)]
    flags: String,
}

#[derive(Debug, thiserror::Error)]
enum CommandFault {
    #[error("`{0}` cannot be run: {1}")]
    Run(String, std::io::Error),
    #[error("`{0}` did not end in time")]
    Timeout(String),
    #[error("`{0}` failed: {1}")]
    Failed(String, String),
    #[error("`{0}` answered with no list of enclaves")]
    Answer(String),
}

/// Watches until it is dropped; the enclave stays.
pub async fn watch(enclave: Enclave, board: Arc<Board>) {
    let mut backoff = enclave.look;
    loop {
        match describe(&enclave).await {
            Ok(Some(found)) => {
                backoff = enclave.look;
                if found.flags.contains("DEBUG_MODE") {
                    tracing::warn!("the enclave is in debug mode: its PCRs are zero, and no relay will speak with it");
                }
                board.enclave(&found.state.to_ascii_lowercase());
            }
            Ok(None) => {
                board.enclave("absent");
                match start(&enclave).await {
                    Ok(()) => tracing::info!(name = enclave.name, "enclave started"),
                    Err(error) => tracing::error!(%error, again_in_s = backoff.as_secs(), "the enclave does not start"),
                }
                // One that ends as soon as it has begun is not started in a tight loop.
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
                continue;
            }
            Err(error) => {
                tracing::error!(%error, "the enclave cannot be watched");
                board.enclave("unknown");
            }
        }
        tokio::time::sleep(enclave.look).await;
    }
}

async fn describe(enclave: &Enclave) -> Result<Option<Described>, CommandFault> {
    let (said, command) = run(enclave, &["describe-enclaves"]).await?;
    let all: Vec<Described> = serde_json::from_slice(&said).map_err(|_| CommandFault::Answer(command))?;
    let ours = |d: &Described| d.enclave_name.as_deref() == Some(&*enclave.name) && d.state != "TERMINATED";
    Ok(all.into_iter().find(ours))
}

async fn start(enclave: &Enclave) -> Result<(), CommandFault> {
    let image = enclave.image.to_string_lossy();
    let (cpus, memory) = (enclave.cpus.to_string(), enclave.memory_mib.to_string());
    let cid = enclave.cid.to_string();
    let arguments = [
        "run-enclave",
        "--enclave-name",
        &enclave.name,
        "--eif-path",
        &image,
        "--cpu-count",
        &cpus,
        "--memory",
        &memory,
        "--enclave-cid",
        &cid,
    ];
    run(enclave, &arguments).await.map(|_| ())
}

async fn run(enclave: &Enclave, arguments: &[&str]) -> Result<(Vec<u8>, String), CommandFault> {
    let shown = format!("{} {}", enclave.command.join(" "), arguments.first().unwrap_or(&""));
    let (program, first) = match enclave.command.split_first() {
        Some(split) => split,
        None => return Err(CommandFault::Run(shown, std::io::ErrorKind::NotFound.into())),
    };
    let mut command = Command::new(program);
    command.args(first).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(CommandFault::Run(shown, error)),
        Err(_) => return Err(CommandFault::Timeout(shown)),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("it says nothing");
        return Err(CommandFault::Failed(shown, line.chars().take(300).collect()));
    }
    Ok((output.stdout, shown))
}
