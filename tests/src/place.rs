//! A program on a machine on which something is wrong: state folders, configurations, disks, users.

use std::{
    any::Any,
    fmt,
    fs::{self, File},
    io::{self, Write},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{PATIENCE, executable, wait_for};

/// A program of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// `firstmile-relay`
    Relay,
    /// `firstmile-connector`
    Connector,
}

impl Which {
    const fn name(self) -> &'static str {
        match self {
            Self::Relay => "firstmile-relay",
            Self::Connector => "firstmile-connector",
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Relay => "FIRSTMILE_RELAY__",
            Self::Connector => "FIRSTMILE_CONNECTOR__",
        }
    }
}

/// This machine can't be made wrong in that way: not root, no mounts, no other users.
#[derive(Debug)]
pub struct NotHere(String);

impl fmt::Display for NotHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotHere {}

/// One program with its folders; what was made ends with it.
#[derive(Debug)]
pub struct Place {
    which: Which,
    folder: TempDir,
    state: PathBuf,
    /// `None`: by `--state-dir`.
    state_variable: Option<(String, String)>,
    config: Option<PathBuf>,
    variables: Vec<(String, String)>,
    arguments: Vec<String>,
    answer: Option<PathBuf>,
    is_nobody: bool,
    running: Option<Child>,
    kept: Vec<Box<dyn Any>>,
    mounts: Vec<Mount>,
}

impl Place {
    /// A place where everything is right.
    pub fn new(which: Which) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("firstmile-place-")
            .tempdir()?;
        // Other users get as far as this.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let mut place = Self {
            which,
            state: folder.path().join("state"),
            folder,
            state_variable: None,
            config: None,
            variables: Vec::new(),
            arguments: vec!["run".into()],
            answer: None,
            is_nobody: false,
            running: None,
            kept: Vec::new(),
            mounts: Vec::new(),
        };
        place.variable("HTTP__LISTEN", "127.0.0.1:0");
        match which {
            Which::Relay => {
                place.variable("RTMP__LISTEN", "127.0.0.1:0");
                place.variable("TUNNEL__LISTEN", "127.0.0.1:0");
            }
            Which::Connector => place.variable("OUTPUT__DEFAULT", "null"),
        }
        Ok(place)
    }

    /// The state folder.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Sets a setting by its variable, without the prefix.
    pub fn variable(&mut self, name: &str, value: &str) {
        self.unset(name);
        let name = format!("{}{name}", self.which.prefix());
        self.variables.push((name, value.to_owned()));
    }

    /// Leaves a setting at its default.
    pub fn unset(&mut self, name: &str) {
        let name = format!("{}{name}", self.which.prefix());
        self.variables.retain(|(known, _)| *known != name);
    }

    /// Gives a configuration file.
    pub fn config(&mut self, toml: &str) -> anyhow::Result<()> {
        self.config_bytes(toml.as_bytes())
    }

    /// Likewise, whatever it is.
    pub fn config_bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.config_at("program.toml");
        Ok(fs::write(self.folder.path().join("program.toml"), bytes)?)
    }

    /// Names a configuration file.
    pub fn config_at(&mut self, name: &str) {
        self.config = Some(self.folder.path().join(name));
    }

    /// Only its owner can read the configuration file.
    pub fn lock_away_config(&mut self) -> anyhow::Result<()> {
        let config = self.config.as_ref().context("a configuration file")?;
        Ok(fs::set_permissions(
            config,
            fs::Permissions::from_mode(0o600),
        )?)
    }

    /// What it is called with; `run` otherwise.
    pub fn arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&word| word.to_owned()).collect();
    }

    /// Where standard output goes.
    pub fn answer_to(&mut self, file: &str) -> anyhow::Result<()> {
        self.answer = Some(file.into());
        Ok(())
    }

    /// Whatever this is lives as long as the place.
    pub fn keep(&mut self, thing: impl Any) {
        self.kept.push(Box::new(thing));
    }

    /// The state folder is told by this variable, not by `--state-dir`.
    pub fn state_from(&mut self, variable: &str, value: &str) {
        self.state_variable = Some((variable.to_owned(), value.to_owned()));
    }

    /// The state folder is one below what it was.
    pub fn move_state(&mut self, name: &str) {
        self.state = self.state.join(name);
    }

    /// Runs it as another user, who has no rights.
    pub fn as_nobody(&mut self) -> anyhow::Result<()> {
        let can = Command::new("setpriv")
            .args(NOBODY)
            .arg("true")
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !can {
            return Err(NotHere("it takes root and setpriv to be somebody else".into()).into());
        }
        self.is_nobody = true;
        Ok(())
    }

    /// Nothing can be made beside the state folder by another user.
    pub fn close_parent(&mut self) -> anyhow::Result<()> {
        Ok(fs::set_permissions(
            self.folder.path(),
            fs::Permissions::from_mode(0o755),
        )?)
    }

    /// Makes the state folder.
    pub fn make_state(&mut self) -> anyhow::Result<()> {
        Ok(fs::DirBuilder::new().mode(0o700).create(&self.state)?)
    }

    /// Lets the program make everything that it makes, and stop.
    pub fn use_once(&mut self) -> anyhow::Result<()> {
        self.start()?;
        self.stop()?;
        Ok(())
    }

    /// Another mode for a file of the state folder.
    pub fn chmod(&mut self, name: &str, mode: u32) -> anyhow::Result<()> {
        Ok(fs::set_permissions(
            self.state.join(name),
            fs::Permissions::from_mode(mode),
        )?)
    }

    /// Other contents, mode 0600.
    pub fn overwrite(&mut self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        fs::write(self.state.join(name), bytes)?;
        self.chmod(name, 0o600)
    }

    /// Only the first bytes stay.
    pub fn truncate(&mut self, name: &str, len: u64) -> anyhow::Result<()> {
        let file = File::options().write(true).open(self.state.join(name))?;
        Ok(file.set_len(len)?)
    }

    /// A folder where a file was.
    pub fn replace_by_folder(&mut self, name: &str) -> anyhow::Result<()> {
        let path = self.state.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        // Not empty, so that nothing replaces it by accident.
        Ok(fs::create_dir_all(path.join("in the way"))?)
    }

    /// A database of this version.
    pub fn set_schema(&mut self, version: u32) -> anyhow::Result<()> {
        // "user version" of SQLite's file header, big-endian, at 60.
        let path = self.state.join("relay.sqlite");
        let mut bytes = fs::read(&path)?;
        let place = bytes.get_mut(60..64).context("a database")?;
        place.copy_from_slice(&version.to_be_bytes());
        Ok(fs::write(path, bytes)?)
    }

    /// A file of the state folder, or the folder itself, is another user's.
    pub fn give_away(&mut self, name: &str) -> anyhow::Result<()> {
        give(&self.state.join(name), SOMEBODY)
    }

    /// The folder is the other user's, what is in it is not.
    pub fn give_folder_away(&mut self) -> anyhow::Result<()> {
        give(&self.state, NOBODY_ID)
    }

    /// A disk of its own for the state folder.
    pub fn mount(&mut self, options: &str) -> anyhow::Result<()> {
        self.mounts.push(mount(&self.state, options)?);
        self.chmod("", 0o700)
    }

    /// Changes the disk of the state folder.
    pub fn mount_again(&mut self, options: &str) -> anyhow::Result<()> {
        let options = format!("remount,{options}");
        let status = Command::new("mount")
            .args(["-o", &options])
            .arg(&self.state)
            .status()?;
        ensure!(status.success(), "mount -o {options}: {status}");
        Ok(())
    }

    /// Calls it and holds how it fails against what it should: the code, and all of `says` in one sentence.
    pub fn fails(&self, code: i32, says: &[&str]) -> anyhow::Result<()> {
        let mut child = self.command()?;
        match &self.answer {
            Some(file) => child.stdout(File::options().write(true).open(file)?),
            None => child.stdout(Stdio::piped()),
        };
        let mut child = child.stderr(Stdio::piped()).spawn()?;
        let deadline = Instant::now() + FAILS_WITHIN;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                let output = child.wait_with_output()?;
                bail!("it runs: {}", String::from_utf8_lossy(&output.stderr));
            }
            thread::sleep(Duration::from_millis(5));
        }
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(code),
            "{}: {said}",
            output.status
        );
        ensure!(output.stdout.is_empty(), "it printed an answer: {output:?}");
        for bad in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
            ensure!(!said.contains(bad), "{bad}: {said}");
        }
        // Usage errors are the parser's: with a hint on lines of its own.
        if code != 2 {
            let own = format!("{}: ", self.which.name());
            let sentences = said.lines().filter(|line| !is_log(line)).count();
            ensure!(
                sentences == 1
                    && said
                        .lines()
                        .last()
                        .is_some_and(|line| line.starts_with(&own)),
                "not one sentence: {said}"
            );
        }
        for part in says {
            let config = self.config.as_deref().unwrap_or(Path::new(""));
            let part = part
                .replace("{state}", &self.state.to_string_lossy())
                .replace("{config}", config.to_string_lossy().trim_end_matches('/'));
            ensure!(said.contains(&part), "no {part:?} in {said}");
        }
        Ok(())
    }

    /// Starts it and waits until it answers.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let log = File::create(self.folder.path().join("log"))?;
        let child = self.command()?.stdout(Stdio::null()).stderr(log).spawn()?;
        let pid = child.id();
        self.running = Some(child);
        wait_for("the program", PATIENCE, || {
            if let Some(child) = &mut self.running
                && let Some(status) = child.try_wait()?
            {
                bail!("it ended with {status}: {}", self.log()?);
            }
            let run = fs::read(self.state.join("run.json")).unwrap_or_default();
            let run: Value = serde_json::from_slice(&run).unwrap_or_default();
            Ok(if run["pid"] == pid { Ok(()) } else { Err(run) })
        })
    }

    /// Ends it in good order; answers with its exit code.
    pub fn stop(&mut self) -> anyhow::Result<Option<i32>> {
        let mut child = self.running.take().context("not running")?;
        let killed = Command::new("sh")
            .args(["-c", "kill -TERM \"$1\"", "sh", &child.id().to_string()])
            .status()?;
        ensure!(killed.success(), "kill: {killed}");
        Ok(child.wait()?.code())
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.running.take().context("not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// What it had to say.
    pub fn log(&self) -> anyhow::Result<String> {
        let log = fs::read(self.folder.path().join("log"))?;
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    fn command(&self) -> anyhow::Result<Command> {
        let program = executable(self.which.name())?;
        let mut command = if self.is_nobody {
            let mut command = Command::new("setpriv");
            command.args(NOBODY).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        match &self.state_variable {
            Some((name, value)) => drop(command.env(name, value)),
            None => drop(command.arg("--state-dir").arg(&self.state)),
        }
        command.args(&self.arguments).stdin(Stdio::null());
        command.process_group(0);
        Ok(command)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.mounts.clear();
    }
}

/// A disk in memory, until dropped.
#[derive(Debug)]
pub struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: whoever uses it still may end first. The namespace takes it along in any case.
        let _ = Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .stderr(Stdio::null())
            .status();
    }
}

/// Mounts a disk in memory with these options, in a mount namespace that is ours.
pub fn mount(at: &Path, options: &str) -> anyhow::Result<Mount> {
    if !is_private_machine() {
        return Err(NotHere("mounts are made in tests/netns.sh only".into()).into());
    }
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "firstmile-test"])
        .arg(at)
        .stderr(Stdio::null())
        .status();
    if mounted.is_ok_and(|status| status.success()) {
        return Ok(Mount(at.to_owned()));
    }
    Err(NotHere("a disk in memory can't be mounted here".into()).into())
}

/// Fills the disk of a folder to the last byte.
pub fn fill(folder: &Path) -> anyhow::Result<()> {
    let mut file = File::create(folder.join("fills-the-disk"))?;
    for len in [4096, 1] {
        loop {
            match file.write_all(&vec![0; len]) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Whether this runs inside `tests/netns.sh`.
pub fn is_private_machine() -> bool {
    std::env::var_os("FIRSTMILE_NETNS").is_some()
}

/// Whether it failed because of this machine: then says so.
#[expect(clippy::print_stderr, reason = "a skipped case has to say so")]
pub fn is_skipped(what: &str, error: &anyhow::Error) -> bool {
    let reason = error.downcast_ref::<NotHere>();
    if let Some(reason) = reason {
        eprintln!("SKIPPED: {what}: {reason}");
    }
    reason.is_some()
}

fn give(path: &Path, to: u32) -> anyhow::Result<()> {
    let id = Some(to);
    match chown(path, id, id) {
        Ok(()) => Ok(()),
        Err(error) if fs::metadata(path)?.uid() != to => {
            Err(NotHere(format!("nothing can be given away here: {error}")).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Log lines begin with the time, or in JSON.
fn is_log(line: &str) -> bool {
    line.starts_with("20") || line.starts_with('{')
}

/// Nothing is waited for on the way to a refusal.
const FAILS_WITHIN: Duration = Duration::from_secs(5);

/// Two users that nobody is.
const NOBODY_ID: u32 = 61_234;
const SOMEBODY: u32 = 61_235;

const NOBODY: [&str; 5] = [
    "--reuid=61234",
    "--regid=61234",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
];
