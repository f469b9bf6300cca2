//! Conversion between MessagePack and JSON, lossless or refused.

use rmp::Marker;
use serde_json::{Map, Number, Value};

use super::{
    Reader, write_array_len, write_bool, write_f64, write_i64, write_map_len, write_nil, write_str,
    write_u64,
};
use crate::limits::VALUE_DEPTH_MAX;

/// Converts one MessagePack value to JSON. `None` if JSON cannot represent it: `bin`, `ext`, keys
/// that are not text or not unique, numbers that are not finite, bytes after the value, no value,
/// nesting deeper than [`VALUE_DEPTH_MAX`].
pub fn to_json(bytes: &[u8]) -> Option<Value> {
    let mut reader = Reader::new(bytes);
    let value = read_json(&mut reader, VALUE_DEPTH_MAX)?;
    reader.rest().is_empty().then_some(value)
}

fn read_json(reader: &mut Reader<'_>, depth_left: usize) -> Option<Value> {
    match reader.peek().ok()? {
        Marker::Null => reader.take_nil().ok().map(|_| Value::Null),
        Marker::False | Marker::True => reader.bool().ok().map(Value::Bool),
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
            reader.str().ok().map(Value::from)
        }
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
            read_json_array(reader, depth_left.checked_sub(1)?)
        }
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
            read_json_object(reader, depth_left.checked_sub(1)?)
        }
        _ => read_json_number(reader).map(Value::Number),
    }
}

fn read_json_number(reader: &mut Reader<'_>) -> Option<Number> {
    match reader.peek().ok()? {
        Marker::F32 => Number::from_f64(f64::from(reader.f32().ok()?)),
        Marker::F64 => {
            reader.marker().ok()?;
            Number::from_f64(f64::from_be_bytes(reader.fixed().ok()?))
        }
        Marker::FixPos(_) | Marker::U8 | Marker::U16 | Marker::U32 | Marker::U64 => {
            reader.u64().ok().map(Number::from)
        }
        _ => reader.i64().ok().map(Number::from),
    }
}

fn read_json_array(reader: &mut Reader<'_>, depth_left: usize) -> Option<Value> {
    let len = reader.array_len().ok()?;
    let mut items = Vec::new();
    for _ in 0..len {
        items.push(read_json(reader, depth_left)?);
    }
    Some(Value::Array(items))
}

fn read_json_object(reader: &mut Reader<'_>, depth_left: usize) -> Option<Value> {
    let len = reader.map_len().ok()?;
    let mut object = Map::new();
    for _ in 0..len {
        let key = reader.str().ok()?.to_owned();
        let value = read_json(reader, depth_left)?;
        if object.insert(key, value).is_some() {
            return None;
        }
    }
    Some(Value::Object(object))
}

/// Appends a JSON value as MessagePack: integers in the shortest form, other numbers as doubles.
/// `None`, and nothing appended, for nesting deeper than [`VALUE_DEPTH_MAX`].
pub fn from_json(value: &Value, out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    let written = write_json(value, out, VALUE_DEPTH_MAX);
    if written.is_none() {
        out.truncate(start);
    }
    written
}

fn write_json(value: &Value, out: &mut Vec<u8>, depth_left: usize) -> Option<()> {
    match value {
        Value::Null => write_nil(out),
        Value::Bool(value) => write_bool(out, *value),
        Value::Number(number) => write_json_number(number, out)?,
        Value::String(text) => write_str(out, text),
        Value::Array(items) => {
            let depth_left = depth_left.checked_sub(1)?;
            write_array_len(out, items.len());
            items.iter().try_for_each(|item| write_json(item, out, depth_left))?;
        }
        Value::Object(object) => {
            let depth_left = depth_left.checked_sub(1)?;
            write_map_len(out, object.len());
            for (key, value) in object {
                write_str(out, key);
                write_json(value, out, depth_left)?;
            }
        }
    }
    Some(())
}

fn write_json_number(number: &Number, out: &mut Vec<u8>) -> Option<()> {
    if let Some(value) = number.as_u64() {
        write_u64(out, value);
    } else if let Some(value) = number.as_i64() {
        write_i64(out, value);
    } else {
        write_f64(out, number.as_f64()?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_read_up_to_the_depth_limit() {
        let nested = |depth: usize| [vec![0x91; depth], vec![0xc0]].concat();
        assert!(to_json(&nested(VALUE_DEPTH_MAX)).is_some());
        assert!(to_json(&nested(VALUE_DEPTH_MAX + 1)).is_none());
    }

    #[test]
    fn json_round_trips_without_loss() {
        let value = json!({
            "cursor": {"x": 1, "y": -7, "z": 0.5}, "big": u64::MAX, "small": i64::MIN,
            "list": [null, true, "ü", []],
        });
        let mut bytes = Vec::new();
        assert_eq!(from_json(&value, &mut bytes), Some(()));
        assert_eq!(to_json(&bytes), Some(value));
    }

    #[test]
    fn values_that_json_cannot_represent_are_refused() {
        let refused: [&[u8]; 9] = [
            &[],
            &[0xc0, 0xc0],
            &[0xc4, 1, 0],
            &[0xd4, 1, 0],
            &[0xc1],
            &[0x81, 1, 1],
            &[0x82, 0xa1, b'k', 1, 0xa1, b'k', 2],
            &[0xca, 0x7f, 0xc0, 0, 0],
            &[0xa1, 0xff],
        ];
        for bytes in refused {
            assert_eq!(to_json(bytes), None, "{bytes:x?}");
        }
    }

    #[test]
    fn json_above_the_depth_limit_appends_nothing() {
        let mut value = json!(1);
        for _ in 0..=VALUE_DEPTH_MAX {
            value = json!([value]);
        }
        let mut out = vec![7];
        assert_eq!(from_json(&value, &mut out), None);
        assert_eq!(out, [7]);
    }
}
