//! What differs between operating systems in the connector: where NDI's library is, precise waiting, and helper
//! processes.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(not(target_os = "linux"))]
mod no_helper;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
pub use linux::{NDI_DOWNLOAD, NDI_LIBRARY_NAMES, ndi_folders, prefer_this_thread};
#[cfg(target_os = "macos")]
pub use macos::{NDI_DOWNLOAD, NDI_LIBRARY_NAMES, ndi_folders, prefer_this_thread};
#[cfg(windows)]
pub use windows::{NDI_DOWNLOAD, NDI_LIBRARY_NAMES, ndi_folders, prefer_this_thread};

#[cfg(target_os = "linux")]
pub(crate) use linux::{CAN_HELP, Helper, HelperSide, THIS_PROGRAM, become_helper, confine};
#[cfg(not(target_os = "linux"))]
pub(crate) use no_helper::{CAN_HELP, Helper, HelperSide, THIS_PROGRAM, become_helper, confine};

use std::{ffi::OsString, path::PathBuf, thread, time::Duration};

use firstmile_shared::clock::now_us;

/// How a helper process is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelperProgram {
    /// The program's file.
    pub path: PathBuf,
    /// Its name in lists of processes; `None`: as its path.
    pub shown_as: Option<OsString>,
    /// Its arguments: anybody on this machine can read them.
    pub arguments: Vec<OsString>,
    /// Its whole environment: it inherits none.
    pub environment: Vec<(OsString, OsString)>,
}

/// Sleeps until `at_us` of [`now_us`]; returns at once when that is past.
///
/// The one precise wait of the playout. It must be [`thread::sleep`]: that uses a high-resolution timer on
/// Windows, where condition variables, channels and the runtime's timers tick at 15.6 ms.
pub fn wait_until(at_us: i64) {
    loop {
        let left_us = at_us.saturating_sub(now_us());
        match u64::try_from(left_us) {
            Ok(left_us) if left_us > 0 => thread::sleep(Duration::from_micros(left_us)),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_never_short_and_a_past_one_is_none() {
        let start = now_us();
        wait_until(start - 1_000_000);
        wait_until(i64::MIN);
        wait_until(start + 3_000);
        assert!(now_us() >= start + 3_000);
    }
}
