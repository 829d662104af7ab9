//! The sound: whether there is any, and of which rate.

use bytes::Bytes;
use firstmile_shared::media::{AccessUnit, Codec, aac::AacConfig};

use super::{Case, Report, Side};

#[derive(Debug, Default)]
pub(super) struct Sound {
    last_us: Option<i64>,
    config: Option<Bytes>,
    sample_rate: Option<u32>,
}

impl Sound {
    pub(super) fn observe(&mut self, unit: &AccessUnit, now_us: i64) {
        // An empty unit is silence that is not coded: there is sound.
        self.last_us = Some(now_us);
        if unit.config != self.config {
            self.config.clone_from(&unit.config);
            let config = unit.config.as_deref().filter(|_| unit.codec == Codec::Aac);
            self.sample_rate = config
                .and_then(|config| AacConfig::parse(config).ok())
                .map(|config| config.output_rate());
        }
    }

    /// `video_us`: when the last picture came.
    pub(super) fn examine(
        &self,
        report: &mut Report<'_>,
        now_us: i64,
        began_us: i64,
        video_us: Option<i64>,
    ) {
        let who = report.who.to_owned();
        let is_missing =
            |last_us: Option<i64>| now_us.saturating_sub(last_us.unwrap_or(began_us)) >= MISSING_US;
        let Case {
            foreign_video,
            foreign_audio,
            ..
        } = *report.case;
        match (is_missing(self.last_us), is_missing(video_us)) {
            // It has a microphone, or a camera: the codec is what is wrong.
            (true, false) if foreign_audio.is_some() => {}
            (false, true) if foreign_video.is_some() => {}
            (true, false) => report.warn(
                "no_sound",
                Side::Encoder,
                &format!("{who} sends pictures without sound: switch its microphone on"),
            ),
            (false, true) => report.error(
                "no_picture",
                Side::Encoder,
                &format!("{who} sends sound without pictures: switch its camera on"),
            ),
            _ => {}
        }
        if let Some(rate) = self.sample_rate.filter(|rate| *rate != WANTED_HZ) {
            let text = format!(
                "{who} sends sound of {} kHz: set 48 kHz, or it is converted and loses what is above {} kHz",
                kilohertz(rate),
                kilohertz(rate / 2)
            );
            if rate == 44_100 {
                let text = format!("{who} sends sound of 44.1 kHz, which is converted: set 48 kHz");
                report.note("sample_rate", Side::Encoder, &text);
            } else {
                report.warn("sample_rate", Side::Encoder, &text);
            }
        }
    }
}

/// "22.05".
fn kilohertz(hz: u32) -> String {
    let text = format!("{:.3}", f64::from(hz) / 1e3);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What studios and NDI have.
const WANTED_HZ: u32 = 48_000;

const MISSING_US: i64 = 5_000_000;
