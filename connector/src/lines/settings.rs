//! What can be set on a line: the keys of `line set`, of the page and of `lines.toml`, as text and as values.
//!
//! One table, [`KEYS`], names them all; every value is parsed here and nowhere else, so the command line, the page
//! and the file accept and refuse the same things with the same words. No I/O, but for [`Settings::check_slate`].

use std::{fmt, time::Duration};

use firstmile_shared::tunnel::control::{LagPolicy, MAX_LAG_MS, ShowFormat, Takeover};

use crate::playout::Slate;

/// The keys that `line set` takes, in the order in which they are listed.
pub const KEYS: [&str; 11] = [
    "delay",
    "lag",
    "max_lag",
    "format",
    "decoder",
    "hold",
    "slate",
    "audio_trim_ms",
    "takeover",
    "track",
    "record",
];

/// Those that this version acts on; the others are checked and kept for a later one.
pub const SERVED_KEYS: [&str; 8] = [
    "delay",
    "lag",
    "max_lag",
    "hold",
    "slate",
    "audio_trim_ms",
    "takeover",
    "track",
];

/// Everything that can be set on one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// When pictures of this line are due.
    pub delay: LineDelay,
    /// What becomes of an encoder that is further behind than `max_lag` and does not catch up.
    pub lag: LagPolicy,
    /// How far it may be.
    pub max_lag: MaxLag,
    /// The size and rate of the output.
    pub format: Format,
    /// What decodes.
    pub decoder: Decoder,
    /// How long the last picture stays when the feed is gone.
    pub hold: Hold,
    /// What follows it.
    pub slate: LineSlate,
    /// Added to the time of the sound, milliseconds: more than 0 makes it later.
    pub audio_trim_ms: i32,
    /// Who wins when a second encoder uses the key.
    pub takeover: Takeover,
    /// The track that is played; encoders of one track send it as 0.
    pub track: u8,
    /// Whether the feed is recorded.
    pub record: bool,
}

/// Why a setting was not taken: the key, the value and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// Not one of [`KEYS`].
    #[error("unknown setting {key:?}; the settings of a line are {}", KEYS.join(", "))]
    UnknownKey {
        /// The key as given.
        key: String,
    },
    /// The studio's own card can't be shown.
    #[error("{0}")]
    Slate(String),
    /// The value is none that the key takes.
    #[error("{key} = {value:?} is not {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value as given.
        value: String,
        /// What would be right: "fast, normal, …".
        expected: &'static str,
    },
}

impl Settings {
    /// Sets one key from text.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), SettingError> {
        let Some(key) = KEYS.into_iter().find(|known| *known == key) else {
            return Err(SettingError::UnknownKey {
                key: key.to_owned(),
            });
        };
        let text = value.trim();
        let parsed = match key {
            "delay" => LineDelay::parse(text).map(|delay| self.delay = delay),
            "lag" => parse_lag(text).map(|lag| self.lag = lag),
            "max_lag" => MaxLag::parse(text).map(|max_lag| self.max_lag = max_lag),
            "format" => Format::parse(text).map(|format| self.format = format),
            "decoder" => Decoder::parse(text).map(|decoder| self.decoder = decoder),
            "hold" => Hold::parse(text).map(|hold| self.hold = hold),
            "slate" => LineSlate::parse(text).map(|slate| self.slate = slate),
            "audio_trim_ms" => (text.parse().ok())
                .filter(|trim| (-AUDIO_TRIM_MS_MAX..=AUDIO_TRIM_MS_MAX).contains(trim))
                .map(|trim| self.audio_trim_ms = trim),
            "takeover" => parse_takeover(text).map(|takeover| self.takeover = takeover),
            "track" => text.parse().ok().map(|track| self.track = track),
            "record" => parse_switch(text).map(|record| self.record = record),
            _ => None,
        };
        parsed.ok_or_else(|| SettingError::Value {
            key,
            value: value.to_owned(),
            expected: expected(key),
        })
    }

    /// Whether the line's own picture file can be shown: the one check that reads a disk.
    pub fn check_slate(&self) -> Result<(), SettingError> {
        match &self.slate {
            LineSlate::Own(slate) => {
                (slate.check()).map_err(|error| SettingError::Slate(error.to_string()))
            }
            LineSlate::Studio => Ok(()),
        }
    }

    /// All [`KEYS`] with their values, in their order.
    pub fn all(&self) -> Vec<(String, String)> {
        (KEYS.into_iter())
            .filter_map(|key| Some((key.to_owned(), self.get(key)?)))
            .collect()
    }

    /// The value of one of [`KEYS`] as text that [`Settings::set`] takes.
    pub fn get(&self, key: &str) -> Option<String> {
        Some(match key {
            "delay" => self.delay.to_string(),
            "lag" => lag_name(self.lag).to_owned(),
            "max_lag" => self.max_lag.0.to_string(),
            "format" => self.format.to_string(),
            "decoder" => self.decoder.name().to_owned(),
            "hold" => self.hold.to_string(),
            "slate" => self.slate.to_string(),
            "audio_trim_ms" => self.audio_trim_ms.to_string(),
            "takeover" => takeover_name(self.takeover).to_owned(),
            "track" => self.track.to_string(),
            "record" => if self.record { "on" } else { "off" }.to_owned(),
            _ => return None,
        })
    }
}

/// The encoder lag that is too much, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxLag(pub u32);

impl Default for MaxLag {
    fn default() -> Self {
        Self(MAX_LAG_MS)
    }
}

impl MaxLag {
    fn parse(text: &str) -> Option<Self> {
        parse_ms(text)
            .filter(|ms| (MAX_LAG_MS_MIN..=DELAY_MS_MAX).contains(ms))
            .map(Self)
    }
}

/// A studio delay: one of four names, or milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// 300 ms: cable and good 5G.
    Fast,
    /// 600 ms.
    Normal,
    /// 1500 ms: 4G that moves.
    Safe,
    /// 3000 ms: the edge of coverage.
    Rough,
    /// Anything else, milliseconds, at most [`DELAY_MS_MAX`].
    Ms(u32),
}

impl Delay {
    /// From `fast`, `normal`, `safe`, `rough` or milliseconds.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.trim().to_ascii_lowercase().as_str() {
            "fast" => Self::Fast,
            "normal" => Self::Normal,
            "safe" => Self::Safe,
            "rough" => Self::Rough,
            number => Self::Ms(parse_ms(number).filter(|ms| *ms <= DELAY_MS_MAX)?),
        })
    }

    /// Milliseconds.
    pub const fn ms(self) -> u32 {
        match self {
            Self::Fast => 300,
            Self::Normal => 600,
            Self::Safe => 1500,
            Self::Rough => 3000,
            Self::Ms(ms) => ms,
        }
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fast => "fast",
            Self::Normal => "normal",
            Self::Safe => "safe",
            Self::Rough => "rough",
            Self::Ms(ms) => return write!(f, "{ms}"),
        })
    }
}

/// The delay of one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineDelay {
    /// The studio's, as all lines that were not told otherwise.
    #[default]
    Studio,
    /// Its own.
    Own(Delay),
}

impl LineDelay {
    /// Milliseconds, `studio` being the studio's delay.
    pub const fn ms(self, studio: Delay) -> u32 {
        match self {
            Self::Studio => studio.ms(),
            Self::Own(delay) => delay.ms(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if text == STUDIO {
            return Some(Self::Studio);
        }
        Delay::parse(text).map(Self::Own)
    }
}

impl fmt::Display for LineDelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Studio => f.write_str(STUDIO),
            Self::Own(delay) => delay.fmt(f),
        }
    }
}

/// The size and rate of a line's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// As the encoder sends it.
    #[default]
    Auto,
    /// Always this, whatever comes.
    Fixed {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// Fields instead of frames.
        interlaced: bool,
        /// Frames (fields when interlaced) per 1001 or 1000 seconds: 25000/1000, 30000/1001.
        rate: (u32, u32),
    },
}

impl Format {
    /// As what the feeds of a show are compared with.
    pub const fn show(self) -> Option<ShowFormat> {
        match self {
            Self::Auto => None,
            Self::Fixed {
                width,
                height,
                interlaced,
                rate,
            } => Some(ShowFormat {
                width,
                height,
                interlaced,
                rate,
            }),
        }
    }

    /// From `auto`, `1080p25`, `1080i50`, `1280x720p59.94`.
    pub fn parse(text: &str) -> Option<Self> {
        if text == AUTO {
            return Some(Self::Auto);
        }
        let (size, rate, interlaced) = match (text.split_once('p'), text.split_once('i')) {
            (Some((size, rate)), None) => (size, rate, false),
            (None, Some((size, rate))) => (size, rate, true),
            _ => return None,
        };
        let (width, height) = match size.split_once('x') {
            Some((width, height)) => (width.parse().ok()?, height.parse().ok()?),
            None => SIZES.iter().find(|(_, name)| *name == size)?.0,
        };
        let (_, rate) = RATES.iter().find(|(name, _)| *name == rate)?;
        let sizes_are_sound = (16..=7680).contains(&width)
            && (16..=4320).contains(&height)
            && width % 2 == 0
            && height % 2 == 0;
        sizes_are_sound.then_some(Self::Fixed {
            width,
            height,
            interlaced,
            rate: *rate,
        })
    }
}

impl From<ShowFormat> for Format {
    fn from(show: ShowFormat) -> Self {
        Self::Fixed {
            width: show.width,
            height: show.height,
            interlaced: show.interlaced,
            rate: show.rate,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Fixed {
            width,
            height,
            interlaced,
            rate,
        } = self
        else {
            return f.write_str(AUTO);
        };
        match SIZES.iter().find(|(size, _)| size == &(*width, *height)) {
            Some((_, name)) => f.write_str(name)?,
            None => write!(f, "{width}x{height}")?,
        }
        f.write_str(if *interlaced { "i" } else { "p" })?;
        let name = RATES.iter().find(|(_, known)| known == rate);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

/// What decodes a line's pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decoder {
    /// The program chooses.
    #[default]
    Auto,
    /// The processor.
    Software,
    /// The graphics card, or the processor where it can't.
    Hardware,
}

impl Decoder {
    const ALL: [Self; 3] = [Self::Auto, Self::Software, Self::Hardware];

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|decoder| decoder.name() == text)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Auto => AUTO,
            Self::Software => "software",
            Self::Hardware => "hardware",
        }
    }
}

/// How long the last picture stays after it was due, while no other comes. On program, and for 10 s after, it always stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Until the feed is back.
    Forever,
    /// Then the slate.
    For(Duration),
}

impl Default for Hold {
    /// 2 s: a hiccup of the network passes unseen, and the director soon sees which camera is gone.
    fn default() -> Self {
        Self::For(Duration::from_secs(2))
    }
}

impl Hold {
    /// Microseconds; `None`: without limit.
    pub fn us(self) -> Option<i64> {
        match self {
            Self::Forever => None,
            Self::For(time) => Some(i64::try_from(time.as_micros()).unwrap_or(i64::MAX)),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if text == FOREVER {
            return Some(Self::Forever);
        }
        let (number, unit_ms) = if let Some(number) = text.strip_suffix("ms") {
            (number, 1)
        } else if let Some(number) = text.strip_suffix('m') {
            (number, 60_000)
        } else {
            (text.strip_suffix('s').unwrap_or(text), 1000)
        };
        let number: u64 = number.parse().ok()?;
        let ms = number.checked_mul(unit_ms)?;
        (ms <= HOLD_MS_MAX).then_some(Self::For(Duration::from_millis(ms)))
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => f.write_str(FOREVER),
            Self::For(time) if time.subsec_millis() > 0 => write!(f, "{}ms", time.as_millis()),
            Self::For(time) => write!(f, "{}s", time.as_secs()),
        }
    }
}

/// The card of one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LineSlate {
    /// The studio's, as all lines that were not told otherwise.
    #[default]
    Studio,
    /// Its own.
    Own(Slate),
}

impl LineSlate {
    /// The card, `studio` being the studio's.
    pub fn or<'a>(&'a self, studio: &'a Slate) -> &'a Slate {
        match self {
            Self::Studio => studio,
            Self::Own(slate) => slate,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if text == STUDIO {
            return Some(Self::Studio);
        }
        Slate::parse(text).map(Self::Own)
    }
}

impl fmt::Display for LineSlate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Studio => f.write_str(STUDIO),
            Self::Own(slate) => slate.fmt(f),
        }
    }
}

fn parse_lag(text: &str) -> Option<LagPolicy> {
    [LagPolicy::Reconnect, LagPolicy::Accept]
        .into_iter()
        .find(|lag| lag_name(*lag) == text)
}

const fn lag_name(lag: LagPolicy) -> &'static str {
    match lag {
        LagPolicy::Reconnect => "reconnect",
        LagPolicy::Accept => "accept",
    }
}

fn parse_takeover(text: &str) -> Option<Takeover> {
    [Takeover::Smart, Takeover::Always, Takeover::Never]
        .into_iter()
        .find(|takeover| takeover_name(*takeover) == text)
}

const fn takeover_name(takeover: Takeover) -> &'static str {
    match takeover {
        Takeover::Smart => "smart",
        Takeover::Always => "always",
        Takeover::Never => "never",
    }
}

fn parse_switch(text: &str) -> Option<bool> {
    match text {
        "on" | "true" | "yes" => Some(true),
        "off" | "false" | "no" => Some(false),
        _ => None,
    }
}

/// Milliseconds: "600" or "600ms".
fn parse_ms(text: &str) -> Option<u32> {
    let digits = text.strip_suffix("ms").unwrap_or(text).trim_end();
    if digits.starts_with('+') {
        return None;
    }
    digits.parse().ok()
}

/// Each of [`KEYS`] with the values it takes, a line each, for a help text.
pub fn described() -> String {
    KEYS.map(|key| {
        let later = if SERVED_KEYS.contains(&key) {
            ""
        } else {
            " (kept, without effect in this version)"
        };
        format!("  {key:<13}  {}{later}\n", expected(key))
    })
    .concat()
}

fn expected(key: &str) -> &'static str {
    match key {
        "delay" => "studio, fast, normal, safe, rough, or 0 to 30000 milliseconds",
        "lag" => "reconnect or accept",
        "max_lag" => "500 to 30000 milliseconds",
        "format" => "auto, or a size and a rate like 1080p25, 1080i50 or 1280x720p59.94",
        "decoder" => "auto, software or hardware",
        "hold" => "forever, or a time up to a day like 500ms, 10s or 5m",
        "slate" => "studio, clean, diagnostic, black, or the absolute path of a PNG or JPEG",
        "audio_trim_ms" => "a number of milliseconds from -2000 to 2000",
        "takeover" => "smart, always or never",
        "track" => "a track number from 0 to 255",
        "record" => "on or off",
        _ => "a value of this setting",
    }
}

/// Longest studio delay, milliseconds: ten times `rough`. At 20 Mbit/s it is 75 MB of coded pictures a line.
pub const DELAY_MS_MAX: u32 = 30_000;

/// Less than this is an encoder's own rhythm, not a lag.
const MAX_LAG_MS_MIN: u32 = 500;

/// More than two seconds between sound and picture is another fault.
const AUDIO_TRIM_MS_MAX: i32 = 2000;

/// A day.
const HOLD_MS_MAX: u64 = 24 * 60 * 60 * 1000;

const AUTO: &str = "auto";
const STUDIO: &str = "studio";
const FOREVER: &str = "forever";

/// The sizes that have a name.
const SIZES: [((u32, u32), &str); 4] = [
    ((1280, 720), "720"),
    ((1920, 1080), "1080"),
    ((2560, 1440), "1440"),
    ((3840, 2160), "2160"),
];

/// The rates that broadcast knows.
const RATES: [(&str, (u32, u32)); 8] = [
    ("23.98", (24_000, 1001)),
    ("24", (24_000, 1000)),
    ("25", (25_000, 1000)),
    ("29.97", (30_000, 1001)),
    ("30", (30_000, 1000)),
    ("50", (50_000, 1000)),
    ("59.94", (60_000, 1001)),
    ("60", (60_000, 1000)),
];

#[cfg(test)]
mod tests;
