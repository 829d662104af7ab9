//! The command line. Stable: scripts and checks use it.
//!
//! Only what was asked for goes to standard output; everything else, a token's explanation too, goes to standard
//! error. Administration asks the running program over its control socket, or works alone on the state folder when
//! none runs.

mod show;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use firstmile_shared::{
    admin::{self, AdminError},
    exit::{ExitCode, Failure},
    ops::StateDir,
    os, telemetry,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tracing::warn;

use crate::{
    config::{Config, ENV_PREFIX, PROGRAM, Span},
    control::{Answer, Invited, Request, Revoked, Status, check_studio_name},
    ingest::tls::Source,
    server::{Parts, Relay},
};

/// Takes RTMP from encoders in the field and hands each feed to the studio that owns it.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, arg_required_else_help = false)]
struct Cli {
    /// The configuration file [default: /etc/firstmile/firstmile-relay.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder of identity and database [default: the system's place for it]
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the relay; also what happens without a command
    Run,
    /// Prints a join token for a studio, made if it is new
    Invite {
        /// a-z, 0-9 and -, at most 32: it is in the encoders' URLs
        studio: String,
        /// How long the token lasts, like 30m, 24h, 7d
        #[arg(long, default_value = "24h", value_name = "TIME")]
        ttl: Span,
        /// How many connectors may use it
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        uses: u32,
        /// Where the studio reaches this relay, HOST or HOST:PORT; several times if need be
        #[arg(long, value_name = "HOST")]
        address: Vec<String>,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Shows the running relay
    Status(Format),
    /// Lists the studios
    Studios(Format),
    /// Lists the encoders that publish
    Publishers(Format),
    /// Lists the connectors, also those that are not connected
    Connectors(Format),
    /// Shuts out a studio or a connector, at once
    Revoke {
        #[command(subcommand)]
        what: Revoke,
    },
    /// Takes no new publishers until it is started again; encoders that understand it are asked to connect again,
    /// elsewhere if their address leads there
    Drain {
        /// How long those that are live may stay before they are closed, one after another: 60s, 10m, or `forever`
        #[arg(long, value_name = "TIME", default_value = "60s")]
        wait: DrainWait,
    },
    /// Reads the configuration, says what is wrong or what is in force
    CheckConfig,
    /// Ends with 0 when the relay runs and answers
    Healthcheck,
    /// Prints a completion script
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: Shell,
    },
}

/// A time, or `forever`.
#[derive(Clone, Copy, Debug)]
struct DrainWait(Option<Span>);

impl FromStr for DrainWait {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "forever" => Ok(Self(None)),
            // The control socket speaks of seconds.
            _ => match text.parse::<Span>()? {
                span if span.0 < Duration::from_secs(1) => {
                    Err("it is a second at least, or forever")
                }
                span => Ok(Self(Some(span))),
            },
        }
    }
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Format {
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Revoke {
    /// Forgets a studio: its connectors, tokens and lines; what is live ends
    Studio {
        /// Its name
        name: String,
    },
    /// Shuts a connector out; it needs a new token to come back
    Connector {
        /// As `connectors` lists it
        id: String,
    },
}

/// The whole program: reads the command line and does what it says.
pub fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let place = Place {
        config: cli.config,
        state_dir: cli.state_dir,
    };
    match cli.command.unwrap_or(Command::Run) {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), PROGRAM, &mut script);
            Ok(print(&String::from_utf8_lossy(&script))?)
        }
        Command::CheckConfig => Ok(place.check_config()?),
        command => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?;
            runtime.block_on(place.execute(command))
        }
    }
}

/// Where the configuration and the state are.
#[derive(Debug)]
struct Place {
    config: Option<PathBuf>,
    state_dir: Option<PathBuf>,
}

impl Place {
    async fn execute(&self, command: Command) -> anyhow::Result<()> {
        match command {
            Command::Run => return self.run().await,
            Command::Invite {
                studio,
                ttl,
                uses,
                address,
                json,
            } => {
                check_studio_name(&studio)?;
                let request = Request::Invite {
                    studio,
                    uses,
                    ttl_s: i64::try_from(ttl.0.as_secs()).unwrap_or(i64::MAX),
                    addresses: address,
                };
                let invited: Invited = self.ask_or_do(&request).await?;
                if json {
                    print_json(&invited)?;
                } else {
                    print(&format!("{}\n", invited.token.expose()))?;
                }
                say(&show::invited(&invited, uses));
            }
            Command::Status(format) => {
                let status: Status = self.ask(&Request::Status {}).await?;
                present(format, &status, show::status)?;
            }
            Command::Studios(format) => {
                let studios: Vec<_> = self.ask_or_do(&Request::Studios {}).await?;
                present(format, &studios, |studios| show::studios(studios))?;
            }
            Command::Publishers(format) => {
                let publishers: Vec<_> = self.ask_or_do(&Request::Publishers {}).await?;
                present(format, &publishers, |publishers| {
                    show::publishers(publishers)
                })?;
            }
            Command::Connectors(format) => {
                let connectors: Vec<_> = self.ask_or_do(&Request::Connectors {}).await?;
                present(format, &connectors, |connectors| {
                    show::connectors(connectors)
                })?;
            }
            Command::Revoke {
                what: Revoke::Studio { name },
            } => {
                let request = Request::RevokeStudio { name: name.clone() };
                let _: Value = self.ask_or_do(&request).await?;
                say(&format!(
                    "studio {name} is revoked: its connectors, tokens and lines are gone"
                ));
            }
            Command::Revoke {
                what: Revoke::Connector { id },
            } => {
                let revoked: Revoked = self.ask_or_do(&Request::RevokeConnector { id }).await?;
                say(&format!(
                    "connector {} ({}) of studio {} is revoked; to come back it needs a new token",
                    revoked.id, revoked.name, revoked.studio
                ));
            }
            Command::Drain { wait } => {
                let close_after_s = wait.0.map(|wait| wait.0.as_secs());
                let status: Status = self.ask(&Request::Drain { close_after_s }).await?;
                say(&show::draining(&status, wait.0));
            }
            Command::Healthcheck => {
                let _: Status = self.ask(&Request::Status {}).await?;
            }
            // Done before there is a runtime.
            Command::CheckConfig | Command::Completions { .. } => {}
        }
        Ok(())
    }

    async fn run(&self) -> anyhow::Result<()> {
        let config = self.load_config()?;
        telemetry::init(&config.log);
        for sentence in strays() {
            warn!("{sentence}");
        }
        os::raise_open_files();
        let state = StateDir::lock(self.locate()?, PROGRAM)?;
        // Asked for first, so that a signal during the start is heard too.
        let mut signal = std::pin::pin!(stop_signal());
        let running = tokio::select! {
            biased;
            () = &mut signal => return Ok(()),
            running = Relay::start(config, state) => running?,
        };
        running.run(signal).await
    }

    fn check_config(&self) -> Result<(), Failure> {
        let config = self.load_config()?;
        for sentence in config.not_served().into_iter().chain(strays()) {
            say(&format!("warning: {sentence}"));
        }
        print(&show::config(&config))?;
        if let Some((certificate, key)) = config.rtmps.certificate_and_key()? {
            let (certificate, key) = (certificate.to_owned(), key.to_owned());
            let loaded = Source::Files { certificate, key }.load()?;
            say(&loaded.describe());
        }
        say("the configuration is valid");
        Ok(())
    }

    fn load_config(&self) -> Result<Config, Failure> {
        Config::load(self.config.as_deref())
    }

    fn locate(&self) -> Result<PathBuf, Failure> {
        StateDir::locate(self.state_dir.as_deref(), PROGRAM)
    }

    /// Asks the running program; fails with 69 when none runs.
    async fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Failure> {
        let state = self.locate()?;
        match admin::request::<_, Answer>(&state, request).await {
            Ok(answer) => answer.into_result(),
            Err(AdminError::NotRunning) => Err(Failure::unavailable(format!(
                "firstmile-relay does not run with the state folder {}; start it, or name its folder by --state-dir",
                state.display()
            ))),
            Err(AdminError::Io(error)) => Err(no_answer(&state, &error)),
        }
    }

    /// Asks the running program, or does it alone when none runs.
    async fn ask_or_do<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Failure> {
        let state = self.locate()?;
        let mut tries = START_TRIES;
        loop {
            match admin::request::<_, Answer>(&state, request).await {
                Ok(answer) => return answer.into_result(),
                Err(AdminError::NotRunning) => {}
                Err(AdminError::Io(error)) => return Err(no_answer(&state, &error)),
            }
            match StateDir::lock(state.clone(), PROGRAM) {
                Ok(lock) => {
                    say(&format!(
                        "note: no relay runs with the state folder {}; if one runs with another, name that by --state-dir",
                        state.display()
                    ));
                    return self.do_alone(&lock, request).await;
                }
                // It is just starting or stopping, or another command line works alone.
                Err(failure) if failure.code == ExitCode::Unavailable && tries > 0 => tries -= 1,
                Err(failure) => return Err(failure),
            }
            tokio::time::sleep(START_WAIT).await;
        }
    }

    async fn do_alone<T: DeserializeOwned>(
        &self,
        lock: &StateDir,
        request: &Request,
    ) -> Result<T, Failure> {
        let parts = Parts::open(self.load_config()?, lock.path(), None).await?;
        parts.control.handle(request.clone()).await.into_result()
    }
}

async fn stop_signal() {
    if let Err(error) = os::wait_for_stop_signal().await {
        tracing::warn!(%error, "stop signals can't be heard");
        std::future::pending::<()>().await;
    }
}

fn no_answer(state: &Path, error: &io::Error) -> Failure {
    Failure::unavailable(format!(
        "the firstmile-relay that runs with the state folder {} did not answer: {error}",
        state.display()
    ))
}

fn present<T: Serialize>(
    format: Format,
    answer: &T,
    show: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    if format.json {
        print_json(answer)
    } else {
        print(&show(answer))
    }
}

fn print_json(answer: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string(answer)
        .map_err(|error| Failure::new(ExitCode::Io, error.to_string()))?;
    print(&format!("{json}\n"))
}

/// To standard output; a reader that went away (`| head`) is no fault.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io("standard output", &error))
        }
        _ => Ok(()),
    }
}

fn strays() -> Vec<String> {
    firstmile_shared::config::strays(ENV_PREFIX, std::env::vars_os())
}

/// To standard error: what a person should know and a script may throw away.
fn say(text: &str) {
    // Nowhere to say it: nothing is lost that was asked for.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A start takes well under a second; the lock of a stopping relay is free within its grace of 5 s.
const START_TRIES: u32 = 60;
const START_WAIT: Duration = Duration::from_millis(100);
