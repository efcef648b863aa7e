//! `e3`: the engine's program. Everything is in the library.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    if e3_enclave::enclave::start::is_init() {
        e3_enclave::enclave::start::init();
        return ExitCode::FAILURE;
    }
    match e3_enclave::command::execute(e3_enclave::args::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("e3: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}
