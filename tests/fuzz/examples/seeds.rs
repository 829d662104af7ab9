//! Makes seeds of the relay's tables: `chunk` and `tags` begin with every line of them, and with all lines in order.

use std::{fs, io, path::Path};

const CHUNKS: &str = include_str!("../../../relay/src/rtmp/vectors/chunks.txt");
const TAGS: &str = include_str!("../../../relay/src/rtmp/vectors/tags.txt");

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fuzz/corpus");
    for folder in ["chunk", "tags"] {
        fs::create_dir_all(corpus.join(folder))?;
    }
    for (n, line) in lines(CHUNKS).enumerate() {
        let bytes = line.split('|').next().map(bytes).unwrap_or_default();
        // In one piece, and said again in chunks of 128 bytes.
        let seed = [&[255, 128], &bytes[..]].concat();
        fs::write(corpus.join(format!("chunk/table-{n:03}")), seed)?;
    }
    let mut all = Vec::new();
    for (n, line) in lines(TAGS).enumerate() {
        let mut fields = line.split('|').map(str::trim);
        let is_video = fields.next() == Some("video");
        let body = fields.next().map(bytes).unwrap_or_default();
        let mut seed = vec![u8::from(!is_video)];
        seed.extend(33_u16.to_be_bytes());
        seed.extend(u32::try_from(n * 33).unwrap_or(0).to_be_bytes());
        seed.extend(u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
        seed.extend(body);
        fs::write(corpus.join(format!("tags/table-{n:03}")), &seed)?;
        all.extend(seed);
    }
    fs::write(corpus.join("tags/table-all"), all)
}

fn lines(table: &str) -> impl Iterator<Item = &str> {
    table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Hexadecimal digits, also in groups; `aa*3` is three times `aa`.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for group in text.split_whitespace() {
        let (digits, times) = group.split_once('*').unwrap_or((group, "1"));
        let pairs = digits.as_bytes().chunks(2);
        let group: Vec<u8> = pairs
            .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        bytes.extend(group.repeat(times.parse().unwrap_or(1)));
    }
    bytes
}
