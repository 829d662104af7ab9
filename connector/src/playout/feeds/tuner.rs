//! Which units of a feed of several tracks are played. Pure.
//!
//! Another track of pictures is played from its first keyframe on; until then the old one goes on, so nothing is
//! missing in between. Sound changes at once. All other units are passed over: they are no gap in what is played.

use firstmile_shared::{
    media::{AccessUnit, Codec, MediaKind},
    tunnel::control::TrackReport,
};

/// The tracks of one feed that are played.
#[derive(Debug, Default)]
pub(super) struct Tuner {
    video: u8,
    audio: u8,
    wanted_video: u8,
    /// The last unit of the wanted track that was passed over: a keyframe before it can't be started with.
    passed_seq: Option<u64>,
}

/// What a unit is to the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It is played.
    Played,
    /// It belongs to another track, or is data.
    Other,
}

impl Tuner {
    /// Plays these tracks: see [`choice`].
    pub(super) fn want(&mut self, (video, audio): (u8, u8)) {
        if self.wanted_video != video {
            self.wanted_video = video;
            self.passed_seq = None;
        }
        self.audio = audio;
    }

    /// The tracks of pictures and sound that are wanted.
    pub(super) const fn wanted(&self) -> (u8, u8) {
        (self.wanted_video, self.audio)
    }

    /// Sorts a unit, in the order in which they come.
    pub(super) fn role(&mut self, unit: &AccessUnit, seq: u64) -> Role {
        let is_played = match unit.kind() {
            MediaKind::Video => unit.track == self.video || self.turns_to(unit, seq),
            MediaKind::Audio => unit.track == self.audio,
            MediaKind::Data => false,
        };
        if is_played { Role::Played } else { Role::Other }
    }

    /// Whether it is the start of the track that is wanted.
    fn turns_to(&mut self, unit: &AccessUnit, seq: u64) -> bool {
        if unit.track != self.wanted_video {
            return false;
        }
        // One that needs this keyframe overtook it and is gone: the next keyframe will do.
        if unit.keyframe && self.passed_seq.is_none_or(|passed| passed < seq) {
            self.video = unit.track;
            return true;
        }
        self.passed_seq = Some(self.passed_seq.map_or(seq, |passed| passed.max(seq)));
        false
    }
}

/// The tracks of pictures and sound to play of a feed that sends `tracks`: those of this number, else 0, else the first.
pub(super) fn choice(tracks: &[TrackReport], number: u8) -> (u8, u8) {
    let of = |kind: MediaKind| {
        let carried = || {
            (tracks.iter())
                .filter(move |track| track.kind == kind.name() && is_known(track))
                .map(|track| track.track)
        };
        carried()
            .find(|track| *track == number)
            .or_else(|| carried().find(|track| *track == 0))
            .or_else(|| carried().next())
            .unwrap_or(0)
    };
    (of(MediaKind::Video), of(MediaKind::Audio))
}

/// Whether this version has a decoder for it at all.
pub(in crate::playout) fn is_known(track: &TrackReport) -> bool {
    track.carried && Codec::ALL.iter().any(|codec| codec.name() == track.codec)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `K` keyframe, `p` picture, `a` sound, `d` data; behind each its track.
    fn roles(tuner: &mut Tuner, units: &str) -> String {
        let units = units.as_bytes().chunks(2);
        (0..)
            .zip(units)
            .map(|(seq, unit)| role(tuner, unit[0], unit[1] - b'0', seq))
            .collect()
    }

    fn role(tuner: &mut Tuner, kind: u8, track: u8, seq: u64) -> char {
        let unit = AccessUnit {
            codec: match kind {
                b'a' => Codec::Aac,
                b'd' => Codec::Data,
                _ => Codec::H264,
            },
            track,
            keyframe: kind != b'p',
            disposable: false,
            discontinuity: false,
            dts_us: 0,
            cts_us: 0,
            config: None,
            payload: bytes::Bytes::new(),
        };
        match tuner.role(&unit, seq) {
            Role::Played => '#',
            Role::Other => '.',
        }
    }

    #[test]
    fn another_track_is_played_from_its_keyframe_on_and_its_sound_at_once() {
        let mut tuner = Tuner::default();
        assert_eq!(roles(&mut tuner, "K0K1a0a1d0p0p1"), "#.#..#.");
        tuner.want((1, 1));
        assert_eq!(roles(&mut tuner, "p0p1a0a1p0K1p0p1K0"), "#..###.#.");
        // A picture that overtook its keyframe makes that keyframe useless.
        tuner.want((0, 0));
        let got: String = [
            (b'p', 0, 11),
            (b'K', 0, 10),
            (b'p', 1, 12),
            (b'K', 0, 13),
            (b'p', 1, 14),
        ]
        .into_iter()
        .map(|(kind, track, seq)| role(&mut tuner, kind, track, seq))
        .collect();
        assert_eq!(got, "..##.");
    }

    #[test]
    fn what_there_is_is_played() {
        let tracks = |names: &[(&str, u8, &str, bool)]| -> Vec<TrackReport> {
            let reports = names
                .iter()
                .map(|(kind, track, codec, carried)| TrackReport {
                    track: *track,
                    kind: (*kind).to_owned(),
                    codec: (*codec).to_owned(),
                    carried: *carried,
                });
            reports.collect()
        };
        let two = tracks(&[
            ("video", 0, "H.264", true),
            ("video", 1, "H.265", true),
            ("audio", 0, "AAC", true),
        ]);
        assert_eq!(choice(&two, 0), (0, 0));
        assert_eq!(choice(&two, 1), (1, 0));
        assert_eq!(choice(&two, 2), (0, 0));
        assert_eq!(choice(&[], 3), (0, 0));
        let odd = tracks(&[
            ("video", 0, "VVC", false),
            ("video", 1, "a codec of the future", true),
            ("video", 2, "AV1", true),
            ("audio", 3, "Opus", true),
        ]);
        assert_eq!(choice(&odd, 0), (2, 3));
    }
}
