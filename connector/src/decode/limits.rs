//! How large a picture may be, told from the stream itself before a decoder sees it. Pure.
//!
//! A decoder allocates about 20 pictures of the size that a stranger's stream names. FFmpeg is given the same bound;
//! here the operator gets the reason in words, and the decoder is never opened.

use firstmile_shared::media::{CodecConfig, MediaKind};

use super::{CodedUnit, DecodeError};

/// Checks the units of one track against `decoder.max_pixels`.
#[derive(Clone, Copy, Debug)]
pub(super) struct SizeGuard {
    max_pixels: u32,
    /// The last one of pictures.
    config: CodecConfig,
}

impl SizeGuard {
    pub(super) const fn new(max_pixels: u32) -> Self {
        Self {
            max_pixels,
            config: CodecConfig::None,
        }
    }

    /// Refuses a unit whose configuration, or whose own parameter sets, ask for too large a picture, or whose
    /// configuration can't be read.
    pub(super) fn check(&mut self, unit: &CodedUnit) -> Result<(), DecodeError> {
        if unit.codec.kind() != MediaKind::Video {
            return Ok(());
        }
        if let Some(record) = unit.config.as_deref() {
            self.config =
                CodecConfig::parse(unit.codec, record).map_err(|error| DecodeError::Config {
                    codec: unit.codec,
                    reason: error.to_string(),
                })?;
            if let Some(size) = self.config.coded_size() {
                self.fits(size)?;
            }
        }
        match self.config.coded_size_within(&unit.payload) {
            Some(size) => self.fits(size),
            None => Ok(()),
        }
    }

    fn fits(self, (width, height): (u32, u32)) -> Result<(), DecodeError> {
        if u64::from(width) * u64::from(height) <= u64::from(self.max_pixels) {
            return Ok(());
        }
        Err(DecodeError::TooLarge {
            width,
            height,
            max_pixels: self.max_pixels,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use firstmile_shared::media::Codec;

    use super::*;

    /// 1920x1088 and 1280x720, as x264 writes them.
    const LARGE: &str = "67640028acd940780227e5c04400000fa40003a9803c60c658";
    const SMALL: &str = "6742c01fda014016ec0440000003004000000f23c60ca8";

    fn hex(text: &str) -> Vec<u8> {
        (text.as_bytes().chunks(2))
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn config(sps: &str) -> Bytes {
        let sps = hex(sps);
        let mut record = vec![1, 0x64, 0, 0x28, 0xff, 0xe1, 0];
        record.push(u8::try_from(sps.len()).unwrap());
        record.extend(sps);
        record.extend(hex("01000468ce0fc8"));
        record.into()
    }

    fn unit(config: Option<Bytes>, payload: Vec<u8>) -> CodedUnit {
        CodedUnit {
            codec: Codec::H264,
            config,
            payload: payload.into(),
            pts_us: 0,
        }
    }

    #[test]
    fn what_is_too_large_is_refused_by_name_wherever_the_stream_says_it() {
        let slice = || hex("0000000265b8");
        let mut guard = SizeGuard::new(1280 * 720);
        assert_eq!(guard.check(&unit(Some(config(SMALL)), slice())), Ok(()));
        assert_eq!(guard.check(&unit(None, slice())), Ok(()));
        let refused = guard.check(&unit(Some(config(LARGE)), slice()));
        assert_eq!(
            refused.unwrap_err().to_string(),
            "the picture is 1920x1088, more than decoder.max_pixels = 921600"
        );
        // In the middle of a stream, without a word in the configuration.
        let mut payload = vec![0, 0, 0, u8::try_from(LARGE.len() / 2).unwrap()];
        payload.extend(hex(LARGE));
        payload.extend(slice());
        let refused = guard.check(&unit(None, payload.clone()));
        assert!(matches!(refused, Err(DecodeError::TooLarge { .. })));
        assert_eq!(
            SizeGuard::new(1920 * 1088).check(&unit(None, payload)),
            Ok(())
        );
    }

    #[test]
    fn every_codec_that_names_its_size_is_held_to_it() {
        // 640x360: in the configuration, or in the keyframe alone.
        for (codec, record, payload) in [
            (Codec::Av1, "81010c000a0c0200000d2627fb3805f00080", "1200"),
            (Codec::Vp9, "010000000015820202020000", "824983420027f01670"),
        ] {
            let unit = CodedUnit {
                codec,
                ..unit(Some(hex(record).into()), hex(payload))
            };
            assert_eq!(SizeGuard::new(640 * 368).check(&unit), Ok(()), "{codec:?}");
            let refused = SizeGuard::new(640 * 359).check(&unit);
            assert!(
                matches!(refused, Err(DecodeError::TooLarge { .. })),
                "{codec:?}"
            );
        }
    }

    #[test]
    fn a_configuration_that_can_not_be_read_is_refused() {
        let refused = SizeGuard::new(1).check(&unit(Some(Bytes::from_static(b"x")), vec![]));
        assert!(matches!(refused, Err(DecodeError::Config { .. })));
    }
}
