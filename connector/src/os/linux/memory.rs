//! Memory that this process and a helper share: the helper writes, this process only reads.
//!
//! Neither side can harm the other through it: the parent maps it read-only and never makes a reference into it, as
//! its content may change at any moment; its length is sealed, so that a helper that shrinks it can't make a read
//! fault. On Windows this is a named section, with `MapViewOfFile`.
#![expect(
    unsafe_code,
    reason = "maps memory and reads it while another process may write"
)]

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr::{self, NonNull},
    slice,
};

use super::check;

/// The side that reads.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    map: Map,
}

impl SharedMemory {
    /// `len` bytes of zeros, and the descriptor that a helper maps them by. Pages cost nothing until they are written.
    pub(super) fn new(len: usize) -> io::Result<(Self, OwnedFd)> {
        // SAFETY: the name is a C string; the descriptor that comes back is nobody else's.
        let file = unsafe {
            let fd = check(libc::memfd_create(
                c"firstmile-pictures".as_ptr(),
                libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
            ))?;
            File::from_raw_fd(fd)
        };
        file.set_len(len as u64)?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: sets flags of a file of ours.
        check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
        let map = Map::new(&file, len, libc::PROT_READ)?;
        Ok((Self { map }, file.into()))
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.map.len
    }

    /// Copies the first `into.len()` bytes, whatever they are at this moment; `false`: there are not so many.
    #[must_use]
    pub(crate) fn copy_to(&self, into: &mut [u8]) -> bool {
        if into.len() > self.map.len {
            return false;
        }
        // SAFETY: the map has so many bytes and keeps them (sealed); `into` is ours. The helper may write meanwhile:
        // then bytes of two pictures mix, and every byte is a valid byte. No reference to the map is made.
        unsafe {
            ptr::copy_nonoverlapping(self.map.start.as_ptr(), into.as_mut_ptr(), into.len());
        }
        true
    }
}

/// The side that writes: the helper's.
#[derive(Debug)]
pub(crate) struct OwnMemory {
    map: Map,
}

impl OwnMemory {
    pub(super) fn map(file: &File) -> io::Result<Self> {
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let map = Map::new(file, len, libc::PROT_READ | libc::PROT_WRITE)?;
        Ok(Self { map })
    }

    /// All of it.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped for writing, so many bytes, and borrowed as long as the slice lives. The other process maps
        // it read-only.
        unsafe { slice::from_raw_parts_mut(self.map.start.as_ptr(), self.map.len) }
    }
}

#[derive(Debug)]
struct Map {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; this owns it.
unsafe impl Send for Map {}

impl Map {
    fn new(file: &File, len: usize, protection: libc::c_int) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the system's choice; nothing of ours is replaced.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, len })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and not used after this.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_helper_writes_is_read_and_it_can_not_take_the_memory_away() {
        let (shared, fd) = SharedMemory::new(100_000).unwrap();
        let file = File::from(fd);
        let mut own = OwnMemory::map(&file).unwrap();
        own.bytes()[..4].copy_from_slice(b"here");
        let mut read = [0; 4];
        assert!(shared.copy_to(&mut read));
        assert_eq!(&read, b"here");
        assert!(
            !shared.copy_to(&mut vec![0; 100_001]),
            "no further than it is"
        );
        assert!(file.set_len(1).is_err() && file.set_len(1 << 30).is_err());
        assert_eq!(shared.len(), 100_000);
    }
}
