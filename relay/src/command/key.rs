//! `relay key`: the key by which engines know this relay, and keys by which the outbound relay knows its clients.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use base64ct::{Base64UrlUnpadded, Encoding};
use e3_link::attested::certificate::LinkKey;
use sha2::{Digest, Sha256};

use super::BAD_INPUT;
use crate::args::Key;

/// Makes or shows a key.
pub fn run(args: &Key) -> ExitCode {
    let done = match args {
        Key::Proxy => {
            return match proxy_key() {
                Ok((key, hash)) => {
                    println!("key  {key}\nhash {hash}");
                    ExitCode::SUCCESS
                }
                Err(cause) => {
                    eprintln!("relay: {cause}");
                    ExitCode::FAILURE
                }
            };
        }
        Key::New { file } => new(file),
        Key::Show { file } => show(file),
    };
    match done {
        Ok(hash) => {
            println!("{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
            ExitCode::SUCCESS
        }
        Err(cause) => {
            eprintln!("relay: {cause}");
            ExitCode::from(BAD_INPUT)
        }
    }
}

/// A key for clients of the outbound relay, and its hash for the rules file.
fn proxy_key() -> Result<(String, String), String> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| error.to_string())?;
    let key = Base64UrlUnpadded::encode_string(&random);
    let hash: String = Sha256::digest(&key).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((key, hash))
}

fn new(file: &Path) -> Result<[u8; 32], String> {
    let key = LinkKey::generate().map_err(|error| error.to_string())?;
    let mut made = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(file)
        .map_err(|error| format!("{} cannot be made: {error}", file.display()))?;
    let written = made.write_all(key.to_pem().as_bytes()).and_then(|()| made.sync_all());
    written.map_err(|error| format!("{} cannot be written: {error}", file.display()))?;
    Ok(key.hash())
}

fn show(file: &Path) -> Result<[u8; 32], String> {
    let pem = std::fs::read_to_string(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    LinkKey::from_pem(&pem).map(|key| key.hash()).map_err(|error| format!("{}: {error}", file.display()))
}
