//! Timecode, cue points, captions and colours: AMF values that travel beside picture and sound, as JSON.
//!
//! A unit of data is an array: a name, then what the encoder sent with it. The studio never speaks AMF.

use bytes::Bytes;
use serde_json::{Number, Value as Json};

use crate::rtmp::amf0::{self, Value};

/// What an encoder says about itself belongs to the publisher; these belong to a moment.
const NAMES: [&str; 5] = [
    "onFI",
    "onTextData",
    "onCuePoint",
    "onCaption",
    "onCaptionInfo",
];

const COLORS: &str = "colorInfo";

/// A data message as the payload of a unit; `None` if it is not one of those that are passed on, or too long.
pub fn event(values: &[Value]) -> Option<Bytes> {
    let values = match values {
        [Value::String(set), rest @ ..] if set == "@setDataFrame" => rest,
        all => all,
    };
    let name = values.first()?.as_str()?;
    NAMES.contains(&name).then(|| array(values)).flatten()
}

/// The colours out of a metadata packet; `None` if it speaks of something else, or is damaged.
pub fn colors(amf: &[u8]) -> Option<Bytes> {
    let values = amf0::decode_all(amf).ok()?;
    let pair = values
        .chunks_exact(2)
        .find(|pair| pair.first().and_then(Value::as_str) == Some(COLORS))?;
    array(pair).filter(|text| text.len() <= COLORS_LEN_MAX)
}

fn array(values: &[Value]) -> Option<Bytes> {
    let array: Vec<_> = values.iter().take(VALUES_MAX).map(json).collect();
    let text = serde_json::to_vec(&array).ok()?;
    (text.len() <= LEN_MAX).then(|| text.into())
}

/// As deep as AMF was read: bounded.
fn json(value: &Value) -> Json {
    match value {
        Value::Number(number) | Value::Date(number) => whole(*number)
            .map(Number::from)
            .or_else(|| Number::from_f64(*number))
            .map_or(Json::Null, Json::Number),
        Value::Boolean(is) => Json::Bool(*is),
        Value::String(text) => Json::String(text.clone()),
        Value::Object(properties) => Json::Object(
            properties
                .iter()
                .map(|(name, value)| (name.clone(), json(value)))
                .collect(),
        ),
        Value::Array(values) => Json::Array(values.iter().map(json).collect()),
        Value::Null | Value::Undefined => Json::Null,
    }
}

/// Every number of AMF is a double; most mean a whole one.
#[expect(clippy::cast_possible_truncation, reason = "in the range of both")]
fn whole(number: f64) -> Option<i64> {
    (number.fract().abs() == 0.0 && number.abs() < EXACT_MAX).then_some(number as i64)
}

/// 2 to the power of 53.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Bytes of a unit.
const LEN_MAX: usize = 16 * 1024;

/// Bytes of colours, which are kept for each track: all that there are take 400.
const COLORS_LEN_MAX: usize = 1024;

/// A name and what goes with it.
const VALUES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_moment_is_passed_on() {
        let timecode = Value::object([
            ("sd", Value::string("21-11-2026")),
            ("st", Value::string("10:11:12.13")),
        ]);
        let cue = Value::object([("time", Value::Number(1.5)), ("n", Value::Number(7.0))]);
        // (values, JSON)
        for (values, text) in [
            (
                vec![Value::string("onFI"), timecode.clone()],
                Some(r#"["onFI",{"sd":"21-11-2026","st":"10:11:12.13"}]"#),
            ),
            (
                vec![
                    Value::string("@setDataFrame"),
                    Value::string("onCuePoint"),
                    cue,
                ],
                Some(r#"["onCuePoint",{"n":7,"time":1.5}]"#),
            ),
            (
                vec![
                    Value::string("onTextData"),
                    Value::string("\"\u{1b}[2J"),
                    Value::Number(f64::NAN),
                    Value::Undefined,
                ],
                Some(r#"["onTextData","\"\u001b[2J",null,null]"#),
            ),
            (vec![Value::string("onMetaData"), timecode], None),
            (vec![Value::Number(1.0)], None),
            (vec![], None),
            (
                vec![
                    Value::string("onTextData"),
                    Value::string(&"x".repeat(LEN_MAX)),
                ],
                None,
            ),
        ] {
            assert_eq!(event(&values).as_deref(), text.map(str::as_bytes));
        }
    }

    #[test]
    fn colours_are_found_beside_other_names() {
        let mut body = bytes::BytesMut::new();
        for value in [
            Value::string("later"),
            Value::Null,
            Value::string("colorInfo"),
            Value::object([(
                "colorConfig",
                Value::object([("transferCharacteristics", Value::Number(16.0))]),
            )]),
        ] {
            amf0::encode(&value, &mut body);
        }
        let text = r#"["colorInfo",{"colorConfig":{"transferCharacteristics":16}}]"#;
        assert_eq!(colors(&body).as_deref(), Some(text.as_bytes()));
        assert_eq!(colors(&body[..3]), None);
        // Undefined: as before any were sent.
        assert_eq!(
            colors(b"\x02\0\x09colorInfo\x06").as_deref(),
            Some(&br#"["colorInfo",null]"#[..])
        );
    }
}
