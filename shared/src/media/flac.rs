//! FLAC: the `STREAMINFO` block (RFC 9639, 8.2), which says how the frames are to be decoded.

use super::bits::BitReader;

/// What the block says about the sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlacConfig {
    /// Samples a second.
    pub rate: u32,
    /// Channels.
    pub channels: u8,
    /// Bits of a sample.
    pub bit_depth: u8,
    /// Samples of a channel in the largest frame.
    pub frame_len_max: u16,
}

/// Why bytes are not a `STREAMINFO` block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlacError {
    /// Not 34 bytes, bare or behind the marks of a FLAC file.
    #[error("the FLAC configuration of {len} bytes is no STREAMINFO block")]
    Length {
        /// Bytes there are.
        len: usize,
    },
    /// Block sizes, a rate or a depth that do not exist.
    #[error("the FLAC configuration contradicts itself")]
    Values,
}

/// Bytes of the block.
pub const STREAM_INFO_LEN: usize = 34;

/// The block itself: encoders send it bare, behind its block header (`FFmpeg`), or behind "fLaC" and the header.
pub fn stream_info(record: &[u8]) -> Option<&[u8]> {
    let rest = record.strip_prefix(b"fLaC").unwrap_or(record);
    let block = match rest.split_first_chunk::<4>() {
        // The top bit says that it is the last block; what follows may be comments and pictures.
        Some(([head, 0, 0, 34], block)) if head & 0x7f == 0 && block.len() >= STREAM_INFO_LEN => {
            block
        }
        _ if rest.len() == STREAM_INFO_LEN => rest,
        _ => return None,
    };
    block.get(..STREAM_INFO_LEN)
}

impl FlacConfig {
    /// Parses a configuration in any of the forms of [`stream_info`].
    pub fn parse(record: &[u8]) -> Result<Self, FlacError> {
        let block = stream_info(record).ok_or(FlacError::Length { len: record.len() })?;
        parse(block).ok_or(FlacError::Values)
    }
}

fn parse(block: &[u8]) -> Option<FlacConfig> {
    let mut reader = BitReader::new(block);
    let frame_len_min = reader.bits(16)?;
    let frame_len_max = u16::try_from(reader.bits(16)?).ok()?;
    reader.skip(24 + 24)?;
    let config = FlacConfig {
        rate: reader.bits(20)?,
        channels: reader.byte(3)? + 1,
        bit_depth: reader.byte(5)? + 1,
        frame_len_max,
    };
    let is_sane = (16..=u32::from(frame_len_max)).contains(&frame_len_min)
        && config.rate > 0
        && config.bit_depth >= 4;
    is_sane.then_some(config)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::hex, *};

    #[test]
    fn the_block_is_found_in_every_form() {
        for before in ["", "80000022", "664c614380000022", "664c614300000022"] {
            let config = FlacConfig::parse(&hex(&format!("{before}{BLOCK}"))).unwrap();
            assert_eq!((config.rate, config.channels), (48_000, 2));
            assert_eq!((config.bit_depth, config.frame_len_max), (16, 4608));
        }
        let commented = hex(&format!("664c614300000022{BLOCK}840000010a"));
        assert_eq!(stream_info(&commented), Some(&hex(BLOCK)[..]));
    }

    #[test]
    fn what_is_no_block_is_named() {
        for (record, error) in [
            (String::new(), FlacError::Length { len: 0 }),
            (format!("84000022{BLOCK}"), FlacError::Length { len: 38 }),
            (BLOCK[..66].to_owned(), FlacError::Length { len: 33 }),
            ("0".repeat(68), FlacError::Values),
            (BLOCK.replacen("1200", "0004", 1), FlacError::Values),
        ] {
            assert_eq!(FlacConfig::parse(&hex(&record)), Err(error), "{record}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..50)) {
            let _ = FlacConfig::parse(&body);
            let _ = FlacConfig::parse(&[&[0x80, 0, 0, 34], &body[..]].concat());
        }
    }

    /// 48 kHz, stereo, 16 bits, frames of 4608, as `FFmpeg` writes it.
    const BLOCK: &str = "1200120000000e0010a60bb802f000000000000000000000000000000000000000\
        00";
}
