//! `relay key`: the key by which engines know this relay.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use e3_link::attested::certificate::LinkKey;

use super::BAD_INPUT;
use crate::args::Key;

/// Makes or shows a key.
pub fn run(args: &Key) -> ExitCode {
    let done = match args {
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
