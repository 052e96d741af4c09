//! The bytes of the format. A change here is a new format version.

use super::{append, entry, open, options, run, segment_path, vote};
use crate::fault::FaultDisk;
use crate::format::{Kind, Record, SegmentHeader, encode_record};
use bytes::Bytes;
use expect_test::{Expect, expect};
use std::fmt::Write;
use std::path::Path;

fn check(bytes: &[u8], expected: Expect) {
    let mut dump = String::new();
    for (line, row) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = row.chunks(4).map(|word| word.iter().map(|b| format!("{b:02x}")).collect()).collect();
        writeln!(dump, "{:04x} {}", line * 16, hex.join(" ")).unwrap();
    }
    expected.assert_eq(&dump);
}

#[test]
fn segment_header() {
    let header = SegmentHeader { sequence: 3, nonce: 0x1122_3344_5566_7788, previous_end: 0x500, restated_end: 0x140 };
    let bytes = header.encode();
    check(
        &bytes,
        expect![[r#"
        0000 51525445 57414c0a 01000000 314c417a
        0010 03000000 00000000 88776655 44332211
        0020 00050000 00000000 40010000 00000000
        0030 00000000 00000000 00000000 00000000
    "#]],
    );
    assert_eq!(SegmentHeader::decode(Path::new("x"), &bytes).unwrap(), header);
}

#[test]
fn records() {
    let mut bytes = Vec::new();
    let mut put = |kind, term, index, body: &[u8]| {
        let record = Record { group: 0x0a0b_0c0d, kind, term, index, body };
        encode_record(&mut bytes, 0x1122_3344_5566_7788, 0x40, &record);
    };
    put(Kind::Append, 5, 9, b"body");
    put(Kind::Vote, 0, 0, b"vote....");
    put(Kind::Committed, 0, 0, b"");
    put(Kind::Truncate, 0, 8, b"");
    put(Kind::Purge, 4, 7, b"");
    put(Kind::Floor, 0, 2, b"");
    put(Kind::Mark, 0, 0, b"");
    check(
        &bytes,
        expect![[r#"
        0000 87860fbc 04000000 88776655 44332211
        0010 40000000 0d0c0b0a 01000000 00000000
        0020 05000000 00000000 09000000 00000000
        0030 626f6479 00000000 c034efaa 08000000
        0040 88776655 44332211 40000000 0d0c0b0a
        0050 02000000 00000000 00000000 00000000
        0060 00000000 00000000 766f7465 2e2e2e2e
        0070 364fd77d 00000000 88776655 44332211
        0080 40000000 0d0c0b0a 03000000 00000000
        0090 00000000 00000000 00000000 00000000
        00a0 559d3716 00000000 88776655 44332211
        00b0 40000000 0d0c0b0a 04000000 00000000
        00c0 00000000 00000000 08000000 00000000
        00d0 eef21ed2 00000000 88776655 44332211
        00e0 40000000 0d0c0b0a 05000000 00000000
        00f0 04000000 00000000 07000000 00000000
        0100 2c9007b7 00000000 88776655 44332211
        0110 40000000 0d0c0b0a 06000000 00000000
        0120 00000000 00000000 02000000 00000000
        0130 eca8309f 00000000 88776655 44332211
        0140 40000000 0d0c0b0a 07000000 00000000
        0150 00000000 00000000 00000000 00000000
    "#]],
    );
}

#[test]
fn a_whole_log() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(1 << 10)).unwrap();
        let group = log.wal.group(6);
        append(&group, vec![entry(1, 0, "zero"), entry(1, 1, "one"), entry(1, 2, "two")]).await.unwrap();
        group.save_committed(Bytes::from_static(b"c1")).unwrap();
        vote(&group, "v2").await.unwrap();
        group.truncate_after(Some(1)).unwrap();
        group.purge(1, 0).unwrap();
        append(&group, vec![entry(2, 2, [0xee; 600])]).await.unwrap();
        log.close().await;
        let first = disk.content(&segment_path(1));
        check(
            &first[..0x240],
            expect![[r#"
            0000 51525445 57414c0a 01000000 126cf94d
            0010 01000000 00000000 afcd1d7b 39a820e2
            0020 00000000 00000000 70000000 00000000
            0030 00000000 00000000 00000000 00000000
            0040 d98ea590 00000000 afcd1d7b 39a820e2
            0050 40000000 00000000 06000000 00000000
            0060 00000000 00000000 01000000 00000000
            0070 d744a5f0 04000000 afcd1d7b 39a820e2
            0080 70000000 06000000 01000000 00000000
            0090 01000000 00000000 00000000 00000000
            00a0 7a65726f 00000000 20365dca 03000000
            00b0 afcd1d7b 39a820e2 70000000 06000000
            00c0 01000000 00000000 01000000 00000000
            00d0 01000000 00000000 6f6e6500 00000000
            00e0 d8596f0e 03000000 afcd1d7b 39a820e2
            00f0 70000000 06000000 01000000 00000000
            0100 01000000 00000000 02000000 00000000
            0110 74776f00 00000000 6718366d 02000000
            0120 afcd1d7b 39a820e2 18010000 06000000
            0130 02000000 00000000 00000000 00000000
            0140 00000000 00000000 76320000 00000000
            0150 b6672531 02000000 afcd1d7b 39a820e2
            0160 18010000 06000000 03000000 00000000
            0170 00000000 00000000 00000000 00000000
            0180 63310000 00000000 73855189 00000000
            0190 afcd1d7b 39a820e2 88010000 06000000
            01a0 04000000 00000000 00000000 00000000
            01b0 02000000 00000000 4db06a53 00000000
            01c0 afcd1d7b 39a820e2 88010000 06000000
            01d0 05000000 00000000 01000000 00000000
            01e0 00000000 00000000 00000000 00000000
            01f0 00000000 00000000 00000000 00000000
            0200 00000000 00000000 00000000 00000000
            0210 00000000 00000000 00000000 00000000
            0220 00000000 00000000 00000000 00000000
            0230 00000000 00000000 00000000 00000000
        "#]],
        );
        check(
            &disk.content(&segment_path(2))[..0x180],
            expect![[r#"
            0000 51525445 57414c0a 01000000 ba1b7944
            0010 02000000 00000000 f465b9a1 6a9e786e
            0020 e8010000 00000000 10010000 00000000
            0030 00000000 00000000 00000000 00000000
            0040 7e2b9607 00000000 f465b9a1 6a9e786e
            0050 40000000 00000000 06000000 00000000
            0060 00000000 00000000 01000000 00000000
            0070 2c81ce84 02000000 f465b9a1 6a9e786e
            0080 40000000 06000000 02000000 00000000
            0090 00000000 00000000 00000000 00000000
            00a0 76320000 00000000 6fcbd3b5 00000000
            00b0 f465b9a1 6a9e786e 40000000 06000000
            00c0 05000000 00000000 01000000 00000000
            00d0 00000000 00000000 fdfeddd8 02000000
            00e0 f465b9a1 6a9e786e 40000000 06000000
            00f0 03000000 00000000 00000000 00000000
            0100 00000000 00000000 63310000 00000000
            0110 192f8b6a 58020000 f465b9a1 6a9e786e
            0120 10010000 06000000 01000000 00000000
            0130 02000000 00000000 02000000 00000000
            0140 eeeeeeee eeeeeeee eeeeeeee eeeeeeee
            0150 eeeeeeee eeeeeeee eeeeeeee eeeeeeee
            0160 eeeeeeee eeeeeeee eeeeeeee eeeeeeee
            0170 eeeeeeee eeeeeeee eeeeeeee eeeeeeee
        "#]],
        );
    });
}
