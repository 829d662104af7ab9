//! Opus: the identification header (RFC 7845, 5.1), which says how the packets are to be decoded.

/// What the header says about the sound, which is decoded at 48 kHz whatever was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpusConfig {
    /// Channels put out.
    pub channels: u8,
    /// Samples at 48 kHz to throw away at the start.
    pub pre_skip: u16,
    /// Rate of the recording, Hz; 0 if not said.
    pub input_rate: u32,
    /// How channels are ordered: 0 mono or stereo, 1 up to eight in Vorbis order, others have no order.
    pub mapping_family: u8,
}

/// Why bytes are not an `OpusHead` that can be played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpusError {
    /// The bytes end inside the header.
    #[error("the Opus header is cut short at {len} bytes")]
    Truncated {
        /// Bytes there are.
        len: usize,
    },
    /// Not `OpusHead`.
    #[error("the Opus header does not begin with \"OpusHead\"")]
    Magic,
    /// A later, incompatible version.
    #[error("Opus header version {version} is unknown")]
    Version {
        /// As in the header.
        version: u8,
    },
    /// No channels, or more than the mapping allows, or streams that do not exist.
    #[error("the Opus header maps {channels} channels in a way that does not exist")]
    Channels {
        /// As in the header.
        channels: u8,
    },
}

impl OpusConfig {
    /// Parses an `OpusHead`.
    pub fn parse(record: &[u8]) -> Result<Self, OpusError> {
        let truncated = OpusError::Truncated { len: record.len() };
        let (head, mapping) = record.split_first_chunk::<19>().ok_or(truncated)?;
        let Some(
            &[
                version,
                channels,
                s0,
                s1,
                r0,
                r1,
                r2,
                r3,
                _,
                _,
                mapping_family,
            ],
        ) = head
            .strip_prefix(b"OpusHead")
            .and_then(|rest| rest.first_chunk::<11>())
        else {
            return Err(OpusError::Magic);
        };
        if version >= 16 {
            return Err(OpusError::Version { version });
        }
        let wrong = OpusError::Channels { channels };
        let channels_max = match mapping_family {
            0 => 2,
            1 => 8,
            _ => u8::MAX,
        };
        if channels == 0 || channels > channels_max {
            return Err(wrong);
        }
        if mapping_family != 0 {
            let (&[streams, coupled], table) = mapping.split_first_chunk::<2>().ok_or(truncated)?;
            let table = table.get(..usize::from(channels)).ok_or(truncated)?;
            let decoded = u16::from(streams) + u16::from(coupled);
            let is_there = |channel: &u8| *channel == u8::MAX || u16::from(*channel) < decoded;
            if streams == 0 || coupled > streams || decoded > 255 || !table.iter().all(is_there) {
                return Err(wrong);
            }
        }
        Ok(Self {
            channels,
            pre_skip: u16::from_le_bytes([s0, s1]),
            input_rate: u32::from_le_bytes([r0, r1, r2, r3]),
            mapping_family,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::hex, *};

    #[test]
    fn headers_of_real_encoders() {
        // "OpusHead", version, channels, pre-skip, rate, gain, family, then the mapping.
        for (record, channels, pre_skip, rate) in [
            ("4f70757348656164010238 0180bb0000000000", 2, 312, 48_000),
            ("4f7075734865616401013801 44ac0000000000", 1, 312, 44_100),
            (
                "4f707573486561640106380180bb0000000001 0402000401020305",
                6,
                312,
                48_000,
            ),
        ] {
            let config = OpusConfig::parse(&hex(&record.replace(' ', ""))).unwrap();
            assert_eq!(
                (config.channels, config.pre_skip, config.input_rate),
                (channels, pre_skip, rate)
            );
        }
    }

    #[test]
    fn what_is_no_header_is_named() {
        for (record, error) in [
            ("", OpusError::Truncated { len: 0 }),
            (
                "4f707573486561640102380180bb00000000",
                OpusError::Truncated { len: 18 },
            ),
            ("4f707573546167730102380180bb0000000000", OpusError::Magic),
            (
                "4f707573486561641002380180bb0000000000",
                OpusError::Version { version: 16 },
            ),
            (
                "4f707573486561640100380180bb0000000000",
                OpusError::Channels { channels: 0 },
            ),
            (
                "4f707573486561640103380180bb0000000000",
                OpusError::Channels { channels: 3 },
            ),
            (
                "4f707573486561640106380180bb0000000001",
                OpusError::Truncated { len: 19 },
            ),
            (
                "4f707573486561640103380180bb000000000101010009 02",
                OpusError::Channels { channels: 3 },
            ),
        ] {
            assert_eq!(
                OpusConfig::parse(&hex(&record.replace(' ', ""))),
                Err(error),
                "{record}"
            );
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = OpusConfig::parse(&body);
            if let Ok(config) = OpusConfig::parse(&[b"OpusHead", &body[..]].concat()) {
                prop_assert!(config.channels > 0);
            }
        }
    }
}
