//! An encoder's uplink: a TCP connection through a link that carries so many bits a second, or nothing for a while.
//!
//! Only the way to the relay is shaped, by a token bucket of one small packet; little is held on the way, so what the
//! link does not carry waits in the encoder's own socket. When either end closes, so does the other, and what was on its
//! way is lost, as with a real network.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, tcp},
    runtime,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

/// A link; its connections end when it is dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    bits_per_second: Arc<AtomicU64>,
    carried: Arc<AtomicU64>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// A link to `relay` that carries all there is.
    ///
    /// # Errors
    /// When there is no port or no thread for it.
    pub fn to(relay: SocketAddr) -> anyhow::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = {
            let _entered = runtime.enter();
            let socket = TcpSocket::new_v4()?;
            // Inherited by what it accepts.
            socket.set_recv_buffer_size(BUFFER_LEN)?;
            socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
            socket.listen(16)?
        };
        let address = listener.local_addr()?;
        let bits_per_second = Arc::new(AtomicU64::new(UNLIMITED));
        let carried = Arc::new(AtomicU64::new(0));
        let stop = CancellationToken::new();
        let thread = {
            let (rate, stop) = (bits_per_second.clone(), stop.clone());
            let sum = carried.clone();
            thread::Builder::new()
                .name("link".into())
                .spawn(move || {
                    runtime
                        .block_on(stop.run_until_cancelled(accept(&listener, relay, &rate, &sum)));
                })
                .context("the link's thread")?
        };
        Ok(Self {
            address,
            bits_per_second,
            carried,
            stop,
            thread: Some(thread),
        })
    }

    /// Where the encoder connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that it has carried to the relay.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// From now on it carries so many bits a second; 0: it stands still.
    pub fn set_rate(&self, bits_per_second: u64) {
        self.bits_per_second
            .store(bits_per_second, Ordering::Relaxed);
    }

    /// From now on it carries all there is.
    pub fn open(&self) {
        self.set_rate(UNLIMITED);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn accept(
    listener: &TcpListener,
    relay: SocketAddr,
    rate: &Arc<AtomicU64>,
    sum: &Arc<AtomicU64>,
) {
    let mut carried = tokio::task::JoinSet::new();
    while let Ok((encoder, _)) = listener.accept().await {
        let (rate, sum) = (rate.clone(), sum.clone());
        carried.spawn(async move {
            // Either end may go at any time: that is what it is for.
            let _ = carry(encoder, relay, &rate, &sum).await;
        });
        while carried.try_join_next().is_some() {}
    }
}

async fn carry(
    encoder: TcpStream,
    relay: SocketAddr,
    rate: &AtomicU64,
    sum: &AtomicU64,
) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_send_buffer_size(BUFFER_LEN)?;
    let mut relay = socket.connect(relay).await?;
    relay.set_nodelay(true)?;
    encoder.set_nodelay(true)?;
    let mut encoder = encoder;
    let (mut from_encoder, mut to_encoder) = encoder.split();
    let (mut from_relay, mut to_relay) = relay.split();
    // Not joined: the first end that goes takes the other with it.
    tokio::select! {
        up = shaped(&mut from_encoder, &mut to_relay, rate, sum) => up,
        down = tokio::io::copy(&mut from_relay, &mut to_encoder) => down.map(drop),
    }
}

async fn shaped(
    from: &mut tcp::ReadHalf<'_>,
    to: &mut tcp::WriteHalf<'_>,
    rate: &AtomicU64,
    sum: &AtomicU64,
) -> std::io::Result<()> {
    let mut packet = vec![0; PACKET_LEN];
    let mut free_at = Instant::now();
    loop {
        let rate = rate.load(Ordering::Relaxed);
        if rate == 0 {
            time::sleep(LOOK).await;
            continue;
        }
        let len = match time::timeout(LOOK, from.read(&mut packet)).await {
            Err(_) => continue,
            Ok(len) => len?,
        };
        if len == 0 {
            return Ok(());
        }
        // What was not used in the past is gone, but for what a timer is late.
        let now = Instant::now();
        free_at = free_at.max(now.checked_sub(TIMER).unwrap_or(now));
        free_at += Duration::from_nanos(len as u64 * 8_000_000_000 / rate);
        time::sleep_until(free_at).await;
        to.write_all(&packet[..len]).await?;
        sum.fetch_add(len as u64, Ordering::Relaxed);
    }
}

const UNLIMITED: u64 = 1_000_000_000;

/// The kernel takes twice as much.
const BUFFER_LEN: u32 = 8 * 1024;
const PACKET_LEN: usize = 1_448;
const LOOK: Duration = Duration::from_millis(5);
const TIMER: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net,
    };

    use super::*;

    #[test]
    fn it_carries_its_rate_and_stands_still_and_takes_both_ends_down() {
        let relay = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link::to(relay.local_addr().unwrap()).unwrap();
        let mut encoder = net::TcpStream::connect(link.address()).unwrap();
        let (mut received, _) = relay.accept().unwrap();
        link.set_rate(4_000_000);
        let sending = thread::spawn(move || {
            let mut sent = 0;
            while encoder.write_all(&[7; 1_000]).is_ok() {
                sent += 1_000;
            }
            sent
        });
        let mut buffer = vec![0; 250_000];
        let started = std::time::Instant::now();
        received.read_exact(&mut buffer).unwrap();
        let took = started.elapsed().as_secs_f64();
        assert!((0.4..0.8).contains(&took), "2 Mbit took {took} s");

        link.set_rate(0);
        received
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let mut rest = Vec::new();
        let error = received.read_to_end(&mut rest).unwrap_err();
        assert!(
            rest.len() < 100_000,
            "{} were on their way: {error}",
            rest.len()
        );

        link.open();
        drop(received);
        assert!(sending.join().unwrap() < 8_000_000);
    }
}
