//! Makes seeds of the relay's tables: `chunk` and `tags` begin with every line of them, and with all lines in order.

#[path = "../../../relay/src/rtmp/vectors.rs"]
mod vectors;

use std::{fs, io, path::Path};

use vectors::{bytes, lines};

const CHUNKS: &str = include_str!("../../../relay/src/rtmp/vectors/chunks.txt");
const TAGS: &str = include_str!("../../../relay/src/rtmp/vectors/tags.txt");

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fuzz/corpus");
    for folder in ["chunk", "tags"] {
        fs::create_dir_all(corpus.join(folder))?;
    }
    for (n, line) in lines(CHUNKS).enumerate() {
        let bytes = line.first().copied().map(bytes).unwrap_or_default();
        // In one piece, and said again in chunks of 128 bytes.
        let seed = [&[255, 128], &bytes[..]].concat();
        fs::write(corpus.join(format!("chunk/table-{n:03}")), seed)?;
    }
    let mut all = Vec::new();
    for (n, line) in lines(TAGS).enumerate() {
        let is_video = line.first() == Some(&"video");
        let body = line.get(1).copied().map(bytes).unwrap_or_default();
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
