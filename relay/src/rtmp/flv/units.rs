//! From FLV tags to access units: configurations remembered, times unrolled, oddities of encoders smoothed out.
//!
//! One [`Units`] serves one publish, with all of its tracks. RTMP's times are milliseconds in 32 bits that wrap after
//! 49 days; they become microseconds in 64 bits on one clock for all tracks. A jump of that clock is marked, not
//! repaired: it is for whoever schedules the units to find a new anchor.

mod look;
mod time;

use std::collections::VecDeque;

use bytes::Bytes;
use firstmile_shared::{
    media::{AccessUnit, Codec, CodecConfig, MediaKind, avc::without_empty_units, flac},
    tunnel::unit::CONFIG_LEN_MAX,
};

use self::{
    look::{Look, Picture, has_sync},
    time::{DataBudget, TrackTime},
};
use super::{Packet, Part, Unsupported, data};
use crate::rtmp::amf0::Value;

/// Turns the tags of one publish into access units.
#[derive(Debug, Default)]
pub struct Units {
    /// In the order in which they came.
    tracks: Vec<Track>,
    /// The last time seen on any track: as received, and unrolled, milliseconds.
    clock: Option<(u32, i64)>,
    outcomes: VecDeque<Outcome>,
    data_budget: DataBudget,
    counts: Counts,
}

/// What was left out, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tags and units that contradict their own format.
    pub damaged: u64,
    /// Units before a configuration, or pictures before the first keyframe: nobody could decode them.
    pub undecodable: u64,
    /// Tags of codecs that are not played, and of more tracks than are carried.
    pub unsupported: u64,
}

/// What a tag came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A unit to pass on.
    Unit(AccessUnit),
    /// What the encoder should be told: for each track once, until it sends something else.
    Unsupported(Unsupported),
    /// There is another track, or one is of another codec: see [`Units::tracks`].
    TracksChanged,
}

/// One track as others are told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackInfo {
    /// Pictures, sound or data.
    pub kind: MediaKind,
    /// Its number among those of its kind.
    pub number: u8,
    /// How it is coded, or the name of what is not carried.
    pub codec: Result<Codec, Unsupported>,
}

#[derive(Debug)]
struct Track {
    info: TrackInfo,
    /// The record as units carry it, and what it says.
    config: Option<(Bytes, CodecConfig)>,
    time: TrackTime,
    /// A keyframe has been passed on since the last change of configuration.
    decodable: bool,
    /// What the colours mean, as JSON; empty if nothing was said.
    colors: Bytes,
    /// The next keyframe needs the colours before it.
    colors_due: bool,
}

impl Track {
    /// The configuration in force for `codec`, if there is one or none is needed.
    fn config_for(&self, codec: Codec) -> Option<(Option<&Bytes>, CodecConfig)> {
        if !codec.needs_config() {
            return Some((None, CodecConfig::None));
        }
        let (record, config) = self.config.as_ref()?;
        (self.info.codec == Ok(codec)).then_some((Some(record), *config))
    }
}

impl Units {
    /// What was left out so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// All tracks that were heard of.
    pub fn tracks(&self) -> impl Iterator<Item = TrackInfo> {
        self.tracks.iter().map(|track| track.info)
    }

    /// What a track is like, once the encoder has said so.
    pub fn config(&self, kind: MediaKind, number: u8) -> Option<&CodecConfig> {
        let track = self.tracks.iter().find(|track| is(track, kind, number))?;
        track.config.as_ref().map(|(_, config)| config)
    }

    /// Takes a video tag that arrived at `now_us`; `timestamp` is its message's, milliseconds.
    pub fn video(&mut self, now_us: i64, timestamp: u32, body: &Bytes) {
        for part in super::video(body) {
            self.part(now_us, timestamp, MediaKind::Video, body.len(), part);
        }
    }

    /// Takes an audio tag, likewise.
    pub fn audio(&mut self, now_us: i64, timestamp: u32, body: &Bytes) {
        for part in super::audio(body) {
            self.part(now_us, timestamp, MediaKind::Audio, body.len(), part);
        }
    }

    /// Takes a data message, likewise.
    pub fn data(&mut self, now_us: i64, timestamp: u32, values: &[Value]) {
        if let Some(payload) = data::event(values) {
            let dts_ms = self.near(timestamp);
            self.pass_data(now_us, 0, dts_ms, payload);
        }
    }

    /// What came of the tags, in order, until `None`.
    pub fn poll(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    fn part(&mut self, now_us: i64, timestamp: u32, kind: MediaKind, body_len: usize, part: Part) {
        let at = At {
            now_us,
            timestamp,
            body_len,
            offset_ns: part.offset_ns,
        };
        match part.packet {
            Packet::Config { codec, record } => self.configure(kind, part.track, codec, &record),
            Packet::Picture {
                codec,
                keyframe,
                disposable,
                composition_ms,
                data,
            } => {
                let picture = Picture {
                    codec,
                    keyframe,
                    disposable,
                    composition_ms,
                    data,
                };
                self.picture(at, part.track, picture);
            }
            Packet::Sound { codec, data } => self.sound(at, part.track, codec, data),
            Packet::Metadata(amf) => match data::colors(&amf) {
                Some(colors) => self.colors(at, part.track, colors),
                None => self.count_damage(),
            },
            Packet::Nothing => {}
            Packet::Unsupported(what) => self.unsupported(now_us, kind, part.track, what),
            Packet::Damaged => self.count_damage(),
        }
    }

    fn find(&mut self, kind: MediaKind, number: u8) -> Option<&mut Track> {
        self.tracks.iter_mut().find(|track| is(track, kind, number))
    }

    /// The track, which is of this codec from now on; `None` if there are too many.
    fn track(
        &mut self,
        kind: MediaKind,
        number: u8,
        codec: Result<Codec, Unsupported>,
    ) -> Option<&mut Track> {
        let known = self.tracks.iter().position(|track| is(track, kind, number));
        let index = match known {
            Some(index) => index,
            None if self.tracks.len() >= TRACKS_MAX => {
                self.counts.unsupported = self.counts.unsupported.saturating_add(1);
                return None;
            }
            None => {
                let info = TrackInfo {
                    kind,
                    number,
                    codec,
                };
                self.tracks.push(Track {
                    info,
                    config: None,
                    time: TrackTime::default(),
                    decodable: false,
                    colors: Bytes::new(),
                    colors_due: false,
                });
                self.outcomes.push_back(Outcome::TracksChanged);
                self.tracks.len().saturating_sub(1)
            }
        };
        let track = self.tracks.get_mut(index)?;
        if track.info.codec != codec {
            track.info.codec = codec;
            track.config = None;
            track.decodable = false;
            self.outcomes.push_back(Outcome::TracksChanged);
        }
        Some(track)
    }

    /// Some encoders repeat their configuration all the time: only a change counts. One that can't be read leaves
    /// the last good one in place, and an empty one says nothing.
    fn configure(&mut self, kind: MediaKind, number: u8, codec: Codec, record: &Bytes) {
        if !codec.needs_config() {
            self.track(kind, number, Ok(codec));
            return;
        }
        if record.is_empty() {
            return;
        }
        // Of the forms that FLAC's comes in, one.
        let record = match codec {
            Codec::Flac => flac::stream_info(record).map(|block| record.slice_ref(block)),
            _ => Some(record.clone()),
        };
        let parsed = record
            .filter(|record| record.len() <= CONFIG_LEN_MAX)
            .and_then(|record| Some((CodecConfig::parse(codec, &record).ok()?, record)));
        let Some((config, record)) = parsed else {
            return self.count_damage();
        };
        let Some(track) = self.track(kind, number, Ok(codec)) else {
            return;
        };
        if track
            .config
            .as_ref()
            .is_some_and(|(last, _)| *last == record)
        {
            return;
        }
        // A copy: it stays for the whole publish.
        track.config = Some((Bytes::copy_from_slice(&record), config));
        track.decodable = false;
    }

    fn picture(&mut self, at: At, number: u8, picture: Picture) {
        let codec = picture.codec;
        let track = self.find(MediaKind::Video, number);
        let Some((record, config)) = track.and_then(|track| {
            let (record, config) = track.config_for(codec)?;
            Some((record.cloned(), config))
        }) else {
            return self.count_undecodable();
        };
        let Some(look) = Look::of(&picture, &config) else {
            return self.count_damage();
        };
        if !look.is_picture {
            return;
        }
        let Some(track) = self.find(MediaKind::Video, number) else {
            return;
        };
        track.decodable |= look.keyframe;
        if !track.decodable {
            return self.count_undecodable();
        }
        let colors = (look.keyframe && std::mem::replace(&mut track.colors_due, true))
            .then(|| track.colors.clone())
            .filter(|colors| !colors.is_empty());
        let dts_ms = self.unroll(at.timestamp);
        if let Some(colors) = colors {
            self.pass_data(at.now_us, number, dts_ms, colors);
        }
        let Some(track) = self.find(MediaKind::Video, number) else {
            return;
        };
        let unit = AccessUnit {
            codec,
            track: number,
            keyframe: look.keyframe,
            disposable: look.disposable,
            discontinuity: track.time.jumps(at.now_us, dts_ms),
            dts_us: dts_ms.saturating_mul(1_000),
            cts_us: picture
                .composition_ms
                .saturating_mul(1_000)
                .saturating_add(at.offset_us()),
            config: record.filter(|_| look.keyframe),
            payload: match look.without_empty_units {
                Some(nal_length_size) => without_empty_units(&picture.data, nal_length_size),
                None => at.own(picture.data),
            },
        };
        self.outcomes.push_back(Outcome::Unit(unit));
    }

    fn sound(&mut self, at: At, number: u8, codec: Option<Codec>, data: Bytes) {
        let known = self.find(MediaKind::Audio, number);
        let Some(codec) = codec.or(known.and_then(|track| track.info.codec.ok())) else {
            return self.count_undecodable();
        };
        if !has_sync(codec, &data) {
            return self.count_damage();
        }
        let known = self.find(MediaKind::Audio, number);
        if codec.needs_config() && known.is_none_or(|track| track.config_for(codec).is_none()) {
            return self.count_undecodable();
        }
        let dts_ms = self.unroll(at.timestamp);
        let Some(track) = self.track(MediaKind::Audio, number, Ok(codec)) else {
            return;
        };
        // Legal, and means silence; there is nothing to decode.
        if data.is_empty() {
            return;
        }
        let unit = AccessUnit {
            codec,
            track: number,
            keyframe: true,
            disposable: false,
            discontinuity: track.time.jumps(at.now_us, dts_ms),
            dts_us: dts_ms.saturating_mul(1_000),
            cts_us: at.offset_us(),
            config: track.config.as_ref().map(|(record, _)| record.clone()),
            payload: at.own(data),
        };
        self.outcomes.push_back(Outcome::Unit(unit));
    }

    /// Colours count from the next picture on; every keyframe gets them again, for who comes later.
    fn colors(&mut self, at: At, number: u8, colors: Bytes) {
        let Some(track) = self.find(MediaKind::Video, number) else {
            return self.count_undecodable();
        };
        if track.colors == colors {
            return;
        }
        track.colors = colors.clone();
        track.colors_due = false;
        let dts_ms = self.near(at.timestamp);
        self.pass_data(at.now_us, number, dts_ms, colors);
    }

    fn pass_data(&mut self, now_us: i64, number: u8, dts_ms: i64, payload: Bytes) {
        if !self.data_budget.take(now_us) {
            self.counts.unsupported = self.counts.unsupported.saturating_add(1);
            return;
        }
        self.outcomes.push_back(Outcome::Unit(AccessUnit {
            codec: Codec::Data,
            track: number,
            keyframe: true,
            disposable: false,
            discontinuity: false,
            dts_us: dts_ms.saturating_mul(1_000),
            cts_us: 0,
            config: None,
            payload,
        }));
    }

    /// The time on a clock that never wraps: the nearest one that ends in these 32 bits.
    fn unroll(&mut self, timestamp: u32) -> i64 {
        let unrolled = self.nearest(timestamp);
        self.clock = Some((timestamp, unrolled));
        unrolled
    }

    fn nearest(&self, timestamp: u32) -> i64 {
        match self.clock {
            None => timestamp.into(),
            Some((last, unrolled)) => {
                let step = timestamp.wrapping_sub(last).cast_signed();
                unrolled.saturating_add(step.into())
            }
        }
    }

    /// The time of what has no say in the clock: encoders give their data messages any time, often none.
    fn near(&self, timestamp: u32) -> i64 {
        let nearest = self.nearest(timestamp);
        match self.clock {
            Some((_, last)) if nearest.abs_diff(last) > DATA_APART_MAX_MS => last,
            _ => nearest,
        }
    }

    fn unsupported(&mut self, now_us: i64, kind: MediaKind, number: u8, what: Unsupported) {
        self.counts.unsupported = self.counts.unsupported.saturating_add(1);
        // A track that is carried goes on, whatever else comes under its number.
        let is_carried = self
            .find(kind, number)
            .is_some_and(|track| track.time.is_fresh(now_us));
        let before = self.outcomes.len();
        if !is_carried
            && self.track(kind, number, Err(what)).is_some()
            && self.outcomes.len() > before
        {
            self.outcomes.push_back(Outcome::Unsupported(what));
        }
    }

    fn count_damage(&mut self) {
        self.counts.damaged = self.counts.damaged.saturating_add(1);
    }

    fn count_undecodable(&mut self) {
        self.counts.undecodable = self.counts.undecodable.saturating_add(1);
    }
}

fn is(track: &Track, kind: MediaKind, number: u8) -> bool {
    track.info.kind == kind && track.info.number == number
}

/// When a part came, and in what.
#[derive(Clone, Copy, Debug)]
struct At {
    now_us: i64,
    timestamp: u32,
    body_len: usize,
    offset_ns: u32,
}

impl At {
    fn offset_us(self) -> i32 {
        i32::try_from(self.offset_ns / 1_000).unwrap_or(0)
    }

    /// A small part of a large message must not keep all of it alive while it waits somewhere.
    fn own(self, data: Bytes) -> Bytes {
        if data.len().saturating_mul(2) < self.body_len.saturating_sub(HEADERS_LEN_MAX) {
            Bytes::copy_from_slice(&data)
        } else {
            data
        }
    }
}

/// Data of another time than this is of no time.
const DATA_APART_MAX_MS: u64 = 10_000;

/// Tracks of all kinds: the largest ladder of an encoder has six.
const TRACKS_MAX: usize = 16;

/// Heads and modifiers of ordinary tags are shorter.
const HEADERS_LEN_MAX: usize = 1024;

#[cfg(test)]
mod tests;
