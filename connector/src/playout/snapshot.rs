//! A line as data: what `status --json`, the page and `/metrics` show. A copy of the moment, not live.
//!
//! The serialised form is the `lines` entry of the status contract: names and meaning are stable, a field
//! without a value is `null`, never absent. Counters count from program start.

use serde::Serialize;

/// One line at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct LineSnapshot {
    /// The line's name, "Camera 1".
    pub name: String,
    /// What the source shows.
    pub state: LineState,
    /// Why, in plain words, and since when; `None` only when live without remark.
    pub reason: Option<String>,
    /// The relay the feed comes from.
    pub relay: Option<String>,
    /// The encoder's own name, as it sent it: escape it wherever it is shown.
    pub encoder: Option<String>,
    /// What the encoder and its uplink hold back, milliseconds.
    pub encoder_lag_ms: Option<u32>,
    /// How much later than at first everything is shown because the encoder's lag was accepted, milliseconds.
    pub accepted_lag_ms: u32,
    /// The studio delay in force, milliseconds.
    pub delay_ms: u32,
    /// The picture.
    pub video: VideoSnapshot,
    /// The sound.
    pub audio: AudioSnapshot,
    /// Where the time goes, last 10 s.
    pub hops_ms: HopsSnapshot,
    /// What else the encoder sends: all its tracks, also those that are not played.
    pub tracks: Vec<TrackSnapshot>,
    /// The newest timecode of the encoder, "10:11:12:13".
    pub timecode: Option<String>,
    /// > 0: sound later than picture, at the output; median of 10 s.
    pub av_offset_ms: Option<f64>,
    /// What the relay gets from the encoder, bits per second.
    pub bitrate_bps: Option<u64>,
    /// Where the line goes.
    pub outputs: Vec<OutputSnapshot>,
    /// Since program start, for the metrics.
    #[serde(skip)]
    pub histograms: Vec<HistogramSnapshot>,
}

/// One track of a feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TrackSnapshot {
    /// `video`, `audio` or `data`; the number counts those of the same kind.
    pub kind: String,
    /// What the setting `track` chooses.
    pub track: u8,
    /// "H.264": escape it wherever it is shown.
    pub codec: String,
    /// Whether there is a decoder for it.
    pub playable: bool,
}

/// What the source of a line shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LineState {
    /// Pictures of the feed are being shown.
    Live,
    /// Never a feed since start.
    Waiting,
    /// A feed was there and is not; holding the last picture counts.
    Slate,
    /// Disabled.
    Off,
}

/// The picture of a line. Counters are units of video.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VideoSnapshot {
    /// "H.264".
    pub codec: Option<&'static str>,
    /// Pixels.
    pub width: Option<u32>,
    /// Pixels.
    pub height: Option<u32>,
    /// The nominal rate that the source declares.
    pub fps: Option<f64>,
    /// Arrived.
    pub units_total: u64,
    /// Not shown, because they were past their due time.
    pub late_total: u64,
    /// Left out by policy, the relay's or ours.
    pub dropped_total: u64,
    /// Never came, and nobody said that they were dropped.
    pub lost_total: u64,
    /// The decoder could not read them.
    pub decode_errors_total: u64,
    /// The decoder crashed or hung, and another took its place.
    pub decoder_restarts_total: u64,
}

/// The sound of a line.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AudioSnapshot {
    /// "AAC".
    pub codec: Option<&'static str>,
    /// Of the feed, Hz; the source always has 48 kHz.
    pub sample_rate: Option<u32>,
    /// Of the feed and the source.
    pub channels: Option<u32>,
    /// Arrived.
    pub units_total: u64,
}

/// Where a picture's time goes, from its decode time stamp on.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HopsSnapshot {
    /// In the encoder's send buffer and on its uplink, beyond the best of the last minute.
    pub encoder: Percentiles,
    /// In the relay's queue.
    pub relay: Percentiles,
    /// From the relay's queue to here.
    pub network: Percentiles,
    /// In the jitter buffer: the one deliberate delay.
    pub wait: Percentiles,
    /// In the decoder, with the conversion of its pixels.
    pub decode: Percentiles,
}

/// Of the last 10 s, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half are below.
    pub p50: Option<f64>,
    /// 95 % are below.
    pub p95: Option<f64>,
    /// 99 % are below.
    pub p99: Option<f64>,
}

/// One output of a line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutputSnapshot {
    /// `ndi` or `null`.
    pub kind: &'static str,
    /// As receivers see it, "HOST (Camera 1)".
    pub name: String,
    /// Receivers connected now.
    pub connections: Option<u32>,
    /// What receivers say.
    pub tally: Tally,
}

/// Whether a receiver has the source on air.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tally {
    /// The output can't tell.
    #[default]
    Unknown,
    /// Neither on program nor on preview.
    Off,
    /// On preview.
    Preview,
    /// On air.
    Program,
}

/// A histogram since program start.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSnapshot {
    /// `network`, `jitter`, `decode` or `output`: the label of the metric.
    pub hop: &'static str,
    /// (upper bound in seconds, how many were at or below it), bounds rising, counts cumulative.
    pub buckets: Vec<(f64, u64)>,
    /// Seconds, of all.
    pub sum: f64,
    /// How many.
    pub count: u64,
}
