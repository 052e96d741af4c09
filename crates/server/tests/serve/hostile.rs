//! Clients that do harm: an error to them alone, and the others go on.

use crate::harness::{TestServer, outcome, start};
use quorate_proto::etcdserverpb as pb;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
/// The frame at its end.
const SETTINGS: &[u8] = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";

async fn serves(server: &TestServer) {
    let request = pb::RangeRequest { key: "a".into(), ..Default::default() };
    server.kv().await.range(request).await.unwrap();
}

/// Waits until the server closes the connection.
async fn closed(mut stream: TcpStream) {
    let read = async {
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("the connection is still open");
}

#[tokio::test]
async fn a_connection_that_asks_nothing_is_closed() {
    let server = start(&["--header-read-timeout=300ms"]).await;
    let without_settings = PREFACE.strip_suffix(SETTINGS).unwrap();
    for sent in [&b""[..], b"GET /version HT", without_settings] {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        closed(stream).await;
    }
    serves(&server).await;
    server.server.shutdown().await;
}

/// As a client of gRPC that has connected to all endpoints and uses another one.
#[tokio::test]
async fn an_idle_http2_connection_stays() {
    let server = start(&["--header-read-timeout=300ms"]).await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    let read_all = async {
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer).await.unwrap() > 0 {}
    };
    tokio::time::timeout(Duration::from_secs(1), read_all).await.expect_err("the connection was closed");
    server.server.shutdown().await;
}

#[tokio::test]
async fn nonsense_closes_its_own_connection() {
    let server = start(&[]).await;
    let mut bad_frame = PREFACE.to_vec();
    bad_frame.extend(b"\x00\x00\x05\x01\x04\x00\x00\x00\x01\xff\xff\xff\xff\xff");
    for sent in [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), vec![0xff; 1000], bad_frame] {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream.write_all(&sent).await.unwrap();
        closed(stream).await;
    }
    serves(&server).await;
    server.server.shutdown().await;
}

#[tokio::test]
async fn a_client_that_pings_too_often_is_told_and_sent_away() {
    let server = start(&["--grpc-keepalive-min-time=1h"]).await;
    let ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00whatever";
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(&[PREFACE, &ping.repeat(4)].concat()).await.unwrap();
    let mut told = Vec::new();
    // Bytes that the server has not read any more may make this end with a reset.
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut told)).await.expect("still open");
    let goaway = b"\x00\x00\x16\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0btoo_many_pings";
    assert!(told.ends_with(goaway), "{told:?}");
    serves(&server).await;
    server.server.shutdown().await;
}

#[tokio::test]
async fn huge_headers_are_refused() {
    let server = start(&["--max-header-bytes=16384"]).await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let request = format!("GET /version HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    // The server may close before all is written.
    let _ = stream.write_all(request.as_bytes()).await;
    closed(stream).await;
    let mut kv = server.kv().await;
    let mut request = tonic::Request::new(pb::RangeRequest { key: "a".into(), ..Default::default() });
    request.metadata_mut().insert("x", "x".repeat(60_000).parse().unwrap());
    assert!(kv.range(request).await.is_err());
    serves(&server).await;
    server.server.shutdown().await;
}

#[tokio::test]
async fn random_messages_are_errors() {
    let server = start(&[]).await;
    let mut seed = 1u64;
    let mut random = move || {
        // xorshift: the same bytes on every run.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let client = h2_client(&server).await;
    for _ in 0..200 {
        let message: Vec<u8> = (0..random() % 40).map(|_| random() as u8).collect();
        let framed = if random() % 4 == 0 {
            message
        } else {
            [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat()
        };
        let path =
            ["/etcdserverpb.KV/Txn", "/etcdserverpb.KV/Range", "/etcdserverpb.Watch/Watch"][random() as usize % 3];
        let mut client = client.clone().ready().await.unwrap();
        let request = http::Request::post(format!("http://x{path}")).header("content-type", "application/grpc");
        let (response, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data(framed.into(), true).unwrap();
        // A watch that happens to be well formed stays open; everything else must be answered.
        let answered = tokio::time::timeout(Duration::from_secs(5), response).await;
        assert_eq!(answered.expect("no answer").unwrap().status(), 200);
    }
    serves(&server).await;
    server.server.shutdown().await;
}

async fn h2_client(server: &TestServer) -> h2::client::SendRequest<bytes::Bytes> {
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn one_connection_cannot_take_all_places() {
    let server = start(&["--max-concurrent-requests=40"]).await;
    let client = h2_client(&server).await;
    // Requests whose message never comes.
    let mut open = Vec::new();
    for _ in 0..30 {
        let request =
            http::Request::post("http://x/etcdserverpb.KV/Put").header("content-type", "application/grpc").body(());
        // The client's library queues what the server does not allow yet.
        let mut client = client.clone();
        open.push(tokio::spawn(async move {
            client = client.ready().await.unwrap();
            let stream = client.send_request(request.unwrap(), false).unwrap();
            (stream.0.await, stream.1)
        }));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let metrics = server.http("GET", "/metrics").await;
    assert!(metrics.lines().any(|line| line == "quorate_requests_open 10"), "a quarter of 40 is 10");
    serves(&server).await;
    server.server.shutdown().await;
}

#[tokio::test]
async fn beyond_the_bound_a_request_is_refused() {
    let server = start(&["--max-concurrent-requests=4"]).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut client = h2_client(&server).await.ready().await.unwrap();
        let request =
            http::Request::post("http://x/etcdserverpb.KV/Put").header("content-type", "application/grpc").body(());
        open.push((client.send_request(request.unwrap(), false).unwrap(), client));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let request = pb::RangeRequest { key: "a".into(), ..Default::default() };
    let refused = server.kv().await.range(request).await;
    assert_eq!(outcome(refused), "8 etcdserver: too many requests");
    drop(open);
    tokio::time::sleep(Duration::from_millis(200)).await;
    serves(&server).await;
    server.server.shutdown().await;
}

#[tokio::test]
async fn a_request_is_given_up_at_the_clients_deadline() {
    let server = start(&[]).await;
    let mut client = h2_client(&server).await.ready().await.unwrap();
    let request = http::Request::post("http://x/etcdserverpb.KV/Put")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "100m")
        .body(());
    // Its message never comes.
    let (response, _stream) = client.send_request(request.unwrap(), false).unwrap();
    let response = tokio::time::timeout(Duration::from_secs(10), response).await.expect("an answer").unwrap();
    assert_eq!(response.headers()["grpc-status"], "4");
    assert_eq!(response.headers()["grpc-message"], "context%20deadline%20exceeded");
    let mut request = tonic::Request::new(pb::RangeRequest { key: "a".into(), ..Default::default() });
    request.set_timeout(Duration::from_secs(30));
    server.kv().await.range(request).await.unwrap();
    server.server.shutdown().await;
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Reads frames until the answers to `count` streams have ended; whether that was before the connection was closed.
async fn answered(stream: &mut TcpStream, count: usize) -> bool {
    const HEADERS: u8 = 1;
    const END_STREAM: u8 = 1;
    const GOAWAY: u8 = 7;
    let mut ended = 0;
    while ended < count {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() || head[3] == GOAWAY {
            return false;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.unwrap();
        ended += usize::from(head[3] == HEADERS && head[4] & END_STREAM != 0);
    }
    true
}

/// Some clients end their side of a call in a frame of its own, which may come when the answer has left already.
#[tokio::test]
async fn requests_may_end_after_their_answers() {
    const HEADERS: u8 = 1;
    const DATA: u8 = 0;
    const WINDOW_UPDATE: u8 = 8;
    const END_HEADERS: u8 = 4;
    const END_STREAM: u8 = 1;
    const AT_ONCE: u32 = 100;
    let server = start(&[]).await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    // Room for all answers.
    stream.write_all(&frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes())).await.unwrap();
    // POST http, path, content type, te; from HPACK's static table, without its dynamic one.
    let path = b"/etcdserverpb.KV/Range";
    let mut headers = vec![0x83, 0x86, 0x04, path.len() as u8];
    headers.extend(path);
    headers.extend(b"\x01\x01x\x0f\x10\x10application/grpc\x00\x02te\x08trailers");
    let message = b"\0\0\0\0\x03\x0a\x01a";
    let mut next = 1;
    // More than a thousand in all, and more at once than HTTP/2 remembers after it has reset them.
    for _ in 0..25 {
        let streams: Vec<u32> = (0..AT_ONCE).map(|number| next + 2 * number).collect();
        next += 2 * AT_ONCE;
        let begin = |id: &u32| [frame(HEADERS, END_HEADERS, *id, &headers), frame(DATA, 0, *id, message)].concat();
        stream.write_all(&streams.iter().flat_map(begin).collect::<Vec<u8>>()).await.unwrap();
        assert!(answered(&mut stream, streams.len()).await, "the connection was closed before stream {next}");
        let end = |id: &u32| frame(DATA, END_STREAM, *id, b"");
        stream.write_all(&streams.iter().flat_map(end).collect::<Vec<u8>>()).await.unwrap();
    }
    server.server.shutdown().await;
}
