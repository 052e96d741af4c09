//! Commands, transactions and their ops.

use super::auth::{read_auth_command, write_auth_command};
use super::primitive::{CodecError, CodecErrorKind, Reader, write_bytes, write_number, write_revision, write_signed};
use super::system::{
    read_alarm, read_member_attributes, read_version, write_alarm, write_member_attributes, write_version,
};
use crate::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, LeaseId, MemberId, Op, Put, RangeRequest,
    SortOrder, SortTarget, TXN_DEPTH_MAX, Txn,
};
use alloc::vec::Vec;

const COMMAND_TXN: u8 = 1;
const COMMAND_COMPACT: u8 = 2;
const COMMAND_LEASE_GRANT: u8 = 3;
const COMMAND_LEASE_REVOKE: u8 = 4;
const COMMAND_LEASE_CHECKPOINT: u8 = 5;
const COMMAND_MEMBER_PUBLISH: u8 = 6;
const COMMAND_MEMBER_FORGET: u8 = 7;
const COMMAND_ALARM_ACTIVATE: u8 = 8;
const COMMAND_ALARM_DEACTIVATE: u8 = 9;
const COMMAND_CLUSTER_VERSION_SET: u8 = 10;
const COMMAND_DOWNGRADE_ENABLE: u8 = 11;
const COMMAND_DOWNGRADE_CANCEL: u8 = 12;
const COMMAND_AUTH: u8 = 13;

pub(super) fn write_command(command: &Command, out: &mut Vec<u8>) {
    match command {
        Command::Txn(txn) => {
            out.push(COMMAND_TXN);
            write_txn(txn, out);
        }
        Command::Compact { revision } => {
            out.push(COMMAND_COMPACT);
            write_revision(*revision, out);
        }
        Command::LeaseGrant { id, ttl_seconds } => {
            out.push(COMMAND_LEASE_GRANT);
            write_signed(id.get(), out);
            write_signed(*ttl_seconds, out);
        }
        Command::LeaseRevoke { id } => {
            out.push(COMMAND_LEASE_REVOKE);
            write_signed(id.get(), out);
        }
        Command::LeaseCheckpoint { remaining } => {
            out.push(COMMAND_LEASE_CHECKPOINT);
            write_number(remaining.len() as u64, out);
            for (id, remaining_seconds) in remaining {
                write_signed(id.get(), out);
                write_signed(*remaining_seconds, out);
            }
        }
        Command::MemberPublish { member, attributes } => {
            out.push(COMMAND_MEMBER_PUBLISH);
            write_number(member.get(), out);
            write_member_attributes(attributes, out);
        }
        Command::MemberForget { member } => {
            out.push(COMMAND_MEMBER_FORGET);
            write_number(member.get(), out);
        }
        Command::AlarmActivate(alarm) => {
            out.push(COMMAND_ALARM_ACTIVATE);
            write_alarm(*alarm, out);
        }
        Command::AlarmDeactivate(alarm) => {
            out.push(COMMAND_ALARM_DEACTIVATE);
            write_alarm(*alarm, out);
        }
        Command::ClusterVersionSet(version) => {
            out.push(COMMAND_CLUSTER_VERSION_SET);
            write_version(*version, out);
        }
        Command::DowngradeEnable(target) => {
            out.push(COMMAND_DOWNGRADE_ENABLE);
            write_version(*target, out);
        }
        Command::DowngradeCancel => out.push(COMMAND_DOWNGRADE_CANCEL),
        Command::Auth(command) => {
            out.push(COMMAND_AUTH);
            write_auth_command(command, out);
        }
    }
}

pub(super) fn read_command(reader: &mut Reader) -> Result<Command, CodecError> {
    Ok(match reader.byte()? {
        COMMAND_TXN => Command::Txn(read_txn(reader, TXN_DEPTH_MAX)?),
        COMMAND_COMPACT => Command::Compact { revision: reader.revision()? },
        COMMAND_LEASE_GRANT => {
            Command::LeaseGrant { id: LeaseId::new(reader.signed()?), ttl_seconds: reader.signed()? }
        }
        COMMAND_LEASE_REVOKE => Command::LeaseRevoke { id: LeaseId::new(reader.signed()?) },
        COMMAND_LEASE_CHECKPOINT => Command::LeaseCheckpoint {
            remaining: reader.list(|reader| Ok((LeaseId::new(reader.signed()?), reader.signed()?)))?,
        },
        COMMAND_MEMBER_PUBLISH => Command::MemberPublish {
            member: MemberId::new(reader.number()?),
            attributes: read_member_attributes(reader)?,
        },
        COMMAND_MEMBER_FORGET => Command::MemberForget { member: MemberId::new(reader.number()?) },
        COMMAND_ALARM_ACTIVATE => Command::AlarmActivate(read_alarm(reader)?),
        COMMAND_ALARM_DEACTIVATE => Command::AlarmDeactivate(read_alarm(reader)?),
        COMMAND_CLUSTER_VERSION_SET => Command::ClusterVersionSet(read_version(reader)?),
        COMMAND_DOWNGRADE_ENABLE => Command::DowngradeEnable(read_version(reader)?),
        COMMAND_DOWNGRADE_CANCEL => Command::DowngradeCancel,
        COMMAND_AUTH => Command::Auth(read_auth_command(reader)?),
        tag => return reader.unknown_tag("command", tag),
    })
}

fn write_txn(txn: &Txn, out: &mut Vec<u8>) {
    write_number(txn.compares.len() as u64, out);
    for compare in &txn.compares {
        write_compare(compare, out);
    }
    for branch in [&txn.success, &txn.failure] {
        write_number(branch.len() as u64, out);
        for op in branch {
            write_op(op, out);
        }
    }
}

fn read_txn(reader: &mut Reader, depth_left: usize) -> Result<Txn, CodecError> {
    let Some(depth_left) = depth_left.checked_sub(1) else { return reader.fail(CodecErrorKind::TooDeep) };
    Ok(Txn {
        compares: reader.list(read_compare)?,
        success: reader.list(|reader| read_op(reader, depth_left))?,
        failure: reader.list(|reader| read_op(reader, depth_left))?,
    })
}

const OP_RANGE: u8 = 1;
const OP_PUT: u8 = 2;
const OP_DELETE_RANGE: u8 = 3;
const OP_TXN: u8 = 4;

fn write_op(op: &Op, out: &mut Vec<u8>) {
    match op {
        Op::Range(request) => {
            out.push(OP_RANGE);
            write_range_request(request, out);
        }
        Op::Put(put) => {
            out.push(OP_PUT);
            write_put(put, out);
        }
        Op::DeleteRange(delete) => {
            out.push(OP_DELETE_RANGE);
            write_flags([delete.prev_kv], out);
            write_key_range(&delete.range, out);
        }
        Op::Txn(txn) => {
            out.push(OP_TXN);
            write_txn(txn, out);
        }
    }
}

fn read_op(reader: &mut Reader, depth_left: usize) -> Result<Op, CodecError> {
    Ok(match reader.byte()? {
        OP_RANGE => Op::Range(read_range_request(reader)?),
        OP_PUT => Op::Put(read_put(reader)?),
        OP_DELETE_RANGE => {
            let [prev_kv] = read_flags(reader, "delete flags")?;
            Op::DeleteRange(DeleteRange { range: read_key_range(reader)?, prev_kv })
        }
        OP_TXN => Op::Txn(read_txn(reader, depth_left)?),
        tag => return reader.unknown_tag("op", tag),
    })
}

fn write_put(put: &Put, out: &mut Vec<u8>) {
    write_flags([put.prev_kv, put.ignore_value, put.ignore_lease], out);
    write_bytes(&put.key, out);
    write_bytes(&put.value, out);
    write_signed(put.lease.get(), out);
}

fn read_put(reader: &mut Reader) -> Result<Put, CodecError> {
    let [prev_kv, ignore_value, ignore_lease] = read_flags(reader, "put flags")?;
    Ok(Put {
        key: reader.bytes()?,
        value: reader.bytes()?,
        lease: LeaseId::new(reader.signed()?),
        prev_kv,
        ignore_value,
        ignore_lease,
    })
}

fn write_range_request(request: &RangeRequest, out: &mut Vec<u8>) {
    write_flags([request.serializable, request.keys_only, request.count_only], out);
    write_key_range(&request.range, out);
    write_signed(request.limit, out);
    write_revision(request.revision, out);
    out.push(match request.sort_order {
        SortOrder::None => 0,
        SortOrder::Ascend => 1,
        SortOrder::Descend => 2,
    });
    out.push(match request.sort_target {
        SortTarget::Key => 0,
        SortTarget::Version => 1,
        SortTarget::Create => 2,
        SortTarget::Mod => 3,
        SortTarget::Value => 4,
    });
    write_revision(request.min_mod_revision, out);
    write_revision(request.max_mod_revision, out);
    write_revision(request.min_create_revision, out);
    write_revision(request.max_create_revision, out);
}

fn read_range_request(reader: &mut Reader) -> Result<RangeRequest, CodecError> {
    let [serializable, keys_only, count_only] = read_flags(reader, "range flags")?;
    Ok(RangeRequest {
        range: read_key_range(reader)?,
        limit: reader.signed()?,
        revision: reader.revision()?,
        sort_order: match reader.byte()? {
            0 => SortOrder::None,
            1 => SortOrder::Ascend,
            2 => SortOrder::Descend,
            tag => return reader.unknown_tag("sort order", tag),
        },
        sort_target: match reader.byte()? {
            0 => SortTarget::Key,
            1 => SortTarget::Version,
            2 => SortTarget::Create,
            3 => SortTarget::Mod,
            4 => SortTarget::Value,
            tag => return reader.unknown_tag("sort target", tag),
        },
        serializable,
        keys_only,
        count_only,
        min_mod_revision: reader.revision()?,
        max_mod_revision: reader.revision()?,
        min_create_revision: reader.revision()?,
        max_create_revision: reader.revision()?,
    })
}

const RANGE_SINGLE: u8 = 0;
const RANGE_INTERVAL: u8 = 1;
const RANGE_FROM: u8 = 2;

pub(super) fn write_key_range(range: &KeyRange, out: &mut Vec<u8>) {
    match range {
        KeyRange::Single(key) => {
            out.push(RANGE_SINGLE);
            write_bytes(key, out);
        }
        KeyRange::Interval { start, end } => {
            out.push(RANGE_INTERVAL);
            write_bytes(start, out);
            write_bytes(end, out);
        }
        KeyRange::From { start } => {
            out.push(RANGE_FROM);
            write_bytes(start, out);
        }
    }
}

pub(super) fn read_key_range(reader: &mut Reader) -> Result<KeyRange, CodecError> {
    Ok(match reader.byte()? {
        RANGE_SINGLE => KeyRange::Single(reader.bytes()?),
        RANGE_INTERVAL => KeyRange::Interval { start: reader.bytes()?, end: reader.bytes()? },
        RANGE_FROM => KeyRange::From { start: reader.bytes()? },
        tag => return reader.unknown_tag("key range", tag),
    })
}

const TARGET_VERSION: u8 = 0;
const TARGET_CREATE: u8 = 1;
const TARGET_MOD: u8 = 2;
const TARGET_VALUE: u8 = 3;
const TARGET_LEASE: u8 = 4;

fn write_compare(compare: &Compare, out: &mut Vec<u8>) {
    write_key_range(&compare.range, out);
    out.push(match compare.result {
        CompareResult::Equal => 0,
        CompareResult::Greater => 1,
        CompareResult::Less => 2,
        CompareResult::NotEqual => 3,
    });
    match &compare.target {
        CompareTarget::Version(version) => {
            out.push(TARGET_VERSION);
            write_signed(*version, out);
        }
        CompareTarget::Create(revision) => {
            out.push(TARGET_CREATE);
            write_revision(*revision, out);
        }
        CompareTarget::Mod(revision) => {
            out.push(TARGET_MOD);
            write_revision(*revision, out);
        }
        CompareTarget::Value(value) => {
            out.push(TARGET_VALUE);
            write_bytes(value, out);
        }
        CompareTarget::Lease(lease) => {
            out.push(TARGET_LEASE);
            write_signed(lease.get(), out);
        }
    }
}

fn read_compare(reader: &mut Reader) -> Result<Compare, CodecError> {
    Ok(Compare {
        range: read_key_range(reader)?,
        result: match reader.byte()? {
            0 => CompareResult::Equal,
            1 => CompareResult::Greater,
            2 => CompareResult::Less,
            3 => CompareResult::NotEqual,
            tag => return reader.unknown_tag("compare result", tag),
        },
        target: match reader.byte()? {
            TARGET_VERSION => CompareTarget::Version(reader.signed()?),
            TARGET_CREATE => CompareTarget::Create(reader.revision()?),
            TARGET_MOD => CompareTarget::Mod(reader.revision()?),
            TARGET_VALUE => CompareTarget::Value(reader.bytes()?),
            TARGET_LEASE => CompareTarget::Lease(LeaseId::new(reader.signed()?)),
            tag => return reader.unknown_tag("compare target", tag),
        },
    })
}

/// Flags are one byte, the first flag in the lowest bit.
fn write_flags<const N: usize>(flags: [bool; N], out: &mut Vec<u8>) {
    out.push(flags.iter().rev().fold(0, |byte, &flag| byte << 1 | u8::from(flag)));
}

fn read_flags<const N: usize>(reader: &mut Reader, what: &'static str) -> Result<[bool; N], CodecError> {
    let byte = reader.byte()?;
    if byte >> N != 0 {
        return reader.unknown_tag(what, byte);
    }
    Ok(core::array::from_fn(|bit| byte >> bit & 1 == 1))
}
