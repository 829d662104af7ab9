//! A program's place on its machine: the state folder with its lock, `run.json`, and files that are never half-written.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    exit::{ExitCode, Failure},
    os::{self, FileLock, LockError},
};

/// A program's state folder: found, made, checked to be ours; the lock is held while this lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: FileLock,
}

impl StateDir {
    /// Where the state of `program` is: `--state-dir` or the system's place. Made if it is not there.
    ///
    /// The folder must be private to us: it holds keys.
    pub fn locate(given: Option<&Path>, program: &str) -> Result<PathBuf, Failure> {
        let path = match given {
            Some(path) if path.is_absolute() => path.to_owned(),
            Some(path) => std::path::absolute(path).map_err(|error| {
                Failure::io(format_args!("state folder {}", path.display()), &error)
            })?,
            None => os::system_state_dir(program).map_err(Failure::config)?,
        };
        let fail =
            |error: &io::Error| Failure::io(format_args!("state folder {}", path.display()), error);
        os::create_private_dir(&path).map_err(|error| fail(&error))?;
        if !os::is_private_owner(&path).map_err(|error| fail(&error))? {
            return Err(Failure::config(format!(
                "state folder {} must be a folder of this user with mode 0700, it holds keys: chmod 700 it, or give another by --state-dir",
                path.display()
            )));
        }
        Ok(path)
    }

    /// Takes the lock of a located folder; [`ExitCode::Unavailable`] when another process holds it.
    ///
    /// What a killed one left behind is tidied up: its `run.json`, which would name a process that is no more, and what
    /// it had begun to write.
    pub fn lock(path: PathBuf, program: &str) -> Result<Self, Failure> {
        match FileLock::try_take(&path.join(LOCK_FILE)) {
            Ok(lock) => {
                let state = Self { path, _lock: lock };
                state.tidy_up();
                Ok(state)
            }
            Err(LockError::Held) => Err(Failure::new(
                ExitCode::Unavailable,
                format!(
                    "another {program} runs with the state folder {}; stop it, or give this one its own by --state-dir",
                    path.display()
                ),
            )),
            Err(LockError::Io(error)) => Err(Failure::io(
                format_args!("lock file {}", path.join(LOCK_FILE).display()),
                &error,
            )),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Nothing here is needed, so nothing here can fail: a folder that can't be written says so at the first write.
    fn tidy_up(&self) {
        let _ = std::fs::remove_file(self.file(RUN_FILE));
        for entry in std::fs::read_dir(&self.path)
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.path().extension().is_some_and(|end| end == TEMPORARY) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Writes `run.json`: where the program really listens. Call it before readiness.
    pub fn write_run_file(&self, addresses: &RunFile) -> Result<(), Failure> {
        let path = self.file(RUN_FILE);
        let json = serde_json::to_vec(addresses).unwrap_or_default();
        write_atomic(&path, &json)
            .map_err(|error| Failure::io(format_args!("{}", path.display()), &error))
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        // What no longer runs must not be found running.
        let _ = std::fs::remove_file(self.file(RUN_FILE));
    }
}

/// `STATE/run.json`: what is really bound; null for what is off.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RunFile {
    /// The process.
    pub pid: u32,
    /// RTMP, `ADDRESS:PORT`.
    pub rtmp: Option<String>,
    /// RTMPS.
    pub rtmps: Option<String>,
    /// The tunnel.
    pub tunnel: Option<String>,
    /// The page, the API and the metrics.
    pub http: Option<String>,
}

/// Opens a file for reading. A pipe would keep its reader waiting and a device never ends: they are errors.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // Before it is opened: opening a pipe waits already.
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    File::open(path)
}

/// The text of such a file, of `len_max` bytes at most.
pub fn read_text(path: &Path, len_max: u64) -> io::Result<String> {
    let mut text = String::new();
    open_regular(path)?
        .take(len_max + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > len_max {
        return Err(io::Error::other(format!(
            "it has more than {len_max} bytes"
        )));
    }
    Ok(text)
}

/// Replaces a file as a whole: after a crash, a power cut or on a full disk the old or the new one is there, mode 0600.
pub fn write_atomic(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = path
        .parent()
        .ok_or_else(|| io::Error::other("the file has no folder"))?;
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::other("the file has no name"))?;
    let mut temporary = name.to_owned();
    temporary.push(".");
    temporary.push(TEMPORARY);
    let temporary = folder.join(temporary);
    // One that a killed program left has perhaps another mode, or is a link to elsewhere.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written =
        write_synced(&temporary, contents).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = written {
        // It may hold half a secret, and the disk may need the room.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    os::sync_dir(folder)
}

fn write_synced(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = os::create_private_file(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

const LOCK_FILE: &str = "lock";
/// What the name of a file ends in while it is written.
const TEMPORARY: &str = "new";
const RUN_FILE: &str = "run.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_state_folder_serves_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = StateDir::locate(Some(&folder.path().join("state")), "firstmile-test").unwrap();
        let first = StateDir::lock(path.clone(), "firstmile-test").unwrap();
        let second = StateDir::lock(path.clone(), "firstmile-test").unwrap_err();
        assert_eq!(second.code, ExitCode::Unavailable);
        assert!(second.message.contains("--state-dir"), "{second}");
        drop(first);
        assert!(
            StateDir::lock(path, "firstmile-test").is_ok(),
            "the lock ends with its holder"
        );
    }

    #[test]
    fn what_a_killed_program_left_is_tidied_up_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = StateDir::locate(Some(&folder.path().join("state")), "firstmile-test").unwrap();
        let there = |name: &str| path.join(name).exists();
        for name in ["run.json", "lines.toml.new", "lines.toml"] {
            std::fs::write(path.join(name), "half").unwrap();
        }
        let state = StateDir::lock(path.clone(), "firstmile-test").unwrap();
        assert!(!there("run.json") && !there("lines.toml.new") && there("lines.toml"));
        state.write_run_file(&RunFile::default()).unwrap();
        assert!(there("run.json"));
        drop(state);
        assert!(!there("run.json"));
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = StateDir::locate(Some(folder.path()), "firstmile-test").unwrap_err();
        assert_eq!(error.code, ExitCode::Config);
        assert!(error.message.contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_replaced_file_is_whole_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        for contents in ["first", "second"] {
            write_atomic(&path, contents.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), contents);
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(
                std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no temporary file is left"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_can_not_be_written_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_atomic(&path, b"first").unwrap();
        // What is written goes nowhere through a link, and a folder in the way is not replaced.
        std::os::unix::fs::symlink("/dev/full", folder.path().join("a.json.new")).unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second");
        let in_the_way = folder.path().join("b.json");
        std::fs::create_dir(&in_the_way).unwrap();
        write_atomic(&in_the_way, b"secret").unwrap_err();
        let names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "nothing half-written is left: {names:?}");
    }
}
