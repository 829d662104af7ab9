//! The feed of a row: what the camera takes and when, what it publishes by RTMP, and what became of each unit.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use firstmile_shared::{
    clock::unix_now_us,
    media::{AccessUnit, MediaKind},
};
use tokio::{
    runtime,
    time::{self, Instant},
};

use super::{
    namespace::{Inside, Namespace},
    score::{Block, Picture, Take},
};
use crate::encoder::{SyntheticEncoder, SyntheticFeed};

/// A feed and the moment when it begins.
#[derive(Clone, Copy, Debug)]
pub struct Feed {
    /// What is sent. Its length includes the warm-up.
    pub units: SyntheticFeed,
    /// Media time 0 on the wall clock, microseconds.
    pub start_us: i64,
}

/// What arrived, and when on the wall clock: by kind and decode time, microseconds.
pub type Arrivals = HashMap<(bool, i64), i64>;

impl Feed {
    /// Begins a moment from now, so that everybody is ready.
    pub fn soon(units: SyntheticFeed) -> Self {
        Self {
            units,
            start_us: unix_now_us() + SOON_US,
        }
    }

    /// When a unit is taken, for timers.
    pub fn due(&self, dts_us: i64) -> Instant {
        let wait_us = self.start_us + dts_us - unix_now_us();
        Instant::now() + Duration::from_micros(u64::try_from(wait_us).unwrap_or(0))
    }

    /// A moment of media time on the wall clock, microseconds.
    pub fn moment_us(&self, seconds: f64) -> i64 {
        #[expect(clippy::cast_possible_truncation, reason = "seconds of a row")]
        let media_us = (seconds * 1e6) as i64;
        self.start_us + media_us
    }

    /// The end on the wall clock, microseconds.
    pub fn end_us(&self) -> i64 {
        self.start_us + i64::from(self.units.duration_ms) * 1_000
    }

    /// What became of the units that were taken from `begin_s` on.
    pub fn take(&self, begin_s: f64, arrivals: &Arrivals) -> Take {
        let from_us = self.moment_us(begin_s);
        let mut take = Take::default();
        for unit in self.units.units() {
            let captured_us = self.start_us + unit.dts_us;
            if captured_us < from_us {
                continue;
            }
            let arrived_us = arrivals.get(&key(&unit)).copied();
            match unit.kind() {
                MediaKind::Video => take.pictures.push(Picture {
                    captured_us,
                    is_keyframe: unit.keyframe,
                    is_disposable: unit.disposable,
                    arrived_us,
                }),
                MediaKind::Audio | MediaKind::Data => take.blocks.push(Block {
                    captured_us,
                    arrived_us,
                }),
            }
        }
        take
    }

    /// Publishes it from a host until it ends. An encoder whose connection breaks, or that the relay closes, dials again and
    /// goes on with the next keyframe that is taken.
    ///
    /// # Errors
    /// When the host can't be entered; the thread's own are of the first connection.
    pub fn publish(
        self,
        host: &Namespace,
        relay: SocketAddr,
        studio: &str,
        key: &str,
    ) -> anyhow::Result<Inside<anyhow::Result<()>>> {
        let (studio, key) = (studio.to_owned(), key.to_owned());
        host.inside(move || {
            in_runtime(async {
                let mut encoder = Some(connect(relay, &studio, &key).await?);
                let mut is_waiting = false;
                for unit in self.units.units() {
                    time::sleep_until(self.due(unit.dts_us)).await;
                    if encoder.is_none() && unix_now_us() < self.end_us() {
                        is_waiting = true;
                        encoder = connect(relay, &studio, &key).await.ok();
                    }
                    let is_old = self.start_us + unit.dts_us < unix_now_us() - OLD_US;
                    let starts = unit.kind() == MediaKind::Video && unit.keyframe && !is_old;
                    is_waiting &= !starts;
                    let Some(socket) = encoder.as_mut().filter(|_| !is_waiting) else {
                        continue;
                    };
                    if !matches!(
                        time::timeout(STUCK_MAX, socket.send(&unit)).await,
                        Ok(Ok(()))
                    ) {
                        encoder = None;
                    }
                }
                // What waits in the socket goes out.
                time::sleep(LINGER).await;
                Ok(())
            })
        })
    }
}

async fn connect(relay: SocketAddr, studio: &str, key: &str) -> anyhow::Result<SyntheticEncoder> {
    let connecting = async {
        let any = Ipv4Addr::UNSPECIFIED.into();
        let mut encoder = SyntheticEncoder::connect_from(any, relay).await?;
        encoder.publish(studio, key).await?;
        Ok(encoder)
    };
    let connected = time::timeout(CONNECT_MAX, connecting).await;
    if !matches!(connected, Ok(Ok(_))) {
        time::sleep(RETRY).await;
    }
    connected?
}

/// What a unit is known by.
pub fn key(unit: &AccessUnit) -> (bool, i64) {
    (unit.kind() == MediaKind::Video, unit.dts_us)
}

/// Runs something asynchronous on this thread.
///
/// # Errors
/// Its own, and without a runtime.
pub fn in_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

const SOON_US: i64 = 1_500_000;

/// An encoder's backlog that is this old is not measured any more.
const STUCK_MAX: Duration = Duration::from_secs(40);

/// What waited this long is not sent on a new connection.
const OLD_US: i64 = 100_000;

const CONNECT_MAX: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(200);
const LINGER: Duration = Duration::from_secs(2);
