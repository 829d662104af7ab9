//! The encoder doctor: what is wrong with a feed, told from the feed itself, in sentences that an operator acts on.
//!
//! [`Doctor::observe`] sees every unit and costs next to nothing; [`Doctor::examine`] is asked once a second. A
//! sentence says what is wrong, what to set, and on whose side it is: the encoder's or its uplink's. Nothing is decoded:
//! what is known are the units' times and sizes, and the decoder's configuration. Pure: times are arguments,
//! microseconds on the relay's clock (`now_us`) or the media clock (`dts_us`).
//!
//! Not here: what becomes of a feed that is behind ([`crate::registry::lag`]).

mod flow;
mod picture;
mod sound;
mod timing;

use firstmile_shared::{
    media::{AccessUnit, MediaKind},
    tunnel::control::{FINDING_TEXT_MAX, FINDINGS_MAX, Finding, FindingSeverity, ShowFormat},
};

use self::{flow::Flow, picture::Pictures, sound::Sound, timing::Timing};

/// One feed's doctor.
#[derive(Debug, Default)]
pub struct Doctor {
    began_us: Option<i64>,
    flow: Flow,
    pictures: Pictures,
    sound: Sound,
    timing: Timing,
}

/// What a feed is judged against, and what it is called.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// "Camera 2".
    pub line: &'a str,
    /// What the encoder calls itself.
    pub agent: &'a str,
    /// What all feeds of the show should be like, if somebody said so.
    pub show: Option<ShowFormat>,
    /// The studio delay D, microseconds.
    pub delay_us: i64,
    /// What its pictures are coded in, if this relay can't carry that: then none of them was observed.
    pub foreign_video: Option<&'a str>,
    /// Likewise its sound.
    pub foreign_audio: Option<&'a str>,
}

impl Case<'_> {
    /// "Camera 2's phone".
    fn who(&self) -> String {
        let agent = self.agent.to_ascii_lowercase();
        let kind = if PHONES.iter().any(|phone| agent.contains(phone)) {
            "phone"
        } else {
            "encoder"
        };
        format!("{}'s {kind}", self.line)
    }
}

impl Doctor {
    /// Takes a unit in, which came at `now_us` with this age, microseconds.
    pub fn observe(&mut self, unit: &AccessUnit, now_us: i64, lag_us: i64) {
        if unit.track != 0 || unit.kind() == MediaKind::Data {
            return;
        }
        self.began_us.get_or_insert(now_us);
        let lag_us = lag_us.clamp(-TIME_MAX_US, TIME_MAX_US);
        let step_us = self.timing.observe(unit, now_us);
        self.flow.observe(unit, now_us, step_us, lag_us);
        match unit.kind() {
            MediaKind::Video => self.pictures.observe(unit, now_us, step_us),
            MediaKind::Audio => self.sound.observe(unit, now_us),
            MediaKind::Data => {}
        }
    }

    /// What is wrong, the worst first.
    pub fn examine(&mut self, case: &Case<'_>, now_us: i64) -> Vec<Finding> {
        let who = case.who();
        let mut report = Report {
            who: &who,
            case,
            findings: Vec::new(),
        };
        report.examine_codecs();
        // An encoder's first seconds are like no others.
        if let Some(began_us) = self.began_us
            && now_us.saturating_sub(began_us) >= SETTLE_US
        {
            let wanted_bps = self.pictures.wanted_bps();
            let names_rate = self.flow.examine(&mut report, now_us, wanted_bps);
            self.timing.examine(&mut report, now_us);
            self.pictures.examine(&mut report);
            self.sound
                .examine(&mut report, now_us, began_us, self.pictures.last_us());
            // One number to set, not two.
            if !names_rate {
                let video_bps = self.flow.video_bps();
                self.pictures.examine_bitrate(&mut report, video_bps);
            }
        }
        let mut findings = report.findings;
        findings.sort_by_key(|finding| finding.severity);
        findings.truncate(FINDINGS_MAX);
        findings
    }
}

/// Collects what is found.
struct Report<'a> {
    /// "Camera 2's phone".
    who: &'a str,
    case: &'a Case<'a>,
    findings: Vec<Finding>,
}

/// Where something has to be changed.
#[derive(Clone, Copy)]
enum Side {
    Encoder,
    Uplink,
}

impl Report<'_> {
    fn examine_codecs(&mut self) {
        let who = self.who;
        if let Some(codec) = self.case.foreign_video {
            let text = format!("{who} sends {codec}, which can't be decoded: set H.264");
            self.error("video_codec", Side::Encoder, &text);
        }
        if let Some(codec) = self.case.foreign_audio {
            let text = format!("{who} sends sound as {codec}, which can't be decoded: set AAC");
            self.warn("audio_codec", Side::Encoder, &text);
        }
    }

    fn add(&mut self, code: &str, severity: FindingSeverity, side: Side, text: &str) {
        self.findings.push(Finding {
            code: code.to_owned(),
            severity,
            side: match side {
                Side::Encoder => "encoder",
                Side::Uplink => "uplink",
            }
            .to_owned(),
            text: crate::auth::printable_up_to(text, FINDING_TEXT_MAX),
        });
    }

    fn error(&mut self, code: &str, side: Side, text: &str) {
        self.add(code, FindingSeverity::Error, side, text);
    }

    fn warn(&mut self, code: &str, side: Side, text: &str) {
        self.add(code, FindingSeverity::Warning, side, text);
    }

    fn note(&mut self, code: &str, side: Side, text: &str) {
        self.add(code, FindingSeverity::Note, side, text);
    }
}

/// "4.8 s", "8 s".
fn seconds(us: i64) -> String {
    let tenths = us.saturating_add(50_000) / 100_000;
    match tenths % 10 {
        0 => format!("{} s", tenths / 10),
        tenth => format!("{}.{tenth} s", tenths / 10),
    }
}

/// "4.0".
fn megabits(bps: u64) -> String {
    let tenths = bps.saturating_add(50_000) / 100_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// How many of `times` are not older than a minute; the others are forgotten.
fn in_last_minute(times: &mut std::collections::VecDeque<(i64, i64)>, now_us: i64) -> usize {
    while times
        .front()
        .is_some_and(|(at_us, _)| now_us.saturating_sub(*at_us) > MINUTE_US)
    {
        times.pop_front();
    }
    times.len()
}

/// Notes something that happened, and how much; what happens all the time is not kept for ever.
fn remember(times: &mut std::collections::VecDeque<(i64, i64)>, now_us: i64, amount: i64) {
    if times.len() == REMEMBERED_MAX {
        times.pop_front();
    }
    times.push_back((now_us, amount));
}

/// "once", "3 times".
fn times(count: usize) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        n => format!("{n} times"),
    }
}

/// Beyond it a time is not believed: a day.
const TIME_MAX_US: i64 = 86_400_000_000;

const SETTLE_US: i64 = 4_000_000;
const MINUTE_US: i64 = 60_000_000;
const REMEMBERED_MAX: usize = 64;

/// Parts of the names of encoders that run on phones.
const PHONES: [&str; 12] = [
    "larix",
    "moblin",
    "prism",
    "irl pro",
    "iphone",
    "ios",
    "android",
    "streamlabs mobile",
    "haishinkit",
    "rootencoder",
    "gopro",
    "broadcaster",
];

#[cfg(test)]
mod tests;
