//! What differs between operating systems: file modes and locks, state paths, the local control socket.
//!
//! Everything outside this folder is the same on all of them.

#[cfg(unix)]
mod unix;

#[cfg(unix)]
pub use unix::{
    ControlListener, ControlStream, FileLock, LockError, bind_control, config_dir, connect_control,
    create_private_dir, create_private_file, host_name, is_private_owner, is_trusted_peer,
    prepare_for_media, raise_open_files, set_unacknowledged_limit, sync_dir, system_state_dir,
    wait_for_stop_signal,
};
