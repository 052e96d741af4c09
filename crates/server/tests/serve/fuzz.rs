//! Mutated input over real sockets. Whatever comes, the server stays up, and other clients do not notice. Each round has a
//! seed that is printed when it fails; `QUORATE_FUZZ_ROUNDS` makes it long, `QUORATE_FUZZ_SEED` begins with another.

use crate::harness::{TestServer, start};
use prost::Message;
use quorate_proto::etcdserverpb as pb;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How many rounds a run of the tests has.
const ROUNDS: u64 = 60;
/// Most memory that all rounds together may have left behind.
const GROWTH_BYTES_MAX: u64 = 256 << 20;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    /// Flips, cuts, repeats and inserts a few times.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(6) {
            let place = self.below(bytes.len());
            match self.below(5) {
                0 if !bytes.is_empty() => bytes[place] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[place] = u8::try_from(self.next() & 0xff).unwrap(),
                2 => bytes.truncate(place),
                3 => {
                    let end = place + self.below(bytes.len() - place);
                    let part = bytes[place..end].to_vec();
                    bytes.splice(place..place, part);
                }
                _ => {
                    let noise = self.next().to_le_bytes();
                    bytes.splice(place..place, noise);
                }
            }
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn rounds() -> impl Iterator<Item = u64> {
    let first = variable("QUORATE_FUZZ_SEED").unwrap_or(1);
    first..first + variable("QUORATE_FUZZ_ROUNDS").unwrap_or(ROUNDS)
}

/// Requests that are well formed, to begin with.
fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let put =
        pb::PutRequest { key: "k".into(), value: vec![7; 300].into(), lease: 0, prev_kv: true, ..Default::default() };
    let range = pb::RangeRequest { key: "a".into(), range_end: "z".into(), limit: 3, ..Default::default() };
    let delete = pb::DeleteRangeRequest { key: "k".into(), range_end: vec![0].into(), prev_kv: true };
    let op = |request| pb::RequestOp { request: Some(request) };
    let nested = pb::TxnRequest {
        success: vec![op(pb::request_op::Request::RequestPut(put.clone()))],
        failure: vec![op(pb::request_op::Request::RequestDeleteRange(delete.clone()))],
        ..Default::default()
    };
    let txn = pb::TxnRequest {
        compare: vec![pb::Compare { key: "k".into(), range_end: "z".into(), ..Default::default() }],
        success: vec![
            op(pb::request_op::Request::RequestTxn(nested)),
            op(pb::request_op::Request::RequestRange(range.clone())),
        ],
        failure: vec![],
    };
    let create =
        pb::WatchCreateRequest { key: "a".into(), range_end: "z".into(), start_revision: 1, ..Default::default() };
    let watch = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    vec![
        ("/etcdserverpb.KV/Put", put.encode_to_vec()),
        ("/etcdserverpb.KV/Range", range.encode_to_vec()),
        ("/etcdserverpb.KV/DeleteRange", delete.encode_to_vec()),
        ("/etcdserverpb.KV/Txn", txn.encode_to_vec()),
        ("/etcdserverpb.KV/Compact", pb::CompactionRequest { revision: 2, physical: false }.encode_to_vec()),
        ("/etcdserverpb.Watch/Watch", watch.encode_to_vec()),
        ("/etcdserverpb.Lease/LeaseGrant", pb::LeaseGrantRequest { ttl: 5, id: 0 }.encode_to_vec()),
        ("/etcdserverpb.Lease/LeaseKeepAlive", pb::LeaseKeepAliveRequest { id: 1 }.encode_to_vec()),
        ("/etcdserverpb.Maintenance/HashKV", pb::HashKvRequest { revision: 1 }.encode_to_vec()),
        (
            "/etcdserverpb.Auth/Authenticate",
            pb::AuthenticateRequest { name: "a".into(), password: "b".into() }.encode_to_vec(),
        ),
    ]
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

async fn unaffected(server: &TestServer, seed: u64) {
    let read = async {
        let request = pb::RangeRequest { key: "other".into(), ..Default::default() };
        server.kv().await.range(request).await.unwrap_or_else(|status| panic!("seed {seed}: {status}"));
    };
    tokio::time::timeout(Duration::from_secs(30), read).await.unwrap_or_else(|_| panic!("seed {seed}: no answer"));
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A literal header field, without an index and without Huffman's code.
fn field(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        block.push(u8::try_from(text.len()).unwrap());
        block.extend(text.as_bytes());
    }
}

/// What a client sends for one call: preface, settings, headers, data.
fn conversation(path: &str, message: &[u8]) -> Vec<Vec<u8>> {
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        field(&mut headers, name, value);
    }
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    vec![
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(8, 0, 0, &1_000_000u32.to_be_bytes()),
        frame(1, 4, 1, &headers),
        frame(0, 1, 1, &body),
        frame(6, 0, 0, &[0; 8]),
        frame(3, 0, 1, &8u32.to_be_bytes()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_messages_are_answered_and_harm_nobody() {
    let server = start(&[]).await;
    let channel = server.channel().await;
    let before = resident_bytes();
    for seed in rounds() {
        let mut random = Random(seed);
        for (path, message) in requests() {
            let mut mutated = message;
            random.mutate(&mut mutated);
            let request = tonic::Request::new(tokio_stream::iter([bytes::Bytes::from(mutated)]));
            let mut grpc = tonic::client::Grpc::new(channel.clone());
            grpc.ready().await.unwrap();
            let path = http::uri::PathAndQuery::from_static(path);
            // An answer or an error; a watch may stay open.
            let call = async {
                let response = grpc.streaming(request, path, Raw).await?;
                response.into_inner().message().await.map(|_: Option<bytes::Bytes>| ())
            };
            let _ = tokio::time::timeout(Duration::from_millis(500), call).await;
        }
        unaffected(&server, seed).await;
    }
    assert!(resident_bytes() < before + GROWTH_BYTES_MAX, "memory has grown from {before} to {}", resident_bytes());
    server.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_frames_harm_their_own_connection_at_most() {
    let server = start(&["--header-read-timeout=1s"]).await;
    let before = resident_bytes();
    for seed in rounds() {
        let mut random = Random(seed);
        for (path, message) in requests() {
            let mut frames = conversation(path, &message);
            // The preface stays whole in most rounds: without it nothing behind it is read.
            let victim = random.below(frames.len() * 4) % frames.len();
            random.mutate(&mut frames[victim]);
            if random.below(3) == 0 {
                let (one, other) = (random.below(frames.len()), random.below(frames.len()));
                frames.swap(one, other);
            }
            let mut stream = TcpStream::connect(&server.address).await.unwrap();
            // The server may close before all is written, and what it says is of no interest here.
            let _ = stream.write_all(&frames.concat()).await;
            let mut answer = [0; 4096];
            let _ = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut answer)).await;
        }
        unaffected(&server, seed).await;
    }
    assert!(resident_bytes() < before + GROWTH_BYTES_MAX, "memory has grown from {before} to {}", resident_bytes());
    server.server.shutdown().await;
}

/// Sends and takes messages as bytes.
#[derive(Clone, Copy)]
struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = bytes::Bytes;
    type Decode = bytes::Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for Raw {
    type Item = bytes::Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, item: bytes::Bytes, out: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), tonic::Status> {
        bytes::BufMut::put_slice(out, &item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Raw {
    type Item = bytes::Bytes;
    type Error = tonic::Status;

    fn decode(&mut self, from: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<bytes::Bytes>, tonic::Status> {
        let length = bytes::Buf::remaining(from);
        Ok(Some(bytes::Buf::copy_to_bytes(from, length)))
    }
}
