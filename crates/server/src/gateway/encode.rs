//! From a message on the wire to JSON, field by field as they come: memory follows the answer. Knows the schema, no
//! message by name.
//!
//! As in etcd's gateway: names as in the `.proto` file, 64-bit numbers as strings, enumerations by name, base64, zeros
//! left out, and of texts the characters escaped that HTML would read.

use super::schema::{Field, Kind, MessageId, SCHEMA};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::encoding::{WireType, decode_key, decode_varint};
use std::fmt::Write;

/// Appends the JSON of a message. What the server itself has encoded is sound; of anything else, what is sound is shown.
pub fn message(id: MessageId, wire: &[u8], out: &mut String) {
    out.push('{');
    let mut previous: Option<u32> = None;
    let mut rest = wire;
    while let Some((number, value)) = next(&mut rest) {
        let Some(field) = SCHEMA.message(id).field(number) else { continue };
        // Elements of a list come one after the other.
        let continues = field.repeated && previous == Some(number);
        if continues {
            // Over the bracket that closed it.
            out.pop();
            out.push(',');
        } else {
            if previous.is_some() {
                out.push(',');
            }
            quoted(&field.name, out);
            out.push_str(if field.repeated { ":[" } else { ":" });
        }
        single(field, value, out);
        if field.repeated {
            out.push(']');
        }
        previous = Some(number);
    }
    out.push('}');
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn next<'a>(wire: &mut &'a [u8]) -> Option<(u32, Wire<'a>)> {
    if wire.is_empty() {
        return None;
    }
    let (number, wire_type) = decode_key(wire).ok()?;
    let value = match wire_type {
        WireType::Varint => Wire::Number(decode_varint(wire).ok()?),
        WireType::LengthDelimited => {
            let length = usize::try_from(decode_varint(wire).ok()?).ok()?;
            let (content, rest) = wire.split_at_checked(length)?;
            *wire = rest;
            Wire::Bytes(content)
        }
        // The API has no such field.
        WireType::SixtyFourBit | WireType::ThirtyTwoBit | WireType::StartGroup | WireType::EndGroup => return None,
    };
    Some((number, value))
}

fn single(field: &Field, value: Wire<'_>, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = match (&field.kind, value) {
        (Kind::Bool, Wire::Number(number)) => write!(out, "{}", number != 0),
        (Kind::Int64, Wire::Number(number)) => write!(out, "\"{}\"", number.cast_signed()),
        (Kind::Uint64, Wire::Number(number)) => write!(out, "\"{number}\""),
        // Negative ones take ten bytes on the wire; their low half is the number.
        (Kind::Int32, Wire::Number(number)) => write!(out, "{}", (number as u32).cast_signed()),
        (Kind::Uint32, Wire::Number(number)) => write!(out, "{}", number as u32),
        (Kind::Enum(names), Wire::Number(number)) => {
            let number = (number as u32).cast_signed();
            match names.value_name(number) {
                Some(name) => write!(out, "\"{name}\""),
                None => write!(out, "{number}"),
            }
        }
        (Kind::String, Wire::Bytes(text)) => {
            quoted(&String::from_utf8_lossy(text), out);
            Ok(())
        }
        (Kind::Bytes, Wire::Bytes(content)) => {
            out.push('"');
            STANDARD.encode_string(content, out);
            out.push('"');
            Ok(())
        }
        (Kind::Message(id), Wire::Bytes(content)) => {
            message(*id, content, out);
            Ok(())
        }
        // The server encodes by the same descriptors.
        (Kind::Bool | Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 | Kind::Enum(_), Wire::Bytes(_))
        | (Kind::String | Kind::Bytes | Kind::Message(_), Wire::Number(_)) => {
            out.push_str("null");
            Ok(())
        }
    };
}

/// Appends a text in quotes, escaped as by Go's `encoding/json`.
pub fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..=' ' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if character != ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}
