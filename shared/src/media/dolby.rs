//! AC-3 and E-AC-3: the head of a sync frame (ETSI TS 102 366, 4.3 and E.1.2). They have no configuration of their own.

use super::bits::BitReader;

/// What a frame says about the sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DolbyFrame {
    /// E-AC-3.
    pub enhanced: bool,
    /// Samples a second.
    pub rate: u32,
    /// Channels, the one for effects included.
    pub channels: u8,
}

impl DolbyFrame {
    /// Reads the head of a frame; `None` if it is none.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let rest = frame.strip_prefix(&[0x0b, 0x77])?;
        // `bsid` is in the same place in both.
        let version = rest.get(3)? >> 3;
        match version {
            0..=10 => plain(rest),
            11..=16 => enhanced(rest),
            _ => None,
        }
    }
}

fn plain(rest: &[u8]) -> Option<DolbyFrame> {
    let mut reader = BitReader::new(rest);
    reader.skip(16)?;
    let rate = *RATES.get(reader.bits(2)? as usize)?;
    reader.skip(6 + 5 + 3)?;
    let mode = reader.bits(3)?;
    // Mix levels: of the centre, of the surrounds, of Dolby Surround.
    if mode & 1 != 0 && mode != 1 {
        reader.skip(2)?;
    }
    if mode & 4 != 0 {
        reader.skip(2)?;
    }
    if mode == 2 {
        reader.skip(2)?;
    }
    Some(DolbyFrame {
        enhanced: false,
        rate,
        channels: CHANNELS.get(mode as usize)? + u8::from(reader.bit()?),
    })
}

fn enhanced(rest: &[u8]) -> Option<DolbyFrame> {
    let mut reader = BitReader::new(rest);
    reader.skip(2 + 3 + 11)?;
    let rate = match (reader.bits(2)?, reader.bits(2)?) {
        (3, half) => RATES.get(half as usize)? / 2,
        (full, _) => *RATES.get(full as usize)?,
    };
    let mode = reader.bits(3)?;
    Some(DolbyFrame {
        enhanced: true,
        rate,
        channels: CHANNELS.get(mode as usize)? + u8::from(reader.bit()?),
    })
}

const RATES: [u32; 3] = [48_000, 44_100, 32_000];

/// By `acmod`; 0 is two independent ones.
const CHANNELS: [u8; 8] = [2, 1, 2, 3, 3, 4, 4, 5];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::hex, *};

    #[test]
    fn frames_of_real_encoders() {
        // (head of a frame, enhanced, rate, channels)
        for (frame, enhanced, rate, channels) in [
            ("0b77a3c21c4043f8", false, 48_000, 2),
            ("0b7726c81c40e1df", false, 48_000, 6),
            ("0b7700ff3487ff02", true, 48_000, 2),
            ("0b7702ff3f87ff02", true, 48_000, 6),
        ] {
            let got = DolbyFrame::parse(&hex(frame)).unwrap();
            assert_eq!(
                (got.enhanced, got.rate, got.channels),
                (enhanced, rate, channels),
                "{frame}"
            );
        }
        for frame in [
            "",
            "0b77",
            "0b76a3c21c4043f8",
            "0b77a3c2fc4043f8",
            "0b77a3c2dc",
        ] {
            assert_eq!(DolbyFrame::parse(&hex(frame)), None, "{frame}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..12)) {
            let _ = DolbyFrame::parse(&[&[0x0b, 0x77], &body[..]].concat());
        }
    }
}
