//! The JSON gateway answers as etcd's does, byte for byte.

use std::time::Duration;

use anyhow::{Context, Result};
use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::server::Server;
use quorate_tests::tools::{bundled, skip};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const REQUESTS: &str = include_str!("gateway/requests.txt");

/// How long an answer may be silent until the test goes on: streams have no end.
const SILENCE: Duration = Duration::from_millis(700);
/// How long it may take to begin.
const PATIENCE: Duration = Duration::from_secs(15);

/// Headers that must be equal; the others are the server's own affair.
const HEADERS: &[&str] = &[
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "content-type",
    "grpc-metadata-content-type",
    "location",
    "x-content-type-options",
];

/// Numbers that two servers do not have in common.
const OWN_NUMBERS: &[&str] = &["cluster_id", "member_id", "raft_term", "hash"];

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: String,
    headers: Vec<String>,
    body: String,
}

/// Asks on a connection of its own, and takes what comes until the answer ends or nothing more comes.
async fn ask(address: &str, line: &str) -> Result<Answer> {
    let (method, rest) = line.split_once(' ').context("a method")?;
    let (path, mut body) = rest.split_once(' ').unwrap_or((rest, ""));
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    while let Some(header) = body.strip_prefix('@') {
        let (header, rest) = header.split_once(' ').unwrap_or((header, ""));
        head += &format!("{}\r\n", header.replacen('=', ": ", 1));
        body = rest;
    }
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
    let mut response = Vec::new();
    let mut open = false;
    loop {
        let patience = if response.is_empty() && !answers_late(path) { PATIENCE } else { SILENCE };
        match timeout(patience, stream.read_buf(&mut response)).await {
            Ok(Ok(0)) => break,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                open = true;
                break;
            }
        }
    }
    let response = String::from_utf8_lossy(&response).into_owned();
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default().to_owned();
    let headers: Vec<String> = lines.map(lower_name).collect();
    let chunked = headers.iter().any(|header| header == "transfer-encoding: chunked");
    let mut body = mask(&if chunked { unchunk(body) } else { body.to_owned() }, address);
    if open {
        body += "<open>";
    }
    let matters = |header: &String| HEADERS.iter().any(|name| header.starts_with(&format!("{name}:")));
    let mut headers: Vec<String> = headers.into_iter().filter(matters).collect();
    headers.sort();
    Ok(Answer { status, headers, body })
}

/// Streams whose answer begins with the first message, which may not come.
fn answers_late(path: &str) -> bool {
    path.ends_with("/watch") || path.ends_with("/observe")
}

fn lower_name(header: &str) -> String {
    match header.split_once(':') {
        Some((name, value)) => format!("{}:{value}", name.to_lowercase()),
        None => header.to_owned(),
    }
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Some(chunk) = usize::from_str_radix(size, 16).ok().and_then(|size| rest.get(..size)) else { break };
        whole += chunk;
        body = rest[chunk.len()..].trim_start_matches("\r\n");
    }
    whole
}

fn mask(body: &str, address: &str) -> String {
    let mut masked = body.replace(address, "ADDRESS");
    for name in OWN_NUMBERS {
        masked = mask_number(&masked, &format!("\"{name}\":"), 0);
    }
    // Ids that the server chose have many digits; those of the requests few.
    mask_number(&masked, "\"ID\":", 8)
}

/// Masks the numbers after `name` that have more than `digits_kept` digits.
fn mask_number(text: &str, name: &str, digits_kept: usize) -> String {
    let mut parts = text.split(name);
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find([',', '}']).unwrap_or(part.len());
        let number = if part[..end].len() > digits_kept + 2 { "#" } else { &part[..end] };
        masked = masked + name + number + &part[end..];
    }
    masked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_equal_etcds() {
    let Some(etcd) = bundled("etcd") else { return skip("etcd 3.5.1 (cargo xtask install-tools)") };
    // Peers' addresses are in answers, and so are names.
    let theirs = Cluster::start_with(Server::at(&etcd), ClusterSpec::new(1)).await.expect("etcd");
    let Some(ours) = Cluster::start(ClusterSpec::new(1)).await else { return };
    let mut differences = Vec::new();
    let mut asked = 0;
    for line in REQUESTS.lines().filter(|line| !line.starts_with('#')) {
        let ask_one = async |cluster: &Cluster| {
            let address = cluster.endpoint(0).replace("http://", "");
            let answer = ask(&address, line).await;
            let mut answer = answer.unwrap_or_else(|error| panic!("{line}: {error:#}"));
            answer.body = answer.body.replace(&cluster.peer_url(0), "PEER");
            answer
        };
        let (theirs, ours) = tokio::join!(ask_one(&theirs), ask_one(&ours));
        asked += 1;
        if theirs != ours {
            differences.push(format!("{line}\n  etcd:    {theirs:?}\n  Quorate: {ours:?}"));
        }
    }
    assert!(differences.is_empty(), "{} of {asked} differ:\n{}", differences.len(), differences.join("\n"));
    assert!(asked > 100, "{asked} requests");
}
