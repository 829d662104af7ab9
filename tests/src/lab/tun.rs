//! A link between two namespaces: a TUN device in each, and a thread that carries packets between them as
//! [`Direction`] says.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{
    link::{Counts, Direction, Outage, Shape},
    namespace::Namespace,
};

/// A link whose two directions can be changed while it runs. It ends when it is dropped.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    directions: Mutex<[Direction<Vec<u8>>; 2]>,
    start: Instant,
    ends: AtomicBool,
}

/// What both directions of a link are like.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shapes {
    /// From the first end to the second: from the host to its carrier.
    pub up: Shape,
    /// From the second end to the first.
    pub down: Shape,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the first end to the second.
    Up,
    /// From the second end to the first.
    Down,
}

impl Link {
    /// Makes a device in each of two namespaces and a link of these shapes between them.
    ///
    /// # Errors
    /// Without `/dev/net/tun` or the right to use it.
    pub fn between(
        a: (&Namespace, &str),
        b: (&Namespace, &str),
        shapes: &Shapes,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let devices = [open(a.0, a.1)?, open(b.0, b.1)?];
        let direction = |shape: &Shape, seed| Direction::new(shape.clone(), seed, 0);
        let shared = Arc::new(Shared {
            directions: Mutex::new([
                direction(&shapes.up, seed),
                direction(&shapes.down, seed ^ 0x5bd1_e995),
            ]),
            start: Instant::now(),
            ends: AtomicBool::new(false),
        });
        let carrier = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("link".to_owned())
            .spawn(move || carry(&carrier, devices))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// One direction is like this from now on.
    pub fn reshape(&self, way: Way, shape: Shape) {
        let now_us = self.shared.now_us();
        self.shared.directions()[way as usize].reshape(shape, now_us);
    }

    /// Both directions are like this from now on.
    pub fn reshape_both(&self, shapes: &Shapes) {
        self.reshape(Way::Up, shapes.up.clone());
        self.reshape(Way::Down, shapes.down.clone());
    }

    /// Nothing goes either way for `length`.
    pub fn fail(&self, length: Duration, outage: Outage) {
        let now_us = self.shared.now_us();
        let until_us = now_us + i64::try_from(length.as_micros()).unwrap_or(i64::MAX / 2);
        for direction in self.shared.directions().iter_mut() {
            direction.fail(until_us, outage, now_us);
        }
    }

    /// What became of the packets so far.
    pub fn counts(&self, way: Way) -> Counts {
        self.shared.directions()[way as usize].counts()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn directions(&self) -> MutexGuard<'_, [Direction<Vec<u8>>; 2]> {
        self.directions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn now_us(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}

fn carry(shared: &Shared, mut devices: [File; 2]) {
    let mut buffer = vec![0; 65_536];
    while !shared.ends.load(Ordering::Relaxed) {
        let wake_us = {
            let mut directions = shared.directions();
            let now_us = shared.now_us();
            for (from, to) in [(0, 1), (1, 0)] {
                // What was read enters, also a whole burst of it.
                while let Ok(len) = devices[from].read(&mut buffer) {
                    directions[from].push(buffer[..len].to_vec(), now_us);
                }
                while let Some(packet) = directions[from].pop(now_us) {
                    // A device that is down, or full: lost, as on a wire.
                    let _ = devices[to].write(&packet);
                }
            }
            let next_us = directions.iter().filter_map(Direction::next_us).min();
            next_us.map(|next_us| (next_us - now_us).max(0))
        };
        let wait = wake_us.map_or(WAIT_MAX, |us| Duration::from_micros(us.unsigned_abs()));
        wait_readable(
            devices.each_ref().map(AsRawFd::as_raw_fd),
            wait.min(WAIT_MAX),
        );
    }
}

/// So often the end is looked for, and a change of shape.
const WAIT_MAX: Duration = Duration::from_millis(20);

#[expect(
    unsafe_code,
    reason = "ppoll has a resolution below a millisecond, and the standard library no poll"
)]
fn wait_readable(devices: [RawFd; 2], wait: Duration) {
    let mut polled = devices.map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    let timeout = libc::timespec {
        tv_sec: wait.as_secs().try_into().unwrap_or(0),
        tv_nsec: wait.subsec_nanos().into(),
    };
    // SAFETY: both point to what they should for the time of the call. An error is an early return: the caller looks itself.
    unsafe {
        libc::ppoll(polled.as_mut_ptr(), 2, &raw const timeout, std::ptr::null());
    }
}

/// Makes a TUN device in a namespace.
fn open(namespace: &Namespace, device: &str) -> anyhow::Result<File> {
    let name = device.to_owned();
    let opened = namespace.inside(move || -> io::Result<File> {
        let tun = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")?;
        attach(&tun, &name)?;
        Ok(tun)
    });
    opened?
        .finish()?
        .with_context(|| format!("the TUN device {device}"))
}

#[expect(unsafe_code, reason = "TUN devices are made by an ioctl")]
fn attach(tun: &File, name: &str) -> io::Result<()> {
    // struct ifreq: a name of 16 bytes, then the flags.
    let mut request = [0_u8; 40];
    let room = request.get_mut(..15).unwrap_or_default();
    for (to, from) in room.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    let flags = u16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap_or(0);
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes a struct ifreq, which has 40 bytes.
    match unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
