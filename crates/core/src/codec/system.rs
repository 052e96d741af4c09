//! The values of the small tables: leases, member attributes, alarms.

use super::primitive::{CodecError, CodecErrorKind, Reader, write_bytes, write_number, write_signed};
use crate::{Alarm, AlarmKind, ClusterVersion, ClusterVersions, Lease, LeaseId, MemberAttributes, MemberId};
use alloc::vec::Vec;
use bytes::Bytes;

pub(super) const SYSTEM_VERSION: u8 = 1;

/// Appends the encoded lease to `out`.
pub fn encode_lease(lease: &Lease, out: &mut Vec<u8>) {
    out.push(SYSTEM_VERSION);
    write_signed(lease.id.get(), out);
    write_signed(lease.ttl_seconds, out);
    write_signed(lease.remaining_ttl_seconds, out);
}

/// Decodes a lease.
///
/// # Errors
/// The bytes are not those of a lease that this build knows.
pub fn decode_lease(bytes: Bytes) -> Result<Lease, CodecError> {
    decode(bytes, |reader| {
        Ok(Lease {
            id: LeaseId::new(reader.signed()?),
            ttl_seconds: reader.signed()?,
            remaining_ttl_seconds: reader.signed()?,
        })
    })
}

/// Appends the encoded attributes to `out`.
pub fn encode_member_attributes(attributes: &MemberAttributes, out: &mut Vec<u8>) {
    out.push(SYSTEM_VERSION);
    write_member_attributes(attributes, out);
}

/// Decodes attributes of a member.
///
/// # Errors
/// The bytes are not those of attributes that this build knows.
pub fn decode_member_attributes(bytes: Bytes) -> Result<MemberAttributes, CodecError> {
    decode(bytes, read_member_attributes)
}

/// Appends what is agreed on about versions, encoded, to `out`.
pub fn encode_versions(versions: ClusterVersions, out: &mut Vec<u8>) {
    out.push(SYSTEM_VERSION);
    for version in [versions.current, versions.target] {
        out.push(version.is_some().into());
        if let Some(version) = version {
            write_version(version, out);
        }
    }
}

/// Decodes what is agreed on about versions.
///
/// # Errors
/// The bytes are not those of versions that this build knows.
pub fn decode_versions(bytes: Bytes) -> Result<ClusterVersions, CodecError> {
    decode(bytes, |reader| {
        Ok(ClusterVersions { current: read_optional_version(reader)?, target: read_optional_version(reader)? })
    })
}

pub(super) fn decode<T>(
    bytes: Bytes,
    read: impl FnOnce(&mut Reader) -> Result<T, CodecError>,
) -> Result<T, CodecError> {
    let mut reader = Reader::new(bytes);
    reader.version(SYSTEM_VERSION)?;
    let value = read(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

pub(super) fn write_member_attributes(attributes: &MemberAttributes, out: &mut Vec<u8>) {
    write_bytes(attributes.name.as_bytes(), out);
    write_number(attributes.client_urls.len() as u64, out);
    for url in &attributes.client_urls {
        write_bytes(url.as_bytes(), out);
    }
    write_number(attributes.data_dir_id, out);
}

pub(super) fn read_member_attributes(reader: &mut Reader) -> Result<MemberAttributes, CodecError> {
    Ok(MemberAttributes {
        name: reader.text()?,
        client_urls: reader.list(Reader::text)?,
        data_dir_id: reader.number()?,
    })
}

pub(super) fn write_alarm(alarm: Alarm, out: &mut Vec<u8>) {
    write_number(alarm.member.get(), out);
    out.push(match alarm.kind {
        AlarmKind::NoSpace => 1,
        AlarmKind::Corrupt => 2,
    });
}

pub(super) fn read_alarm(reader: &mut Reader) -> Result<Alarm, CodecError> {
    Ok(Alarm {
        member: MemberId::new(reader.number()?),
        kind: match reader.byte()? {
            1 => AlarmKind::NoSpace,
            2 => AlarmKind::Corrupt,
            tag => return reader.unknown_tag("alarm", tag),
        },
    })
}

pub(super) fn write_version(version: ClusterVersion, out: &mut Vec<u8>) {
    write_number(version.major.into(), out);
    write_number(version.minor.into(), out);
}

pub(super) fn read_version(reader: &mut Reader) -> Result<ClusterVersion, CodecError> {
    Ok(ClusterVersion { major: read_small(reader)?, minor: read_small(reader)? })
}

fn read_optional_version(reader: &mut Reader) -> Result<Option<ClusterVersion>, CodecError> {
    match reader.byte()? {
        0 => Ok(None),
        1 => read_version(reader).map(Some),
        tag => reader.unknown_tag("version", tag),
    }
}

fn read_small(reader: &mut Reader) -> Result<u32, CodecError> {
    match u32::try_from(reader.number()?) {
        Ok(number) => Ok(number),
        Err(_) => reader.fail(CodecErrorKind::NumberTooLarge),
    }
}
