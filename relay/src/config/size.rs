//! Sizes and bit rates, as people write them. Parsed, not validated: a value in hand is in its range.

use std::{fmt, str::FromStr};

use serde::Serialize;

/// A number of bytes from `MIN` to `MAX`: `64KiB`, `8MiB`; a number alone is bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Size<MIN, MAX> {
    /// As many bytes.
    ///
    /// # Panics
    /// When that is out of range: a default that is wrong does not compile in a constant.
    pub const fn of(bytes: u64) -> Self {
        assert!(MIN <= bytes && bytes <= MAX);
        Self(bytes)
    }

    /// As a size in memory.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the largest range ends at 64 MiB"
    )]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Size<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let units = [("", 1), ("B", 1), ("KiB", KIB), ("MiB", MIB)];
        match in_units(text, &units) {
            Some(bytes) if (MIN..=MAX).contains(&bytes) => Ok(Self(bytes)),
            Some(_) => Err(format!("it is from {} to {}", Bytes(MIN), Bytes(MAX))),
            None => Err(format!(
                "a size is a number with B, KiB or MiB, from {} to {}",
                Bytes(MIN),
                Bytes(MAX)
            )),
        }
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Size<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bytes(self.0).fmt(f)
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Size<MIN, MAX> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes.is_multiple_of(MIB) => write!(f, "{}MiB", bytes / MIB),
            bytes if bytes.is_multiple_of(KIB) => write!(f, "{}KiB", bytes / KIB),
            bytes => write!(f, "{bytes}B"),
        }
    }
}

/// Bits a second, 100 kbit/s to 10 Gbit/s: `200Mbit/s`, `1G`; a number alone is bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bitrate(u64);

impl Bitrate {
    /// As many million bits a second.
    pub(super) const fn mbit(mbit: u64) -> Self {
        Self(mbit * 1_000_000)
    }

    /// Bytes a second.
    pub const fn bytes_per_second(self) -> u64 {
        self.0 / 8
    }
}

impl FromStr for Bitrate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let text = (["bit/s", "bps"].iter())
            .find_map(|end| text.strip_suffix(end))
            .unwrap_or(text);
        let units = [
            ("", 1),
            ("k", 1_000),
            ("M", 1_000_000),
            ("G", 1_000_000_000),
        ];
        match in_units(text, &units) {
            Some(bits @ 100_000..=10_000_000_000) => Ok(Self(bits)),
            _ => Err("a bit rate is like 50Mbit/s, from 100kbit/s to 10Gbit/s"),
        }
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bits if bits.is_multiple_of(1_000_000) => write!(f, "{}Mbit/s", bits / 1_000_000),
            bits if bits.is_multiple_of(1_000) => write!(f, "{}kbit/s", bits / 1_000),
            bits => write!(f, "{bits}bit/s"),
        }
    }
}

impl Serialize for Bitrate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn in_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = (text.find(|c: char| !c.is_ascii_digit())).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit = unit.trim();
    let (_, factor) = (units.iter()).find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.checked_mul(*factor)
}

/// Bytes.
pub(super) const KIB: u64 = 1024;
/// Bytes.
pub(super) const MIB: u64 = 1024 * KIB;

#[cfg(test)]
mod tests {
    use super::*;

    type Small = Size<{ 4 * KIB }, { 8 * MIB }>;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes, shown) in [
            ("64KiB", 65_536, "64KiB"),
            ("64 kib", 65_536, "64KiB"),
            ("8MiB", 8_388_608, "8MiB"),
            (" 5000 ", 5_000, "5000B"),
            ("5000B", 5_000, "5000B"),
        ] {
            let size: Small = text.parse().unwrap();
            assert_eq!((size.get(), size.to_string().as_str()), (bytes, shown));
        }
        for text in [
            "",
            "KiB",
            "1KiB",
            "9MiB",
            "-1",
            "1.5MiB",
            "64k",
            "99999999999999MiB",
        ] {
            let error = text.parse::<Small>().unwrap_err();
            assert!(error.contains("from 4KiB to 8MiB"), "{text:?}: {error}");
        }
    }

    #[test]
    fn bit_rates_are_read_as_people_write_them() {
        for (text, bytes, shown) in [
            ("200Mbit/s", 25_000_000, "200Mbit/s"),
            ("200 M", 25_000_000, "200Mbit/s"),
            ("2500kbps", 312_500, "2500kbit/s"),
            ("1G", 125_000_000, "1000Mbit/s"),
            ("800000", 100_000, "800kbit/s"),
        ] {
            let rate: Bitrate = text.parse().unwrap();
            let both = (rate.bytes_per_second(), rate.to_string());
            assert_eq!(both, (bytes, shown.to_owned()), "{text:?}");
        }
        for text in ["", "M", "1", "11G", "10MB/s", "-5M"] {
            assert!(text.parse::<Bitrate>().is_err(), "{text:?}");
        }
    }
}
