//! From FLV tags to access units: configurations remembered, times unrolled, oddities of encoders smoothed out.
//!
//! One [`Units`] serves one publish. RTMP's times are milliseconds in 32 bits that wrap after 49 days; they become
//! microseconds in 64 bits on one clock for sound and picture. A jump of that clock is marked, not repaired: it is
//! for whoever schedules the units to find a new anchor.

use bytes::Bytes;
use firstmile_shared::{
    media::{
        AccessUnit, Codec,
        aac::AacConfig,
        avc::{AvcConfig, UnitInfo, without_empty_units},
    },
    tunnel::unit::CONFIG_LEN_MAX,
};

use super::{AudioTag, DAMAGED_TAG, Unsupported, VideoTag};

/// Turns the tags of one publish into access units.
#[derive(Debug, Default)]
pub struct Units {
    video: Option<(Bytes, AvcConfig)>,
    audio: Option<(Bytes, AacConfig)>,
    /// The last time seen on any track: as received, and unrolled, milliseconds.
    clock: Option<(u32, i64)>,
    video_time: TrackTime,
    audio_time: TrackTime,
    /// A keyframe has been passed on since the last change of configuration.
    decodable: bool,
    counts: Counts,
}

/// What was left out, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tags and units that contradict their own format.
    pub damaged: u64,
    /// Units before a configuration, or pictures before the first keyframe: nobody could decode them.
    pub undecodable: u64,
    /// Tags of codecs that are not played.
    pub unsupported: u64,
}

/// What a tag came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A unit to pass on.
    Unit(AccessUnit),
    /// Nothing to pass on.
    Nothing,
    /// Nothing either, and here is what the encoder should be told.
    Unsupported(Unsupported),
}

impl Units {
    /// What was left out so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What the pictures are like, once the encoder has said so.
    pub fn video_config(&self) -> Option<&AvcConfig> {
        self.video.as_ref().map(|(_, config)| config)
    }

    /// What the sound is like, once the encoder has said so.
    pub fn audio_config(&self) -> Option<&AacConfig> {
        self.audio.as_ref().map(|(_, config)| config)
    }

    /// Takes a video tag that arrived at `now_us`; `timestamp` is its message's, milliseconds.
    pub fn video(&mut self, now_us: i64, timestamp: u32, body: &Bytes) -> Outcome {
        match VideoTag::parse(body) {
            VideoTag::Config(record) => {
                self.configure_video(record);
                Outcome::Nothing
            }
            VideoTag::Picture {
                keyframe,
                composition_ms,
                data,
            } => self.picture(now_us, timestamp, keyframe, composition_ms, data),
            VideoTag::Nothing => Outcome::Nothing,
            VideoTag::Unsupported(what) => self.unsupported(what),
        }
    }

    /// Takes an audio tag, likewise.
    pub fn audio(&mut self, now_us: i64, timestamp: u32, body: &Bytes) -> Outcome {
        match AudioTag::parse(body) {
            AudioTag::Config(record) => {
                self.configure_audio(record);
                Outcome::Nothing
            }
            AudioTag::Frame(data) => self.sound(now_us, timestamp, data),
            AudioTag::Unsupported(what) => self.unsupported(what),
        }
    }

    /// Some encoders repeat their configuration all the time: only a change counts. One that can't be read leaves
    /// the last good one in place, and an empty one says nothing.
    fn configure_video(&mut self, record: Bytes) {
        if record.is_empty() || self.video.as_ref().is_some_and(|(last, _)| *last == record) {
            return;
        }
        match AvcConfig::parse(&record) {
            Ok(config) if record.len() <= CONFIG_LEN_MAX => {
                self.video = Some((record, config));
                self.decodable = false;
            }
            Ok(_) | Err(_) => self.count_damage(),
        }
    }

    fn configure_audio(&mut self, record: Bytes) {
        if record.is_empty() || self.audio.as_ref().is_some_and(|(last, _)| *last == record) {
            return;
        }
        match AacConfig::parse(&record) {
            Ok(config) if record.len() <= CONFIG_LEN_MAX => self.audio = Some((record, config)),
            Ok(_) | Err(_) => self.count_damage(),
        }
    }

    fn picture(
        &mut self,
        now_us: i64,
        timestamp: u32,
        declared_key: bool,
        composition_ms: i32,
        data: Bytes,
    ) -> Outcome {
        let Some((record, config)) = &self.video else {
            self.count_undecodable();
            return Outcome::Nothing;
        };
        let nal_length_size = config.nal_length_size;
        let Ok(info) = UnitInfo::of(&data, nal_length_size) else {
            self.count_damage();
            return Outcome::Nothing;
        };
        if !info.picture {
            return Outcome::Nothing;
        }
        let keyframe = info.is_keyframe(declared_key);
        let config = keyframe.then(|| record.clone());
        self.decodable |= keyframe;
        if !self.decodable {
            self.count_undecodable();
            return Outcome::Nothing;
        }
        let dts_ms = self.unroll(timestamp);
        Outcome::Unit(AccessUnit {
            codec: Codec::H264,
            track: 0,
            keyframe,
            disposable: info.disposable,
            discontinuity: self.video_time.jumps(now_us, dts_ms),
            dts_us: dts_ms.saturating_mul(1_000),
            cts_us: composition_ms.saturating_mul(1_000),
            config,
            payload: if info.empty_units {
                without_empty_units(&data, nal_length_size)
            } else {
                data
            },
        })
    }

    fn sound(&mut self, now_us: i64, timestamp: u32, data: Bytes) -> Outcome {
        let Some((record, _)) = &self.audio else {
            self.count_undecodable();
            return Outcome::Nothing;
        };
        let config = Some(record.clone());
        let dts_ms = self.unroll(timestamp);
        // Legal, and means silence; there is nothing to decode.
        if data.is_empty() {
            return Outcome::Nothing;
        }
        Outcome::Unit(AccessUnit {
            codec: Codec::Aac,
            track: 0,
            keyframe: true,
            disposable: false,
            discontinuity: self.audio_time.jumps(now_us, dts_ms),
            dts_us: dts_ms.saturating_mul(1_000),
            cts_us: 0,
            config,
            payload: data,
        })
    }

    /// The time on a clock that never wraps: the nearest one that ends in these 32 bits.
    fn unroll(&mut self, timestamp: u32) -> i64 {
        let unrolled = match self.clock {
            None => timestamp.into(),
            Some((last, unrolled)) => {
                let step = timestamp.wrapping_sub(last).cast_signed();
                unrolled.saturating_add(step.into())
            }
        };
        self.clock = Some((timestamp, unrolled));
        unrolled
    }

    fn unsupported(&mut self, what: Unsupported) -> Outcome {
        self.counts.unsupported = self.counts.unsupported.saturating_add(1);
        if what == DAMAGED_TAG {
            self.count_damage();
        }
        Outcome::Unsupported(what)
    }

    fn count_damage(&mut self) {
        self.counts.damaged = self.counts.damaged.saturating_add(1);
    }

    fn count_undecodable(&mut self) {
        self.counts.undecodable = self.counts.undecodable.saturating_add(1);
    }
}

/// Whether a track's time goes on as time does.
#[derive(Debug, Default)]
struct TrackTime {
    /// Arrival, µs, and media time, ms, of the last unit.
    last: Option<(i64, i64)>,
}

impl TrackTime {
    /// Notes a unit. `true`: its time has nothing to do with the last one's.
    fn jumps(&mut self, now_us: i64, dts_ms: i64) -> bool {
        let last = self.last.replace((now_us, dts_ms));
        last.is_some_and(|(then_us, last_ms)| {
            let step_ms = dts_ms.saturating_sub(last_ms);
            let passed_ms = now_us.saturating_sub(then_us).max(0) / 1_000;
            step_ms < -BACKWARD_MAX_MS || step_ms > passed_ms.saturating_add(FORWARD_MAX_MS)
        })
    }
}

/// Encoders that start a track anew or wrap at 24 bits go back by much more; none reorders by as much.
const BACKWARD_MAX_MS: i64 = 1_000;

/// A pause of the encoder passes in real time, too; what leaps ahead of real time by this much is another clock.
const FORWARD_MAX_MS: i64 = 10_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_block_of_sound_is_silence_and_no_unit() {
        let mut units = Units::default();
        units.audio(0, 0, &tag(&[0xaf, 0], &[0x11, 0x90]));
        assert_eq!(units.audio(0, 23, &tag(&[0xaf, 1], &[])), Outcome::Nothing);
        let next = unit(units.audio(0, 46, &tag(&[0xaf, 1], &[0x21])));
        assert_eq!(next.dts_us, 46_000);
    }

    #[test]
    fn the_configuration_is_on_every_keyframe_and_on_all_sound() {
        let mut units = ready();
        let key = unit(units.video(0, 0, &picture(KEY)));
        assert_eq!((key.keyframe, key.config.as_deref()), (true, Some(AVCC)));
        let delta = unit(units.video(0, 33, &picture(DELTA)));
        assert_eq!((delta.keyframe, delta.config), (false, None));
        let again = unit(units.video(0, 66, &picture(KEY)));
        assert_eq!(again.config.as_deref(), Some(AVCC));
        let sound = unit(units.audio(0, 66, &tag(&[0xaf, 1], b"sound")));
        assert_eq!(
            (sound.keyframe, sound.config.as_deref()),
            (true, Some(&ASC[..]))
        );
        assert_eq!(sound.payload, &b"sound"[..]);
    }

    #[test]
    fn what_nobody_could_decode_is_left_out_and_counted() {
        let mut units = Units::default();
        assert_eq!(
            units.video(0, 0, &picture(KEY)),
            Outcome::Nothing,
            "no configuration"
        );
        assert_eq!(
            units.audio(0, 0, &tag(&[0xaf, 1], b"sound")),
            Outcome::Nothing
        );
        units.video(0, 0, &tag(&[0x17, 0, 0, 0, 0], AVCC));
        assert_eq!(
            units.video(0, 0, &picture(DELTA)),
            Outcome::Nothing,
            "no keyframe"
        );
        assert_eq!(
            units.video(0, 0, &tag(&[0x27, 1, 0, 0, 0], &[0, 0, 9, 9, 1])),
            Outcome::Nothing
        );
        units.video(0, 0, &tag(&[0x17, 0, 0, 0, 0], b"not a record"));
        let counts = Counts {
            damaged: 2,
            undecodable: 3,
            unsupported: 0,
        };
        assert_eq!(units.counts(), counts);
        assert!(
            unit(units.video(0, 0, &picture(KEY))).keyframe,
            "the good record is still there"
        );
    }

    #[test]
    fn repeated_and_empty_configurations_change_nothing() {
        let mut units = ready();
        unit(units.video(0, 0, &picture(KEY)));
        units.video(0, 33, &tag(&[0x17, 0, 0, 0, 0], AVCC));
        units.video(0, 33, &tag(&[0x17, 0, 0, 0, 0], b""));
        unit(units.video(0, 33, &picture(DELTA)));
    }

    #[test]
    fn a_new_configuration_waits_for_its_keyframe() {
        let mut units = ready();
        unit(units.video(0, 0, &picture(KEY)));
        let mut other = AVCC.to_vec();
        other.extend([0xfd, 0xf8, 0xf8, 0]);
        units.video(0, 33, &tag(&[0x17, 0, 0, 0, 0], &other));
        assert_eq!(units.video(0, 33, &picture(DELTA)), Outcome::Nothing);
        assert_eq!(
            unit(units.video(0, 66, &picture(KEY))).config.as_deref(),
            Some(&other[..])
        );
    }

    #[test]
    fn empty_nal_units_do_not_get_through() {
        let mut units = ready();
        let body = [&[0, 0, 0, 0], KEY, &[0, 0, 0, 0]].concat();
        assert_eq!(unit(units.video(0, 0, &picture(&body))).payload, KEY);
        assert_eq!(
            units.video(0, 33, &picture(&[0, 0, 0, 0])),
            Outcome::Nothing
        );
        assert_eq!(units.video(0, 33, &picture(&[])), Outcome::Nothing);
        assert_eq!(units.counts(), Counts::default());
    }

    #[test]
    fn times_are_unrolled_and_jumps_are_marked() {
        // (what, ms as sent, ms unrolled and whether marked)
        for (what, sent, got) in [
            (
                "even steps",
                &[0, 33, 67][..],
                &[(0, false), (33, false), (67, false)][..],
            ),
            (
                "the wrap after 49 days",
                &[u32::MAX - 10, 22],
                &[(4_294_967_285, false), (4_294_967_318, false)],
            ),
            (
                "a little backwards",
                &[500, 467],
                &[(500, false), (467, false)],
            ),
            (
                "24 bits wrapped",
                &[16_777_200, 10],
                &[(16_777_200, false), (10, true)],
            ),
            (
                "the encoder's clock began anew",
                &[90_000, 0, 33],
                &[(90_000, false), (0, true), (33, false)],
            ),
            (
                "a leap",
                &[0, 60_000, 60_033],
                &[(0, false), (60_000, true), (60_033, false)],
            ),
        ] {
            let mut units = ready();
            let times: Vec<_> = sent
                .iter()
                .map(|ms| unit(units.video(0, *ms, &picture(KEY))))
                .map(|unit| (unit.dts_us / 1_000, unit.discontinuity))
                .collect();
            assert_eq!(times, got, "{what}");
        }
    }

    #[test]
    fn a_pause_in_real_time_is_no_leap() {
        let mut units = ready();
        unit(units.video(0, 0, &picture(KEY)));
        assert!(!unit(units.video(60_000_000, 60_000, &picture(KEY))).discontinuity);
    }

    proptest! {
        #[test]
        fn arbitrary_tags_never_panic(
            tags in prop::collection::vec((any::<bool>(), any::<i64>(), any::<u32>(), arbitrary_tag()), 0..20),
        ) {
            let mut units = ready();
            for (video, now_us, timestamp, body) in tags {
                let outcome = if video {
                    units.video(now_us, timestamp, &body)
                } else {
                    units.audio(now_us, timestamp, &body)
                };
                if let Outcome::Unit(unit) = outcome {
                    prop_assert_eq!(unit.config.is_some(), unit.keyframe);
                }
            }
        }
    }

    fn arbitrary_tag() -> impl Strategy<Value = Bytes> {
        let heads = prop::sample::select(vec![
            vec![0x17, 0, 0, 0, 0],
            vec![0x17, 1, 0, 0, 0],
            vec![0x27, 1, 0xff, 0, 0],
            vec![0xaf, 0],
            vec![0xaf, 1],
            vec![],
        ]);
        let bodies = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..30),
            prop::collection::vec(0..8u8, 0..30),
            Just(AVCC.to_vec()),
            Just(KEY.to_vec()),
        ];
        (heads, bodies).prop_map(|(head, body)| [head, body].concat().into())
    }

    fn ready() -> Units {
        let mut units = Units::default();
        units.video(0, 0, &tag(&[0x17, 0, 0, 0, 0], AVCC));
        units.audio(0, 0, &tag(&[0xaf, 0], &ASC));
        units
    }

    fn picture(data: &[u8]) -> Bytes {
        let head = if data == KEY { 0x17 } else { 0x27 };
        tag(&[head, 1, 0, 0, 0], data)
    }

    fn tag(head: &[u8], body: &[u8]) -> Bytes {
        [head, body].concat().into()
    }

    #[track_caller]
    fn unit(outcome: Outcome) -> AccessUnit {
        match outcome {
            Outcome::Unit(unit) => unit,
            other => panic!("no unit but {other:?}"),
        }
    }

    /// 1280x720, as x264 writes it.
    const AVCC: &[u8] =
        b"\x01\x42\xc0\x1f\xff\xe1\x00\x17\x67\x42\xc0\x1f\xda\x01\x40\x16\xec\x04\x40\x00\
        \x00\x03\x00\x40\x00\x00\x0f\x23\xc6\x0c\xa8\x01\x00\x04\x68\xce\x0f\xc8";
    const ASC: [u8; 2] = [0x12, 0x10];
    const KEY: &[u8] = &[0, 0, 0, 2, 0x65, 0x88];
    const DELTA: &[u8] = &[0, 0, 0, 2, 0x41, 0x9a];
}
