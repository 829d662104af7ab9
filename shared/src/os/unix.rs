//! Unix: modes, `flock`, Unix sockets, signals.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::net::{UnixListener, UnixStream};

/// Where local control is listened for.
pub type ControlListener = UnixListener;
/// One local control connection.
pub type ControlStream = UnixStream;

/// A lock that is held as long as this lives, and no longer than the process.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("held by another process")]
    Held,
    /// The lock file could not be made.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FileLock {
    /// Takes the lock at once or not at all.
    pub fn try_take(path: &Path) -> Result<Self, LockError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(LockError::Held),
            Err(fs::TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

/// A folder that only its owner can enter; an existing one stays as it is.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A new file that only its owner can read.
pub fn create_private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// Whether the file or folder is ours and nobody else can reach into it.
pub fn is_private_owner(path: &Path) -> io::Result<bool> {
    let metadata = fs::metadata(path)?;
    Ok(metadata.uid() == effective_uid() && metadata.mode() & 0o077 == 0)
}

/// Makes a rename in this folder last through a power cut.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The state folder of a program: systemd's, the system's for root, else the user's. Never relative to where the
/// program was started. The error is a sentence.
pub fn system_state_dir(program: &str) -> Result<PathBuf, String> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(given) = set("STATE_DIRECTORY") {
        // systemd gives a list when a unit has several; ours is the first.
        let first = given.as_bytes().split(|byte| *byte == b':').next();
        let path = PathBuf::from(OsStr::from_bytes(first.unwrap_or_default()));
        return if path.is_absolute() {
            Ok(path)
        } else {
            Err(format!(
                "state folder \"{}\" (from $STATE_DIRECTORY) must be an absolute path; correct it, or give --state-dir",
                path.display()
            ))
        };
    }
    if effective_uid() == 0 {
        return Ok(Path::new("/var/lib").join(program));
    }
    // The base directory specification wants relative ones to be ignored.
    let absolute = |name: &str| {
        set(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|base| base.join(program))
        .ok_or_else(|| {
            "no state folder: none of $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME is set to an absolute path; give --state-dir"
                .to_owned()
        })
}

/// Lets this process have as many files and sockets open as the system allows it: most systems begin with 1024, which a
/// relay's limits alone would use up. What can't be raised stays.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where it could stay as it is, nothing is lost.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

/// How this machine is called, for lists that people read.
pub fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Where configuration files are looked for.
pub fn config_dir() -> PathBuf {
    PathBuf::from("/etc/firstmile")
}

/// Listens for local control; a socket left by a dead process is replaced (the state lock says it is dead).
pub fn bind_control(path: &Path) -> io::Result<ControlListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The folder is 0700 and checked, so nobody can connect between bind and chmod.
    let listener = with_short_path(path, |path| UnixListener::bind(path))?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to a running program. `NotFound` and `ConnectionRefused` mean that none runs.
pub async fn connect_control(path: &Path) -> io::Result<ControlStream> {
    let stream = with_short_path(path, |path| std::os::unix::net::UnixStream::connect(path))?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Whether the process at the other end may control us: our own user, or root.
pub fn is_trusted_peer(stream: &ControlStream) -> bool {
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == effective_uid())
}

/// Resolves at SIGTERM or SIGINT; call it again for a second one.
pub async fn wait_for_stop_signal() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// A socket's path has room for about 100 bytes; a longer one is reached through its open folder.
fn with_short_path<T>(path: &Path, action: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= SOCKET_PATH_LEN_MAX {
        return action(path);
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return action(path);
    };
    let folder = File::open(folder)?;
    action(
        &Path::new("/proc/self/fd")
            .join(folder.as_raw_fd().to_string())
            .join(name),
    )
}

fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// `sockaddr_un` holds 104 bytes on the BSDs and macOS, 108 on Linux.
const SOCKET_PATH_LEN_MAX: usize = 100;

/// How long sent bytes may stay unacknowledged before the connection is given up. Where the system has no such
/// setting, keep-alive alone has to find out.
#[cfg_attr(
    not(target_os = "linux"),
    expect(unused_variables, reason = "only Linux can")
)]
pub fn set_unacknowledged_limit(socket: &socket2::Socket, limit: Duration) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(limit))?;
    Ok(())
}

/// What a socket needs that sends live media: a congestion control that does not take random loss for congestion, and no
/// more than `unsent_max` bytes that wait in the kernel. Where the system has neither, what it has must do.
#[cfg_attr(
    not(target_os = "linux"),
    expect(unused_variables, reason = "only Linux has both")
)]
pub fn prepare_for_media(socket: &socket2::Socket, unsent_max: u32) {
    #[cfg(target_os = "linux")]
    {
        // A kernel may lack it, or keep it for root: then the system's default sends, with the same little in front.
        let _ = socket.set_tcp_congestion(b"bbr");
        let _ = socket.set_tcp_notsent_lowat(unsent_max);
    }
}
