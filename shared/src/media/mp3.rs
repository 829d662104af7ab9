//! MP3: the head of a frame (ISO/IEC 11172-3, 2.4.2.3, and 13818-3). It has no configuration of its own.

/// What a frame says about the sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mp3Frame {
    /// Samples a second.
    pub rate: u32,
    /// 1 or 2.
    pub channels: u8,
}

impl Mp3Frame {
    /// Reads the head of a frame of layer 3; `None` if it is none.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let &[0xff, b1, b2, b3] = frame.first_chunk::<4>()? else {
            return None;
        };
        let (sync, version, layer) = (b1 >> 5, b1 >> 3 & 0b11, b1 >> 1 & 0b11);
        if sync != 0b111 || layer != LAYER_3 || b2 >> 4 == 0xf {
            return None;
        }
        let rate = *RATES.get(usize::from(b2 >> 2 & 0b11))?;
        Some(Self {
            rate: match version {
                3 => rate,
                2 => rate / 2,
                0 => rate / 4,
                _ => return None,
            },
            channels: if b3 >> 6 == MONO { 1 } else { 2 },
        })
    }
}

const LAYER_3: u8 = 1;
const MONO: u8 = 3;
const RATES: [u32; 3] = [44_100, 48_000, 32_000];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_are_told_from_what_is_none() {
        for (frame, expected) in [
            (&[0xff, 0xfb, 0x90, 0x64][..], Some((44_100, 2))),
            (&[0xff, 0xfb, 0x94, 0xc4], Some((48_000, 1))),
            (&[0xff, 0xf3, 0x44, 0xc4], Some((24_000, 1))),
            (&[0xff, 0xe3, 0x48, 0xc4], Some((8_000, 1))),
            (&[0xff, 0xfd, 0x90, 0x64], None),
            (&[0xff, 0xfb, 0xf0, 0x64], None),
            (&[0xff, 0xfb, 0x9c, 0x64], None),
            (&[0xff, 0xeb, 0x90, 0x64], None),
            (&[0xff, 0xfb], None),
        ] {
            let got = Mp3Frame::parse(frame).map(|frame| (frame.rate, frame.channels));
            assert_eq!(got, expected, "{frame:x?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(frame in prop::collection::vec(any::<u8>(), 0..6)) {
            let _ = Mp3Frame::parse(&frame);
        }
    }
}
