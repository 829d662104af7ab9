//! The command line. Scripts rely on it: names, output and exit codes are a contract.
//!
//! Commands ask the running program over its control socket, or take the state folder's lock and work alone when
//! none runs. What a script needs goes to standard output, everything else to standard error.

mod input;
mod show;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use firstmile_shared::{
    admin::{self, AdminError},
    exit::{self, ExitCode, Failure},
    ops::{self, StateDir},
    secret::{Secret, StreamKey},
    telemetry,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::warn;

use crate::{
    config::{Config, ENV_PREFIX, PROGRAM},
    control::{
        Answer, Control, Decided, Health, Imported, JoinedStudio, LineInfo, Request, Resynced,
    },
    decode,
    events::{Event, Events},
    lines::{
        Lines,
        file::{FILE_LEN_MAX, LinesFile, folded},
        settings::{self, SERVED_KEYS},
    },
    program::{self, Connector},
    spare::{self, Spare},
};

/// Takes camera feeds from a relay and puts them on the studio's network as NDI® sources.
///
/// NDI® is a registered trademark of Vizrt NDI AB: <https://ndi.video>
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, about, max_term_width = 100)]
struct Cli {
    /// Configuration file [default: /etc/firstmile/firstmile-connector.toml, if it is there]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Where keys, lines and relays are kept [default: the system's place for this program]
    #[arg(long, value_name = "DIR", global = true)]
    state_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the connector (also without any command)
    Run,
    /// Join a relay with the token that `firstmile-relay invite` printed
    ///
    /// The token comes from --token-file, from the variable `FIRSTMILE_JOIN_TOKEN`, or is asked for on a terminal. It is never an
    /// argument, because every user of the machine can see those.
    Join {
        /// Read the token from this file, or from standard input
        #[arg(long, value_name = "FILE|-")]
        token_file: Option<PathBuf>,
        /// Become a spare machine of the studio whose `export` wrote this file: its relays and its lines, with their keys
        #[arg(long, value_name = "FILE", conflicts_with_all = ["token_file", "token"])]
        from: Option<PathBuf>,
        /// What people try first; refused with what to do instead
        #[arg(value_name = "TOKEN", hide = true)]
        token: Option<String>,
    },
    /// Write a file with which a spare machine joins the same studio: `join --from FILE` there
    ///
    /// It holds the lines with their keys, and join tokens for one machine within 30 days. Keep it like a password.
    Export {
        /// The file to write, for its owner only
        file: PathBuf,
    },
    /// Forget a relay
    Leave {
        /// Its address as `status` shows it
        relay: String,
    },
    /// Add, list and change lines (camera positions)
    #[command(subcommand)]
    Line(LineCommand),
    /// Show how relays and lines are doing
    #[command(after_help = show::STATUS_COLUMNS)]
    Status {
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Show what happened lately
    Events {
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Check the configuration and the lines without starting
    CheckConfig,
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
enum LineCommand {
    /// Add a line and print its address and key
    Add {
        /// Its name, also that of its NDI source: "Camera 1"
        name: String,
        /// Read the studio's own key from this file, or from standard input [default: a new key]
        #[arg(long, value_name = "FILE|-")]
        key_file: Option<PathBuf>,
        /// The key itself. For tests: every user of this machine can see it
        #[arg(long, value_name = "KEY", conflicts_with = "key_file")]
        key: Option<String>,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// List all lines
    List {
        /// As JSON, with keys, for programs
        #[arg(long)]
        json: bool,
    },
    /// Print the addresses for a line's encoder, key included: any of them will do
    Url {
        /// The line
        name: String,
    },
    /// Change settings of a line
    #[command(after_help = format!("Settings:\n{}", settings::described()))]
    Set {
        /// The line
        name: String,
        /// Settings as KEY=VALUE, like delay=safe; see below
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
    /// Show every setting of a line with its value
    Show {
        /// The line
        name: String,
    },
    /// Switch a line on again
    On {
        /// The line
        name: String,
    },
    /// Switch a line off: no source and no encoder; its key and settings stay
    Off {
        /// The line
        name: String,
    },
    /// Take a line away, with its key and its source
    Remove {
        /// The line
        name: String,
    },
    /// Give a line to the encoder that waits for it, or let one that was refused try again
    ///
    /// The one that had the line waits from then on.
    Take {
        /// The line
        name: String,
        /// Which encoder, if several wait: its number in `status`
        publisher: Option<u32>,
    },
    /// Send an encoder away that waits for a line
    ///
    /// It is told so, and not let in again before it has stopped trying for ten minutes, or `line take` lets it.
    Refuse {
        /// The line
        name: String,
        /// Which encoder, if several wait: its number in `status`
        publisher: Option<u32>,
    },
    /// Make a line's encoder start again at live
    ///
    /// Its connection is closed, and it dials again: the way to get rid of what it holds back. The picture stands meanwhile.
    Resync {
        /// The line
        name: String,
    },
}

/// The whole program: parses the command line, does it, and says how it ended.
pub fn main() -> process::ExitCode {
    // Before anything else: a decoder's process has nothing of a connector.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == decode::process::ARGUMENT)
    {
        return decode::process::main();
    }
    let cli = Cli::parse();
    exit::report(PROGRAM, execute(cli))
}

fn execute(cli: Cli) -> anyhow::Result<()> {
    if let Some(Command::Completions { shell }) = cli.command {
        clap_complete::generate(shell, &mut Cli::command(), PROGRAM, &mut io::stdout());
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("starting the runtime", &error))?;
    let result = runtime.block_on(command(cli));
    // A foreign library that does not return must not keep the program.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

async fn command(cli: Cli) -> anyhow::Result<()> {
    let config = Config::load(cli.config.as_deref())?;
    let place = Place {
        state_dir: StateDir::locate(cli.state_dir.as_deref(), PROGRAM)?,
        config,
    };
    match cli.command.unwrap_or(Command::Run) {
        Command::Run => return run(place).await,
        Command::Join { token: Some(_), .. } => return Err(token_as_argument().into()),
        Command::Join {
            from: Some(file), ..
        } => join_from(&place, &file).await?,
        Command::Join { token_file, .. } => join(&place, token_file.as_deref()).await?,
        Command::Export { file } => export(&place, &file).await?,
        Command::Leave { relay } => {
            let request = Request::Leave {
                relay: relay.clone(),
            };
            place.ask::<Value>(request).await?;
            note(&format!("{relay} is forgotten"));
        }
        Command::Line(command) => line(&place, command).await?,
        Command::Status { json } => status(&place, json).await?,
        Command::Events { json } => events(&place, json).await?,
        Command::CheckConfig => check_config(&place)?,
        Command::Completions { .. } => {}
    }
    Ok(())
}

async fn run(place: Place) -> anyhow::Result<()> {
    telemetry::init(&place.config.log);
    for sentence in strays() {
        warn!("{sentence}");
    }
    let state = StateDir::lock(place.state_dir, PROGRAM)?;
    let connector = Connector::start(&place.config, state).await?;
    connector.run(program::stop_signal()).await
}

async fn join(place: &Place, token_file: Option<&Path>) -> Result<(), Failure> {
    let token = input::join_token(token_file)?;
    let joined: JoinedStudio = place.ask(Request::Join { token }).await?;
    note(&format!(
        "joined studio {:?} on relay {}",
        joined.studio, joined.relay
    ));
    Ok(())
}

async fn export(place: &Place, file: &Path) -> Result<(), Failure> {
    let answer = place.running(&Request::Export {}).await?;
    let answer = answer.ok_or_else(|| {
        Failure::unavailable(format!(
            "{PROGRAM} does not run with the state folder {}, and only a connected one can get the tokens for a spare; \
             start it with: {PROGRAM}",
            place.state_dir.display()
        ))
    })?;
    let spare: Spare = read_answer(answer.into_result()?)?;
    spare.write(file)?;
    note(&format!(
        "{} is written. It holds keys and join tokens for one machine, good for 30 days: keep it like a password.\nOn the \
         spare: {PROGRAM} join --from FILE",
        file.display()
    ));
    Ok(())
}

async fn join_from(place: &Place, file: &Path) -> Result<(), Failure> {
    let text = input::read_up_to(file, "the export", spare::FILE_LEN_MAX)?;
    let spare = Spare::parse(&text, file)?;
    let imported = place.ask(Request::Import { spare }).await;
    let imported: Imported = imported.map_err(|failure| match failure.code {
        ExitCode::Refused => Failure::new(
            failure.code,
            format!(
                "{}; an export lets one machine in: write a new one on the machine that works",
                failure.message
            ),
        ),
        _ => failure,
    })?;
    for joined in &imported.joined {
        note(&format!(
            "joined studio {:?} on relay {}",
            joined.studio, joined.relay
        ));
    }
    for name in &imported.lines {
        note(&format!("line {name:?} is added"));
    }
    if imported.lines.is_empty() {
        note("all its lines were here already");
    }
    Ok(())
}

/// A secret on the command line is seen by every user of the machine, and kept by the shell.
fn token_as_argument() -> Failure {
    Failure::new(
        ExitCode::Usage,
        format!(
            "the join token is never an argument, other users of this machine could see it: run `{PROGRAM} join` and \
             paste it, or pipe it into `{PROGRAM} join --token-file -`"
        ),
    )
}

async fn line(place: &Place, command: LineCommand) -> Result<(), Failure> {
    match command {
        LineCommand::Add {
            name,
            key_file,
            key,
            json,
        } => {
            let key = own_key(key_file.as_deref(), key)?;
            let info: LineInfo = place.ask(Request::AddLine { name, key }).await?;
            if json {
                return print_json(&info);
            }
            print(&show::added(&info))
        }
        LineCommand::List { json } => {
            let infos: Vec<LineInfo> = place.ask(Request::Lines {}).await?;
            if json {
                return print_json(&infos);
            }
            print(&show::lines(&infos))
        }
        LineCommand::Url { name } => {
            let urls = place.find(&name).await?.urls;
            if urls.is_empty() {
                return Err(Failure::unavailable(format!(
                    "the address of {name:?} is known once a relay was joined: {PROGRAM} join"
                )));
            }
            print(&show::urls(&urls))
        }
        LineCommand::Set { name, settings } => {
            let settings = input::settings(&settings)?;
            let keys: Vec<String> = settings.iter().map(|(key, _)| key.clone()).collect();
            let later: Vec<String> = (keys.iter())
                .filter(|key| !SERVED_KEYS.contains(&key.as_str()))
                .cloned()
                .collect();
            let request = Request::SetLine { name, settings };
            let info: LineInfo = place.ask(request).await?;
            note(&show::set(&info, &keys));
            if !later.is_empty() {
                note(&format!(
                    "kept, without effect in this version: {}",
                    later.join(", ")
                ));
            }
            Ok(())
        }
        LineCommand::Show { name } => print(&show::settings(&place.find(&name).await?)),
        LineCommand::On { name } => switch(place, name, true).await,
        LineCommand::Off { name } => switch(place, name, false).await,
        LineCommand::Remove { name } => {
            let info: LineInfo = place.ask(Request::RemoveLine { name }).await?;
            note(&format!("line {:?} is removed", info.name));
            Ok(())
        }
        LineCommand::Take { name, publisher } => {
            let decided: Decided = place.ask(Request::TakeLine { name, publisher }).await?;
            let (line, who) = (decided.line, decided.rival.who());
            note(&if decided.is_readmitted {
                format!("{who} may try again to publish to {line:?}")
            } else {
                format!("{line:?} goes to {who}, at its next keyframe")
            });
            Ok(())
        }
        LineCommand::Refuse { name, publisher } => {
            let decided: Decided = place.ask(Request::RefuseLine { name, publisher }).await?;
            note(&format!(
                "{} is sent away from {:?}",
                decided.rival.who(),
                decided.line
            ));
            Ok(())
        }
        LineCommand::Resync { name } => {
            let resynced: Resynced = place.ask(Request::ResyncLine { name }).await?;
            let lag = resynced.encoder_lag_ms.map_or_else(String::new, |ms| {
                format!(", which was {:.1} s behind", f64::from(ms) / 1000.0)
            });
            note(&format!(
                "{} on {:?}{lag}, starts again",
                resynced.encoder, resynced.line
            ));
            Ok(())
        }
    }
}

async fn switch(place: &Place, name: String, enabled: bool) -> Result<(), Failure> {
    let info: LineInfo = place.ask(Request::EnableLine { name, enabled }).await?;
    let how = if info.enabled { "on" } else { "off" };
    note(&format!("line {:?} is {how}", info.name));
    Ok(())
}

/// The studio's own key, with a word about a weak or a visible one.
fn own_key(file: Option<&Path>, argument: Option<String>) -> Result<Option<Secret>, Failure> {
    if argument.is_some() {
        note(
            "warning: other users of this machine can see a key on the command line; use --key-file",
        );
    }
    let text = match (file, argument) {
        (Some(file), _) => input::read(file, "the key")?,
        (None, Some(argument)) => argument,
        (None, None) => return Ok(None),
    };
    let key = StreamKey::parse(&text)
        .map_err(|error| Failure::new(ExitCode::Usage, error.to_string()))?;
    if key.is_weak() {
        note("warning: this key is easy to guess; without --key-file a strong one is made");
    }
    Ok(Some(Secret::new(key.expose())))
}

async fn status(place: &Place, json: bool) -> Result<(), Failure> {
    let status: Value = match place.running(&Request::Status {}).await? {
        Some(answer) => answer.into_result()?,
        None => {
            return Err(Failure::unavailable(format!(
                "{PROGRAM} does not run with the state folder {}; start it with: {PROGRAM}",
                place.state_dir.display()
            )));
        }
    };
    if json {
        return print_json(&status);
    }
    print(&show::status(&status))
}

async fn events(place: &Place, json: bool) -> Result<(), Failure> {
    let events: Vec<Event> = place.ask(Request::Events {}).await?;
    if json {
        return print_json(&events);
    }
    print(&show::events(&events))
}

fn check_config(place: &Place) -> Result<(), Failure> {
    let path = place.state_dir.join("lines.toml");
    let text = match ops::read_text(&path, FILE_LEN_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Failure::io(path.display(), &error)),
    };
    let lines = LinesFile::parse(&text)
        .map_err(|error| Failure::config(format!("{}: {error}", path.display())))?;
    (place.config.slate.0.check()).map_err(|error| Failure::config(error.to_string()))?;
    for line in lines.entries() {
        (line.settings.check_slate())
            .map_err(|error| Failure::config(format!("line {:?}: {error}", line.name)))?;
    }
    for sentence in place.config.not_served().into_iter().chain(strays()) {
        note(&format!("warning: {sentence}"));
    }
    print(&format!(
        "the configuration is fine\nstate folder: {}\n{}lines: {}\n",
        place.state_dir.display(),
        show::config(&place.config),
        lines.entries().len(),
    ))
}

fn strays() -> Vec<String> {
    firstmile_shared::config::strays(ENV_PREFIX, std::env::vars_os())
}

/// Which installation is meant.
#[derive(Debug)]
struct Place {
    config: Config,
    state_dir: PathBuf,
}

impl Place {
    /// Asks the running program, or does it alone.
    async fn ask<T: DeserializeOwned>(&self, request: Request) -> Result<T, Failure> {
        let value = match self.running(&request).await? {
            Some(answer) => answer.into_result()?,
            None => self.alone(request).await?,
        };
        read_answer(value)
    }

    /// The running program's answer; `None` when none runs.
    async fn running(&self, request: &Request) -> Result<Option<Answer>, Failure> {
        match admin::request(&self.state_dir, request).await {
            Ok(answer) => Ok(Some(answer)),
            Err(AdminError::NotRunning) => Ok(None),
            Err(error @ AdminError::Io(_)) => Err(Failure::new(ExitCode::Io, error.to_string())),
        }
    }

    async fn alone(&self, request: Request) -> Result<Value, Failure> {
        let state = match StateDir::lock(self.state_dir.clone(), PROGRAM) {
            Ok(state) => state,
            // It holds the lock and does not listen yet, or no longer: ask once more.
            Err(held) if held.code == ExitCode::Unavailable => {
                tokio::time::sleep(STARTING).await;
                let answer = self.running(&request).await?;
                return answer.ok_or(held)?.into_result();
            }
            Err(error) => return Err(error),
        };
        let lines = Lines::open(state.path(), self.config.delay.0)?;
        let events = Events::open(state.path());
        let tunnels = program::open_tunnels(&self.config, &state, &lines, &events)?;
        let control = Control::new(lines, tunnels, Health::default(), events);
        control.result(request).await
    }

    async fn find(&self, name: &str) -> Result<LineInfo, Failure> {
        let infos: Vec<LineInfo> = self.ask(Request::Lines {}).await?;
        let wanted = folded(name);
        let names: Vec<_> = infos
            .iter()
            .map(|info| format!("{:?}", info.name))
            .collect();
        let found = (infos.into_iter()).find(|info| folded(&info.name) == wanted);
        found.ok_or_else(|| {
            let known = if names.is_empty() {
                "there are none yet".to_owned()
            } else {
                format!("the lines are {}", names.join(", "))
            };
            Failure::new(
                ExitCode::Usage,
                format!("there is no line {name:?}; {known}"),
            )
        })
    }
}

/// An answer as what was asked for.
fn read_answer<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|error| {
        let message = format!(
            "the running program answered something else: {error}; is it of another version?"
        );
        Failure::new(ExitCode::Io, message)
    })
}

/// For a script: standard output, and an error when nobody reads it.
fn print(text: &str) -> Result<(), Failure> {
    (io::stdout().write_all(text.as_bytes()))
        .map_err(|error| Failure::io("writing the answer", &error))
}

fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    let json = serde_json::to_string(value)
        .map_err(|error| Failure::new(ExitCode::Io, error.to_string()))?;
    print(&format!("{json}\n"))
}

/// For the person: standard error.
fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A program that just takes its lock listens this soon.
const STARTING: Duration = Duration::from_secs(1);
