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
            let file = args.rules.config.display();
            match (good, report.count()) {
                (true, (_, 0)) => println!("{file}: good"),
                (true, (_, warnings)) => println!("{file}: good, warnings: {warnings}"),
                (false, (errors, warnings)) => println!("{file}: refused, errors: {errors}, warnings: {warnings}"),
            }
        }
    }
    match (good, report.count()) {
        (false, _) => ExitCode::from(BAD_INPUT),
        (true, (_, 1..)) if args.strict => ExitCode::FAILURE,
        (true, _) => ExitCode::SUCCESS,
    }
}
