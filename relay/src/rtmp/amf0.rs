//! AMF0: the values that commands and metadata are made of.
//!
//! Reading counts depth and values, so that neither the stack nor the memory is the peer's to spend: a document of
//! 64 KiB could otherwise nest 20,000 deep, or grow to 4 MB. What encoders get wrong is tolerated: a missing end
//! of an object, a wrong count of an ECMA array, text that is not UTF-8.

use bytes::{BufMut, BytesMut};

use super::amf3;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Every number of AMF0 is a double.
    Number(f64),
    /// True or false.
    Boolean(bool),
    /// Any of the three kinds of text.
    String(String),
    /// Named values, in order: an object, a typed object or an ECMA array.
    Object(Vec<(String, Value)>),
    /// Values.
    Array(Vec<Value>),
    /// Milliseconds since 1970.
    Date(f64),
    /// No value.
    Null,
    /// No value either.
    Undefined,
}

impl Value {
    /// Text.
    pub fn string(text: &str) -> Self {
        Self::String(text.to_owned())
    }

    /// An object of these properties, in this order.
    pub fn object<const N: usize>(properties: [(&str, Self); N]) -> Self {
        Self::Object(
            properties
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
        )
    }

    /// The property of this name, if this is an object that has it.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(properties) = self else {
            return None;
        };
        let mut properties = properties.iter();
        properties.find_map(|(key, value)| (key == name).then_some(value))
    }

    /// The text, if this is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if this is a number.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }
}

/// Why bytes are not AMF0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AmfError {
    /// The bytes end inside a value.
    #[error("the value is cut short")]
    Truncated,
    /// A marker that means nothing, or nothing that is transmitted.
    #[error("the marker {marker:#04x} is unknown")]
    Marker {
        /// As read.
        marker: u8,
    },
    /// Objects within objects.
    #[error("values are nested more than {DEPTH_MAX} deep")]
    TooDeep,
    /// More values than any command has.
    #[error("more than {VALUES_MAX} values in one message")]
    TooMany,
}

/// Reads all the values of a message body.
pub fn decode_all(bytes: &[u8]) -> Result<Vec<Value>, AmfError> {
    let mut reader = Reader::new(bytes);
    let mut values = Vec::new();
    while !reader.left.is_empty() {
        values.push(reader.value()?);
    }
    Ok(values)
}

/// A cursor that counts what it has given out.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    left: &'a [u8],
    values: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            left: bytes,
            values: 0,
            depth: 0,
        }
    }

    /// One value. Calls itself for what is inside, at most [`DEPTH_MAX`] deep.
    pub(super) fn value(&mut self) -> Result<Value, AmfError> {
        self.count()?;
        Ok(match self.u8()? {
            MARKER_NUMBER => Value::Number(self.f64()?),
            MARKER_BOOLEAN => Value::Boolean(self.u8()? != 0),
            MARKER_STRING => Value::String(self.short_string()?),
            MARKER_OBJECT => self.nested(Self::properties)?,
            MARKER_NULL => Value::Null,
            // A reference to an object sent before: nobody has been seen to need one.
            MARKER_REFERENCE => {
                self.take(2)?;
                Value::Undefined
            }
            MARKER_UNDEFINED | MARKER_UNSUPPORTED => Value::Undefined,
            MARKER_ECMA_ARRAY => {
                self.take(4)?;
                self.nested(Self::properties)?
            }
            MARKER_STRICT_ARRAY => self.nested(Self::elements)?,
            MARKER_DATE => {
                let milliseconds = self.f64()?;
                self.take(2)?;
                Value::Date(milliseconds)
            }
            MARKER_LONG_STRING | MARKER_XML => {
                let len = self.u32()?;
                Value::String(self.text(len as usize)?)
            }
            MARKER_TYPED_OBJECT => {
                self.short_string()?;
                self.nested(Self::properties)?
            }
            MARKER_AMF3 => amf3::value(self)?,
            marker => return Err(AmfError::Marker { marker }),
        })
    }

    pub(super) fn nested(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<Value, AmfError>,
    ) -> Result<Value, AmfError> {
        if self.depth >= DEPTH_MAX {
            return Err(AmfError::TooDeep);
        }
        self.depth = self.depth.saturating_add(1);
        let value = inner(self);
        self.depth = self.depth.saturating_sub(1);
        value
    }

    /// Up to the end mark, or to the end of the message: some encoders forget the mark.
    fn properties(&mut self) -> Result<Value, AmfError> {
        let mut properties = Vec::new();
        while !self.left.is_empty() {
            let name = self.short_string()?;
            if name.is_empty() && self.left.first().is_none_or(|next| *next == MARKER_END) {
                self.left = self.left.get(1..).unwrap_or_default();
                break;
            }
            properties.push((name, self.value()?));
        }
        Ok(Value::Object(properties))
    }

    fn elements(&mut self) -> Result<Value, AmfError> {
        let count = self.u32()?;
        let mut elements = Vec::new();
        for _ in 0..count {
            elements.push(self.value()?);
        }
        Ok(Value::Array(elements))
    }

    pub(super) fn count(&mut self) -> Result<(), AmfError> {
        self.values = self.values.saturating_add(1);
        if self.values > VALUES_MAX {
            return Err(AmfError::TooMany);
        }
        Ok(())
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], AmfError> {
        let (taken, left) = self.left.split_at_checked(len).ok_or(AmfError::Truncated)?;
        self.left = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], AmfError> {
        let (taken, left) = self.left.split_first_chunk().ok_or(AmfError::Truncated)?;
        self.left = left;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, AmfError> {
        self.array().map(|[byte]: [u8; 1]| byte)
    }

    pub(super) fn f64(&mut self) -> Result<f64, AmfError> {
        self.array().map(f64::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, AmfError> {
        self.array().map(u32::from_be_bytes)
    }

    fn short_string(&mut self) -> Result<String, AmfError> {
        let len = self.array().map(u16::from_be_bytes)?;
        self.text(len.into())
    }

    pub(super) fn text(&mut self, len: usize) -> Result<String, AmfError> {
        Ok(String::from_utf8_lossy(self.take(len)?).into_owned())
    }
}

/// Appends a value. Dates carry no time zone, as everywhere.
pub fn encode(value: &Value, out: &mut BytesMut) {
    match value {
        Value::Number(number) => {
            out.put_u8(MARKER_NUMBER);
            out.put_f64(*number);
        }
        Value::Boolean(boolean) => {
            out.put_u8(MARKER_BOOLEAN);
            out.put_u8((*boolean).into());
        }
        Value::String(text) => encode_string(text, out),
        Value::Object(properties) => {
            out.put_u8(MARKER_OBJECT);
            for (name, value) in properties {
                // A name that is too long to be written is cut.
                let len = u16::try_from(name.len()).unwrap_or(u16::MAX);
                out.put_u16(len);
                out.put_slice(name.as_bytes().get(..len.into()).unwrap_or_default());
                encode(value, out);
            }
            out.put_slice(&[0, 0, MARKER_END]);
        }
        Value::Array(elements) => {
            out.put_u8(MARKER_STRICT_ARRAY);
            out.put_u32(len32(elements.len()));
            for element in elements {
                encode(element, out);
            }
        }
        Value::Date(milliseconds) => {
            out.put_u8(MARKER_DATE);
            out.put_f64(*milliseconds);
            out.put_u16(0);
        }
        Value::Null => out.put_u8(MARKER_NULL),
        Value::Undefined => out.put_u8(MARKER_UNDEFINED),
    }
}

fn encode_string(text: &str, out: &mut BytesMut) {
    if let Ok(len) = u16::try_from(text.len()) {
        out.put_u8(MARKER_STRING);
        out.put_u16(len);
    } else {
        out.put_u8(MARKER_LONG_STRING);
        out.put_u32(len32(text.len()));
    }
    out.put_slice(text.as_bytes());
}

/// No message is as long as this could not say.
fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Objects within objects: real metadata has three levels.
pub const DEPTH_MAX: usize = 32;

/// Values of one message: real metadata has fewer than a hundred. At about 60 bytes each, 64 KiB in all.
pub const VALUES_MAX: usize = 1024;

const MARKER_NUMBER: u8 = 0x00;
const MARKER_BOOLEAN: u8 = 0x01;
const MARKER_STRING: u8 = 0x02;
const MARKER_OBJECT: u8 = 0x03;
const MARKER_NULL: u8 = 0x05;
const MARKER_UNDEFINED: u8 = 0x06;
const MARKER_REFERENCE: u8 = 0x07;
const MARKER_ECMA_ARRAY: u8 = 0x08;
const MARKER_END: u8 = 0x09;
const MARKER_STRICT_ARRAY: u8 = 0x0a;
const MARKER_DATE: u8 = 0x0b;
const MARKER_LONG_STRING: u8 = 0x0c;
const MARKER_UNSUPPORTED: u8 = 0x0d;
const MARKER_XML: u8 = 0x0f;
const MARKER_TYPED_OBJECT: u8 = 0x10;
const MARKER_AMF3: u8 = 0x11;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_encoders_get_wrong_is_tolerated() {
        let object = |name: &str, n: f64| Value::object([(name, Value::Number(n))]);
        // (what, bytes, values)
        for (what, bytes, values) in [
            (
                "an object without its end mark",
                &b"\x03\0\x01a\0\x40\0\0\0\0\0\0\0"[..],
                vec![object("a", 2.0)],
            ),
            (
                "an ECMA array with a wrong count",
                b"\x08\xff\xff\xff\xff\0\x01a\0\x40\0\0\0\0\0\0\0\0\0\x09\x05",
                vec![object("a", 2.0), Value::Null],
            ),
            (
                "text that is not UTF-8",
                b"\x02\0\x02a\xff",
                vec![Value::string("a\u{fffd}")],
            ),
            (
                "an array inside metadata",
                b"\x0a\0\0\0\x02\x05\x01\x01",
                vec![Value::Array(vec![Value::Null, Value::Boolean(true)])],
            ),
            ("a reference", b"\x07\0\x01", vec![Value::Undefined]),
        ] {
            assert_eq!(decode_all(bytes), Ok(values), "{what}");
        }
    }

    #[test]
    fn depth_and_number_of_values_are_not_the_senders_to_choose() {
        let nested = |levels: usize| b"\x03\0\x01a".repeat(levels);
        assert_eq!(decode_all(&nested(DEPTH_MAX)), Err(AmfError::Truncated));
        assert_eq!(decode_all(&nested(DEPTH_MAX + 1)), Err(AmfError::TooDeep));
        assert_eq!(decode_all(&nested(20_000)), Err(AmfError::TooDeep));
        assert_eq!(
            decode_all(&b"\x0a\0\0\0\x01".repeat(20_000)),
            Err(AmfError::TooDeep)
        );
        assert_eq!(
            decode_all(&[MARKER_NULL; VALUES_MAX + 1]),
            Err(AmfError::TooMany)
        );
        assert_eq!(
            decode_all(&[MARKER_NULL; VALUES_MAX]).map(|v| v.len()),
            Ok(VALUES_MAX)
        );
    }

    #[test]
    fn what_is_no_value_is_named() {
        for (bytes, error) in [
            (&b"\x00\x40"[..], AmfError::Truncated),
            (b"\x02\0\x05abc", AmfError::Truncated),
            (b"\x0a\xff\xff\xff\xff", AmfError::Truncated),
            (b"\x04", AmfError::Marker { marker: 4 }),
            (b"\x42", AmfError::Marker { marker: 0x42 }),
        ] {
            assert_eq!(decode_all(bytes), Err(error), "{bytes:x?}");
        }
    }

    fn arbitrary_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            (-1e9..1e9f64).prop_map(Value::Number),
            any::<bool>().prop_map(Value::Boolean),
            ".{0,12}".prop_map(Value::String),
            (0.0..1e12f64).prop_map(Value::Date),
            Just(Value::Null),
            Just(Value::Undefined),
        ];
        leaf.prop_recursive(4, 60, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                prop::collection::vec(("[a-z]{1,8}", inner), 0..6).prop_map(Value::Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_survive_the_wire(values in prop::collection::vec(arbitrary_value(), 0..6)) {
            let mut bytes = BytesMut::new();
            for value in &values {
                encode(value, &mut bytes);
            }
            prop_assert_eq!(decode_all(&bytes), Ok(values));
        }

        #[test]
        fn a_message_that_is_cut_never_panics(value in arbitrary_value(), cut in any::<prop::sample::Index>()) {
            let mut bytes = BytesMut::new();
            encode(&value, &mut bytes);
            let _ = decode_all(&bytes[..cut.index(bytes.len())]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(prop_oneof![0..0x12u8, any::<u8>()], 0..400)) {
            let _ = decode_all(&bytes);
        }
    }
}
