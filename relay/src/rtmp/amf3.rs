//! AMF3, as far as an encoder may put it into a command: one value behind AMF0's marker 0x11.
//!
//! We answer `objectEncoding` 0, which keeps encoders on AMF0; so this reads the plain values and objects that
//! write themselves out, and takes references to earlier objects for nothing. Depth and number of values are
//! counted by the same [`Reader`] as AMF0's.

use super::amf0::{AmfError, Reader, Value};

/// One value, marker included. Text mentioned again by number is looked up among the texts of this value.
pub(super) fn value(reader: &mut Reader<'_>) -> Result<Value, AmfError> {
    Document::default().value(reader)
}

/// What references count from.
#[derive(Default)]
struct Document {
    strings: Vec<String>,
    traits: Vec<Traits>,
}

#[derive(Clone, Default)]
struct Traits {
    names: Vec<String>,
    dynamic: bool,
}

impl Document {
    fn value(&mut self, reader: &mut Reader<'_>) -> Result<Value, AmfError> {
        reader.count()?;
        Ok(match reader.u8()? {
            MARKER_UNDEFINED => Value::Undefined,
            MARKER_NULL => Value::Null,
            MARKER_FALSE => Value::Boolean(false),
            MARKER_TRUE => Value::Boolean(true),
            MARKER_INTEGER => {
                // 29 bits with a sign.
                let number = number(reader)?.cast_signed();
                Value::Number((number << 3 >> 3).into())
            }
            MARKER_DOUBLE => Value::Number(reader.f64()?),
            MARKER_STRING => Value::String(self.string(reader)?),
            MARKER_DATE => match number(reader)? & 1 {
                0 => Value::Undefined,
                _ => Value::Date(reader.f64()?),
            },
            MARKER_XML_DOC | MARKER_XML => match number(reader)? {
                reference if reference & 1 == 0 => Value::Undefined,
                len => Value::String(reader.text((len >> 1) as usize)?),
            },
            MARKER_BYTES => match number(reader)? {
                reference if reference & 1 == 0 => Value::Undefined,
                len => {
                    reader.take((len >> 1) as usize)?;
                    Value::Undefined
                }
            },
            MARKER_ARRAY => reader.nested(|reader| self.array(reader))?,
            MARKER_OBJECT => reader.nested(|reader| self.object(reader))?,
            marker => return Err(AmfError::Marker { marker }),
        })
    }

    fn string(&mut self, reader: &mut Reader<'_>) -> Result<String, AmfError> {
        let head = number(reader)?;
        let payload = (head >> 1) as usize;
        if head & 1 == 0 {
            // Copies of a long text must not cost more than the message that asks for them.
            reader.count()?;
            let text = self.strings.get(payload);
            return Ok(text
                .filter(|text| text.len() <= COPY_MAX)
                .cloned()
                .unwrap_or_default());
        }
        let text = reader.text(payload)?;
        if !text.is_empty() {
            reader.count()?;
            self.strings.push(text.clone());
        }
        Ok(text)
    }

    fn array(&mut self, reader: &mut Reader<'_>) -> Result<Value, AmfError> {
        let head = number(reader)?;
        if head & 1 == 0 {
            return Ok(Value::Undefined);
        }
        let named = self.named(reader)?;
        let mut elements = Vec::new();
        for _ in 0..head >> 1 {
            elements.push(self.value(reader)?);
        }
        Ok(if named.is_empty() {
            Value::Array(elements)
        } else {
            Value::Object(named)
        })
    }

    fn object(&mut self, reader: &mut Reader<'_>) -> Result<Value, AmfError> {
        let head = number(reader)?;
        if head & 0b1 == 0 {
            return Ok(Value::Undefined);
        }
        let traits = if head & 0b10 == 0 {
            let index = (head >> 2) as usize;
            self.traits.get(index).cloned().unwrap_or_default()
        } else if head & 0b100 == 0 {
            self.new_traits(reader, head >> 4, head & 0b1000 != 0)?
        } else {
            // An externalizable object is laid out as only its class knows.
            return Err(AmfError::Marker {
                marker: MARKER_OBJECT,
            });
        };
        let mut properties = Vec::new();
        for name in traits.names {
            properties.push((name, self.value(reader)?));
        }
        if traits.dynamic {
            properties.extend(self.named(reader)?);
        }
        Ok(Value::Object(properties))
    }

    fn new_traits(
        &mut self,
        reader: &mut Reader<'_>,
        names: u32,
        dynamic: bool,
    ) -> Result<Traits, AmfError> {
        self.string(reader)?;
        let mut traits = Traits {
            names: Vec::new(),
            dynamic,
        };
        for _ in 0..names {
            reader.count()?;
            let name = self.string(reader)?;
            // Every object of these traits gets a copy of the name.
            let name = if name.len() <= COPY_MAX {
                name
            } else {
                String::new()
            };
            traits.names.push(name);
        }
        self.traits.push(traits.clone());
        Ok(traits)
    }

    /// Named values up to an empty name.
    fn named(&mut self, reader: &mut Reader<'_>) -> Result<Vec<(String, Value)>, AmfError> {
        let mut named = Vec::new();
        loop {
            let name = self.string(reader)?;
            if name.is_empty() {
                return Ok(named);
            }
            named.push((name, self.value(reader)?));
        }
    }
}

/// U29: up to four bytes, seven bits each, the fourth with eight.
fn number(reader: &mut Reader<'_>) -> Result<u32, AmfError> {
    let mut number = 0_u32;
    for _ in 0..3 {
        let byte = reader.u8()?;
        number = number << 7 | u32::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Ok(number << 8 | u32::from(reader.u8()?))
}

/// A name or a keyword; longer text is not repeated in commands.
const COPY_MAX: usize = 64;

const MARKER_UNDEFINED: u8 = 0x00;
const MARKER_NULL: u8 = 0x01;
const MARKER_FALSE: u8 = 0x02;
const MARKER_TRUE: u8 = 0x03;
const MARKER_INTEGER: u8 = 0x04;
const MARKER_DOUBLE: u8 = 0x05;
const MARKER_STRING: u8 = 0x06;
const MARKER_XML_DOC: u8 = 0x07;
const MARKER_DATE: u8 = 0x08;
const MARKER_ARRAY: u8 = 0x09;
const MARKER_OBJECT: u8 = 0x0a;
const MARKER_XML: u8 = 0x0b;
const MARKER_BYTES: u8 = 0x0c;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_values_and_objects_are_read() {
        let object = Value::object([("app", Value::string("truck1"))]);
        // (bytes behind the marker 0x11, value)
        for (bytes, value) in [
            (&b"\x01"[..], Value::Null),
            (b"\x03", Value::Boolean(true)),
            (b"\x04\x05", Value::Number(5.0)),
            (b"\x04\xff\xff\xff\xff", Value::Number(-1.0)),
            (b"\x05\x40\0\0\0\0\0\0\0", Value::Number(2.0)),
            (b"\x06\x07abc", Value::string("abc")),
            (b"\x0a\x0b\x01\x07app\x06\x0dtruck1\x01", object.clone()),
            (b"\x0a\x13\x01\x07app\x06\x0dtruck1", object),
            (
                b"\x09\x05\x01\x04\x01\x01",
                Value::Array(vec![Value::Number(1.0), Value::Null]),
            ),
            (
                b"\x09\x05\x01\x06\x03a\x06\x00",
                Value::Array(vec![Value::string("a"), Value::string("a")]),
            ),
        ] {
            let mut reader = Reader::new(bytes);
            assert_eq!(super::value(&mut reader), Ok(value), "{bytes:x?}");
        }
    }

    #[test]
    fn depth_is_not_the_senders_to_choose() {
        let bytes = b"\x09\x03\x01".repeat(10_000);
        assert_eq!(value(&mut Reader::new(&bytes)), Err(AmfError::TooDeep));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(prop_oneof![0..0x0du8, any::<u8>()], 0..400)) {
            let _ = value(&mut Reader::new(&bytes));
        }
    }
}
