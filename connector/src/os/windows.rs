//! Windows: NDI's library comes with the NDI tools, vMix or the redistributable installer.

use std::{env, io, path::PathBuf};

/// What the library file is called.
#[cfg(target_arch = "x86_64")]
pub const NDI_LIBRARY_NAMES: &[&str] = &["Processing.NDI.Lib.x64.dll"];
/// What the library file is called.
#[cfg(target_arch = "aarch64")]
pub const NDI_LIBRARY_NAMES: &[&str] = &["Processing.NDI.Lib.arm64.dll"];

/// Where to get the library.
pub const NDI_DOWNLOAD: &str = "http://ndi.link/NDIRedistV6";

/// Where it is usually installed.
pub fn ndi_folders() -> Vec<PathBuf> {
    let programs = env::var_os("ProgramFiles").unwrap_or_else(|| r"C:\Program Files".into());
    [
        r"NDI\NDI 6 Runtime\v6",
        r"NDI\NDI 6 Tools\Runtime",
        r"NDI\NDI 5 Runtime\v5",
    ]
    .map(|folder| PathBuf::from(&programs).join(folder))
    .to_vec()
}

/// Lets the calling thread run before everything ordinary; not done on this system yet.
pub fn prefer_this_thread() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
