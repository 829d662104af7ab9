//! macOS: NDI's library comes with the NDI tools or the redistributable installer.

use std::{io, path::PathBuf};

/// What the library file is called.
pub const NDI_LIBRARY_NAMES: &[&str] = &["libndi.dylib"];

/// Where to get the library.
pub const NDI_DOWNLOAD: &str = "http://ndi.link/NDIRedistV6Apple";

/// Where it is usually installed.
pub fn ndi_folders() -> Vec<PathBuf> {
    vec![PathBuf::from("/usr/local/lib")]
}

/// Lets the calling thread run before everything ordinary; not done on this system yet.
pub fn prefer_this_thread() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
