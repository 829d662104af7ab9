//! The helper's own side: takes up what its parent gave it, and gives away all it will not need.
//!
//! A helper reads bytes of strangers with C code. Should they take it over, they find: no file but the socket to its
//! parent, no environment, no right to open, connect, start or signal anything (seccomp), no more memory than a decoder
//! needs, and nothing of the parent's in its memory, as it began with `exec`.
#![expect(
    unsafe_code,
    reason = "calls prctl, setrlimit, signal, close_range, dup2"
)]

use std::{
    ffi::CStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::net::UnixStream,
    },
};

use super::{OwnMemory, check, seccomp};

/// What a helper works with.
#[derive(Debug)]
pub(crate) struct HelperSide {
    /// To its parent; at its end the parent is gone.
    pub(crate) channel: UnixStream,
    /// What the parent reads from.
    pub(crate) memory: OwnMemory,
}

/// Makes this process a helper. Must be the first that a program does; an error: it was not started as one.
pub(crate) fn become_helper() -> io::Result<HelperSide> {
    // First of all, whatever happens: not to outlive the parent. If it is gone already, the channel is at its end.
    set(libc::PR_SET_PDEATHSIG, libc::SIGKILL.unsigned_abs().into())?;
    // A stop is the parent's to hear. A crash ends it at once, without a word from Rust's own handler.
    for (signals, action) in [(&STOPS[..], libc::SIG_IGN), (&CRASHES[..], libc::SIG_DFL)] {
        for signal in signals {
            // SAFETY: neither action runs code of ours.
            unsafe { libc::signal(*signal, action) };
        }
    }
    // SAFETY: the name is a C string; it is what `top` shows instead of the path's "exe".
    unsafe { libc::prctl(libc::PR_SET_NAME, SHOWN_AS.as_ptr()) };
    // Where memory runs out, a decoder goes before the program that holds the sources.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    let channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    channel.peer_addr()?;
    let memory = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    for stream in [libc::STDIN_FILENO, libc::STDOUT_FILENO] {
        // SAFETY: both are open; what standard input and output were is held by `channel` and `memory`.
        check(unsafe { libc::dup2(nothing.as_raw_fd(), stream) })?;
    }
    drop(nothing);
    let side = HelperSide {
        memory: OwnMemory::map(&memory)?,
        channel,
    };
    drop(memory);
    close_all_but(side.channel.as_raw_fd())?;
    // Not even a core dump: it would hold what strangers sent, and pictures.
    limit(libc::RLIMIT_CORE, 0)?;
    limit(libc::RLIMIT_FSIZE, 0)?;
    set(libc::PR_SET_DUMPABLE, 0)?;
    set(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    Ok(side)
}

/// From now on this process may take `bytes` of memory more than it has, and only compute, talk and end. `false`: the
/// system knows no such filter.
pub(crate) fn confine(bytes: u64) -> io::Result<bool> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = (statm.split(' ').next())
        .and_then(|pages| pages.parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    limit(
        libc::RLIMIT_AS,
        pages.saturating_mul(PAGE).saturating_add(bytes),
    )?;
    Ok(seccomp::only_compute().is_ok())
}

/// Standard streams stay.
fn close_all_but(kept: RawFd) -> io::Result<()> {
    let kept = kept.unsigned_abs();
    for (from, to) in [(3, kept - 1), (kept + 1, u32::MAX)] {
        if from <= to {
            // SAFETY: closes what the program that started this one may have left open; nothing here uses it.
            check(unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) })?;
        }
    }
    Ok(())
}

fn limit(what: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: reads the structure that is passed.
    check(unsafe { libc::setrlimit(what, &raw const limit) })?;
    Ok(())
}

fn set(what: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    let none: libc::c_ulong = 0;
    // SAFETY: these options take numbers, no pointers.
    check(unsafe { libc::prctl(what, value, none, none, none) })?;
    Ok(())
}

/// 15 bytes at most.
const SHOWN_AS: &CStr = c"fm-decoder";

/// Half of the way to "always first".
const OOM_SCORE: &str = "500";

const STOPS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGHUP];
const CRASHES: [libc::c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// The unit of `statm`; a system with larger pages only gets a lower bound, far above what is needed.
const PAGE: u64 = 4_096;
