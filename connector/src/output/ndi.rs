//! NDI® sources: the runtime is the user's own and is looked for when the program starts; nothing is linked.
//!
//! NDI® is a registered trademark of Vizrt NDI AB, <https://ndi.video/>. The runtime may not be shipped with this
//! program; without it everything else works.

mod sender;
mod sys;
mod watcher;

use std::{
    env,
    ffi::CStr,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::sys::OpenError;
use crate::os::{NDI_DOWNLOAD, NDI_LIBRARY_NAMES, ndi_folders};

use self::sender::NdiSender;
pub use self::sender::SenderError;

/// Why there is no NDI runtime.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NdiError {
    /// None was found where it was looked for.
    #[error(
        "the NDI runtime was not found. Get it from {NDI_DOWNLOAD} (see also https://ndi.video), or set {} to the folder that \
         holds {}. Tried: {}", ENVIRONMENT[0], NDI_LIBRARY_NAMES[0], .tried.join("; ")
    )]
    NotFound {
        /// The folders without it, then each file with the reason why not.
        tried: Vec<String>,
    },
    /// Found, but older than what we need.
    #[error("the NDI runtime {} has no {symbol}: it is too old. Get NDI 6 from {NDI_DOWNLOAD} (see also https://ndi.video)", .path.display())]
    TooOld {
        /// The library.
        path: PathBuf,
        /// The entry point that is missing.
        symbol: &'static str,
    },
    /// Found, but it does not run here.
    #[error("the NDI runtime {} does not run on this processor (it needs SSE4.2)", .path.display())]
    Processor {
        /// The library.
        path: PathBuf,
    },
}

/// The loaded runtime; cheap to clone. It stays loaded until the process ends.
#[derive(Clone, Debug)]
pub struct Ndi {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    api: Arc<sys::Api>,
    path: PathBuf,
    version: String,
}

impl Ndi {
    /// Looks for the runtime: environment, beside the program, the usual folders, the loader's own search.
    pub fn load() -> Result<Self, NdiError> {
        Self::load_from(candidates())
    }

    fn load_from(candidates: Vec<PathBuf>) -> Result<Self, NdiError> {
        let (mut absent, mut tried) = (Vec::new(), Vec::new());
        for path in candidates {
            if path.is_absolute() && !path.exists() {
                absent.extend(path.parent().map(|folder| folder.display().to_string()));
                continue;
            }
            match sys::open(&path) {
                Ok(api) => return Ok(Self::started(api, path)),
                Err(OpenError::Load(reason)) => {
                    tried.push(format!("{}: {reason}", path.display()));
                }
                Err(OpenError::Symbol(symbol)) => return Err(NdiError::TooOld { path, symbol }),
                Err(OpenError::Cpu) => return Err(NdiError::Processor { path }),
            }
        }
        absent.dedup();
        if !absent.is_empty() {
            let names = NDI_LIBRARY_NAMES.join(" or ");
            tried.insert(0, format!("no {names} in {}", absent.join(", ")));
        }
        Err(NdiError::NotFound { tried })
    }

    #[expect(unsafe_code, reason = "reads a C string of the library")]
    fn started(api: sys::Api, path: PathBuf) -> Self {
        // SAFETY: the function takes nothing and returns a static string, or null.
        let version = unsafe {
            let version = (api.version)();
            if version.is_null() {
                String::new()
            } else {
                CStr::from_ptr(version).to_string_lossy().into_owned()
            }
        };
        Self {
            inner: Arc::new(Inner {
                api: Arc::new(api),
                path,
                version,
            }),
        }
    }

    /// The library file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// As the library says it.
    pub fn version(&self) -> &str {
        &self.inner.version
    }

    /// Makes a source. If the name is in use on this machine, " 2" (" 3", …) is appended, with a warning.
    pub(super) fn sender(
        &self,
        name: &str,
        groups: Option<&str>,
    ) -> Result<NdiSender, SenderError> {
        NdiSender::create(&self.inner.api, name, groups)
    }
}

fn candidates() -> Vec<PathBuf> {
    let from_environment = ENVIRONMENT
        .iter()
        .filter_map(env::var_os)
        .map(PathBuf::from);
    let beside_program = env::current_exe()
        .ok()
        .and_then(|program| program.parent().map(Path::to_owned));
    let folders = from_environment.chain(beside_program).chain(ndi_folders());
    folders
        .flat_map(|folder| NDI_LIBRARY_NAMES.iter().map(move |name| folder.join(name)))
        .chain(NDI_LIBRARY_NAMES.iter().map(PathBuf::from))
        .collect()
}

/// Set by NDI's installers.
const ENVIRONMENT: [&str; 2] = ["NDI_RUNTIME_DIR_V6", "NDI_RUNTIME_DIR_V5"];

#[cfg(test)]
mod tests;

#[cfg(test)]
mod search_tests {
    use super::*;

    #[test]
    fn a_missing_runtime_is_explained() {
        let error = Ndi::load_from(vec![
            "/nowhere/libndi.so.6".into(),
            "libnosuchndi.so".into(),
        ])
        .unwrap_err()
        .to_string();
        for part in [
            " in /nowhere;",
            "libnosuchndi.so",
            "https://ndi.video",
            NDI_DOWNLOAD,
            "NDI_RUNTIME_DIR_V6",
        ] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }

    /// A file with the right name that is something else must be an error, not a crash.
    #[test]
    fn a_file_that_is_not_a_library_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libndi.so.6");
        std::fs::write(&path, b"not a library").unwrap();
        let error = Ndi::load_from(vec![path.clone()]).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}
