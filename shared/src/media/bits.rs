//! Reads single bits and Exp-Golomb codes, most significant bit first: what codec configurations are made of.
//!
//! Not for picture data: it favours plainness over speed. Reading past the end is an answer (`None`), never a
//! panic, and every read is bounded by the slice.

/// A cursor over bits.
#[derive(Clone, Debug)]
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    /// Bits taken so far.
    position: usize,
}

impl<'a> BitReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(crate) fn bit(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.position / 8)?;
        let bit = byte >> (7 - self.position % 8) & 1;
        self.position += 1;
        Some(bit == 1)
    }

    /// The next `count` bits as a number; `count` is at most 32.
    pub(crate) fn bits(&mut self, count: u32) -> Option<u32> {
        debug_assert!(count <= 32, "a number has at most 32 bits");
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u32::from(self.bit()?);
        }
        Some(value)
    }

    /// The next `count` bits; `count` is at most 8.
    pub(crate) fn byte(&mut self, count: u32) -> Option<u8> {
        u8::try_from(self.bits(count)?).ok()
    }

    pub(crate) fn skip(&mut self, count: usize) -> Option<()> {
        self.position = self.position.checked_add(count)?;
        (self.position <= self.bytes.len() * 8).then_some(())
    }

    /// `ue(v)` of ITU-T H.264 9.1: an unsigned Exp-Golomb code.
    pub(crate) fn unsigned(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.bit()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let rest = self.bits(zeros)?;
        Some((1 << zeros) - 1 + rest)
    }

    /// `se(v)` of ITU-T H.264 9.1.1: a signed Exp-Golomb code.
    pub(crate) fn signed(&mut self) -> Option<i32> {
        let code = i64::from(self.unsigned()?);
        let magnitude = (code + 1) / 2;
        i32::try_from(if code % 2 == 0 { -magnitude } else { magnitude }).ok()
    }

    /// Bits not yet taken.
    pub(crate) fn left(&self) -> usize {
        (self.bytes.len() * 8).saturating_sub(self.position)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exp_golomb_codes_are_those_of_the_standard() {
        // Table 9-2: 1, 010, 011, 00100, 00101, then padding.
        let mut reader = BitReader::new(&[0b1010_0110, 0b0100_0010, 0b1000_0000]);
        let codes: Vec<_> = std::iter::from_fn(|| reader.unsigned()).take(5).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4]);

        let mut reader = BitReader::new(&[0b1010_0110, 0b0100_0010, 0b1000_0000]);
        let codes: Vec<_> = std::iter::from_fn(|| reader.signed()).take(5).collect();
        assert_eq!(codes, [0, 1, -1, 2, -2]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..40),
            reads in prop::collection::vec(0..5u8, 0..100),
        ) {
            let mut reader = BitReader::new(&bytes);
            for read in reads {
                let _ = match read {
                    0 => reader.bit().map(u32::from),
                    1 => reader.bits(32),
                    2 => reader.unsigned(),
                    3 => reader.signed().map(i32::unsigned_abs),
                    _ => reader.skip(7).map(|()| 0),
                };
                prop_assert!(reader.left() <= bytes.len() * 8);
            }
        }
    }
}
