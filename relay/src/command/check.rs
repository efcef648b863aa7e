//! `relay check`: every fault of a rules file, without starting.

use std::process::ExitCode;

use super::{BAD_INPUT, colours};
use crate::args::{Check, Format};
use crate::config;

/// Checks the file and tells what there is to say about it.
#[must_use]
pub fn run(args: &Check) -> ExitCode {
    let (report, good) = match config::load(&args.rules.config) {
        Ok(checked) => (checked.warnings, true),
        Err(report) => (report, false),
    };
    match args.format {
        Format::Json => println!("{}", report.to_json()),
        Format::Text => {
            print!("{}", report.to_text(colours(&std::io::stdout())));
            let count = report.faults().len();
            match (good, count) {
                (true, 0) => println!("{}: good", args.rules.config.display()),
                (true, n) => println!("{}: good, with {n} warning(s)", args.rules.config.display()),
                (false, n) => println!("{}: refused, {n} finding(s)", args.rules.config.display()),
            }
        }
    }
    match (good, report.faults().is_empty()) {
        (false, _) => ExitCode::from(BAD_INPUT),
        (true, false) if args.strict => ExitCode::FAILURE,
        (true, _) => ExitCode::SUCCESS,
    }
}
