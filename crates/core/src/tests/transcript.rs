//! The rules, one transcript each.

use super::script::check;
use crate::testing::MemoryView;
use crate::{Command, KeyRange, Op, Put, RangeCursor, RangeRequest, Rejection, Revision, Txn, range};
use alloc::vec::Vec;
use bytes::Bytes;
use expect_test::expect;

#[test]
fn revisions_count_changes() {
    check(
        "put a 1; put a 1; range a; del a; del a; range a; put a 2; range a; range a@2; range a@4; range a@9; history",
        expect![[r#"
            2 put@2
            3 put@3
            3 range [a=1 c2 m3 v2] count=1
            4 del@4 1 []
            4 del@4 0 []
            4 range [] count=0
            5 put@5
            5 range [a=2 c5 m5 v1] count=1
            5 range [a=1 c2 m2 v1] count=1
            5 range [] count=0
            5 rejected: etcdserver: mvcc: required revision is a future revision
            5 [2.0 put a=1, 3.0 put a=1 replaces 2.0, 4.0 del a replaces 3.0, 5.0 put a=2]
        "#]],
    );
}

#[test]
fn ranges_have_three_shapes() {
    check(
        "put a 1; put b 2; put c 3; range a; range a..c; range b..; range ..; range c..a; range b..b; range x",
        expect![[r#"
            2 put@2
            3 put@3
            4 put@4
            4 range [a=1 c2 m2 v1] count=1
            4 range [a=1 c2 m2 v1, b=2 c3 m3 v1] count=2
            4 range [b=2 c3 m3 v1, c=3 c4 m4 v1] count=2
            4 range [a=1 c2 m2 v1, b=2 c3 m3 v1, c=3 c4 m4 v1] count=3
            4 range [] count=0
            4 range [] count=0
            4 range [] count=0
        "#]],
    );
}

#[test]
fn limit_stops_early_and_counts_all() {
    check(
        "put a 1; put b 2; put c 3; range .. limit=2; range .. limit=3; range .. limit=-1; range .. limit=1 count;
         range a limit=1; range .. limit=1 keys",
        expect![[r#"
            2 put@2
            3 put@3
            4 put@4
            4 range [a=1 c2 m2 v1, b=2 c3 m3 v1] count=3 more
            4 range [a=1 c2 m2 v1, b=2 c3 m3 v1, c=3 c4 m4 v1] count=3
            4 range [a=1 c2 m2 v1, b=2 c3 m3 v1, c=3 c4 m4 v1] count=3
            4 range [] count=3
            4 range [a=1 c2 m2 v1] count=1
            4 range [a= c2 m2 v1] count=3 more
        "#]],
    );
}

#[test]
fn sorting_reads_all_before_the_limit() {
    check(
        "put a 3; put b 1; put c 2; put a 9;
         range .. desc=key limit=2; range .. asc=key limit=2; range .. asc=mod limit=1; range .. desc=create limit=2;
         range .. desc=ver; range .. asc=val limit=2; range .. desc=val keys",
        expect![[r#"
            2 put@2
            3 put@3
            4 put@4
            5 put@5
            5 range [c=2 c4 m4 v1, b=1 c3 m3 v1] count=3 more
            5 range [a=9 c2 m5 v2, b=1 c3 m3 v1] count=3 more
            5 range [b=1 c3 m3 v1] count=3 more
            5 range [c=2 c4 m4 v1, b=1 c3 m3 v1] count=3 more
            5 range [a=9 c2 m5 v2, b=1 c3 m3 v1, c=2 c4 m4 v1] count=3
            5 range [b=1 c3 m3 v1, c=2 c4 m4 v1] count=3 more
            5 range [a= c2 m5 v2, c= c4 m4 v1, b= c3 m3 v1] count=3
        "#]],
    );
}

#[test]
fn target_without_order_sorts_the_first_keys_only() {
    check(
        "put a 3; put b 2; put c 1; range .. by=val limit=1; range .. by=val limit=2; range .. by=val;
         range .. by=mod limit=1 min_mod=3; range .. by=key limit=1",
        expect![[r#"
            2 put@2
            3 put@3
            4 put@4
            4 range [b=2 c3 m3 v1] count=3 more
            4 range [c=1 c4 m4 v1, b=2 c3 m3 v1] count=3 more
            4 range [c=1 c4 m4 v1, b=2 c3 m3 v1, a=3 c2 m2 v1] count=3
            4 range [b=2 c3 m3 v1] count=3 more
            4 range [a=3 c2 m2 v1] count=3 more
        "#]],
    );
}

#[test]
fn filters_drop_keys_but_not_from_the_count() {
    check(
        "put a 1; put b 1; put a 2; put c 1;
         range .. min_mod=4; range .. max_mod=3; range .. min_create=3 limit=1; range .. max_create=2;
         range .. min_mod=4 max_mod=4; range .. min_mod=9",
        expect![[r#"
            2 put@2
            3 put@3
            4 put@4
            5 put@5
            5 range [a=2 c2 m4 v2, c=1 c5 m5 v1] count=3
            5 range [b=1 c3 m3 v1] count=3
            5 range [b=1 c3 m3 v1] count=3 more
            5 range [a=2 c2 m4 v2] count=3
            5 range [a=2 c2 m4 v2] count=3
            5 range [] count=3
        "#]],
    );
}

#[test]
fn keys_only_keeps_the_lease() {
    check(
        "grant 7 60; put a 1 lease=7; range a keys; range .. keys",
        expect![[r#"
        1 granted 7 ttl=60
        2 put@2
        2 range [a= c2 m2 v1 l7] count=1
        2 range [a= c2 m2 v1 l7] count=1
    "#]],
    );
}

#[test]
fn compaction_bounds_what_can_be_read() {
    check(
        "put a 1; put a 2; put b 1; del b; compact 9; compact -1; compact 0; compact 4; compact 0; compact 4; compact 3; range ..@3; range ..@4;
         range ..@-5; history; compact 5; range ..@4; range ..@5; history; put b 2; compact 6; history; restart; put b 3",
        expect![[r#"
            2 put@2
            3 put@3
            4 put@4
            5 del@5 1 []
            5 rejected: etcdserver: mvcc: required revision is a future revision
            5 rejected: etcdserver: mvcc: required revision has been compacted
            5 compacted
            5 compacted
            5 rejected: etcdserver: mvcc: required revision has been compacted
            5 rejected: etcdserver: mvcc: required revision has been compacted
            5 rejected: etcdserver: mvcc: required revision has been compacted
            5 rejected: etcdserver: mvcc: required revision has been compacted
            5 range [a=2 c2 m3 v2, b=1 c4 m4 v1] count=2
            5 range [a=2 c2 m3 v2] count=1
            5 [3.0 put a=2 replaces 2.0, 4.0 put b=1, 5.0 del b replaces 4.0]
            5 compacted
            5 rejected: etcdserver: mvcc: required revision has been compacted
            5 range [a=2 c2 m3 v2] count=1
            5 [3.0 put a=2 replaces 2.0, 5.0 del b replaces 4.0]
            6 put@6
            6 compacted
            6 [3.0 put a=2 replaces 2.0, 6.0 put b=2]
            6 restart
            7 put@7
        "#]],
    );
}

#[test]
fn put_options() {
    check(
        "put a 1 prev; put a 2 prev; put a \"\" ignore_value prev; put x \"\" ignore_value; put x 1 ignore_lease;
         put a 1 ignore_value; put a 1 ignore_lease lease=3; put \"\" 1; put a \"\"; range a",
        expect![[r#"
            2 put@2
            3 put@3 prev a=1 c2 m2 v1
            4 put@4 prev a=2 c2 m3 v2
            4 rejected: etcdserver: key not found
            4 rejected: etcdserver: key not found
            4 refused: etcdserver: value is provided
            4 refused: etcdserver: lease is provided
            4 refused: etcdserver: key is not provided
            5 put@5
            5 range [a= c2 m5 v4] count=1
        "#]],
    );
}

#[test]
fn puts_attach_and_detach_leases() {
    check(
        "put a 1 lease=7; grant 7 60; put a 1 lease=7; put b 1 lease=7; leases; put a 2; leases;
         grant 8 60; put b 2 lease=8; leases; put b 3 ignore_lease; range b; del b; leases",
        expect![[r#"
            1 rejected: etcdserver: requested lease not found
            1 granted 7 ttl=60
            2 put@2
            3 put@3
            3 [7 ttl=60 left=0 [a, b]]
            4 put@4
            4 [7 ttl=60 left=0 [b]]
            4 granted 8 ttl=60
            5 put@5
            5 [7 ttl=60 left=0 [], 8 ttl=60 left=0 [b]]
            6 put@6
            6 range [b=3 c3 m6 v3 l8] count=1
            7 del@7 1 []
            7 [7 ttl=60 left=0 [], 8 ttl=60 left=0 []]
        "#]],
    );
}

#[test]
fn lease_life() {
    check(
        "grant 7 60; grant 7 60; grant 8 9000000001; grant 8 9000000000; revoke 9; checkpoint 7 30; checkpoint 9 1; leases;
         put b 1 lease=7; put a 1 lease=7; put c 1; revoke 7; history; revoke 8; leases; put a 2 lease=7",
        expect![[r#"
            1 granted 7 ttl=60
            1 rejected: etcdserver: lease already exists
            1 rejected: etcdserver: too large lease TTL
            1 granted 8 ttl=9000000000
            1 rejected: etcdserver: requested lease not found
            1 checkpointed
            1 checkpointed
            1 [7 ttl=60 left=30 [], 8 ttl=9000000000 left=0 []]
            2 put@2
            3 put@3
            4 put@4
            5 revoked
            5 [2.0 put b=1, 3.0 put a=1, 4.0 put c=1, 5.0 del a replaces 3.0, 5.1 del b replaces 2.0]
            5 revoked
            5 []
            5 rejected: etcdserver: requested lease not found
        "#]],
    );
}

#[test]
fn delete_range() {
    check(
        "put a 1; put b 2; put c 3; del a..c prev; del a..c prev; del .. ; range ..; del \"\"; history",
        expect![[r#"
            2 put@2
            3 put@3
            4 put@4
            5 del@5 2 [a=1 c2 m2 v1, b=2 c3 m3 v1]
            5 del@5 0 []
            6 del@6 1 []
            6 range [] count=0
            6 refused: etcdserver: key is not provided
            6 [2.0 put a=1, 3.0 put b=2, 4.0 put c=3, 5.0 del a replaces 2.0, 5.1 del b replaces 3.0, 6.0 del c replaces 4.0]
        "#]],
    );
}

#[test]
fn txn_picks_a_branch() {
    check(
        "put a 1;
         txn if ver(a)=1 then { put b 1 } else { put b 2 };
         txn if ver(a)=2 then { put b 3 } else { put b 4 };
         txn if ver(a)=2 then { put b 5 };
         txn; txn if mod(a)=2 create(a)=2 val(a)=1 lease(a)=0 ver(a)>0 ver(a)<2 then { range b };
         txn if ver(a)=1 ver(b)=9 then { range a } else { range b }",
        expect![[r#"
            2 put@2
            3 put@3
            4 else {put@4}
            4 else {}
            4 then {}
            4 range@4 [b=4 c3 m4 v2] count=1
            4 else {range@4 [b=4 c3 m4 v2] count=1}
        "#]],
    );
}

#[test]
fn compares_on_missing_keys() {
    check(
        "txn if ver(x)=0 mod(x)=0 create(x)=0 lease(x)=0; txn if val(x)=1; txn if val(x)!=1; txn if val(x)=\"\";
         txn if ver(x)!=0; txn if ver(x)<1",
        expect![[r#"
            1 then {}
            1 else {}
            1 else {}
            1 else {}
            1 else {}
            1 then {}
        "#]],
    );
}

#[test]
fn compares_over_ranges() {
    check(
        "put a 1; put b 1; txn if ver(a..c)=1; txn if val(a..c)=1; put b 2; txn if ver(a..c)=1; txn if val(a..c)=1;
         txn if ver(x..z)=0; txn if val(x..z)!=1; txn if mod(a..)>1; txn if mod(c..a)=0",
        expect![[r#"
            2 put@2
            3 put@3
            3 then {}
            3 then {}
            4 put@4
            4 else {}
            4 else {}
            4 then {}
            4 else {}
            4 then {}
            4 then {}
        "#]],
    );
}

#[test]
fn ops_see_what_came_before_them() {
    check(
        "put a 1; put b 1;
         txn then { range a; put a 2 prev; range ..; del b prev; range ..; range .. count; range ..@3; put c 1; range .. limit=1 };
         history",
        expect![[r#"
            2 put@2
            3 put@3
            4 then {range@3 [a=1 c2 m2 v1] count=1; put@4 prev a=1 c2 m2 v1; range@4 [a=2 c2 m4 v2, b=1 c3 m3 v1] count=2; del@4 1 [b=1 c3 m3 v1]; range@4 [a=2 c2 m4 v2] count=1; range@4 [] count=1; range@4 [a=1 c2 m2 v1, b=1 c3 m3 v1] count=2; put@4; range@4 [a=2 c2 m4 v2] count=2 more}
            4 [2.0 put a=1, 3.0 put b=1, 4.0 put a=2 replaces 2.0, 4.1 del b replaces 3.0, 4.2 put c=1]
        "#]],
    );
}

#[test]
fn inner_headers_tell_the_revision_so_far() {
    check(
        "put a 1; txn then { del x; range a; put b 1; del x; range a }; txn then { del x; range a }",
        expect![[r#"
        2 put@2
        3 then {del@2 0 []; range@2 [a=1 c2 m2 v1] count=1; put@3; del@3 0 []; range@3 [a=1 c2 m2 v1] count=1}
        3 then {del@3 0 []; range@3 [a=1 c2 m2 v1] count=1}
    "#]],
    );
}

#[test]
fn nested_compares_look_at_the_state_before() {
    check(
        "txn then { put a 1; txn if ver(a)=0 then { put b 1 } else { put b 2 }; txn if ver(b)=0 then { put c 1 } };
         txn if ver(a)=1 then { txn if ver(x)=1 then { put d 1 } else { txn then { put e 1; range d..f } } };
         range ..; history",
        expect![[r#"
            2 then {put@2; then {put@2}; then {put@2}}
            3 else {then {put@3; range@3 [e=1 c3 m3 v1] count=1}}
            3 range [a=1 c2 m2 v1, b=1 c2 m2 v1, c=1 c2 m2 v1, e=1 c3 m3 v1] count=4
            3 [2.0 put a=1, 2.1 put b=1, 2.2 put c=1, 3.0 put e=1]
        "#]],
    );
}

#[test]
fn a_txn_fails_as_a_whole() {
    check(
        "put a 1;
         txn then { put b 1; put c 1 lease=9 };
         txn then { put b 1; put c \"\" ignore_value };
         txn then { put b 1; put c 1 ignore_lease };
         txn then { put b 1; range a@3 };
         put a 2; put a 3; compact 3;
         txn then { put b 1; range a@2 };
         txn then { put b 1; range a@-3 };
         txn then { put b 1; txn then { range a@2 } };
         txn then { put b 1 } else { range a@2 };
         range b",
        expect![[r#"
            2 put@2
            2 rejected: etcdserver: requested lease not found
            2 rejected: etcdserver: key not found
            2 rejected: etcdserver: key not found
            2 rejected: etcdserver: mvcc: required revision is a future revision
            3 put@3
            4 put@4
            4 compacted
            4 rejected: etcdserver: mvcc: required revision has been compacted
            4 rejected: etcdserver: mvcc: required revision has been compacted
            4 rejected: etcdserver: mvcc: required revision has been compacted
            5 put@5
            5 range [b=1 c5 m5 v1] count=1
        "#]],
    );
}

#[test]
fn a_put_of_a_key_that_the_txn_deleted_begins_anew() {
    // Only reachable by etcd's blind spots for duplicate keys: an open-ended delete, and a nested put before a delete.
    check(
        "put a 1; put a 2; txn then { del a..; put a 3 }; range a;
         txn then { txn then { put a 4 }; txn then { del a prev } }; range a;
         put a 5; txn then { del a..; put a \"\" ignore_value }; range a; history",
        expect![[r#"
            2 put@2
            3 put@3
            4 then {del@4 1 []; put@4}
            4 range [a=3 c4 m4 v1] count=1
            5 then {then {put@5}; then {del@5 1 [a=4 c4 m5 v2]}}
            5 range [] count=0
            6 put@6
            6 rejected: etcdserver: key not found
            6 range [a=5 c6 m6 v1] count=1
            6 [2.0 put a=1, 3.0 put a=2 replaces 2.0, 4.0 del a replaces 3.0, 4.1 put a=3, 5.0 put a=4 replaces 4.1, 5.1 del a replaces 5.0, 6.0 put a=5]
        "#]],
    );
}

#[test]
fn nospace_forbids_what_takes_space() {
    check(
        "grant 7 60; put a 1 lease=7; put b 1; alarm nospace 1; alarm nospace 1; alarm nospace 2; put a 2; grant 8 60;
         txn if ver(a)=9 then { put a 2 }; txn then { txn then { put a 2 } }; txn then { del b; range a }; range a;
         revoke 7; compact 2; checkpoint 7 1; disarm nospace 1; put a 3; disarm nospace 2; disarm nospace 2; put a 3",
        expect![[r#"
            1 granted 7 ttl=60
            2 put@2
            3 put@3
            3 alarms [NoSpace 1]
            3 alarms [NoSpace 1]
            3 alarms [NoSpace 2]
            3 rejected: etcdserver: mvcc: database space exceeded
            3 rejected: etcdserver: mvcc: database space exceeded
            3 rejected: etcdserver: mvcc: database space exceeded
            3 rejected: etcdserver: mvcc: database space exceeded
            4 then {del@4 1 []; range@4 [a=1 c2 m2 v1 l7] count=1}
            4 range [a=1 c2 m2 v1 l7] count=1
            5 revoked
            5 compacted
            5 checkpointed
            5 alarms [NoSpace 1]
            5 rejected: etcdserver: mvcc: database space exceeded
            5 alarms [NoSpace 2]
            5 alarms []
            6 put@6
        "#]],
    );
}

#[test]
fn corrupt_forbids_all_changes() {
    check(
        "grant 7 60; put a 1; alarm nospace 1; alarm corrupt 1; put a 2; del a; txn then { txn }; txn then { range a };
         grant 8 60; revoke 7; compact 2; checkpoint 7 9; publish 1 n; range a; disarm corrupt 1; del a; put a 2",
        expect![[r#"
            1 granted 7 ttl=60
            2 put@2
            2 alarms [NoSpace 1]
            2 alarms [Corrupt 1]
            2 rejected: etcdserver: corrupt cluster
            2 rejected: etcdserver: corrupt cluster
            2 rejected: etcdserver: corrupt cluster
            2 range@2 [a=1 c2 m2 v1] count=1
            2 rejected: etcdserver: corrupt cluster
            2 rejected: etcdserver: corrupt cluster
            2 rejected: etcdserver: corrupt cluster
            2 checkpointed
            2 member
            2 range [a=1 c2 m2 v1] count=1
            2 alarms [Corrupt 1]
            3 del@3 1 []
            3 rejected: etcdserver: mvcc: database space exceeded
        "#]],
    );
}

#[test]
fn a_downgrade_goes_one_version_back() {
    check(
        "downgrade 5; cancel; version 6; version 6; downgrade 4; downgrade 6; downgrade 5; downgrade 5; version 5;
         downgrade 5; downgrade 4; cancel; cancel; version 6; alarm corrupt 1; downgrade 5; cancel",
        expect![[r#"
            1 rejected: etcdserver: cluster version not found during downgrade
            1 rejected: etcdserver: no inflight downgrade job
            1 version 3.6 target none
            1 version 3.6 target none
            1 rejected: etcdserver: invalid downgrade target version
            1 rejected: etcdserver: invalid downgrade target version
            1 version 3.6 target 3.5
            1 rejected: etcdserver: cluster has a downgrade job in progress
            1 version 3.5 target 3.5
            1 rejected: etcdserver: invalid downgrade target version
            1 rejected: etcdserver: cluster has a downgrade job in progress
            1 version 3.5 target none
            1 rejected: etcdserver: no inflight downgrade job
            1 version 3.6 target none
            1 alarms [Corrupt 1]
            1 version 3.6 target 3.5
            1 version 3.6 target none
        "#]],
    );
}

#[test]
fn members_publish_and_are_forgotten() {
    check(
        "publish 1 one; publish 2 two; publish 1 uno; members; forget 1; forget 1; members",
        expect![[r#"
        1 member
        1 member
        1 member
        1 [1 uno, 2 two]
        1 member
        1 member
        1 [2 two]
    "#]],
    );
}

#[test]
fn streams_cut_a_range_in_chunks() {
    check(
        "put a 1; put b 2; put c 3; put d 4; put e 5;
         stream .. 2 100; stream .. 9 100; stream .. 9 3; stream .. 2 100 limit=4; stream .. 2 100 limit=3 keys;
         stream b..d 1 100; stream c 1 100; stream x 1 100; stream .. 5 100 count; stream ..@3 1 100; stream ..@99 1 1",
        expect![[r#"
            2 put@2
            3 put@3
            4 put@4
            5 put@5
            6 put@6
            6 stream [a=1 c2 m2 v1, b=2 c3 m3 v1] [c=3 c4 m4 v1, d=4 c5 m5 v1] [e=5 c6 m6 v1] count=5
            6 stream [a=1 c2 m2 v1, b=2 c3 m3 v1, c=3 c4 m4 v1, d=4 c5 m5 v1, e=5 c6 m6 v1] count=5
            6 stream [a=1 c2 m2 v1, b=2 c3 m3 v1] [c=3 c4 m4 v1, d=4 c5 m5 v1] [e=5 c6 m6 v1] count=5
            6 stream [a=1 c2 m2 v1, b=2 c3 m3 v1] [c=3 c4 m4 v1, d=4 c5 m5 v1] count=5 more
            6 stream [a= c2 m2 v1, b= c3 m3 v1] [c= c4 m4 v1] count=5 more
            6 stream [b=2 c3 m3 v1] [c=3 c4 m4 v1] count=2
            6 stream [c=3 c4 m4 v1] count=1
            6 stream [] count=0
            6 stream [] count=5
            6 stream [a=1 c2 m2 v1] [b=2 c3 m3 v1] count=2
            6 rejected: etcdserver: mvcc: required revision is a future revision
        "#]],
    );
}

#[test]
fn a_cursor_stays_at_its_revision() {
    let put = |key: &'static str| {
        Command::Txn(Txn::of(Op::Put(Put { key: Bytes::from_static(key.as_bytes()), ..Put::default() })))
    };
    let mut view = MemoryView::new();
    for key in ["a", "b", "c"] {
        view.run(&put(key)).expect("the state is consistent");
    }
    let everything = KeyRange::From { start: Bytes::from_static(b"\0") };
    let mut cursor = RangeCursor::new(&view, &RangeRequest::new(everything)).expect("the newest revision");
    let mut next = |view: &MemoryView| {
        let chunk = cursor.next_chunk(view, 1, 100).expect("the state is consistent")?;
        Ok(chunk.kvs.into_iter().map(|kv| (kv.key, kv.version)).collect::<Vec<_>>())
    };
    assert_eq!(next(&view), Ok([(Bytes::from_static(b"a"), 1)].into()));
    view.run(&put("aa")).expect("the state is consistent");
    view.run(&put("b")).expect("the state is consistent");
    assert_eq!(next(&view), Ok([(Bytes::from_static(b"b"), 1)].into()));
    view.run(&Command::Compact { revision: Revision::new(4) }).expect("the state is consistent");
    assert_eq!(next(&view), Ok([(Bytes::from_static(b"c"), 1)].into()), "its own revision is still readable");
    view.run(&Command::Compact { revision: Revision::new(5) }).expect("the state is consistent");
    assert_eq!(next(&view), Err(Rejection::Compacted));
}

#[test]
fn a_cursor_reads_more_keys_than_it_looks_up_at_once() {
    let mut view = MemoryView::new();
    for number in 0..600u32 {
        let put = Put { key: Bytes::copy_from_slice(&number.to_be_bytes()), ..Put::default() };
        view.run(&Command::Txn(Txn::of(Op::Put(put)))).expect("the state is consistent");
    }
    let everything = RangeRequest::new(KeyRange::From { start: Bytes::from_static(b"\0") });
    let expected = range(&view, &everything).expect("the state is consistent").expect("the newest revision");
    // Keys and bytes of a chunk at most, and how many keys each chunk then has. A key here has 4 bytes.
    for (keys_max, bytes_max, sizes) in
        [(1000, 1 << 20, &[600][..]), (400, 1 << 20, &[400, 200]), (1000, 1200, &[300, 300]), (300, 1, &[1; 600])]
    {
        let mut cursor = RangeCursor::new(&view, &everything).expect("the newest revision");
        let mut kvs = Vec::new();
        for (place, size) in sizes.iter().enumerate() {
            let chunk = cursor.next_chunk(&view, keys_max, bytes_max).expect("the state is consistent");
            let chunk = chunk.expect("nothing was compacted");
            assert_eq!(chunk.kvs.len(), *size);
            assert_eq!(chunk.totals.is_some(), place + 1 == sizes.len());
            kvs.extend(chunk.kvs);
        }
        assert_eq!(kvs, expected.kvs);
    }
}
