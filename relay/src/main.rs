//! `relay`: the command line over the library.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use relay::args::{Cli, Command, Verify};
use relay::{api, command, config, harden, run};

/// Every request takes and returns several buffers of 4 to 32 KiB, for which the C library's allocator is slow.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if let Err(error) = harden::harden() {
        eprintln!("relay: core dumps cannot be switched off: {error}");
        return ExitCode::FAILURE;
    }
    match Cli::parse().command {
        Command::Run(args) => {
            let options =
                run::Options { config: args.rules.config, upgrade: args.upgrade, upgrade_socket: args.upgrade_socket };
            match run::run(options) {
                Ok(ended) => run::exit_code(ended),
                Err(error) => {
                    eprintln!("relay: {error}");
                    error.exit_code()
                }
            }
        }
        Command::Check(args) => command::check::run(&args),
        Command::Test(args) => command::test::run(&args),
        Command::Explain(args) => command::explain::run(&args),
        Command::Seal(args) => command::backfill::seal(&args),
        Command::Open(args) => command::backfill::open(&args),
        Command::Inspect(args) => command::backfill::inspect(&args),
        Command::Rewrap(args) => command::backfill::rewrap(&args),
        Command::Key(args) => command::key::run(&args),
        Command::Ca(args) => command::ca::run(&args),
        Command::Verify(Verify::Engine(args)) => command::verify::run(&args),
        Command::Schema => {
            print!("{}", config::schema());
            ExitCode::SUCCESS
        }
        Command::OpenApi => {
            print!("{}", api::openapi::document());
            ExitCode::SUCCESS
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "relay", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
    }
}
