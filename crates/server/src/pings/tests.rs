use super::{Heads, Pings, Policed, goaway};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const PREFACE_AND_SETTINGS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
const PING: &[u8] = b"\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678";
const PONG: &[u8] = b"\x00\x00\x08\x06\x01\x00\x00\x00\x0012345678";
/// Of stream 5; what is in it does not matter.
const HEADERS: &[u8] = b"\x00\x00\x01\x01\x04\x00\x00\x00\x05\x82";
const DATA: &[u8] = b"\x00\x00\x03\x00\x00\x00\x00\x00\x05abc";
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn the_third_strike_in_a_row_is_one_too_many() {
    let start = Instant::now();
    let mut pings = Pings::new(Duration::from_secs(5));
    let mut at = |seconds: u64, answered: bool| {
        pings.answered |= answered;
        pings.one_too_many(start + Duration::from_secs(seconds))
    };
    // The first one is free, then four that keep their distance, two that do not, and one that follows an answer.
    for (seconds, answered) in [(0, false), (5, false), (10, false), (20, false), (21, false), (22, false), (23, true)]
    {
        assert!(!at(seconds, answered), "{seconds}");
    }
    assert!(!at(24, false));
    assert!(!at(25, false));
    assert!(at(26, false));
}

#[test]
fn without_a_least_time_none_is_too_many() {
    let mut pings = Pings::new(Duration::ZERO);
    assert!((0..100).all(|_| !pings.one_too_many(Instant::now())));
}

#[test]
fn heads_are_found_wherever_the_bytes_are_split() {
    let bytes = [PREFACE_AND_SETTINGS, HEADERS, PING, DATA, PONG].concat();
    for size in 1..bytes.len() {
        let mut found = Vec::new();
        let mut heads = Heads::of_client();
        for part in bytes.chunks(size) {
            heads.pass(part, |head| found.push((head.kind, head.flags, head.stream)));
        }
        assert_eq!(found, [(4, 0, 0), (1, 4, 5), (6, 0, 0), (0, 0, 5), (6, 1, 0)], "split into {size}");
        assert!(heads.between_frames());
    }
}

#[tokio::test]
async fn the_farewell_comes_after_the_frame_that_is_under_way() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let mut server = Policed::new(server, MINUTE);
    let sent = [PREFACE_AND_SETTINGS, HEADERS, &PING.repeat(3)].concat();
    client.write_all(&sent).await.unwrap();
    server.read_exact(&mut vec![0; sent.len()]).await.unwrap();
    let (begun, rest) = PONG.split_at(11);
    server.write_all(begun).await.unwrap();
    client.write_all(PING).await.unwrap();
    server.read_exact(&mut [0; PING.len()]).await.unwrap();
    let error = server.write_all(&[rest, PONG].concat()).await.unwrap_err();
    assert!(error.to_string().contains("--grpc-keepalive-min-time"), "{error}");
    drop(server);
    let mut told = Vec::new();
    client.read_to_end(&mut told).await.unwrap();
    assert_eq!(told, [PONG, &goaway(5)].concat());
}

#[tokio::test]
async fn what_is_not_http2_passes() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let mut server = Policed::new(server, MINUTE);
    let sent = [b"GET / HTTP/1.1\r\n\r\n", &PING.repeat(9)[..]].concat();
    client.write_all(&sent).await.unwrap();
    let mut read = vec![0; sent.len()];
    server.read_exact(&mut read).await.unwrap();
    assert_eq!(read, sent);
    server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
}
