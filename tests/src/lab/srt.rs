//! The same stream over SRT: `srt-live-transmit` of Debian's srt-tools on both ends, the studio as the caller.
//!
//! Units go in and come out by UDP on each host's loopback, cut into packets that say which part of which unit they are.
//! SRT gives each packet out at its time plus the latency and drops what is later by itself. Its clock begins with the first
//! packet's arrival and follows what it takes for drift, so what it gives out is later than capture + D by the way of the
//! link, and by some 160 ms more after a dip. All that is taken as on time here ([`SLACK_US`]): the comparison is in its favour.

use std::{
    collections::HashMap,
    io,
    net::UdpSocket,
    os::fd::AsRawFd,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::Context;
use bytes::{Buf, BufMut};
use firstmile_shared::clock::unix_now_us;
use tokio::time;

use super::{
    feed::{Arrivals, Feed, in_runtime, key},
    namespace::{Inside, Namespace},
};

/// One `srt-live-transmit`; it ends with this.
#[derive(Debug)]
pub struct Transmit {
    child: Child,
}

impl Transmit {
    /// From one address to another, as its command line has them.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn start(host: &Namespace, from: &str, to: &str) -> anyhow::Result<Self> {
        let child = host
            .command("srt-live-transmit")
            .args(["-loglevel:fatal", from, to])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("srt-live-transmit")?;
        Ok(Self { child })
    }

    /// Takes [`send`]'s packets on this host and serves callers on `port`, with a latency in milliseconds.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn listen(host: &Namespace, port: u16, latency_ms: u32) -> anyhow::Result<Self> {
        let to = format!("srt://:{port}?mode=listener&latency={latency_ms}");
        Self::start(host, &input(), &to)
    }

    /// Calls `address` and gives [`receive`] on this host what comes.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn call(host: &Namespace, address: &str, latency_ms: u32) -> anyhow::Result<Self> {
        let from = format!("srt://{address}?mode=caller&latency={latency_ms}");
        Self::start(host, &from, &format!("udp://127.0.0.1:{OUTPUT}"))
    }
}

impl Drop for Transmit {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Where [`send`] sends to.
pub fn input() -> String {
    format!("udp://127.0.0.1:{INPUT}")
}

/// Gives a feed to the `srt-live-transmit` on this host.
///
/// # Errors
/// When the host can't be entered.
pub fn send(host: &Namespace, feed: Feed) -> anyhow::Result<Inside<anyhow::Result<()>>> {
    host.inside(move || {
        in_runtime(async {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            let mut packet = Vec::with_capacity(PACKET_LEN);
            for unit in feed.units.units() {
                time::sleep_until(feed.due(unit.dts_us)).await;
                let (is_video, dts_us) = key(&unit);
                let parts = unit.payload.len().div_ceil(PART_LEN);
                for (number, part) in (0_u16..).zip(unit.payload.chunks(PART_LEN)) {
                    // Not more at once than the program's socket holds.
                    if number > 0 && number.is_multiple_of(BURST) {
                        time::sleep(Duration::from_millis(1)).await;
                    }
                    packet.clear();
                    packet.put_u8(u8::from(is_video));
                    packet.put_i64(dts_us);
                    packet.put_u16(number);
                    packet.put_u16(u16::try_from(parts)?);
                    packet.extend_from_slice(part);
                    // Refused while nobody listens: lost, as on air.
                    let _ = socket.send_to(&packet, ("127.0.0.1", INPUT));
                }
            }
            Ok(())
        })
    })
}

/// Collects what the `srt-live-transmit` on this host gives out, until `end_us` of the wall clock.
///
/// # Errors
/// When the host can't be entered.
pub fn receive(host: &Namespace, end_us: i64) -> anyhow::Result<Inside<anyhow::Result<Arrivals>>> {
    host.inside(move || {
        let socket = UdpSocket::bind(("127.0.0.1", OUTPUT))?;
        widen(&socket)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut arrivals = Arrivals::new();
        let mut partial: HashMap<(bool, i64), u16> = HashMap::new();
        let mut buffer = [0; 2_048];
        while unix_now_us() < end_us {
            let Ok(len) = socket.recv(&mut buffer) else {
                continue;
            };
            let mut packet = &buffer[..len];
            if packet.len() < HEADER_LEN {
                continue;
            }
            let unit = (packet.get_u8() == 1, packet.get_i64());
            let (_, parts) = (packet.get_u16(), packet.get_u16());
            let came = partial.entry(unit).or_default();
            *came += 1;
            if *came == parts {
                arrivals.insert(unit, unix_now_us());
            }
        }
        Ok(arrivals)
    })
}

/// Room for a keyframe that comes at once, beyond what the system allows by default.
#[expect(unsafe_code, reason = "the standard library sizes no buffers")]
fn widen(socket: &UdpSocket) -> io::Result<()> {
    let size: libc::c_int = 8 << 20;
    // SAFETY: an open socket, and an int with its length.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const size).cast(),
            4,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What SRT may be later than capture + D in the comparison, microseconds.
pub const SLACK_US: i64 = 400_000;

/// As SRT's live mode has it.
const PACKET_LEN: usize = 1_316;
const HEADER_LEN: usize = 13;
const PART_LEN: usize = PACKET_LEN - HEADER_LEN;

const BURST: u16 = 16;

const INPUT: u16 = 9_100;
const OUTPUT: u16 = 9_101;
