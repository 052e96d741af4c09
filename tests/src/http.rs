//! Requests over HTTP/1.1, and what is comparable of the answers of two servers.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

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

/// An answer, without what no two servers have in common.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status line.
    pub status: String,
    /// The headers that must be equal, in order.
    pub headers: Vec<String>,
    /// The body, with `<open>` at its end if it goes on.
    pub body: String,
}

/// Asks on a connection of its own, and takes what comes until the answer ends or nothing more comes. A line is the method,
/// the path, headers as `@Name=Value`, and the body.
///
/// # Errors
/// When there is no connection, or it breaks.
pub async fn ask(address: &str, line: &str) -> Result<Answer> {
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
