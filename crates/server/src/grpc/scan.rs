//! A look at a transaction's bytes before it is decoded. An operation takes two bytes on the wire and a hundred times that
//! in memory: without the look, one request of 2 MiB could ask for hundreds of megabytes.

use bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};

/// Messages below this many bytes cannot grow much.
const SMALL_BYTES: usize = 16 << 10;

/// How deep transactions may be nested. Decoding stops before, too.
const DEPTH_MAX: u32 = 64;

/// `TxnRequest`: compare, success, failure. `RequestOp`: request_txn.
const COMPARE: u32 = 1;
const SUCCESS: u32 = 2;
const FAILURE: u32 = 3;
const REQUEST_TXN: u32 = 4;

/// Whether a list of the encoded transaction has more than `ops_max` entries, at any depth. What is not well formed has
/// not: decoding will say so.
pub fn has_too_many_ops(txn: &[u8], ops_max: usize) -> bool {
    txn.len() > SMALL_BYTES && scan_txn(txn, ops_max, DEPTH_MAX).unwrap_or(false)
}

fn scan_txn(mut txn: &[u8], ops_max: usize, depth: u32) -> Option<bool> {
    if depth == 0 {
        return Some(true);
    }
    let mut counts = [0; 3];
    while txn.has_remaining() {
        let (field, value) = next_field(&mut txn)?;
        if !matches!(field, COMPARE | SUCCESS | FAILURE) {
            continue;
        }
        let count = &mut counts[field as usize - 1];
        *count += 1;
        if *count > ops_max {
            return Some(true);
        }
        if field != COMPARE && scan_op(value, ops_max, depth)? {
            return Some(true);
        }
    }
    Some(false)
}

fn scan_op(mut op: &[u8], ops_max: usize, depth: u32) -> Option<bool> {
    while op.has_remaining() {
        let (field, value) = next_field(&mut op)?;
        if field == REQUEST_TXN && scan_txn(value, ops_max, depth - 1)? {
            return Some(true);
        }
    }
    Some(false)
}

/// The next field and, if it is length-delimited, its content.
fn next_field<'a>(bytes: &mut &'a [u8]) -> Option<(u32, &'a [u8])> {
    let (field, wire_type) = decode_key(bytes).ok()?;
    let length = match wire_type {
        WireType::Varint => {
            decode_varint(bytes).ok()?;
            0
        }
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::LengthDelimited => usize::try_from(decode_varint(bytes).ok()?).ok()?,
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    let (value, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some((field, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use quorate_proto::etcdserverpb as pb;

    fn nested(success: Vec<pb::RequestOp>) -> pb::RequestOp {
        let txn = pb::TxnRequest { success, ..Default::default() };
        pb::RequestOp { request: Some(pb::request_op::Request::RequestTxn(txn)) }
    }

    fn put(bytes: usize) -> pb::RequestOp {
        let put = pb::PutRequest { key: "a".into(), value: vec![1; bytes].into(), ..Default::default() };
        pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
    }

    fn scan(success: Vec<pb::RequestOp>) -> bool {
        has_too_many_ops(&pb::TxnRequest { success, ..Default::default() }.encode_to_vec(), 128)
    }

    #[test]
    fn many_operations_are_found_at_any_depth_and_large_values_are_not_operations() {
        let many = vec![pb::RequestOp::default(); 10_000];
        assert!(scan(many.clone()));
        assert!(scan(vec![put(10), nested(vec![nested(many)])]));
        assert!(!scan(vec![put(1_000); 128]));
        assert!(scan(vec![put(1_000); 129]));
        assert!(!scan(vec![put(1_000_000), nested(vec![put(1_000_000)])]));
    }

    #[test]
    fn depth_is_bounded_and_nonsense_is_left_to_the_decoder() {
        let mut op = put(20_000);
        for _ in 0..80 {
            op = nested(vec![op]);
        }
        assert!(scan(vec![op]));
        assert!(!has_too_many_ops(&[0xff; 20_000], 128));
        let mut cut = pb::TxnRequest { success: vec![put(20_000)], ..Default::default() }.encode_to_vec();
        cut.truncate(18_000);
        assert!(!has_too_many_ops(&cut, 128));
    }
}
