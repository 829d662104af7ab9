//! One of our programs as a process: its state folder, its log, its end.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context, bail};
use serde_json::Value;

use super::{PATIENCE, ndi_folder, wait_for};

/// A running `firstmile-relay` or `firstmile-connector`.
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    /// What comes before its command line.
    launcher: Vec<String>,
    state: PathBuf,
    log: PathBuf,
    settings: Vec<(String, String)>,
    child: Option<Child>,
}

impl Program {
    /// Starts it with a state folder and settings in its environment; waits until it answers.
    pub fn start(
        name: &'static str,
        state: &Path,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        Self::start_by(Vec::new(), name, state, settings)
    }

    /// Likewise, by another program that becomes it: `nsenter` and its arguments.
    pub fn start_by(
        launcher: Vec<String>,
        name: &'static str,
        state: &Path,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        if let Some(folder) = ndi_folder()
            && settings
                .iter()
                .all(|(name, _)| name != "NDI_RUNTIME_DIR_V6")
        {
            settings.push(("NDI_RUNTIME_DIR_V6".into(), folder.display().to_string()));
        }
        let mut program = Self {
            name,
            launcher,
            state: state.to_owned(),
            log: state.with_extension("log"),
            settings,
            child: None,
        };
        program.restart()?;
        Ok(program)
    }

    /// From its next start on, this is in its environment.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Starts it again with the same state and settings, after [`Program::stop`] or [`Program::kill`].
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = self
            .command_line()?
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.name))?;
        let pid = child.id();
        self.child = Some(child);
        wait_for(&format!("{} to be ready", self.name), PATIENCE, || {
            if let Some(status) = self
                .child
                .as_mut()
                .map(Child::try_wait)
                .transpose()?
                .flatten()
            {
                bail!("{} ended with {status}:\n{}", self.name, self.log()?);
            }
            let run = match fs::read(self.state.join("run.json")) {
                Ok(json) => serde_json::from_slice::<Value>(&json)?,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Ok(Err(Value::from("no run.json")));
                }
                Err(error) => return Err(error.into()),
            };
            if run["pid"] != pid {
                return Ok(Err(run));
            }
            // What was bound is written before it is served.
            let status = self.command(&["status"], "")?;
            Ok(if status.code == Some(0) {
                Ok(())
            } else {
                Err(Value::from(status.stderr))
            })
        })
    }

    /// Stops it for so long, as a computer does that is busy with something else.
    pub fn pause(&self, length: Duration) -> anyhow::Result<()> {
        let pid = self.pid().context("it does not run")?.to_string();
        for (name, wait) in [("STOP", length), ("CONT", Duration::ZERO)] {
            // The shell's own `kill`: the child is not yet waited for, so its id is still its own.
            let sent = Command::new("sh")
                .args(["-c", "kill -\"$1\" \"$2\"", "sh", name, &pid])
                .status()?;
            if !sent.success() {
                bail!("SIG{name} to {pid}: {sent}");
            }
            std::thread::sleep(wait);
        }
        Ok(())
    }

    /// Starts one of its subcommands against the same state folder, with its three streams as pipes.
    pub fn spawn(&self, arguments: &[&str]) -> anyhow::Result<Child> {
        let child = self
            .command_line()?
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(child)
    }

    /// Runs one of its subcommands to the end, against the same state folder.
    pub fn command(&self, arguments: &[&str], input: &str) -> anyhow::Result<Finished> {
        let mut child = self.spawn(arguments)?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(input.as_bytes()) {
                Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
                _ => {}
            }
        }
        let output = child.wait_with_output()?;
        Ok(Finished {
            command: format!("{} {}", self.name, arguments.join(" ")),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn command_line(&self) -> anyhow::Result<Command> {
        let program = executable(self.name)?;
        let mut command = match self.launcher.split_first() {
            Some((launcher, arguments)) => {
                let mut command = Command::new(launcher);
                command.args(arguments).arg(program);
                command
            }
            None => Command::new(program),
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FIRSTMILE_") {
                command.env_remove(name);
            }
        }
        // Without it libndi talks to the machine's own avahi, even from a private network namespace.
        command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent");
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.arg("--state-dir").arg(&self.state);
        Ok(command)
    }

    /// What it really listens on: `rtmp`, `tunnel`, `http`.
    pub fn address(&self, listener: &str) -> anyhow::Result<SocketAddr> {
        let run: Value = serde_json::from_slice(&fs::read(self.state.join("run.json"))?)?;
        run[listener]
            .as_str()
            .with_context(|| format!("no {listener} in run.json: {run}"))?
            .parse()
            .with_context(|| format!("{listener} in run.json: {run}"))
    }

    /// Its state folder.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The processes that it has started and that are still there.
    pub fn children(&self) -> anyhow::Result<Vec<ChildProcess>> {
        let pid = self.pid().context("not running")?;
        let mut children = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let child = name.to_str().and_then(|name| name.parse().ok());
            if let Some(child) = child
                && stat(child, STAT_PARENT) == Some(pid.into())
                && let Some(born) = born_at(child)
            {
                children.push(ChildProcess { pid: child, born });
            }
        }
        Ok(children)
    }

    /// The most memory that it ever had resident, bytes (`VmHWM`).
    pub fn peak_memory(&self) -> anyhow::Result<u64> {
        let pid = self.pid().context("not running")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
        let kib: u64 = kib.context("no VmHWM")?.trim().parse()?;
        Ok(kib * 1024)
    }

    /// Everything it printed so far.
    pub fn log(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// Asks it to end and waits for it.
    pub fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        let mut child = self.child.take().context("not running")?;
        terminate(&mut child, PATIENCE)
    }

    /// Ends it without warning.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}

/// A process of a program's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildProcess {
    /// Its number.
    pub pid: u32,
    /// When it was made: numbers are given again.
    born: u64,
}

impl ChildProcess {
    /// Whether it is still there.
    pub fn is_there(self) -> bool {
        born_at(self.pid) == Some(self.born)
    }
}

/// `None` when there is no such process, or it is dead and only not yet waited for.
fn born_at(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    if fields.starts_with('Z') {
        return None;
    }
    stat(pid, STAT_BORN)
}

/// "PID (NAME) STATE PARENT …": the name may hold anything, so fields count from its end.
fn stat(pid: u32, field: usize) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    fields.split(' ').nth(field)?.parse().ok()
}

const STAT_PARENT: usize = 1;
const STAT_BORN: usize = 19;

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            terminate(&mut child, Duration::from_secs(5)).ok();
        }
    }
}

/// SIGTERM, then SIGKILL when `patience` is at its end.
pub(super) fn terminate(child: &mut Child, patience: Duration) -> anyhow::Result<ExitStatus> {
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    // The shell's own `kill`: the child is not yet waited for, so its id is still its own.
    Command::new("sh")
        .args(["-c", "kill -TERM \"$1\"", "sh", &child.id().to_string()])
        .status()?;
    let ended = wait_for("a process to end", patience, || {
        Ok(child.try_wait()?.ok_or_else(|| Value::from("runs")))
    });
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    ended
}

/// A subcommand that ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// What was run.
    pub command: String,
    /// Its exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Its standard output if it succeeded.
    pub fn success(self) -> anyhow::Result<String> {
        if self.code != Some(0) {
            bail!(
                "`{}` ended with {:?}: {}",
                self.command,
                self.code,
                self.stderr
            );
        }
        Ok(self.stdout)
    }
}

/// One of this workspace's programs, built for the profile that this code was built for.
///
/// Cargo builds the programs of other packages for no test, so they are built here, once per process; that takes a
/// moment when nothing changed. `make` has built them and says so by `FIRSTMILE_PREBUILT=1`.
pub fn executable(name: &str) -> anyhow::Result<PathBuf> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = FOLDER
        .get_or_init(|| build().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)?;
    let path = folder.join(name);
    if !path.exists() {
        bail!("{} is not built", path.display());
    }
    Ok(path)
}

/// Builds the programs and answers with their folder: that of the running program, or above its `deps`.
fn build() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let mut folder = own.parent().context("a program lies in a folder")?;
    let is_test = folder.ends_with("deps");
    if is_test {
        folder = folder.parent().context("deps lies in a folder")?;
    }
    if is_test && std::env::var_os("FIRSTMILE_PREBUILT").is_none() {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--offline", "--workspace", "--bins"]);
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .status()
            .context("cargo build")?;
        if !status.success() {
            bail!("the programs do not build");
        }
    }
    Ok(folder.to_owned())
}
