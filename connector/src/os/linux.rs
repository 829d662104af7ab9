//! Linux: NDI's library comes with the SDK, into one of the usual folders.

use std::path::PathBuf;

/// What the library file is called, newest first.
pub const NDI_LIBRARY_NAMES: &[&str] = &["libndi.so.6", "libndi.so.5"];

/// Where to get the library.
pub const NDI_DOWNLOAD: &str = "https://ndi.video/for-developers/ndi-sdk/";

/// Where it is usually installed.
pub fn ndi_folders() -> Vec<PathBuf> {
    [
        "/usr/lib",
        "/usr/local/lib",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
    ]
    .map(PathBuf::from)
    .to_vec()
}
