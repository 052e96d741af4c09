//! What is refused before it is proposed.

use super::samples::Samples;
use super::script::check;
use crate::{
    DeleteRange, KeyRange, Op, Put, RangeRequest, Rejection, Revision, SortOrder, SortTarget, TXN_DEPTH_MAX, Txn,
    check_delete, check_put, check_range, check_txn,
};
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use expect_test::expect;
use proptest::collection::vec as vec_of;
use proptest::prelude::*;

fn put(key: u8) -> Op {
    Op::Put(Put { key: Bytes::copy_from_slice(&[key]), ..Put::default() })
}

fn puts(count: u8) -> Vec<Op> {
    (1..=count).map(put).collect()
}

#[test]
fn a_key_is_written_once() {
    check(
        "txn then { put a 1; put a 2 }; txn then { put a 1 } else { put b 1; put b 2 }; txn then { put a 1; del a };
         txn then { del a..c; put b 1 }; txn then { put c 1; del a..c }; txn then { del a..b; del b..c; put b 2 };
         txn then { del a; del a; del a..c; del b..d }; txn then { del c..a; put b 1 };
         txn then { del a..e; del b..c; put d 1 }; txn then { put b 1 } else { put b 2 }",
        expect![[r#"
            1 refused: etcdserver: duplicate key given in txn request
            1 refused: etcdserver: duplicate key given in txn request
            1 refused: etcdserver: duplicate key given in txn request
            1 refused: etcdserver: duplicate key given in txn request
            2 then {put@2; del@2 0 []}
            2 refused: etcdserver: duplicate key given in txn request
            3 then {del@2 0 []; del@2 0 []; del@2 0 []; del@3 1 []}
            4 then {del@3 0 []; put@4}
            4 refused: etcdserver: duplicate key given in txn request
            5 put@5
        "#]],
    );
}

#[test]
fn a_key_is_written_once_across_nested_txns() {
    check(
        "txn then { put a 1; txn then { put a 2 } }; txn then { txn then { put a 1 } else { put a 2 } };
         txn then { txn then { put a 1 }; txn then { put a 2 } }; txn then { txn then { put a 1 }; txn else { put a 2 } };
         txn then { del a; txn then { put a 1 } }; txn then { put a 1; txn then { del a..b } };
         txn then { txn then { del a }; txn then { put a 1 } }; txn then { txn then { put a 1 }; txn then { del a } };
         txn then { txn then { del a } else { put a 1 } }; txn then { txn then { txn then { put a 1 } }; put a 2 };
         txn then { txn then { put a 1; put a 2 } }; txn then { txn else { del a; put a 2 } }",
        expect![[r#"
            1 refused: etcdserver: duplicate key given in txn request
            2 then {put@2}
            2 refused: etcdserver: duplicate key given in txn request
            2 refused: etcdserver: duplicate key given in txn request
            2 refused: etcdserver: duplicate key given in txn request
            2 refused: etcdserver: duplicate key given in txn request
            2 refused: etcdserver: duplicate key given in txn request
            3 then {then {put@3}; then {del@3 1 []}}
            3 then {del@3 0 []}
            3 refused: etcdserver: duplicate key given in txn request
            3 refused: etcdserver: duplicate key given in txn request
            3 refused: etcdserver: duplicate key given in txn request
        "#]],
    );
}

#[test]
fn an_open_ended_delete_collides_with_nothing() {
    check(
        "put c 0; txn then { put b 1; del a.. }; range ..; txn then { del ..; put b 1 }; range ..",
        expect![[r#"
        2 put@2
        3 then {put@3; del@3 2 []}
        3 range [] count=0
        4 then {del@3 0 []; put@4}
        4 range [b=1 c4 m4 v1] count=1
    "#]],
    );
}

#[test]
fn empty_keys_and_bad_options_are_found_in_order() {
    check(
        "range \"\"; txn if ver(\"\")=0 then { put \"\" 1 }; txn then { put a 1 ignore_value; put \"\" 1 };
         txn then { put a 1; put a 1; del \"\" }; txn then { range \"\" }; txn then { txn then { del \"\" } };
         txn else { put a \"\" ignore_lease lease=1 }",
        expect![[r#"
            1 refused: etcdserver: key is not provided
            1 refused: etcdserver: key is not provided
            1 refused: etcdserver: value is provided
            1 refused: etcdserver: key is not provided
            1 refused: etcdserver: key is not provided
            1 refused: etcdserver: key is not provided
            1 refused: etcdserver: lease is provided
        "#]],
    );
}

#[test]
fn lists_are_bounded_and_nested_ones_get_what_is_left() {
    let nested = |outer: u8, inner: u8| {
        let mut success = puts(outer - 1);
        success.push(Op::Txn(Txn { failure: (100..100 + inner).map(put).collect(), ..Txn::default() }));
        Txn { success, ..Txn::default() }
    };
    assert_eq!(check_txn(&Txn { success: puts(8), ..Txn::default() }, 8), Ok(()));
    assert_eq!(check_txn(&Txn { failure: puts(9), ..Txn::default() }, 8), Err(Rejection::TooManyOps));
    assert_eq!(check_txn(&nested(5, 3), 8), Ok(()));
    assert_eq!(check_txn(&nested(5, 4), 8), Err(Rejection::TooManyOps));
    assert_eq!(check_txn(&nested(8, 0), 8), Ok(()));
    assert_eq!(check_txn(&nested(8, 1), 8), Err(Rejection::TooManyOps));
}

#[test]
fn depth_is_bounded() {
    let deep = |depth| (1..depth).fold(Txn::default(), |txn, _| Txn::of(Op::Txn(txn)));
    assert_eq!(check_txn(&deep(TXN_DEPTH_MAX), 1000), Ok(()));
    assert_eq!(check_txn(&deep(TXN_DEPTH_MAX + 1), 1000), Err(Rejection::TooManyOps));
}

#[test]
fn only_ranges_make_a_read() {
    let read = |serializable| {
        Op::Range(RangeRequest { serializable, ..RangeRequest::new(KeyRange::Single(Bytes::from_static(b"a"))) })
    };
    // Ops, whether they only read, whether a member's own state will do.
    for (ops, read_only, serializable) in [
        (vec![], true, true),
        (vec![read(true)], true, true),
        (vec![read(true), read(false)], true, false),
        (vec![read(true), put(1)], false, false),
        (vec![read(true), Op::Txn(Txn::default())], false, false),
    ] {
        let then = Txn { success: ops.clone(), ..Txn::default() };
        let otherwise = Txn { failure: ops, ..Txn::default() };
        assert_eq!((then.is_read_only(), then.is_serializable()), (read_only, serializable), "{then:?}");
        assert_eq!((otherwise.is_read_only(), otherwise.is_serializable()), (read_only, serializable));
    }
}

#[test]
fn sorts_and_filters_cannot_be_streamed() {
    let plain = RangeRequest::new(KeyRange::From { start: Bytes::from_static(b"\0") });
    assert!(plain.is_streamable());
    assert!(!RangeRequest { sort_order: SortOrder::Descend, ..plain.clone() }.is_streamable());
    assert!(!RangeRequest { sort_target: SortTarget::Mod, ..plain.clone() }.is_streamable());
    assert!(!RangeRequest { max_create_revision: Revision::INITIAL, ..plain }.is_streamable());
}

/// The rule for duplicate keys with lists only: what a list of ops puts and deletes, or `None` if it may not.
fn naive_writes(ops: &[Op]) -> Option<(Vec<Bytes>, Vec<KeyRange>)> {
    let mut puts: Vec<Bytes> = Vec::new();
    let mut deletes: Vec<KeyRange> = Vec::new();
    let hit = |deletes: &[KeyRange], key: &Bytes| {
        deletes.iter().any(|range| !matches!(range, KeyRange::From { .. }) && range.contains(key))
    };
    for op in ops {
        if let Op::DeleteRange(delete) = op {
            deletes.push(delete.range.clone());
        }
    }
    for op in ops {
        if let Op::Txn(nested) = op {
            let (success_puts, success_deletes) = naive_writes(&nested.success)?;
            let (failure_puts, failure_deletes) = naive_writes(&nested.failure)?;
            let before = puts.clone();
            for key in success_puts.into_iter().chain(failure_puts) {
                if before.contains(&key) || hit(&deletes, &key) {
                    return None;
                }
                puts.push(key);
            }
            deletes.extend(success_deletes);
            deletes.extend(failure_deletes);
        }
    }
    for op in ops {
        if let Op::Put(put) = op {
            if puts.contains(&put.key) || hit(&deletes, &put.key) {
                return None;
            }
            puts.push(put.key.clone());
        }
    }
    Some((puts, deletes))
}

fn first_bad_op(ops: &[Op]) -> Result<(), Rejection> {
    for op in ops {
        match op {
            Op::Range(request) => check_range(request)?,
            Op::Put(put) => check_put(put)?,
            Op::DeleteRange(delete) => check_delete(delete)?,
            Op::Txn(nested) => {
                first_bad_op(&nested.success)?;
                first_bad_op(&nested.failure)?;
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn duplicate_keys_are_found_as_by_the_naive_rule(
        success in vec_of(Samples::few().op(2), 0..5),
        failure in vec_of(Samples::few().op(1), 0..3),
    ) {
        let sound = naive_writes(&success).is_some() && naive_writes(&failure).is_some();
        let expected = first_bad_op(&success).and_then(|()| first_bad_op(&failure)).and(if sound {
            Ok(())
        } else {
            Err(Rejection::DuplicateKey)
        });
        prop_assert_eq!(check_txn(&Txn { compares: vec![], success, failure }, 128), expected);
    }

    #[test]
    fn a_put_collides_with_any_interval_around_it(intervals in vec_of((1..20u8, 1..20u8), 1..6), key in 1..20u8) {
        let bytes = |byte: u8| Bytes::copy_from_slice(&[byte]);
        let delete = |&(start, end): &(u8, u8)| {
            let range = KeyRange::Interval { start: bytes(start), end: bytes(end) };
            Op::DeleteRange(DeleteRange { range, prev_kv: false })
        };
        let collides = intervals.iter().any(|&(start, end)| start <= key && key < end);
        let success = intervals.iter().map(delete).chain([put(key)]).collect();
        let expected = if collides { Err(Rejection::DuplicateKey) } else { Ok(()) };
        prop_assert_eq!(check_txn(&Txn { success, ..Txn::default() }, 128), expected);
    }
}
