//! Why a line has no picture: for the status with how long it has been so, for a rehearsal's card with what to do. Pure.

use firstmile_shared::media::MediaKind;

use super::{
    FeedInfo,
    feeds::tuner::is_known,
    line::Stats,
    report::{FRESH_US, Facts, culprit, span, stalled},
    slate::Words,
};

/// What comes of this kind, if there is no decoder for any of it: its name.
pub(super) fn foreign(feed: &FeedInfo, kind: MediaKind) -> Option<&str> {
    let mut tracks = feed.tracks.iter().filter(|track| track.kind == kind.name());
    if tracks.clone().any(is_known) {
        return None;
    }
    tracks.next().map(|track| track.codec.as_str())
}

/// What keeps a line from showing its feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble<'a> {
    /// Never a feed since start.
    NoEncoder,
    /// The last feed is over.
    Over { reason: &'a str, ago_us: i64 },
    /// A publisher without a unit.
    Nothing,
    /// Likewise, and the relay says that nothing comes to it either, for so long.
    Stalled { for_us: i64 },
    /// It sends, and everything is too old to be shown when the relay gets it.
    Behind { lag_ms: u32 },
    /// Units came, and then none for so long.
    Silent { for_us: i64 },
    /// Nothing at all has come from the relay for so long: nobody knows what the encoder does.
    RelaySilent { for_us: i64 },
    /// So late that they are not shown.
    Late { by_us: i64, culprit: &'static str },
    /// The decoder has been at one unit for so long, in this program.
    DecoderHangs { for_us: i64 },
    /// The decoder's process ended or was ended.
    DecoderLost { how: &'a str },
    /// The decoder's own reason.
    Undecodable { error: &'a str, waits: bool },
    /// Nothing can be decoded before it.
    Keyframe,
    /// The encoder sends pictures of a codec that there is no decoder for.
    Foreign { name: &'a str, codec: &'a str },
    /// Units of sound come, and none of video.
    SoundOnly,
    /// Only just begun.
    OnItsWay,
}

impl<'a> Trouble<'a> {
    /// Of a line that shows no picture of a feed.
    pub(super) fn of(facts: &'a Facts<'_>, stats: &'a Stats) -> Self {
        let now_us = facts.now_us;
        if !facts.is_on && facts.feed.is_none() {
            return match &stats.over {
                Some((reason, at_us)) => Self::Over {
                    reason,
                    ago_us: now_us - at_us,
                },
                None => Self::NoEncoder,
            };
        }
        // Its answers come all the time, so it is missed long before a picture is.
        let heard_us = (stats.relay_heard)
            .filter(|(publisher, _)| facts.feed.is_some_and(|feed| feed.publisher == *publisher))
            .map(|(_, at_us)| now_us - at_us);
        if let Some(for_us) = heard_us.filter(|for_us| *for_us >= RELAY_SILENT_US) {
            return Self::RelaySilent { for_us };
        }
        if let Some(codec) = facts.feed.and_then(|feed| foreign(feed, MediaKind::Video)) {
            let name = facts.name;
            return Self::Foreign { name, codec };
        }
        let is_sending = stats.bitrate_bps.is_some_and(|bps| bps > 0);
        let lag_ms = stats.encoder_lag_ms.filter(|_| is_sending).unwrap_or(0);
        if i64::from(lag_ms) * 1000 > facts.delay_us {
            return Self::Behind { lag_ms };
        }
        match stats.last_arrival_us.map(|at_us| now_us - at_us) {
            None => return Self::Nothing,
            Some(silent_us) if silent_us >= facts.delay_us + FRESH_US => {
                return match stats.stalled_for_us(now_us) {
                    Some(for_us) => Self::Stalled { for_us },
                    None => Self::Silent { for_us: silent_us },
                };
            }
            Some(_) => {}
        }
        // Before all that the decoder said of earlier pictures.
        if (stats.last_video_us).is_none_or(|at_us| now_us - at_us >= facts.delay_us + FRESH_US) {
            return Self::SoundOnly;
        }
        // Nothing of the decoder once a picture came out.
        let at_work_us = (stats.decoding_since_us).map_or(0, |since_us| now_us - since_us);
        if at_work_us >= HANGS_US {
            // A process of its own would have been ended by now.
            return Self::DecoderHangs { for_us: at_work_us };
        }
        if let Some(how) = &stats.decoder_loss {
            return Self::DecoderLost { how };
        }
        if let Some(error) = &stats.last_decode_error {
            return Self::Undecodable {
                error,
                waits: stats.waits_for_keyframe,
            };
        }
        if let Some(by_us) = stats.lateness.percentile_us(950, now_us) {
            return Self::Late {
                by_us,
                culprit: culprit(stats, now_us),
            };
        }
        if stats.waits_for_keyframe {
            return Self::Keyframe;
        }
        Self::OnItsWay
    }

    /// One clause for the status, with how long and how much.
    pub(super) fn reason(self, delay_us: i64) -> String {
        match self {
            Self::Over { reason, ago_us } => format!("{reason}, {} ago", span(ago_us)),
            Self::Silent { for_us } => {
                format!("nothing has come from the encoder for {}", span(for_us))
            }
            Self::RelaySilent { for_us } => {
                format!("{} for {}", self.in_short(), span(for_us))
            }
            Self::Stalled { for_us } => stalled(for_us),
            Self::Late { by_us, culprit } => format!(
                "pictures come up to {} ms too late for the delay of {} ms ({culprit}): a longer delay would show them",
                by_us.div_euclid(1000) + 1,
                delay_us / 1000,
            ),
            Self::Behind { lag_ms } => format!(
                "the encoder is {:.1} s behind: its uplink carries less than it sends, and what is older than {} ms is not shown",
                f64::from(lag_ms) / 1000.0,
                delay_us / 1000,
            ),
            Self::DecoderHangs { for_us } => format!(
                "the decoder has been at one picture for {}: if it stays so, restart this program; \
                 with decoder.isolation = process only the decoder would be",
                span(for_us)
            ),
            Self::Undecodable { waits: true, .. } => {
                format!("{}; {}", self.in_short(), Self::Keyframe.in_short())
            }
            Self::Foreign { .. } => format!("{}: set H.264 in the encoder", self.in_short()),
            _ => self.in_short(),
        }
    }

    /// For a card: without what changes from second to second, so that it is drawn once.
    pub(super) fn words(self) -> Words {
        Words {
            reason: sentence(&self.in_short()),
            remedy: self.remedy().to_owned(),
        }
    }

    fn in_short(self) -> String {
        match self {
            Self::NoEncoder => "waiting for an encoder",
            Self::Over { reason, .. } => reason,
            Self::Nothing => "an encoder is connected, nothing has come from it yet",
            Self::Behind { .. } => "the encoder is behind: its uplink carries less than it sends",
            Self::Silent { .. } => "nothing comes from the encoder",
            Self::RelaySilent { .. } => {
                "nothing at all has come from the relay (it, or the network between it and the studio)"
            }
            Self::Stalled { .. } => "the encoder's connection is there, and nothing comes by it",
            Self::Late { culprit, .. } => {
                return format!("pictures come too late for the studio delay ({culprit})");
            }
            Self::Keyframe => "waiting for the encoder's next keyframe",
            Self::DecoderHangs { .. } => "the decoder does not come to an end with a picture",
            Self::DecoderLost { how } => how,
            Self::Undecodable { error, .. } => {
                return format!("the pictures can't be decoded: {error}");
            }
            Self::Foreign { name, codec } => {
                return format!("{name} sends {codec}, which this version can't decode");
            }
            Self::SoundOnly => "the encoder sends sound but no picture",
            Self::OnItsWay => "the first picture is on its way",
        }
        .to_owned()
    }

    const fn remedy(self) -> &'static str {
        match self {
            Self::NoEncoder => {
                "Start the encoder with this line's address and key; the connector's page shows both."
            }
            Self::Over { .. } => {
                "The picture returns by itself with the encoder and its connection; the connector's page says which of them is away."
            }
            Self::Nothing | Self::Silent { .. } | Self::Stalled { .. } => {
                "Look at the encoder and its uplink: the connection is there, but nothing is sent."
            }
            Self::RelaySilent { .. } => {
                "Look at the studio's network and at the relay; the connector dials again by itself."
            }
            Self::Behind { .. } => {
                "Set a lower bit rate in the encoder; the connector's page says which one its uplink carries."
            }
            Self::Late { .. } => "Set a longer delay, or a lower bit rate in the encoder.",
            Self::Keyframe => "Set the encoder's keyframe interval to 1 or 2 seconds.",
            Self::DecoderHangs { .. } => {
                "Restart the connector; decoder.isolation = process would do that for this line alone."
            }
            Self::DecoderLost { .. } => {
                "It is started again by itself; if that goes on, start the encoder again."
            }
            Self::Undecodable { .. } => {
                "Set the encoder to H.264 (AVC), 8 bit, 4:2:0, at most 4096 x 2304."
            }
            Self::Foreign { .. } => "Set H.264 in the encoder.",
            Self::SoundOnly => "Look at the encoder's camera or video source.",
            Self::OnItsWay => "Nothing to do.",
        }
    }
}

/// Four of its answers are missing.
const RELAY_SILENT_US: i64 = 600_000;

/// No picture takes so long: the largest keyframes of 4K were seen to take 118 ms.
const HANGS_US: i64 = 2_000_000;

/// With a capital and a full stop.
fn sentence(clause: &str) -> String {
    let mut chars = clause.chars();
    let first = chars.next().map(char::to_uppercase);
    let text: String = first.into_iter().flatten().chain(chars).collect();
    if text.ends_with(['.', '!', '?']) {
        text
    } else {
        format!("{text}.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A card is drawn again only when its words change: nothing in them counts time.
    #[test]
    fn words_on_a_card_do_not_change_with_time() {
        let at = |us: i64| {
            [
                Trouble::Over {
                    reason: "the network to the relay was lost",
                    ago_us: us,
                },
                Trouble::Silent { for_us: us },
                Trouble::RelaySilent { for_us: us },
                Trouble::Late {
                    by_us: us,
                    culprit: "most of it in this computer's decoder",
                },
            ]
        };
        for (early, late) in at(1_000_000).into_iter().zip(at(90_000_000)) {
            assert_eq!(early.words(), late.words());
            assert_ne!(early.reason(600_000), late.reason(600_000));
        }
    }

    #[test]
    fn words_are_sentences_with_a_remedy() {
        let words = Trouble::Over {
            reason: "über den Berg",
            ago_us: 1,
        }
        .words();
        assert_eq!(words.reason, "Über den Berg.");
        assert!(words.remedy.ends_with('.'));
        assert_eq!(sentence(""), ".");
    }
}
