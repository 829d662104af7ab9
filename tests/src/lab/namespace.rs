//! Network namespaces without names: a host of the laboratory each. They end with their last process.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

/// A host: its own interfaces, routes and firewall; files and processes are shared.
#[derive(Debug)]
pub struct Namespace {
    name: &'static str,
    /// Waits on a pipe from us, so it ends when we do, however that is.
    holder: Child,
}

impl Namespace {
    /// A host with `lo` only. `name` is for messages.
    ///
    /// # Errors
    /// Without the right to make one (root).
    pub fn new(name: &'static str) -> anyhow::Result<Self> {
        let holder = Command::new("unshare")
            .args(["--net", "--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("unshare")?;
        let mut namespace = Self { name, holder };
        namespace.wait_until_apart()?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    fn wait_until_apart(&mut self) -> anyhow::Result<()> {
        let ours = fs::read_link("/proc/self/ns/net")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::read_link(self.path()).is_ok_and(|theirs| theirs == ours) {
            if let Some(status) = self.holder.try_wait()? {
                bail!(
                    "no network namespace for {}: unshare ended with {status}",
                    self.name
                );
            }
            ensure!(
                Instant::now() < deadline,
                "no network namespace for {}",
                self.name
            );
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }

    /// A process of it, by whose number `ip` knows it.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// What comes before a command so that it runs in here; the process is the command itself.
    pub fn prefix(&self) -> [String; 3] {
        let path = self.path().display().to_string();
        [
            "nsenter".to_owned(),
            format!("--net={path}"),
            "--".to_owned(),
        ]
    }

    /// A command that runs in here.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let [enter, net, dashes] = self.prefix();
        let mut command = Command::new(enter);
        command.args([net, dashes]).arg(program);
        command
    }

    /// Runs this on a thread that lives in here, as do the sockets and the threads that it makes.
    ///
    /// # Errors
    /// Without the right to enter (root), or a thread.
    pub fn inside<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<Inside<T>> {
        let place = File::open(self.path())?;
        let (entered, answer) = std::sync::mpsc::channel();
        let thread = thread::Builder::new()
            .name(self.name.to_owned())
            .spawn(move || {
                let result = enter(&place);
                let is_in = result.is_ok();
                // Whoever asked waits for it.
                let _ = entered.send(result);
                is_in.then(run)
            })?;
        answer
            .recv()?
            .with_context(|| format!("entering {}", self.name))?;
        Ok(Inside(thread))
    }

    /// Runs `ip` with these words in here.
    ///
    /// # Errors
    /// With what it said.
    pub fn ip(&self, words: &str) -> anyhow::Result<()> {
        self.run("ip", words, "")
    }

    /// Runs a program with these words and this input in here.
    ///
    /// # Errors
    /// With what it said.
    pub fn run(&self, program: &str, words: &str, input: &str) -> anyhow::Result<()> {
        use std::io::Write;

        let what = || format!("{program} {words} on {}", self.name);
        let mut child = self
            .command(program)
            .args(words.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(what)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).with_context(what)?;
        }
        let output = child.wait_with_output().with_context(what)?;
        ensure!(
            output.status.success(),
            "{}: {}",
            what(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

/// What runs in a namespace on a thread of its own.
#[derive(Debug)]
pub struct Inside<T>(JoinHandle<Option<T>>);

impl<T> Inside<T> {
    /// Waits for its end.
    ///
    /// # Errors
    /// When it panicked.
    pub fn finish(self) -> anyhow::Result<T> {
        let name = self.0.thread().name().unwrap_or_default().to_owned();
        let ended = self.0.join().ok().flatten();
        ended.with_context(|| format!("a thread of {name} panicked"))
    }

    /// Whether it has come to its end.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its pipe closes with it; the number must not become somebody else's before.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

#[expect(unsafe_code, reason = "the standard library knows no namespaces")]
fn enter(namespace: &File) -> io::Result<()> {
    // SAFETY: a descriptor that is open; only this thread changes its namespace.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
