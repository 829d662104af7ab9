//! The one who pays for it if the relay does not: an honest publisher beside the strangers, and what became of its units.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use firstmile_shared::secret::StreamKey;
use tokio::time::{self, Instant};

use crate::{
    bench::{feed, meter::Arrivals},
    encoder::{SyntheticEncoder, SyntheticFeed},
    watch::Spread,
};

/// What it sent, and what its studio got after which time.
#[derive(Debug)]
pub struct Honest {
    /// Units sent.
    pub sent: u64,
    /// Units that arrived.
    pub arrived: u64,
    /// From the encoder to the studio.
    pub delay_ms: Spread,
}

/// Publishes a feed of `duration` as `key` of `studio`, whose units are counted by `arrivals`.
///
/// # Errors
/// When the relay does not take all of it, or nothing arrives.
pub async fn publish(
    rtmp: SocketAddr,
    studio: &str,
    key: &StreamKey,
    arrivals: &Arrivals,
    duration: Duration,
) -> anyhow::Result<Honest> {
    let mut encoder = SyntheticEncoder::connect(rtmp).await?;
    encoder.publish(studio, key.expose()).await?;
    let feed = SyntheticFeed {
        duration_ms: u32::try_from(duration.as_millis())?,
        ..SyntheticFeed::default()
    };
    arrivals.open();
    let (start, mut sent) = (Instant::now(), 0);
    for mut unit in feed.units() {
        let due = Duration::from_micros(u64::try_from(unit.dts_us)?);
        time::sleep_until(start + due).await;
        feed::stamp(&mut unit);
        encoder.send(&unit).await?;
        sent += 1;
    }
    time::sleep(TAIL).await;
    let (arrived, _, delay) = arrivals.close();
    encoder.unpublish(key.expose()).await?;
    Ok(Honest {
        sent,
        arrived,
        delay_ms: delay.context("nothing arrived")?,
    })
}

/// What is still on its way.
const TAIL: Duration = Duration::from_secs(1);
