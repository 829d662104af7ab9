//! What encoders send beside picture and sound. Pure.

use firstmile_shared::media::{AccessUnit, Codec};
use serde_json::Value;

/// The timecode in a unit of data, as encoders write it: "10:11:12:13".
pub(super) fn timecode(unit: &AccessUnit) -> Option<String> {
    if unit.codec != Codec::Data || unit.payload.len() > LEN_MAX {
        return None;
    }
    let values: Value = serde_json::from_slice(&unit.payload).ok()?;
    if values.get(0)?.as_str()? != "onFI" {
        return None;
    }
    let text = values.get(1)?.get("st")?.as_str()?;
    let is_one = (1..=TIMECODE_LEN_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b":;.,".contains(&byte));
    is_one.then(|| text.to_owned())
}

/// A timecode has 50 bytes; cue points are not read here.
const LEN_MAX: usize = 1024;

const TIMECODE_LEN_MAX: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_like_a_timecode_is_shown() {
        for (json, expected) in [
            (
                r#"["onFI",{"sd":"21-11-2026","st":"10:11:12.13"}]"#,
                Some("10:11:12.13"),
            ),
            (r#"["onFI",{"st":"10:11:12;13"}]"#, Some("10:11:12;13")),
            (r#"["onFI",{"st":"<b>"}]"#, None),
            (r#"["onFI",{"st":""}]"#, None),
            (r#"["onFI"]"#, None),
            (r#"["onTextData",{"st":"10:11:12.13"}]"#, None),
            ("[", None),
        ] {
            let unit = AccessUnit {
                codec: Codec::Data,
                track: 0,
                keyframe: true,
                disposable: false,
                discontinuity: false,
                dts_us: 0,
                cts_us: 0,
                config: None,
                payload: json.as_bytes().to_vec().into(),
            };
            assert_eq!(timecode(&unit).as_deref(), expected, "{json}");
        }
    }
}
