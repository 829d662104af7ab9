//! Strangers in numbers, on the encoders' port: what a whole botnet would do to it for a minute.
//!
//! They come in a process of their own (`src/bin/strangers.rs`), at the lowest priority: on the machine of a relay they would
//! have no share of its processors.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};
use tokio_rustls::TlsConnector;

use super::{
    address,
    rtmp::{self, Attack},
};

/// How many come, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    /// Handshakes of a byte now and then, at every moment.
    pub slow: u16,
    /// Connections each second that bring bytes without meaning.
    pub garbage_per_second: u32,
    /// Peers that send deeply nested values, again and again.
    pub nested: u16,
    /// Seconds.
    pub seconds: u64,
}

/// What they did.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Account {
    /// Slow handshakes begun.
    pub slow: u64,
    /// Connections with garbage.
    pub garbage: u64,
    /// Connections with nested values.
    pub nested: u64,
    /// Connections that the relay's system did not take.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counts {
    slow: AtomicU64,
    garbage: AtomicU64,
    nested: AtomicU64,
    failed: AtomicU64,
}

impl Crowd {
    /// Comes, and is gone when its time is over.
    pub async fn run(self, relay: SocketAddr) -> anyhow::Result<Account> {
        let until = Instant::now() + Duration::from_secs(self.seconds);
        let counts = Arc::new(Counts::default());
        let mut peers = JoinSet::new();
        for n in 0..self.slow {
            // Twenty of each address: more than that, and it would be the address's share that stops them.
            let from = address(1_000 + n / 20);
            let counts = Arc::clone(&counts);
            peers.spawn(again(until, Duration::ZERO, move || {
                counts.slow.fetch_add(1, Ordering::Relaxed);
                attack(Attack::Dribble, relay, from, Arc::clone(&counts))
            }));
        }
        for n in 0..self.nested {
            let from = address(2_000 + n);
            let counts = Arc::clone(&counts);
            peers.spawn(again(until, NESTED_PAUSE, move || {
                counts.nested.fetch_add(1, Ordering::Relaxed);
                attack(Attack::DeepValues, relay, from, Arc::clone(&counts))
            }));
        }
        let mut tick = time::interval(Duration::from_secs(1) / self.garbage_per_second.max(1));
        let mut garbage = JoinSet::new();
        let mut number = 0;
        while Instant::now() < until {
            tick.tick().await;
            number = (number + 1) % 200;
            counts.garbage.fetch_add(1, Ordering::Relaxed);
            let from = address(3_000 + number);
            garbage.spawn(attack(Attack::Garbage, relay, from, Arc::clone(&counts)));
            while garbage.try_join_next().is_some() {}
        }
        garbage.abort_all();
        peers.abort_all();
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        Ok(Account {
            slow: count(&counts.slow),
            garbage: count(&counts.garbage),
            nested: count(&counts.nested),
            failed: count(&counts.failed),
        })
    }
}

async fn again<F: Future<Output = ()>>(
    until: Instant,
    pause: Duration,
    mut once: impl FnMut() -> F,
) {
    while Instant::now() < until {
        once().await;
        time::sleep(pause).await;
    }
}

async fn attack(attack: Attack, relay: SocketAddr, from: IpAddr, counts: Arc<Counts>) {
    if attack.run(relay, from, PATIENCE).await.is_err() {
        counts.failed.fetch_add(1, Ordering::Relaxed);
        time::sleep(Duration::from_millis(100)).await;
    }
}

/// Connections without a key, over TLS if there is a way to speak it, each of which makes the relay keep as much as it
/// can: the answer holds them open.
pub async fn greedy(
    relay: SocketAddr,
    tls: Option<&TlsConnector>,
    count: u16,
    bytes: usize,
) -> anyhow::Result<Vec<rtmp::Open>> {
    let mut open = Vec::with_capacity(count.into());
    for n in 0..count {
        let from = address(4_000 + n / 20);
        open.push(match tls {
            Some(tls) => {
                rtmp::Open::with_unfinished_message_in_tls(relay, tls, from, bytes).await?
            }
            None => rtmp::Open::with_unfinished_message(relay, from, bytes).await?,
        });
    }
    Ok(open)
}

const PATIENCE: Duration = Duration::from_secs(30);
const NESTED_PAUSE: Duration = Duration::from_millis(100);
