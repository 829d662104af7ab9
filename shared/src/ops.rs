//! A program's place on its machine: the state folder with its lock, `run.json`, and files that are never half-written.

use std::{
    io::{self, Write},
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
            Some(path) => std::path::absolute(path)
                .map_err(|error| Failure::io(format_args!("state folder {}", path.display()), &error))?,
            None => os::system_state_dir(program).ok_or_else(|| {
                Failure::config("no state folder: neither $STATE_DIRECTORY, $XDG_STATE_HOME nor $HOME is set; give --state-dir")
            })?,
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
    pub fn lock(path: PathBuf, program: &str) -> Result<Self, Failure> {
        match FileLock::try_take(&path.join(LOCK_FILE)) {
            Ok(lock) => Ok(Self { path, _lock: lock }),
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

/// Replaces a file as a whole: after a crash or a power cut the old or the new one is there, mode 0600.
pub fn write_atomic(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = path
        .parent()
        .ok_or_else(|| io::Error::other("the file has no folder"))?;
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::other("the file has no name"))?;
    let mut temporary = name.to_owned();
    temporary.push(".new");
    let temporary = folder.join(temporary);
    let mut file = os::create_private_file(&temporary)?;
    file.write_all(contents)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&temporary, path)?;
    os::sync_dir(folder)
}

const LOCK_FILE: &str = "lock";
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
}
