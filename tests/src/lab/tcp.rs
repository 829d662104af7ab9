//! The same stream over one TCP connection with the kernel's BBR: what any tunnel of today does.
//!
//! The relay's host listens, the studio dials. Nothing is ever dropped; what the link does not carry waits before the
//! socket. A connection that is silent for 2 s is dialled again, and goes on with the units that are taken then.

use std::{io, net::SocketAddr, os::fd::AsRawFd, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use firstmile_shared::clock::unix_now_us;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{self, Instant},
};

use super::{
    feed::{Arrivals, Feed, in_runtime, key},
    namespace::{Inside, Namespace},
};

/// Sends a feed from a host to whoever dials `listen`, until it ends.
///
/// # Errors
/// When the host can't be entered.
pub fn serve(
    host: &Namespace,
    listen: SocketAddr,
    feed: Feed,
) -> anyhow::Result<Inside<anyhow::Result<()>>> {
    host.inside(move || {
        in_runtime(async {
            let listener = TcpListener::bind(listen).await?;
            let mut writers = JoinSet::new();
            let mut current: Option<mpsc::Sender<Bytes>> = None;
            for unit in feed.units.units() {
                let due = feed.due(unit.dts_us);
                while let Ok(accepted) = time::timeout_at(due, listener.accept()).await {
                    let (socket, _) = accepted?;
                    use_bbr(&socket)?;
                    socket.set_nodelay(true)?;
                    let (units, waiting) = mpsc::channel(UNITS_MAX);
                    current = Some(units);
                    writers.spawn(write(socket, waiting));
                }
                let (is_video, dts_us) = key(&unit);
                let mut bytes = BytesMut::with_capacity(HEADER_LEN + unit.payload.len());
                bytes.put_u8(u8::from(is_video));
                bytes.put_i64(dts_us);
                bytes.put_u32(u32::try_from(unit.payload.len())?);
                bytes.put_slice(&unit.payload);
                if let Some(units) = &current {
                    // A connection that broke is dialled again.
                    let _ = units.try_send(bytes.freeze());
                }
            }
            drop(current);
            let _ = time::timeout(LINGER, async {
                while writers.join_next().await.is_some() {}
            })
            .await;
            Ok(())
        })
    })
}

async fn write(mut socket: TcpStream, mut units: mpsc::Receiver<Bytes>) -> io::Result<()> {
    while let Some(unit) = units.recv().await {
        socket.write_all(&unit).await?;
    }
    socket.shutdown().await
}

/// Takes a feed in until `end_us` of the wall clock.
///
/// # Errors
/// When the host can't be entered.
pub fn receive(
    host: &Namespace,
    from: SocketAddr,
    end_us: i64,
) -> anyhow::Result<Inside<anyhow::Result<Arrivals>>> {
    host.inside(move || {
        in_runtime(async {
            let mut arrivals = Arrivals::new();
            let wait_us = u64::try_from(end_us - unix_now_us()).unwrap_or(0);
            let end = Instant::now() + Duration::from_micros(wait_us);
            while Instant::now() < end {
                let Ok(Ok(socket)) = time::timeout(SILENCE_MAX, TcpStream::connect(from)).await
                else {
                    time::sleep(RETRY).await;
                    continue;
                };
                // However it ends, it is dialled again.
                let _ = time::timeout_at(end, read(socket, &mut arrivals)).await;
            }
            Ok(arrivals)
        })
    })
}

async fn read(mut socket: TcpStream, arrivals: &mut Arrivals) -> anyhow::Result<()> {
    let mut payload = vec![0; 65_536];
    loop {
        let mut header = [0; HEADER_LEN];
        time::timeout(SILENCE_MAX, socket.read_exact(&mut header)).await??;
        let mut fields = &header[..];
        let is_video = fields.read_u8().await? == 1;
        let dts_us = fields.read_i64().await?;
        let mut left = fields.read_u32().await? as usize;
        while left > 0 {
            let room = left.min(payload.len());
            let len = time::timeout(SILENCE_MAX, socket.read(&mut payload[..room])).await??;
            anyhow::ensure!(len > 0, "the end");
            left -= len;
        }
        arrivals.insert((is_video, dts_us), unix_now_us());
    }
}

#[expect(
    unsafe_code,
    reason = "the standard library sets no congestion control"
)]
fn use_bbr(socket: &TcpStream) -> io::Result<()> {
    let name = b"bbr";
    // SAFETY: an open socket, and a name with its length.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            3,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

const HEADER_LEN: usize = 13;

/// More than a row has: nothing is dropped.
const UNITS_MAX: usize = 8_192;

const SILENCE_MAX: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(100);
const LINGER: Duration = Duration::from_secs(3);
