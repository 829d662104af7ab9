//! A running show: the real relay and connector programs on loopback, with throw-away state and ports of the system's choice.
//!
//! Everything is driven as a person or a script would: command lines, `run.json`, `status --json`. Whatever is started
//! here ends when its owner is dropped, by process id. Nothing sleeps to "let things settle": waits name what they wait
//! for and have a deadline.

mod encoder;
mod obs;
mod program;

use std::{
    fs,
    io::Read,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::Value;
use tempfile::TempDir;

pub use self::{
    encoder::{Encoder, EncoderSettings},
    obs::Obs,
    program::{ChildProcess, Finished, Program, executable},
};

/// One relay, and the folder that everything of the show lives in.
#[derive(Debug)]
pub struct Show {
    relay: Program,
    folder: TempDir,
    verbose: bool,
    _turn: MutexGuard<'static, ()>,
}

impl Show {
    /// Starts a relay and waits until it is ready.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(false, &[], |_| Ok(()))
    }

    /// Likewise, with everything logged that can be logged.
    pub fn start_verbose() -> anyhow::Result<Self> {
        Self::start_with(true, &[], |_| Ok(()))
    }

    /// Likewise, with more in the relay's environment.
    pub fn start_set(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::start_with(false, settings, |_| Ok(()))
    }

    /// Likewise, after `prepare` did something to the show's folder. Its `relay` is the relay's state folder.
    pub fn start_prepared(
        settings: &[(&str, &str)],
        prepare: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        Self::start_with(false, settings, prepare)
    }

    fn start_with(
        verbose: bool,
        more: &[(&str, &str)],
        prepare: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        // Real media are paced on all cores: one show at a time, also where test threads are many.
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::Builder::new()
            .prefix("firstmile-show-")
            .tempdir()?;
        prepare(folder.path())?;
        let mut settings = vec![
            ("FIRSTMILE_RELAY__RTMP__LISTEN", "127.0.0.1:0"),
            ("FIRSTMILE_RELAY__RTMPS__LISTEN", "off"),
            ("FIRSTMILE_RELAY__TUNNEL__LISTEN", "127.0.0.1:0"),
            ("FIRSTMILE_RELAY__HTTP__LISTEN", "127.0.0.1:0"),
        ];
        if verbose {
            settings.push(("FIRSTMILE_RELAY__LOG__LEVEL", "trace"));
        }
        settings.extend(more);
        let mut relay = Program::start("firstmile-relay", &folder.path().join("relay"), &settings)?;
        // A relay that is started again is where it was.
        for (listener, setting) in [
            ("rtmp", "FIRSTMILE_RELAY__RTMP__LISTEN"),
            ("tunnel", "FIRSTMILE_RELAY__TUNNEL__LISTEN"),
            ("http", "FIRSTMILE_RELAY__HTTP__LISTEN"),
        ] {
            let address = relay.address(listener)?.to_string();
            relay.set(setting, &address);
        }
        Ok(Self {
            relay,
            folder,
            verbose,
            _turn: turn,
        })
    }

    /// The relay.
    pub fn relay(&self) -> &Program {
        &self.relay
    }

    /// The relay, to stop and start it.
    pub fn relay_mut(&mut self) -> &mut Program {
        &mut self.relay
    }

    /// A folder that ends with the show.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What everything in the show had to say.
    pub fn logs(&self) -> anyhow::Result<String> {
        let mut logs = String::new();
        for entry in fs::read_dir(self.folder.path())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let name = path.file_stem().unwrap_or_default().to_string_lossy();
                logs = logs + "--- " + &name + "\n";
                logs += &String::from_utf8_lossy(&fs::read(&path)?);
            }
        }
        Ok(logs)
    }

    /// A join token for `studio`.
    pub fn invite(&self, studio: &str, more: &[&str]) -> anyhow::Result<String> {
        let address = self.relay.address("tunnel")?.to_string();
        let arguments = [&["invite", studio, "--address", &address], more].concat();
        let token = self.relay.command(&arguments, "")?.success()?;
        Ok(token.trim_end().to_owned())
    }

    /// Starts a connector that has joined nothing. `name` is the name of its state folder.
    pub fn connector(&self, name: &str, output: OutputKind) -> anyhow::Result<Connector> {
        let mut settings = vec![
            ("FIRSTMILE_CONNECTOR__HTTP__LISTEN", "127.0.0.1:0"),
            ("FIRSTMILE_CONNECTOR__DELAY", DELAY_MS_TEXT),
            (
                "FIRSTMILE_CONNECTOR__OUTPUT__DEFAULT",
                match output {
                    OutputKind::Ndi | OutputKind::NdiWithoutRuntime => "ndi",
                    OutputKind::Null => "null",
                },
            ),
        ];
        if output == OutputKind::NdiWithoutRuntime {
            settings.push(("NDI_RUNTIME_DIR_V6", "/nonexistent"));
            settings.push(("NDI_RUNTIME_DIR_V5", "/nonexistent"));
        }
        if self.verbose {
            settings.push(("FIRSTMILE_CONNECTOR__LOG__LEVEL", "trace"));
        }
        Connector::start(&self.folder.path().join(name), &settings)
    }

    /// Adds a line to a connector of `studio`, and waits until the relay knows it: from then on an encoder gets in.
    ///
    /// The relay stores one change of a connector's lines a second at most.
    pub fn add_line(
        &self,
        studio: &str,
        connector: &Connector,
        name: &str,
        key: Option<&str>,
    ) -> anyhow::Result<LineAddress> {
        let lines = || -> anyhow::Result<u64> {
            let studios = self.relay.command(&["studios", "--json"], "")?.success()?;
            let studios: Value = serde_json::from_str(&studios)?;
            let entry = studios.as_array().into_iter().flatten();
            let entry = entry.clone().find(|entry| entry["name"] == studio);
            Ok(entry.and_then(|entry| entry["lines"].as_u64()).unwrap_or(0))
        };
        let before = lines()?;
        let address = connector.add_line(name, key)?;
        wait_for(&format!("the relay to know {name:?}"), PATIENCE, || {
            let now = lines()?;
            Ok(if now > before {
                Ok(())
            } else {
                Err(now.into())
            })
        })?;
        Ok(address)
    }

    /// Starts a connector and joins it to `studio`.
    pub fn joined(&self, studio: &str, output: OutputKind) -> anyhow::Result<Connector> {
        let connector = self.connector(&format!("connector-{studio}"), output)?;
        connector.join(&self.invite(studio, &[])?)?.success()?;
        connector.wait_connected()?;
        Ok(connector)
    }
}

/// Where a connector puts its pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// A real NDI source.
    Ndi,
    /// NDI, on a machine that has no runtime.
    NdiWithoutRuntime,
    /// Counted, and thrown away.
    Null,
}

/// The studio delay of every show, milliseconds.
pub const DELAY_MS: f64 = 100.0;
const DELAY_MS_TEXT: &str = "100";

/// One running connector.
#[derive(Debug)]
pub struct Connector {
    program: Program,
}

/// What an encoder needs to know of a line.
#[derive(Clone, Debug)]
pub struct LineAddress {
    /// The whole URL, key included.
    pub url: String,
    /// The key alone, as shown.
    pub key: String,
}

impl Connector {
    fn start(state: &Path, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let program = Program::start("firstmile-connector", state, settings)?;
        Ok(Self { program })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The program, to stop and start it.
    pub fn program_mut(&mut self) -> &mut Program {
        &mut self.program
    }

    /// Runs `join`; whether it worked is for the caller to judge.
    pub fn join(&self, token: &str) -> anyhow::Result<Finished> {
        self.program.command(&["join", "--token-file", "-"], token)
    }

    /// Adds a line; with a key of the studio's own when `key` is given. See [`Show::add_line`].
    pub fn add_line(&self, name: &str, key: Option<&str>) -> anyhow::Result<LineAddress> {
        let printed = match key {
            Some(key) => self
                .program
                .command(&["line", "add", name, "--key-file", "-"], key)?,
            None => self.program.command(&["line", "add", name], "")?,
        }
        .success()?;
        let field = |label: &str| {
            printed
                .lines()
                .find_map(|line| line.strip_prefix(label))
                .map(|value| value.trim().to_owned())
                .with_context(|| format!("no {label:?} in what `line add` printed: {printed}"))
        };
        Ok(LineAddress {
            url: field("url:")?,
            key: field("key:")?,
        })
    }

    /// `status --json`.
    pub fn status(&self) -> anyhow::Result<Value> {
        let printed = self.program.command(&["status", "--json"], "")?.success()?;
        Ok(serde_json::from_str(&printed)?)
    }

    /// The entry of one line in the status.
    pub fn line(&self, name: &str) -> anyhow::Result<Value> {
        let status = self.status()?;
        status["lines"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|line| line["name"] == name)
            .cloned()
            .with_context(|| format!("no line {name:?} in {status}"))
    }

    /// Waits until a relay has welcomed it.
    pub fn wait_connected(&self) -> anyhow::Result<()> {
        self.wait_relay("connected").map(drop)
    }

    /// Waits until the first relay's state is this; answers with its entry.
    pub fn wait_relay(&self, state: &str) -> anyhow::Result<Value> {
        wait_for(&format!("a relay that is {state}"), PATIENCE, || {
            let status = self.status()?;
            let relay = status["relays"][0].clone();
            Ok((relay["state"] == state).then_some(relay).ok_or(status))
        })
    }

    /// Waits until a line's state is this; answers with its entry.
    pub fn wait_line(&self, name: &str, state: &str) -> anyhow::Result<Value> {
        wait_for(&format!("line {name:?} to be {state}"), PATIENCE, || {
            let line = self.line(name)?;
            Ok((line["state"] == state).then_some(line.clone()).ok_or(line))
        })
    }
}

/// Looks until `look` finds what it wants; `Ok(Err(seen))` is "not yet".
pub fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> anyhow::Result<Result<T, Value>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        let seen = match look()? {
            Ok(found) => return Ok(found),
            Err(seen) => seen,
        };
        if Instant::now() > deadline {
            bail!("still waiting for {what} after {patience:?}; now: {seen}");
        }
        thread::sleep(POLL);
    }
}

/// GETs a path of a page on loopback; answers with status line, headers and body as they came.
pub fn http_get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    use std::io::Write;
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What a test cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The NDI runtime, and a network namespace in which its announcements reach nobody.
    Ndi,
    /// The `ffmpeg` program with libx264.
    Ffmpeg,
    /// No NDI runtime in a system folder, where it would be found whatever the environment says.
    NoInstalledNdi,
}

/// Whether the test can run; when not, says why on standard error.
///
/// # Panics
/// When `FIRSTMILE_REQUIRE_NDI=1` or `FIRSTMILE_REQUIRE_FFMPEG=1` says that it must (`make test` says so).
#[expect(clippy::print_stderr, reason = "a skipped test has to say so")]
pub fn can_run(needs: &[Need]) -> bool {
    for need in needs {
        let (missing, variable) = match need {
            Need::Ndi => (missing_ndi(), Some("FIRSTMILE_REQUIRE_NDI")),
            Need::Ffmpeg => (missing_ffmpeg(), Some("FIRSTMILE_REQUIRE_FFMPEG")),
            Need::NoInstalledNdi => (installed_ndi(), None),
        };
        if let Some(why) = missing {
            let required = variable.filter(|name| std::env::var(name).is_ok_and(|set| set == "1"));
            assert!(required.is_none(), "{required:?} is set, but {why}");
            eprintln!("SKIPPED: {why}");
            return false;
        }
    }
    true
}

fn missing_ndi() -> Option<String> {
    if !is_private_network() {
        return Some("this is no private network namespace: run it by `make test`".into());
    }
    crate::ndi::Runtime::load()
        .err()
        .map(|error| format!("{error:#}"))
}

fn missing_ffmpeg() -> Option<String> {
    let encoders = std::process::Command::new("ffmpeg")
        .args(["-hide_banner", "-encoders"])
        .output();
    match encoders {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("libx264") => None,
        Ok(_) => Some("the ffmpeg program has no libx264".into()),
        Err(error) => Some(format!("no ffmpeg program: {error}")),
    }
}

fn installed_ndi() -> Option<String> {
    let arch = std::env::consts::ARCH;
    [
        "/usr/lib",
        "/usr/local/lib",
        "/usr/lib64",
        &format!("/usr/lib/{arch}-linux-gnu"),
    ]
    .into_iter()
    .map(|folder| Path::new(folder).join("libndi.so.6"))
    .find(|path| path.exists())
    .map(|path| format!("{} is installed", path.display()))
}

/// Whether this process sees no network but loopback.
fn is_private_network() -> bool {
    fs::read_to_string("/proc/net/dev").is_ok_and(|devices| {
        devices
            .lines()
            .skip(2)
            .all(|line| line.trim_start().starts_with("lo:"))
    })
}

/// The folder of the NDI runtime to give to the connector: `None` leaves it to the connector.
pub(crate) fn ndi_folder() -> Option<PathBuf> {
    if std::env::var_os("NDI_RUNTIME_DIR_V6").is_some() {
        return None;
    }
    let copy = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ndi/NDIlib"));
    copy.exists().then_some(copy)
}

/// How long anything may take that takes well below a second on a quiet machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How often a wait looks again.
pub(crate) const POLL: Duration = Duration::from_millis(50);
