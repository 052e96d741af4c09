//! From JSON to a message on the wire. No tree is built: memory follows the text. Knows the schema, no message by name.
//!
//! As in etcd's gateway: fields by either of their names, 64-bit numbers also as strings, names or numbers of
//! enumerations, `null` for what is not given, unknown fields ignored; bytes in base64, also as URLs have it and without padding,
//! or as an array of numbers.
//! Errors have the words of Go's `jsonpb`.

use super::scanner::{self, Failure, Kind as Json};
use super::schema::{Enum, Field, Kind, MessageId, SCHEMA};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::encoding::{WireType, encode_key, encode_varint};
use std::borrow::Cow;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Appends the message that a sound JSON value describes.
///
/// # Errors
/// Go's text.
pub fn message(id: MessageId, json: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    match Json::of(json) {
        Json::Null => return Ok(()),
        Json::Object => {}
        other => return Err(wrong_type(other, "map[string]json.RawMessage")),
    }
    let fields = &SCHEMA.message(id).fields;
    // Both names may be given; as in Go the one in camel case counts then, and of a name the last.
    let mut values: Vec<[Option<&[u8]>; 2]> = vec![[None; 2]; fields.len()];
    scanner::members(json, |name, value| {
        if let Some(place) = fields.iter().position(|field| field.name == name) {
            values[place][0] = Some(value);
        }
        if let Some(place) = fields.iter().position(|field| field.json_name == name) {
            values[place][1] = Some(value);
        }
    });
    for (field, [by_name, by_json_name]) in fields.iter().zip(values) {
        match by_json_name.or(by_name) {
            Some(value) if Json::of(value) != Json::Null => field_values(field, value, out)?,
            Some(_) | None => {}
        }
    }
    Ok(())
}

fn field_values(field: &Field, json: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    if !field.repeated {
        return value(field, json, field.presence, out);
    }
    match Json::of(json) {
        // Every element is there, also a zero.
        Json::Array => scanner::elements(json, |element| value(field, element, true, out)),
        other => Err(wrong_type(other, "[]json.RawMessage")),
    }
}

/// Appends one value; a zero only if `always`.
fn value(field: &Field, json: &[u8], always: bool, out: &mut Vec<u8>) -> Result<(), String> {
    let number = match &field.kind {
        Kind::Bool => u64::from(boolean(json)?),
        Kind::Int32 => (integer::<i32>(trim_quotes(json), "int32")?.unwrap_or(0) as i64).cast_unsigned(),
        Kind::Int64 => integer::<i64>(trim_quotes(json), "int64")?.unwrap_or(0).cast_unsigned(),
        Kind::Uint32 => u64::from(integer::<u32>(trim_quotes(json), "uint32")?.unwrap_or(0)),
        Kind::Uint64 => integer::<u64>(trim_quotes(json), "uint64")?.unwrap_or(0),
        Kind::Enum(names) => i64::from(enumerated(names, json)?).cast_unsigned(),
        Kind::String => {
            length_delimited(field.number, string(json)?.as_bytes(), always, out);
            return Ok(());
        }
        Kind::Bytes => {
            length_delimited(field.number, &bytes(json)?, always, out);
            return Ok(());
        }
        Kind::Message(id) => return nested(field.number, *id, json, out),
    };
    if number != 0 || always {
        encode_key(field.number, WireType::Varint, out);
        encode_varint(number, out);
    }
    Ok(())
}

fn nested(number: u32, id: MessageId, json: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    encode_key(number, WireType::LengthDelimited, out);
    let start = out.len();
    message(id, json, out)?;
    // The length is known now, and belongs in front.
    let mut length = Vec::new();
    encode_varint((out.len() - start) as u64, &mut length);
    out.splice(start..start, length);
    Ok(())
}

fn length_delimited(number: u32, content: &[u8], always: bool, out: &mut Vec<u8>) {
    if content.is_empty() && !always {
        return;
    }
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

fn wrong_type(found: Json, wanted: &str) -> String {
    format!("json: cannot unmarshal {} into Go value of type {wanted}", found.name())
}

fn boolean(json: &[u8]) -> Result<bool, String> {
    match Json::of(json) {
        Json::Null => Ok(false),
        Json::Bool => Ok(json == b"true"),
        other => Err(wrong_type(other, "bool")),
    }
}

fn trim_quotes(json: &[u8]) -> &[u8] {
    json.strip_prefix(b"\"").and_then(|json| json.strip_suffix(b"\"")).unwrap_or(json)
}

/// A number; what was in a string is read as JSON of its own. `None` for `null`.
fn integer<T: std::str::FromStr>(json: &[u8], wanted: &str) -> Result<Option<T>, String> {
    let json = scanner::only_value(json).map_err(|failure| match failure {
        Failure::End => "unexpected end of JSON input".to_owned(),
        Failure::Syntax(text) => text,
    })?;
    match Json::of(json) {
        Json::Null => Ok(None),
        Json::Number => {
            let digits = String::from_utf8_lossy(json);
            let number = digits.parse().map(Some);
            number.map_err(|_| format!("json: cannot unmarshal number {digits} into Go value of type {wanted}"))
        }
        other => Err(wrong_type(other, wanted)),
    }
}

fn enumerated(names: &Enum, json: &[u8]) -> Result<i32, String> {
    if Json::of(json) != Json::String {
        return Ok(integer::<i32>(json, "protoreflect.EnumNumber")?.unwrap_or(0));
    }
    let known = std::str::from_utf8(trim_quotes(json)).ok().and_then(|name| names.number(name));
    known.ok_or_else(|| {
        // Go quotes the JSON text.
        let quoted = String::from_utf8_lossy(json).replace('\\', "\\\\").replace('"', "\\\"");
        format!("unknown value \"{quoted}\" for enum {}", names.name)
    })
}

fn string(json: &[u8]) -> Result<Cow<'_, str>, String> {
    match Json::of(json) {
        Json::Null => Ok(Cow::Borrowed("")),
        Json::String => Ok(scanner::unquote(json)),
        other => Err(wrong_type(other, "string")),
    }
}

fn bytes(json: &[u8]) -> Result<Vec<u8>, String> {
    use base64::DecodeError::{InvalidByte, InvalidLastSymbol, InvalidLength, InvalidPadding};
    let mut text = match Json::of(json) {
        Json::Null => return Ok(Vec::new()),
        Json::String => scanner::unquote(json).into_owned().into_bytes(),
        Json::Array => return byte_array(json),
        other => return Err(wrong_type(other, "[]uint8")),
    };
    // Go skips line ends, and knows two alphabets.
    text.retain(|byte| !matches!(byte, b'\r' | b'\n'));
    for byte in &mut text {
        match byte {
            b'-' => *byte = b'+',
            b'_' => *byte = b'/',
            _ => {}
        }
    }
    BASE64.decode(&text).map_err(|error| {
        let place = match error {
            InvalidByte(place, _) | InvalidLastSymbol(place, _) => place,
            InvalidLength(length) => length - length % 4,
            InvalidPadding => text.len(),
        };
        format!("illegal base64 data at input byte {place}")
    })
}

/// Bytes as Go's `encoding/json` takes them beside base64: one number for each.
fn byte_array(json: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    scanner::elements(json, |element| {
        bytes.push(integer::<u8>(element, "uint8")?.unwrap_or(0));
        Ok(())
    })?;
    Ok(bytes)
}
