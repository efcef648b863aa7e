//! The guest of the machine's own tests: init of an image without the engine. It boots as the engine does, calls its parent at [`HEARTBEAT`], then answers on
//! [`QUESTIONS`], one line for each line, values in hex and absent ones as `-`:
//!
//! - `pcr INDEX`: the register's value;
//! - `document NONCE USER_DATA PUBLIC_KEY`: an attestation document over them;
//! - `time`: Unix seconds by the machine's clock, in decimal;
//! - `inputs`: the public inputs that the image was built with.
//!
//! What cannot be answered is answered with `error CAUSE`.

#[allow(dead_code, unreachable_pub, reason = "the guest needs less of it than the engine")]
#[path = "../../../../e3-enclave/src/enclave/boot.rs"]
mod boot;

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use aws_nitro_enclaves_nsm_api::driver;
use rustix::system::{RebootCommand, reboot};
use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

/// The parent's port that hears that the guest is up.
const HEARTBEAT: u32 = 9000;

/// What it hears.
const UP: u8 = 0xb7;

/// The guest's port that takes questions.
const QUESTIONS: u32 = 5000;

/// Most bytes of one write: a larger one stops an emulated vsock for good.
const WRITE: usize = 16 * 1024;

fn main() {
    if let Err(cause) = run() {
        println!("guest: {cause}");
    }
    // Init must not return: the kernel would panic, which says less than the line above.
    if let Err(cause) = reboot(RebootCommand::Restart) {
        println!("guest: cannot restart: {cause}");
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    boot::prepare()?;
    let module = driver::nsm_init();
    if module < 0 {
        return Err("/dev/nsm cannot be opened".into());
    }
    let questions = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, QUESTIONS)?;
    let mut heartbeat = VsockStream::connect_with_cid_port(boot::parent_cid()?, HEARTBEAT)?;
    heartbeat.write_all(&[UP])?;
    for asked in questions.incoming() {
        // One that left early takes nothing from the next.
        if let Err(cause) = asked.and_then(|asked| answer_all(&asked, module)) {
            println!("guest: {cause}");
        }
    }
    Ok(())
}

fn answer_all(mut asked: &VsockStream, module: i32) -> io::Result<()> {
    for line in BufReader::new(asked).lines() {
        let answer = answer(&line?, module).unwrap_or_else(|cause| format!("error {cause}"));
        for part in (answer + "\n").as_bytes().chunks(WRITE) {
            asked.write_all(part)?;
        }
    }
    Ok(())
}

fn answer(line: &str, module: i32) -> Result<String, Box<dyn Error>> {
    let words: Vec<&str> = line.split(' ').collect();
    let request = match words.as_slice() {
        ["pcr", index] => Request::DescribePCR { index: index.parse()? },
        ["document", nonce, user_data, public_key] => Request::Attestation {
            nonce: bytes(nonce)?.map(Into::into),
            user_data: bytes(user_data)?.map(Into::into),
            public_key: bytes(public_key)?.map(Into::into),
        },
        ["time"] => return Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().to_string()),
        ["inputs"] => return Ok(hex(&fs::read(boot::INPUTS)?)),
        _ => return Err("unknown question".into()),
    };
    match driver::nsm_process_request(module, request) {
        Response::DescribePCR { data, .. } => Ok(hex(&data)),
        Response::Attestation { document } => Ok(hex(&document)),
        Response::Error(code) => Err(format!("the module says {code:?}").into()),
        _ => Err("the module answers something else".into()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn bytes(text: &str) -> Result<Option<Vec<u8>>, Box<dyn Error>> {
    if text == "-" {
        return Ok(None);
    }
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return Err("odd hex".into());
    }
    let pairs = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16));
    Ok(Some(pairs.collect::<Result<_, _>>()?))
}
