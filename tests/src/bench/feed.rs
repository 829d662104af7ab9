//! Feeds in real time, into a relay or into a floor, whose units say when they were sent.
//!
//! What is sent is [`SyntheticFeed`]: 1080p30 at 6 Mbit/s with a keyframe every two seconds, and AAC. The far end is in the
//! same process, so it knows each unit's delay.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use firstmile_shared::media::AccessUnit;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Duration, Instant},
};

use super::meter::now_us;
use crate::encoder::{SyntheticEncoder, SyntheticFeed};

/// Where a feed goes.
#[derive(Debug)]
pub enum Way {
    /// Into a relay, by RTMP.
    Rtmp(Box<SyntheticEncoder>),
    /// Into a floor, with its length in front.
    Plain(TcpStream),
}

impl Way {
    /// Into a relay, as a studio and a key.
    pub async fn rtmp(to: SocketAddr, studio: &str, key: &str) -> anyhow::Result<Self> {
        let mut encoder = SyntheticEncoder::connect(to).await?;
        encoder.publish(studio, key).await?;
        Ok(Self::Rtmp(Box::new(encoder)))
    }

    /// Into a floor.
    pub async fn plain(to: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(to).await?;
        socket.set_nodelay(true)?;
        Ok(Self::Plain(socket))
    }

    /// Sends a feed for ever; `start` is its media time 0.
    pub async fn push(mut self, start: Instant) -> anyhow::Result<()> {
        let feed = SyntheticFeed {
            duration_ms: u32::MAX,
            ..SyntheticFeed::default()
        };
        for mut unit in feed.units() {
            let due = Duration::from_micros(u64::try_from(unit.dts_us)?);
            tokio::time::sleep_until(start + due).await;
            stamp(&mut unit);
            match &mut self {
                Self::Rtmp(encoder) => encoder.send(&unit).await?,
                Self::Plain(socket) => {
                    socket.write_u32(u32::try_from(unit.payload.len())?).await?;
                    socket.write_all(&unit.payload).await?;
                }
            }
        }
        Ok(())
    }
}

/// Writes the moment into the payload, behind what codecs look at.
pub fn stamp(unit: &mut AccessUnit) {
    let mut payload = BytesMut::from(&unit.payload[..]);
    if let Some(mut place) = payload.get_mut(STAMP_AT..STAMP_AT + STAMP_LEN) {
        place.put_slice(&MARK);
        place.put_u64(now_us());
    }
    unit.payload = payload.freeze();
}

/// When a unit that arrived was sent, on the clock of [`now_us`].
pub fn sent_us(payload: &Bytes) -> Option<u64> {
    let stamp = payload.get(STAMP_AT..STAMP_AT + STAMP_LEN)?;
    let time = stamp.strip_prefix(&MARK)?.first_chunk::<8>()?;
    Some(u64::from_be_bytes(*time))
}

const STAMP_AT: usize = 16;
const MARK: [u8; 8] = *b"fm-bench";
const STAMP_LEN: usize = MARK.len() + 8;
