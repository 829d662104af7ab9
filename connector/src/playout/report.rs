//! A line's status in the operator's words: what the source shows, why, and whose fault it is. Pure.

use firstmile_shared::media::MediaKind;

use super::{
    feeds::tuner::is_known,
    line::Stats,
    slate::Words,
    snapshot::{
        AudioSnapshot, HopsSnapshot, LineSnapshot, LineState, OutputSnapshot, Tally, TrackSnapshot,
        VideoSnapshot,
    },
    stats::to_ms,
    trouble::{Trouble, foreign},
};
use crate::playout::{FeedInfo, jitter::Losses};

/// What the status is made of, besides the measurements.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) name: &'a str,
    pub(super) delay_us: i64,
    pub(super) feed: Option<&'a FeedInfo>,
    /// There is a feed that has not ended.
    pub(super) is_on: bool,
    pub(super) losses: Losses,
    pub(super) now_us: i64,
}

/// Puts the status together.
pub(super) fn snapshot(facts: &Facts<'_>, stats: &Stats) -> LineSnapshot {
    let now_us = facts.now_us;
    let shows = shows(facts, stats);
    LineSnapshot {
        name: facts.name.to_owned(),
        state: shows,
        reason: explain(shows, facts, stats),
        relay: facts.feed.map(|feed| feed.relay.clone()),
        encoder: facts.feed.map(|feed| feed.encoder.clone()),
        encoder_lag_ms: stats.encoder_lag_ms,
        accepted_lag_ms: stats.accepted_lag_ms,
        delay_ms: u32::try_from(facts.delay_us / 1000).unwrap_or(0),
        video: video(facts.losses, stats),
        audio: AudioSnapshot {
            codec: stats.audio.map(|audio| audio.codec),
            sample_rate: stats.audio.map(|audio| audio.sample_rate),
            channels: stats.audio.map(|audio| audio.channels),
            units_total: stats.audio_units,
        },
        hops_ms: HopsSnapshot {
            encoder: stats.encoder.percentiles(now_us),
            relay: stats.relay.percentiles(now_us),
            network: stats.network.percentiles(now_us),
            wait: stats.wait.percentiles(now_us),
            decode: stats.decode.percentiles(now_us),
        },
        timecode: stats.timecode.clone(),
        tracks: facts.feed.map(tracks).unwrap_or_default(),
        av_offset_ms: av_offset_us(stats, now_us).map(to_ms),
        bitrate_bps: stats.bitrate_bps,
        outputs: vec![OutputSnapshot {
            kind: stats.output.0,
            name: stats.output.1.clone(),
            connections: stats.receivers.map(|receivers| receivers.connections),
            tally: stats
                .receivers
                .map_or(Tally::Unknown, |receivers| receivers.tally),
        }],
        histograms: [
            &stats.network_histogram,
            &stats.wait_histogram,
            &stats.decode_histogram,
            &stats.output_histogram,
        ]
        .map(super::stats::Histogram::snapshot)
        .to_vec(),
    }
}

fn tracks(feed: &FeedInfo) -> Vec<TrackSnapshot> {
    (feed.tracks.iter())
        .map(|track| TrackSnapshot {
            kind: track.kind.clone(),
            track: track.track,
            codec: track.codec.clone(),
            playable: is_known(track),
        })
        .collect()
}

fn video(losses: Losses, stats: &Stats) -> VideoSnapshot {
    VideoSnapshot {
        codec: stats.video.map(|video| video.codec),
        width: stats.video.map(|video| video.width),
        height: stats.video.map(|video| video.height),
        fps: stats
            .video
            .map(|video| (video.rate.fps() * 1000.0).round() / 1000.0),
        units_total: stats.video_units,
        late_total: stats.late + losses.late,
        dropped_total: stats.dropped + losses.dropped,
        lost_total: losses.lost,
        decode_errors_total: stats.decode_errors,
        decoder_restarts_total: stats.decoder_restarts,
    }
}

/// Each is how long after its due time it was sent: the difference is what the ear is off the eye.
fn av_offset_us(stats: &Stats, now_us: i64) -> Option<i64> {
    let sound_us = stats.sound_off.percentile_us(500, now_us)?;
    let picture_us = stats.picture_off.percentile_us(500, now_us)?;
    Some(sound_us - picture_us)
}

fn shows(facts: &Facts<'_>, stats: &Stats) -> LineState {
    match stats.shown_us {
        Some(shown_us) if facts.now_us - shown_us < FRESH_US => LineState::Live,
        Some(_) => LineState::Slate,
        None if stats.over.is_some() => LineState::Slate,
        None => LineState::Waiting,
    }
}

fn explain(shows: LineState, facts: &Facts<'_>, stats: &Stats) -> Option<String> {
    if shows == LineState::Live {
        return remark(facts, stats);
    }
    Some(Trouble::of(facts, stats).reason(facts.delay_us))
}

/// What a rehearsal's card says; `None` while there is a picture.
pub(super) fn words(facts: &Facts<'_>, stats: &Stats) -> Option<Words> {
    (shows(facts, stats) != LineState::Live).then(|| Trouble::of(facts, stats).words())
}

/// Live, but not well.
fn remark(facts: &Facts<'_>, stats: &Stats) -> Option<String> {
    let now_us = facts.now_us;
    if !facts.is_on && stats.over.is_some() {
        return None;
    }
    if let Some(codec) = facts.feed.and_then(|feed| foreign(feed, MediaKind::Audio)) {
        return Some(format!(
            "{} sends sound as {codec}, which this version can't decode: set AAC in the encoder",
            facts.name
        ));
    }
    if let Some(for_us) = stats.stalled_for_us(now_us) {
        return Some(stalled(for_us));
    }
    let late = stats.lateness.count(now_us);
    let shown = stats.picture_off.count(now_us);
    if late * 50 > late + shown {
        return Some(format!(
            "{} % of the pictures of the last 10 s came too late for the delay of {} ms ({})",
            late * 100 / (late + shown),
            facts.delay_us / 1000,
            culprit(stats, now_us),
        ));
    }
    (stats.accepted_lag_ms > 0).then(|| {
        format!(
            "everything is shown {:.1} s later than the delay says: the encoder did not catch up and its lag was accepted",
            f64::from(stats.accepted_lag_ms) / 1000.0
        )
    })
}

/// Which side holds pictures back most.
pub(super) fn culprit(stats: &Stats, now_us: i64) -> &'static str {
    let encoder_us = stats.encoder.percentile_us(950, now_us).unwrap_or(0);
    let network_us = stats.network.percentile_us(950, now_us).unwrap_or(0);
    let decode_us = stats.decode.percentile_us(950, now_us).unwrap_or(0);
    if encoder_us >= network_us && encoder_us >= decode_us {
        "most of it in the encoder and its uplink"
    } else if network_us >= decode_us {
        "most of it between the relay and this studio"
    } else {
        "most of it in this computer's decoder"
    }
}

/// The encoder's connection to the relay is there and carries nothing.
pub(super) fn stalled(for_us: i64) -> String {
    format!(
        "stalled: the encoder's connection to the relay is there, and nothing has come by it for {}",
        span(for_us)
    )
}

/// "12 s", "3 min".
pub(super) fn span(us: i64) -> String {
    let seconds = us.max(0) / 1_000_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3_600),
    }
}

/// A picture is new for so long: two at 2 fps.
pub(super) const FRESH_US: i64 = 1_000_000;

#[cfg(test)]
mod tests;
