//! AAC: the `AudioSpecificConfig` (ISO/IEC 14496-3, 1.6.2.1), which says how the raw frames are to be decoded.
//!
//! Not here: the frames themselves. Rates are in Hz.

use super::bits::BitReader;

/// What the configuration says about the sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AacConfig {
    /// MPEG-4 audio object type of the core: 2 is AAC-LC.
    pub object_type: u8,
    /// Rate of the core coder.
    pub core_rate: u32,
    /// Channels coded; parametric stereo makes two of one.
    pub core_channels: u8,
    /// Spectral band replication is signalled, with this output rate ("HE-AAC").
    pub sbr_rate: Option<u32>,
    /// Parametric stereo is signalled ("HE-AAC v2").
    pub parametric_stereo: bool,
    /// Samples of one channel in a frame at the core rate: 1024 or 960.
    pub frame_len: u16,
}

/// Why bytes are not an `AudioSpecificConfig` that can be played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AacError {
    /// The bytes end inside the record.
    #[error("the audio configuration is cut short at {len} bytes")]
    Truncated {
        /// Bytes there are.
        len: usize,
    },
    /// A coding other than the AAC family.
    #[error("audio object type {object_type} is not AAC")]
    ObjectType {
        /// As in the record.
        object_type: u8,
    },
    /// A reserved index, or a rate outside 7 to 192 kHz.
    #[error("the sample rate is reserved or out of range")]
    SampleRate,
    /// A reserved channel configuration.
    #[error("channel configuration {configuration} is reserved")]
    Channels {
        /// As in the record.
        configuration: u8,
    },
}

impl AacConfig {
    /// Parses the record.
    pub fn parse(record: &[u8]) -> Result<Self, AacError> {
        let truncated = AacError::Truncated { len: record.len() };
        let mut reader = BitReader::new(record);
        let mut object_type = object_type(&mut reader).ok_or(truncated)?;
        let core_rate = sample_rate(&mut reader).ok_or(truncated)??;
        let configuration = reader.byte(4).ok_or(truncated)?;

        let mut sbr_rate = None;
        let parametric_stereo = object_type == OBJECT_PS;
        if object_type == OBJECT_SBR || parametric_stereo {
            sbr_rate = Some(sample_rate(&mut reader).ok_or(truncated)??);
            object_type = self::object_type(&mut reader).ok_or(truncated)?;
        }
        if !matches!(object_type, 1..=4 | 17 | 23 | 39) {
            return Err(AacError::ObjectType { object_type });
        }

        let short_frames = reader.bit().ok_or(truncated)?;
        let core_channels = match configuration {
            0 => program_channels(&mut reader).ok_or(truncated)?,
            1..=6 => configuration,
            7 | 12 | 14 => 8,
            11 => 7,
            _ => {
                return Err(AacError::Channels { configuration });
            }
        };
        if core_channels == 0 {
            return Err(AacError::Channels { configuration: 0 });
        }
        let (sbr_rate, parametric_stereo) = match sbr_rate {
            Some(_) => (sbr_rate, parametric_stereo),
            None => backward_compatible_extension(record),
        };
        Ok(Self {
            object_type,
            core_rate,
            core_channels,
            sbr_rate,
            parametric_stereo,
            frame_len: if short_frames { 960 } else { 1024 },
        })
    }

    /// Rate of what a decoder puts out, Hz.
    pub fn output_rate(&self) -> u32 {
        self.sbr_rate.unwrap_or(self.core_rate)
    }

    /// Channels of what a decoder puts out.
    pub fn output_channels(&self) -> u8 {
        if self.parametric_stereo && self.core_channels == 1 {
            2
        } else {
            self.core_channels
        }
    }
}

fn object_type(reader: &mut BitReader<'_>) -> Option<u8> {
    match reader.byte(5)? {
        31 => Some(32 + reader.byte(6)?),
        object_type => Some(object_type),
    }
}

/// `None`: no more bits. The inner error: bits that name no rate.
fn sample_rate(reader: &mut BitReader<'_>) -> Option<Result<u32, AacError>> {
    let rate = match reader.bits(4)? as usize {
        15 => reader.bits(24)?,
        index => RATES.get(index).copied().unwrap_or(0),
    };
    Some(if (7_000..=192_000).contains(&rate) {
        Ok(rate)
    } else {
        Err(AacError::SampleRate)
    })
}

/// Channel configuration 0: counts the channels of the program config element (4.4.1.1).
fn program_channels(reader: &mut BitReader<'_>) -> Option<u8> {
    let depends_on_core = reader.bit()?;
    if depends_on_core {
        reader.skip(14)?;
    }
    reader.skip(1 + 4 + 2 + 4)?;
    let [front, side, back] = [reader.bits(4)?, reader.bits(4)?, reader.bits(4)?];
    let lfe = reader.byte(2)?;
    reader.skip(3 + 4)?;
    for mixdown_bits in [4, 4, 3] {
        if reader.bit()? {
            reader.skip(mixdown_bits)?;
        }
    }
    let mut channels = lfe;
    for _ in 0..front + side + back {
        channels += 1 + u8::from(reader.bit()?);
        reader.skip(4)?;
    }
    Some(channels)
}

/// SBR announced behind the end of the core's configuration (1.6.6.1), where old decoders do not look.
///
/// The core's configuration has no length of its own. Encoders put the marker right behind the two bytes of a
/// plain stereo or mono configuration, so that is where it is looked for.
fn backward_compatible_extension(record: &[u8]) -> (Option<u32>, bool) {
    let mut reader = BitReader::new(record.get(2..).unwrap_or_default());
    let found = (|| {
        let marked = reader.bits(11)? == 0x2b7 && object_type(&mut reader)? == OBJECT_SBR;
        if !marked || !reader.bit()? {
            return None;
        }
        let rate = sample_rate(&mut reader)?.ok()?;
        let stereo = reader.left() >= 12 && reader.bits(11)? == 0x548 && reader.bit()?;
        Some((Some(rate), stereo))
    })();
    found.unwrap_or((None, false))
}

const OBJECT_SBR: u8 = 5;
const OBJECT_PS: u8 = 29;

/// Table 1.18, Hz by sampling frequency index; 13 and 14 are reserved.
const RATES: [u32; 13] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000,
    7_350,
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn configurations_of_real_encoders() {
        // (who, record, object type, core rate, output rate, output channels)
        for (who, record, object, core, rate, channels) in [
            ("ffmpeg, LC 44.1 stereo", "1210", 2, 44_100, 44_100, 2),
            ("OBS, LC 48 stereo", "1190", 2, 48_000, 48_000, 2),
            ("LC 48 mono", "1188", 2, 48_000, 48_000, 1),
            (
                "ffmpeg, LC 44.1 with 'no SBR' mark",
                "121056e500",
                2,
                44_100,
                44_100,
                2,
            ),
            (
                "HE-AAC 44.1 stereo, explicit",
                "2b920800",
                2,
                22_050,
                44_100,
                2,
            ),
            ("HE-AAC v2, explicit", "eb8a0800", 2, 22_050, 44_100, 2),
            (
                "HE-AAC, backward compatible",
                "131056e59d4800",
                2,
                24_000,
                48_000,
                2,
            ),
            ("5.1, LC 48", "11b0", 2, 48_000, 48_000, 6),
            ("7.1, LC 48", "11b8", 2, 48_000, 48_000, 8),
        ] {
            let config = AacConfig::parse(&hex(record)).unwrap_or_else(|e| panic!("{who}: {e}"));
            assert_eq!(
                (
                    config.object_type,
                    config.core_rate,
                    config.output_rate(),
                    config.output_channels()
                ),
                (object, core, rate, channels),
                "{who}: {config:?}"
            );
            assert_eq!(config.frame_len, 1024, "{who}");
        }
    }

    #[test]
    fn what_is_no_aac_is_named() {
        for (record, error) in [
            ("", AacError::Truncated { len: 0 }),
            ("12", AacError::Truncated { len: 1 }),
            ("f9a00000", AacError::ObjectType { object_type: 45 }),
            ("1690", AacError::SampleRate),
            ("11c8", AacError::Channels { configuration: 9 }),
        ] {
            assert_eq!(AacConfig::parse(&hex(record)), Err(error), "{record}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(record in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(config) = AacConfig::parse(&record) {
                prop_assert!(config.output_channels() > 0);
                prop_assert!((7_000..=192_000).contains(&config.output_rate()));
            }
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        text.as_bytes()
            .chunks(2)
            .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
            .collect()
    }
}
