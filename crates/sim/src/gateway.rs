//! Calls through the members' JSON gateway: HTTP/1.1 over the simulated network, a connection for each call, in mode `full`.
//!
//! Without a library that would judge failures, everything that is not a refusal by name has an unknown outcome.

use crate::history::{Op, Outcome, Seen, Span};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use quorate_node::env::ByteStream;
use serde_json::{Value, json};
use tonic::Code;

/// A call, as the gateway takes it.
pub struct JsonCall {
    path: &'static str,
    body: Value,
}

impl JsonCall {
    /// `None`: calls of this kind do not go through the gateway.
    pub fn of(op: &Op) -> Option<JsonCall> {
        let (path, body) = match op {
            Op::Put { key, value, lease } => {
                ("/v3/kv/put", json!({ "key": base64(key), "value": base64(value), "lease": lease.to_string() }))
            }
            Op::Delete { span } => ("/v3/kv/deleterange", json!({ "key": base64(&span.from), "range_end": end(span) })),
            Op::Get { span, serializable, revision } => {
                let revision = revision.to_string();
                let key = base64(&span.from);
                let body =
                    json!({ "key": key, "range_end": end(span), "serializable": serializable, "revision": revision });
                ("/v3/kv/range", body)
            }
            Op::Swap { parts } => ("/v3/kv/txn", swap(parts)),
            Op::Revoke { .. } | Op::Txn(_) | Op::Page { .. } | Op::Compact { .. } => return None,
        };
        Some(JsonCall { path, body })
    }

    /// Sends it over a new connection, and reads what comes of it.
    pub async fn send(self, stream: Box<dyn ByteStream>, op: &Op) -> Outcome {
        let Some((status, answer)) = self.exchange(stream).await else { return Outcome::Unknown };
        if status == http::StatusCode::OK {
            return read(op, &answer);
        }
        match answer["code"].as_i64().and_then(|code| i32::try_from(code).ok()).map(Code::from_i32) {
            Some(Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition | Code::NotFound) => {
                Outcome::Refused(answer["message"].as_str().unwrap_or_default().to_owned())
            }
            // Some of the others say that nothing has happened, too, but not all that say it.
            Some(_) | None => Outcome::Unknown,
        }
    }

    async fn exchange(self, stream: Box<dyn ByteStream>) -> Option<(http::StatusCode, Value)> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        // Ends with the answer, or with the connection.
        tokio::spawn(connection);
        let request = http::Request::post(self.path)
            .header(http::header::HOST, "member")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(self.body.to_string())))
            .ok()?;
        let response = sender.send_request(request).await.ok()?;
        let status = response.status();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, serde_json::from_slice(&body).ok()?))
    }
}

fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

fn end(span: &Span) -> String {
    base64(span.until.as_deref().unwrap_or_default())
}

fn swap(parts: &[(String, i64, String)]) -> Value {
    let first = parts.first().map_or("", |(key, _, _)| key);
    let compare = parts.iter().map(|(key, expected, _)| {
        json!({ "key": base64(key), "result": "EQUAL", "target": "MOD", "mod_revision": expected.to_string() })
    });
    let puts =
        parts.iter().map(|(key, _, value)| json!({ "request_put": { "key": base64(key), "value": base64(value) } }));
    json!({
        "compare": compare.collect::<Vec<_>>(),
        "success": puts.collect::<Vec<_>>(),
        "failure": [{ "request_range": { "key": base64(first) } }],
    })
}

fn read(op: &Op, answer: &Value) -> Outcome {
    let revision = number(&answer["header"]["revision"]);
    match op {
        Op::Get { .. } => Outcome::Read { revision, kvs: seen(&answer["kvs"]) },
        Op::Swap { .. } if answer["succeeded"] != json!(true) => {
            Outcome::Read { revision, kvs: seen(&answer["responses"][0]["response_range"]["kvs"]) }
        }
        Op::Put { .. }
        | Op::Swap { .. }
        | Op::Delete { .. }
        | Op::Revoke { .. }
        | Op::Txn(_)
        | Op::Page { .. }
        | Op::Compact { .. } => Outcome::Done { revision, deleted: number(&answer["deleted"]) },
    }
}

fn seen(kvs: &Value) -> Vec<Seen> {
    let text = |value: &Value| {
        let bytes = STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let one = |kv: &Value| Seen {
        key: text(&kv["key"]),
        value: text(&kv["value"]),
        create_revision: number(&kv["create_revision"]),
        mod_revision: number(&kv["mod_revision"]),
        version: number(&kv["version"]),
        lease: number(&kv["lease"]),
    };
    kvs.as_array().into_iter().flatten().map(one).collect()
}

/// Numbers of 64 bits are strings; what is 0 is left out.
fn number(value: &Value) -> i64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_the_gateway_writes_them() {
        let get = Op::Get { span: Span::key("k1"), serializable: false, revision: 0 };
        let kv = json!({ "key": "azE=", "value": "djE=", "create_revision": "3", "mod_revision": "5", "version": "2" });
        let answer = json!({ "header": { "revision": "7" }, "kvs": [kv], "count": "1" });
        let Outcome::Read { revision: 7, kvs } = read(&get, &answer) else { panic!("{answer}") };
        let Seen { key, value, create_revision: 3, mod_revision: 5, version: 2, lease: 0 } = &kvs[0] else {
            panic!("{kvs:?}")
        };
        assert_eq!((key.as_str(), value.as_str()), ("k1", "v1"));
        let delete = Op::Delete { span: Span::prefix("k") };
        let answer = json!({ "header": { "revision": "8" }, "deleted": "2" });
        assert_eq!(read(&delete, &answer), Outcome::Done { revision: 8, deleted: 2 });
    }

    #[test]
    fn a_swap_says_what_it_found_if_its_condition_did_not_hold() {
        let swap = Op::Swap { parts: vec![("k1".into(), 4, "v".into())] };
        assert!(JsonCall::of(&swap).is_some_and(|call| call.body["compare"][0]["mod_revision"] == "4"));
        let done = json!({ "header": { "revision": "5" }, "succeeded": true, "responses": [{ "response_put": {} }] });
        assert_eq!(read(&swap, &done), Outcome::Done { revision: 5, deleted: 0 });
        let failed = json!({ "header": { "revision": "5" }, "responses": [{ "response_range": {} }] });
        assert_eq!(read(&swap, &failed), Outcome::Read { revision: 5, kvs: Vec::new() });
    }
}
