use super::value::CODES;
use super::{FLAG_PADDED, FLAG_PRIORITY, Frames, PREFACE, TYPE_CONTINUATION, TYPE_HEADERS};
use crate::wire::Wire;
use http::Request;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

const END_HEADERS: u8 = 0x4;
const SETTINGS: u8 = 4;
const DATA: u8 = 0;

/// What etcdctl 3.4.23 sends for `endpoint status` of `http://127.0.0.1:24002`.
const STATUS_OF_HTTP: &str = "8386459760a924882d9dcb6571afa066a925a87510ac6e48d36a3f41909d29aee30c044eae05c0b86e09a0005f5f8b\
    1d75d0620d263d4c4d65647a8b9acac8b4c7602bb2caecff40027465864d833505b11f40899acac8b24d494f6a7f860befbcebaf5b408d25062d\
    495875996ee5b1063d5f03332e34";
/// The same of `unix:///tmp/cap1.sock`.
const STATUS_OF_UNIX: &str = "8386459760a924882d9dcb6571afa066a925a87510ac6e48d36a3f4190b6a379b8c30c269ad820eb0ae8393aff5f8b\
    1d75d0620d263d4c4d65647a8b9acac8b4c7602bb2caecff40027465864d833505b11f40899acac8b24d494f6a7f860befbc169cb7408d25062d\
    495875996ee5b1063d5f03332e34";
/// The same from etcdctl 3.5.1, which sends the path alone.
const STATUS_OF_PATH: &str = "8386459760a924882d9dcb6571afa066a925a87510ac6e48d36a3f418a6134d6c107585741c9d75f8b1d75d0620d\
    263d4c4d65647a8a9acac8b4c7602bb2f2e040027465864d833505b11f40899acac8b24d494f6a7f860befbccbaf5b408d25062d495875996ee5\
    b1063d5f03332e35";

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.bytes().filter_map(|digit| (digit as char).to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let stream = if kind == SETTINGS { 0 } else { 1 };
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A client's first bytes, up to the frames of its first request.
fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, &[]), &frames.concat()].concat()
}

fn coded(text: &str) -> Vec<u8> {
    let mut bits = String::new();
    for character in text.bytes() {
        let (length, first, characters) =
            CODES.iter().find(|(.., characters)| characters.contains(&character)).expect("a character of the table");
        let place = characters.iter().position(|other| *other == character).expect("its place");
        bits.push_str(&format!("{:0width$b}", usize::from(*first) + place, width = usize::from(*length)));
    }
    while !bits.len().is_multiple_of(8) {
        bits.push('1');
    }
    (0..bits.len()).step_by(8).map(|at| u8::from_str_radix(&bits[at..at + 8], 2).expect("bits")).collect()
}

/// A string as it follows the index of its name; shorter than 127 bytes.
fn string(text: &str, huffman: bool) -> Vec<u8> {
    let text = if huffman { coded(text) } else { text.as_bytes().to_vec() };
    [vec![text.len() as u8 | u8::from(huffman) << 7], text].concat()
}

/// The header block of a request: POST, http, and this authority behind the first byte of its field.
fn block(field: u8, authority: &str, huffman: bool) -> Vec<u8> {
    [vec![0x83, 0x86, 0x44], string("/a/b:c", huffman), vec![field], string(authority, huffman)].concat()
}

fn pass(bytes: &[u8]) -> Vec<u8> {
    let mut passed = bytes.to_vec();
    Frames::default().pass(&mut passed, |_| ());
    passed
}

/// The request that the h2 crate finds in what a client sends, if it accepts one.
async fn request(bytes: &[u8]) -> Option<Request<()>> {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    client.write_all(bytes).await.expect("room for it");
    let mut connection =
        h2::server::handshake(Wire::new(server, Duration::ZERO, Arc::default())).await.expect("HTTP/2");
    let accepted = tokio::time::timeout(Duration::from_secs(5), connection.accept()).await.expect("an answer");
    let (request, _) = accepted?.ok()?;
    Some(request.map(|_| ()))
}

async fn authority(bytes: &[u8]) -> Option<String> {
    request(bytes).await.map(|request| request.uri().authority().expect("an authority").to_string())
}

fn headers(block: &[u8]) -> Vec<u8> {
    connection(&[frame(TYPE_HEADERS, END_HEADERS, block)])
}

#[tokio::test]
async fn etcdctls_authorities_become_valid() {
    for (sent, expected) in [
        (STATUS_OF_HTTP, "httpB33127.0.0.1:24002"),
        (STATUS_OF_UNIX, "unixB333tmp3cap1.sock"),
        (STATUS_OF_PATH, "3tmp3cap1.sock"),
    ] {
        let request = request(&headers(&bytes_of(sent))).await.expect("a request");
        assert_eq!(request.uri().authority().map(|authority| authority.as_str()), Some(expected));
        assert_eq!(request.uri().path(), "/etcdserverpb.Maintenance/Status");
        assert_eq!(request.headers()["content-type"], "application/grpc");
    }
}

#[tokio::test]
async fn each_form_of_a_literal_is_put_right() {
    for huffman in [false, true] {
        // It enters the table; it does not; it never may.
        for field in [0x41, 0x01, 0x11] {
            for (sent, expected) in [
                ("http://127.0.0.1:2379", "httpB33127.0.0.1:2379"),
                ("https://[::1]:2379", "httpsB33[::1]:2379"),
                ("unixs:///a~b/c", "unixsB333a~b3c"),
                ("/run/etcd.sock", "3run3etcd.sock"),
                ("localhost:2379", "localhost:2379"),
                ("[::1]:2379", "[::1]:2379"),
                ("h", "h"),
            ] {
                let sent = headers(&block(field, sent, huffman));
                assert_eq!(authority(&sent).await.as_deref(), Some(expected), "{field:#x} {huffman}");
            }
        }
    }
}

#[tokio::test]
async fn the_table_of_codes_is_that_of_http2() {
    let all: String = (b' '..=b'~').filter(|character| *character != b'\\').map(char::from).collect();
    let covered: usize = CODES.iter().map(|(.., characters)| characters.len()).sum();
    // All of them, and NUL.
    assert_eq!(covered, all.len() + 1);
    for half in [&all[..all.len() / 2], &all[all.len() / 2..]] {
        let text = format!("x{half}x");
        let block = [block(0x41, "a", true), vec![0x40], string("name", true), string(&text, true)].concat();
        let request = request(&headers(&block)).await.expect("a request");
        assert_eq!(request.headers()["name"], text.as_str());
    }
}

#[tokio::test]
async fn a_later_request_refers_to_what_the_first_one_sent() {
    let name = [vec![0x40], string("name", true), string("http://x/y", true)].concat();
    let first = [block(0x41, "http://a:1", true), name].concat();
    // The two newest entries of the table, behind a path that does not enter it.
    let second = [&[0x83, 0x86, 0x04][..], &string("/", false), &[0xbf, 0xbe]].concat();
    let mut second = frame(TYPE_HEADERS, END_HEADERS, &second);
    // The next stream of the client.
    second[8] = 3;
    let sent = connection(&[frame(TYPE_HEADERS, END_HEADERS, &first), second]);
    let (mut client, server) = tokio::io::duplex(1 << 16);
    client.write_all(&sent).await.expect("room for it");
    let mut connection =
        h2::server::handshake(Wire::new(server, Duration::ZERO, Arc::default())).await.expect("HTTP/2");
    for _ in 0..2 {
        let accepted = tokio::time::timeout(Duration::from_secs(5), connection.accept()).await.expect("an answer");
        let (request, _) = accepted.expect("a request").expect("a request");
        assert_eq!(request.uri().authority().map(|authority| authority.as_str()), Some("httpB33a:1"));
        assert_eq!(request.headers()["name"], "http://x/y");
    }
}

/// A request with padding, priority, continuations, a resized table, long strings, and bodies that look like headers.
fn intricate() -> (Vec<u8>, Vec<u8>) {
    let long = "/".repeat(300);
    let long = [&[0x00, 0x04][..], b"name", &[0x7f, 0xad, 0x01], long.as_bytes()].concat();
    let make = |authority: &str| {
        let block =
            [vec![0x20], block(0x11, authority, true), long.clone(), vec![0x0f, 0x2b, 0x02], b"//".to_vec()].concat();
        let (start, rest) = block.split_at(1);
        let (middle, end) = rest.split_at(rest.len() - 12);
        let first = [&[4][..], &[0, 0, 0, 0, 15], start, &[0x41, 4, b'/', b'/']].concat();
        let body = [&[3, 0x41, 9][..], b"http://a/"].concat();
        let mut next = frame(TYPE_HEADERS, END_HEADERS, &self::block(0x41, authority, false));
        next[8] = 3;
        connection(&[
            frame(TYPE_HEADERS, FLAG_PADDED | FLAG_PRIORITY, &first),
            frame(TYPE_CONTINUATION, 0, middle),
            frame(TYPE_CONTINUATION, 0, &[]),
            frame(TYPE_CONTINUATION, END_HEADERS, end),
            frame(DATA, FLAG_PADDED, &body),
            frame(DATA, 0, &[]),
            next,
        ])
    };
    (make("http://127.0.0.1:2379/"), make("httpB33127.0.0.1:23793"))
}

#[test]
fn nothing_but_authorities_changes_wherever_reads_are_split() {
    let (sent, expected) = intricate();
    assert_eq!(pass(&sent), expected);
    for bytes_max in 1..sent.len() {
        let mut passed = sent.clone();
        let mut frames = Frames::default();
        passed.chunks_mut(bytes_max).for_each(|chunk| frames.pass(chunk, |_| ()));
        assert!(passed == expected, "chunks of {bytes_max}");
    }
    for at in 0..sent.len() {
        let mut passed = sent.clone();
        let mut frames = Frames::default();
        let (start, end) = passed.split_at_mut(at);
        frames.pass(start, |_| ());
        frames.pass(end, |_| ());
        assert!(passed == expected, "split at {at}");
    }
}

#[tokio::test]
async fn http2_takes_the_intricate_request_once_it_is_put_right() {
    let (sent, _) = intricate();
    assert_eq!(authority(&sent).await.as_deref(), Some("httpB33127.0.0.1:23793"));
}

#[test]
fn what_is_not_http2_is_untouched() {
    let request = b"GET http://a/ HTTP/1.1\r\nHost: http://a\r\n\r\n".to_vec();
    let almost = [
        b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(TYPE_HEADERS, END_HEADERS, &block(0x41, "http://a", false)),
    ];
    for sent in [request, almost.concat(), b"PRI".to_vec(), Vec::new()] {
        assert_eq!(pass(&sent), sent);
    }
}

#[test]
fn an_integer_that_never_ends_leaves_the_block_alone() {
    for start in [&[0xff, 0xff, 0xff, 0xff, 0xff][..], &[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff]] {
        let sent = headers(&[start, &[0xff; 40], &[0x41, 8], b"http://a"].concat());
        assert_eq!(pass(&sent), sent);
        // The next block is read again.
        let next = frame(TYPE_HEADERS, END_HEADERS, &block(0x41, "http://a", false));
        let expected = frame(TYPE_HEADERS, END_HEADERS, &block(0x41, "httpB33a", false));
        assert_eq!(pass(&[&sent[..], &next].concat()), [sent, expected].concat());
    }
}

proptest! {
    /// Whatever comes: no panic, and splits make no difference.
    #[test]
    fn any_bytes_pass(
        frames in proptest::collection::vec((0_u8..10, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..6),
        lie in 0_u8..4,
        split in any::<proptest::sample::Index>(),
    ) {
        let frames: Vec<_> = frames
            .iter()
            .map(|(kind, flags, payload)| {
                let mut frame = frame(*kind, *flags, payload);
                frame[2] = frame[2].wrapping_add(lie);
                frame
            })
            .collect();
        let sent = connection(&frames);
        let whole = pass(&sent);
        let mut parts = sent.clone();
        let mut frames = Frames::default();
        let (start, end) = parts.split_at_mut(split.index(sent.len()));
        frames.pass(start, |_| ());
        frames.pass(end, |_| ());
        prop_assert_eq!(parts, whole);
    }
}
