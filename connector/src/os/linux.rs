//! Linux: NDI's library comes with the SDK, into one of the usual folders; helpers get a socket and sealed memory.

mod helper;
mod helper_side;
mod memory;
mod seccomp;

use std::{io, os::fd::RawFd, path::PathBuf};

use self::memory::{OwnMemory, SharedMemory};
pub(crate) use self::{
    helper::Helper,
    helper_side::{HelperSide, become_helper, confine},
};

/// Whether this system has helpers.
pub(crate) const CAN_HELP: bool = true;

/// The running program's file, also after it was replaced by an upgrade: parent and helper are always of one build.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";

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

/// The result of a system call that answers -1 for an error.
fn check<T: Copy + Into<i64>>(result: T) -> io::Result<T> {
    if result.into() == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

#[expect(unsafe_code, reason = "calls fcntl")]
fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: reads and sets the flags of an open descriptor.
    unsafe {
        let flags = check(libc::fcntl(fd, libc::F_GETFL))?;
        check(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK))?;
    }
    Ok(())
}

/// Lets the calling thread run before everything ordinary when its time comes: other work on a busy machine, a build or an
/// export, would delay pictures by tens of milliseconds. It takes root, `CAP_SYS_NICE` or `LimitRTPRIO=1`.
///
/// Threads that it starts do not inherit that: they may work long, and only a thread that mostly sleeps may go first.
#[expect(unsafe_code, reason = "no safe binding knows the flag")]
pub fn prefer_this_thread() -> io::Result<()> {
    let lowest = libc::sched_param { sched_priority: 1 };
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: 0 means the calling thread; the parameters are only read.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const lowest) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
