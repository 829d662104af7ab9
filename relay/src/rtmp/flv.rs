//! FLV tags, the bodies of RTMP's audio and video messages: which codec, and where the coded data begins.
//!
//! ```text
//! video: frame type (4 bits) codec (4 bits) | AVC: packet type (1) composition time (3, signed, ms) | data
//! audio: format (4 bits) rate, size, channels (4 bits) | AAC: packet type (1) | data
//! ```
//! Enhanced RTMP sets the top bit of the video byte, or audio format 9, and names the codec by four characters.
//! What can't be played is named and ignored, so that an operator learns what the encoder must be set to; codec
//! numbers in metadata are never believed. Tags become access units in [`units`].

pub mod units;

use bytes::Bytes;

/// A video tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VideoTag {
    /// An `AVCDecoderConfigurationRecord`.
    Config(Bytes),
    /// A coded picture.
    Picture {
        /// What the container says; see `UnitInfo::is_keyframe`.
        keyframe: bool,
        /// Presentation minus decode time, milliseconds.
        composition_ms: i32,
        /// Length-prefixed NAL units.
        data: Bytes,
    },
    /// Nothing to show and nothing wrong: end of sequence, a seek mark.
    Nothing,
    /// A codec that is not played yet, or no tag at all.
    Unsupported(Unsupported),
}

/// An audio tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AudioTag {
    /// An `AudioSpecificConfig`.
    Config(Bytes),
    /// A raw AAC frame; empty for silence.
    Frame(Bytes),
    /// A codec that is not played yet, or no tag at all.
    Unsupported(Unsupported),
}

/// What an encoder sends and we do not play, in words of our own: nothing of the wire gets into a log this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsupported(pub &'static str);

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// A tag that ends before its data begins.
pub const DAMAGED_TAG: Unsupported = Unsupported("a damaged tag");

impl VideoTag {
    /// Reads a tag. Any bytes are some tag.
    pub fn parse(body: &Bytes) -> Self {
        let Some(&head) = body.first() else {
            return Self::Nothing;
        };
        let frame_type = head >> 4 & 0b111;
        if frame_type == FRAME_COMMAND {
            return Self::Nothing;
        }
        if head & 0x80 != 0 {
            return Self::Unsupported(enhanced(head & 0x0f, body, VIDEO_MULTITRACK));
        }
        match head & 0x0f {
            CODEC_AVC => Self::parse_avc(frame_type == FRAME_KEY, body),
            codec => Self::Unsupported(Unsupported(video_codec_name(codec))),
        }
    }

    fn parse_avc(keyframe: bool, body: &Bytes) -> Self {
        let Some(&[_, packet_type, t0, t1, t2]) = body.first_chunk() else {
            return Self::Unsupported(DAMAGED_TAG);
        };
        let data = body.slice(AVC_HEADER_LEN..);
        match packet_type {
            PACKET_CONFIG => Self::Config(data),
            PACKET_DATA => Self::Picture {
                keyframe,
                // 24 bits with a sign.
                composition_ms: i32::from_be_bytes([t0, t1, t2, 0]) >> 8,
                data,
            },
            _ => Self::Nothing,
        }
    }
}

impl AudioTag {
    /// Reads a tag. Any bytes are some tag; none at all is a moment of silence.
    pub fn parse(body: &Bytes) -> Self {
        let Some(&head) = body.first() else {
            return Self::Frame(Bytes::new());
        };
        match head >> 4 {
            FORMAT_AAC => match body.get(1) {
                Some(&PACKET_CONFIG) => Self::Config(body.slice(AAC_HEADER_LEN..)),
                Some(&PACKET_DATA) => Self::Frame(body.slice(AAC_HEADER_LEN..)),
                _ => Self::Unsupported(DAMAGED_TAG),
            },
            FORMAT_ENHANCED => Self::Unsupported(enhanced(head & 0x0f, body, AUDIO_MULTITRACK)),
            format => Self::Unsupported(Unsupported(audio_format_name(format))),
        }
    }
}

/// Names what an Enhanced RTMP tag carries.
fn enhanced(packet_type: u8, body: &Bytes, multitrack: u8) -> Unsupported {
    if packet_type == multitrack {
        return Unsupported("Enhanced RTMP multitrack");
    }
    if packet_type == PACKET_MOD_EX {
        return Unsupported("Enhanced RTMP with modifiers");
    }
    let Some(four_cc) = body.get(1..5) else {
        return DAMAGED_TAG;
    };
    let name = FOUR_CCS.iter().find(|(code, _)| *code == four_cc);
    Unsupported(name.map_or("an unknown Enhanced RTMP codec", |(_, name)| name))
}

const fn video_codec_name(codec: u8) -> &'static str {
    match codec {
        2 => "Sorenson H.263",
        3 => "Screen video",
        4 | 5 => "VP6",
        6 => "Screen video 2",
        // Not in any specification, but what older apps send.
        12 => "H.265 (codec number 12)",
        13 => "AV1 (codec number 13)",
        _ => "an unknown video codec",
    }
}

const fn audio_format_name(format: u8) -> &'static str {
    match format {
        0 | 3 => "PCM sound",
        1 => "ADPCM sound",
        2 | 14 => "MP3",
        4..=6 => "Nellymoser sound",
        7 | 8 => "G.711 sound",
        11 => "Speex",
        13 => "Opus (format number 13)",
        _ => "an unknown audio format",
    }
}

const FOUR_CCS: [(&[u8], &str); 12] = [
    (b"avc1", "H.264 in Enhanced RTMP"),
    (b"hvc1", "H.265"),
    (b"av01", "AV1"),
    (b"vp09", "VP9"),
    (b"vp08", "VP8"),
    (b"vvc1", "H.266"),
    (b"mp4a", "AAC in Enhanced RTMP"),
    (b"Opus", "Opus"),
    (b"fLaC", "FLAC"),
    (b"ac-3", "AC-3"),
    (b"ec-3", "E-AC-3"),
    (b".mp3", "MP3 in Enhanced RTMP"),
];

const FRAME_KEY: u8 = 1;
const FRAME_COMMAND: u8 = 5;
const CODEC_AVC: u8 = 7;
const FORMAT_AAC: u8 = 10;
const FORMAT_ENHANCED: u8 = 9;
const PACKET_CONFIG: u8 = 0;
const PACKET_DATA: u8 = 1;
const VIDEO_MULTITRACK: u8 = 6;
const AUDIO_MULTITRACK: u8 = 5;
const PACKET_MOD_EX: u8 = 7;
const AVC_HEADER_LEN: usize = 5;
const AAC_HEADER_LEN: usize = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_played_is_named() {
        for (video, body, name) in [
            (true, &b"\x90hvc1..."[..], "H.265"),
            (true, b"\x90\x1b[2J", "an unknown Enhanced RTMP codec"),
            (true, b"\x96\x00hvc1", "Enhanced RTMP multitrack"),
            (true, b"\x1c\0\0\0\0", "H.265 (codec number 12)"),
            (true, b"\x12data", "Sorenson H.263"),
            (true, b"\x17\0", "a damaged tag"),
            (false, b"\x90Opus...", "Opus"),
            (false, b"\x91ac-3...", "AC-3"),
            (false, b"\x2fmp3", "MP3"),
            (false, b"\xaf", "a damaged tag"),
        ] {
            let body = Bytes::copy_from_slice(body);
            let named = match (video, VideoTag::parse(&body), AudioTag::parse(&body)) {
                (true, VideoTag::Unsupported(what), _)
                | (false, _, AudioTag::Unsupported(what)) => what.to_string(),
                (_, video, audio) => panic!("{body:?} is {video:?} or {audio:?}"),
            };
            assert_eq!(named, name, "{body:?}");
        }
    }

    #[test]
    fn composition_times_have_a_sign() {
        for (bytes, ms) in [
            ([0, 0, 80], 80),
            ([0xff, 0xff, 0xb0], -80),
            ([0x80, 0, 0], -8_388_608),
        ] {
            let body = [&[0x27, 1], &bytes[..], b"data"].concat();
            let expected = VideoTag::Picture {
                keyframe: false,
                composition_ms: ms,
                data: Bytes::from_static(b"data"),
            };
            assert_eq!(VideoTag::parse(&body.into()), expected);
        }
    }

    #[test]
    fn an_empty_audio_message_is_silence() {
        assert_eq!(
            AudioTag::parse(&Bytes::new()),
            AudioTag::Frame(Bytes::new())
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..40)) {
            let body = Bytes::from(body);
            drop((VideoTag::parse(&body), AudioTag::parse(&body)));
        }
    }
}
