//! Tables of bytes and what they mean, in files that the fuzz targets begin with, too: see `vectors/`.

/// The lines of a table: fields without the space around them.
pub(super) fn lines(table: &str) -> impl Iterator<Item = Vec<&str>> {
    table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split('|').map(str::trim).collect())
}

/// Hexadecimal digits, also in groups; `aa*3` is three times `aa`.
pub(super) fn bytes(text: &str) -> Vec<u8> {
    text.split_whitespace()
        .flat_map(|group| {
            let (digits, times) = group.split_once('*').unwrap_or((group, "1"));
            let pairs = digits.as_bytes().chunks(2);
            let bytes: Vec<u8> = pairs
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect();
            bytes.repeat(times.parse().unwrap())
        })
        .collect()
}
