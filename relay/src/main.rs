//! `firstmile-relay`: see the library.

fn main() -> std::process::ExitCode {
    firstmile_shared::exit::report(
        firstmile_relay::config::PROGRAM,
        firstmile_relay::cli::main(),
    )
}
