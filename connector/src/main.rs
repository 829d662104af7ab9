//! `firstmile-connector`: see [`firstmile_connector::cli`] for its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    firstmile_connector::cli::main()
}
