//! The handshake, server side: the plain one and the one with digests, in both of their layouts.
//!
//! ```text
//! C0/S0: version 3        C1/S1: time (4) | zero or version (4) | 1528 bytes        C2/S2: echo of the other's
//! ```
//! An encoder whose bytes 4 to 8 of C1 are not zero signs C1 with a digest and may check ours; one whose digest
//! does not match in either layout is answered plainly. C2 is not checked: not every encoder echoes truly. S2
//! always echoes C1, because some check it. RTMPE (version 6) is not spoken: its cipher protects nothing.

use bytes::{Buf, BytesMut};
use ring::hmac;

/// Bytes of C1, C2, S1 and S2 each.
pub const BLOCK_LEN: usize = 1536;

/// Why the peer is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// RTMPE and its relatives.
    #[error(
        "the encoder asks for RTMPE (version {version}), which is not supported; use rtmp:// or rtmps://"
    )]
    Encrypted {
        /// First byte sent.
        version: u8,
    },
    /// `rtmps://`, on the port of `rtmp://`.
    #[error("the encoder speaks TLS; this port takes rtmp://, not rtmps://")]
    Tls,
    /// Another protocol altogether: HTTP, noise.
    #[error("the first byte {byte:#04x} is not RTMP")]
    NotRtmp {
        /// First byte sent.
        byte: u8,
    },
}

/// The server's half. Feed it until [`Handshake::advance`] answers `true`.
#[derive(Debug)]
pub struct Handshake {
    stage: Stage,
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Version,
    Block,
    Echo,
    Done,
}

impl Handshake {
    /// `seed` fills S1; it should differ between connections, and need not be a secret.
    pub fn new(seed: u64) -> Self {
        Self {
            stage: Stage::Version,
            seed,
        }
    }

    /// Takes what belongs to the handshake out of `input` and puts the answers into `output`. `true`: it is over,
    /// and what is left in `input` is the chunk stream.
    pub fn advance(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Result<bool, HandshakeError> {
        loop {
            match self.stage {
                Stage::Version => {
                    let Some(&byte) = input.first() else {
                        return Ok(false);
                    };
                    check_version(byte)?;
                    input.advance(1);
                    self.stage = Stage::Block;
                }
                Stage::Block => {
                    let Some(block) = input.first_chunk::<BLOCK_LEN>() else {
                        return Ok(false);
                    };
                    answer(block, self.seed, output);
                    input.advance(BLOCK_LEN);
                    self.stage = Stage::Echo;
                }
                Stage::Echo => {
                    if input.len() < BLOCK_LEN {
                        return Ok(false);
                    }
                    input.advance(BLOCK_LEN);
                    self.stage = Stage::Done;
                }
                Stage::Done => return Ok(true),
            }
        }
    }
}

fn check_version(byte: u8) -> Result<(), HandshakeError> {
    match byte {
        TLS_HANDSHAKE => Err(HandshakeError::Tls),
        6 | 8 | 9 => Err(HandshakeError::Encrypted { version: byte }),
        0..0x20 => Ok(()),
        _ => Err(HandshakeError::NotRtmp { byte }),
    }
}

/// A record's type. As a version of RTMP it is reserved, and nobody uses it.
const TLS_HANDSHAKE: u8 = 0x16;

/// S0, S1 and S2.
fn answer(client: &[u8; BLOCK_LEN], seed: u64, output: &mut BytesMut) {
    let mut ours = [0; BLOCK_LEN];
    fill(&mut ours, seed);
    let mut echo = *client;

    if let Some((layout, digest)) = client_digest(client) {
        set(&mut ours, 4, SERVER_VERSION);
        let offset = layout.digest_offset(&ours);
        let signature = digest_of(&ours, offset, SERVER_KEY_SHORT);
        set(&mut ours, offset, &signature);

        let key = hmac_sha256(SERVER_KEY, &[&digest]);
        let signed = BLOCK_LEN - DIGEST_LEN;
        let signature = hmac_sha256(&key, &[echo.get(..signed).unwrap_or_default()]);
        set(&mut echo, signed, &signature);
    } else {
        set(&mut ours, 4, &[0; 4]);
    }
    output.reserve(1 + 2 * BLOCK_LEN);
    output.extend_from_slice(&[VERSION]);
    output.extend_from_slice(&ours);
    output.extend_from_slice(&echo);
}

/// Where the digest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// The key block comes first ("scheme 0").
    KeyFirst,
    /// The digest block comes first ("scheme 1"), as `FFmpeg` and nginx do.
    DigestFirst,
}

impl Layout {
    /// The block begins with four bytes whose sum says how far behind them the digest is.
    fn digest_offset(self, block: &[u8; BLOCK_LEN]) -> usize {
        let start: usize = match self {
            Self::KeyFirst => 772,
            Self::DigestFirst => 8,
        };
        let sum: usize = block
            .iter()
            .skip(start)
            .take(4)
            .map(|byte| usize::from(*byte))
            .sum();
        // At most 772 + 4 + 727, and 32 more for the digest itself: inside the block.
        start.saturating_add(4).saturating_add(sum % 728)
    }
}

/// The layout in which C1's digest is right, and that digest.
fn client_digest(block: &[u8; BLOCK_LEN]) -> Option<(Layout, [u8; DIGEST_LEN])> {
    if block.iter().skip(4).take(4).all(|byte| *byte == 0) {
        return None;
    }
    [Layout::DigestFirst, Layout::KeyFirst]
        .into_iter()
        .find_map(|layout| {
            let offset = layout.digest_offset(block);
            let digest = digest_of(block, offset, CLIENT_KEY);
            (block.get(offset..)?.starts_with(&digest)).then_some((layout, digest))
        })
}

/// HMAC of the block without the 32 bytes at `offset`.
fn digest_of(block: &[u8; BLOCK_LEN], offset: usize, key: &[u8]) -> [u8; DIGEST_LEN] {
    let (before, rest) = block.split_at_checked(offset).unwrap_or((block, &[]));
    let after = rest.get(DIGEST_LEN..).unwrap_or_default();
    hmac_sha256(key, &[before, after])
}

fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; DIGEST_LEN] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    let mut digest = [0; DIGEST_LEN];
    set(&mut digest, 0, context.sign().as_ref());
    digest
}

/// Overwrites `block` from `offset`; what does not fit is left out.
fn set(block: &mut [u8], offset: usize, bytes: &[u8]) {
    for (to, from) in block.iter_mut().skip(offset).zip(bytes) {
        *to = *from;
    }
}

/// `SplitMix64`: the block has to look random and to differ between connections, no more.
fn fill(block: &mut [u8; BLOCK_LEN], mut seed: u64) {
    let (_, random) = block.split_at_mut(8);
    for bytes in random.chunks_mut(8) {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = seed;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        set(bytes, 0, &(mixed ^ mixed >> 31).to_le_bytes());
    }
}

const VERSION: u8 = 3;
const DIGEST_LEN: usize = 32;

/// Any version that is not zero tells the encoder that S1 is signed.
const SERVER_VERSION: &[u8] = &[4, 5, 0, 1];

const CLIENT_KEY: &[u8] = b"Genuine Adobe Flash Player 001";
const SERVER_KEY_SHORT: &[u8] = b"Genuine Adobe Flash Media Server 001";
const SERVER_KEY: &[u8] = b"Genuine Adobe Flash Media Server 001\
    \xf0\xee\xc2\x4a\x80\x68\xbe\xe8\x2e\x00\xd0\xd1\x02\x9e\x7e\x57\
    \x6e\xec\x5d\x2d\x29\x80\x6f\xab\x93\xb8\xe6\x36\xcf\xeb\x31\xae";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_plain_encoder_gets_its_own_block_back() {
        let client = client_block(None);
        let (done, answer) = shake(&[&[3], &client, &[0; BLOCK_LEN], b"rest"]);
        assert_eq!(done, Ok(true));
        assert_eq!(answer.len(), 1 + 2 * BLOCK_LEN);
        assert_eq!(answer[0], 3);
        assert_eq!(answer[5..9], [0; 4], "no version: nothing is signed");
        assert_eq!(answer[1 + BLOCK_LEN..], client);
    }

    #[test]
    fn a_signing_encoder_finds_both_signatures_in_its_own_layout() {
        for layout in [Layout::KeyFirst, Layout::DigestFirst] {
            let client = client_block(Some(layout));
            let (done, answer) = shake(&[&[3], &client, &[9; BLOCK_LEN]]);
            assert_eq!(done, Ok(true), "{layout:?}");

            let ours: &[u8; BLOCK_LEN] = answer[1..].first_chunk().unwrap();
            let offset = layout.digest_offset(ours);
            assert_ne!(ours[4..8], [0; 4], "{layout:?}");
            assert_eq!(
                ours[offset..offset + 32],
                digest_of(ours, offset, SERVER_KEY_SHORT),
                "{layout:?}"
            );

            let echo = &answer[1 + BLOCK_LEN..];
            let offset = layout.digest_offset(&client);
            let key = hmac_sha256(SERVER_KEY, &[&client[offset..offset + 32]]);
            assert_eq!(
                echo[1504..],
                hmac_sha256(&key, &[&echo[..1504]]),
                "{layout:?}"
            );
            assert_eq!(echo[..1504], client[..1504], "{layout:?}");
        }
    }

    #[test]
    fn a_wrong_digest_is_answered_plainly() {
        let mut client = client_block(Some(Layout::DigestFirst));
        client[1535] ^= 1;
        let (done, answer) = shake(&[&[3], &client, &[0; BLOCK_LEN]]);
        assert_eq!(done, Ok(true));
        assert_eq!(answer[1 + BLOCK_LEN..], client);
    }

    #[test]
    fn other_protocols_are_named_at_the_first_byte() {
        for (first, error) in [
            (6, HandshakeError::Encrypted { version: 6 }),
            (b'G', HandshakeError::NotRtmp { byte: b'G' }),
            (0x16, HandshakeError::Tls),
        ] {
            assert_eq!(shake(&[&[first]]).0, Err(error));
        }
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_answer(cuts in prop::collection::vec(1..700usize, 1..30)) {
            let bytes = [&[3][..], &client_block(Some(Layout::KeyFirst)), &[7; BLOCK_LEN]].concat();
            let whole = shake(&[&bytes]);
            let mut parts = Vec::new();
            let mut left = &bytes[..];
            for cut in cuts {
                let (part, rest) = left.split_at(cut.min(left.len()));
                parts.push(part);
                left = rest;
            }
            parts.push(left);
            prop_assert_eq!(shake(&parts), whole);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4000), seed in any::<u64>()) {
            let mut handshake = Handshake::new(seed);
            let mut output = BytesMut::new();
            let mut input = BytesMut::from(&[&[3], &bytes[..]].concat()[..]);
            prop_assert!(handshake.advance(&mut input, &mut output).is_ok());
            prop_assert!(output.len() <= 1 + 2 * BLOCK_LEN);
        }
    }

    fn shake(parts: &[&[u8]]) -> (Result<bool, HandshakeError>, BytesMut) {
        let mut handshake = Handshake::new(1);
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        let mut done = Ok(false);
        for part in parts {
            input.extend_from_slice(part);
            done = handshake.advance(&mut input, &mut output);
        }
        (done, output)
    }

    fn client_block(layout: Option<Layout>) -> [u8; BLOCK_LEN] {
        let mut block = [0; BLOCK_LEN];
        fill(&mut block, 42);
        if let Some(layout) = layout {
            set(&mut block, 4, &[9, 0, 0x7c, 2]);
            let offset = layout.digest_offset(&block);
            let digest = digest_of(&block, offset, CLIENT_KEY);
            set(&mut block, offset, &digest);
        }
        block
    }
}
