//! The JSON gateway: every method of the API as `POST /v3/...`, as etcd has it. It makes a gRPC request of a JSON one and
//! hands it to the dispatch that a client's gRPC request would come to, so limits, authentication, metrics and errors are
//! the same. Knows paths ([`routes`]) and descriptors ([`schema`]), no message.
//!
//! A request is one JSON object, or several one after the other where the method takes a stream; an answer is one object,
//! or a line for each message of a stream: `{"result": ...}`, and `{"error": ...}` at the end if it fails.

mod decode;
mod encode;
mod input;
mod lines;
mod reply;
mod routes;
mod scanner;
mod schema;
mod websocket;

use crate::connection::Connection;
use crate::grpc::{self, Body, Out, Source};
use crate::http as plain_http;
use crate::shared::Shared;
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request};
use hyper::body::Incoming;
use input::Input;
use schema::SCHEMA;
use std::sync::Arc;
use std::time::Instant;
use tonic::{Code, Status};

/// Headers with this prefix are passed on as gRPC metadata, without it.
const METADATA_PREFIX: &str = "grpc-metadata-";

/// Says that a request came through the gateway. etcd does not take the name in a client's certificate for such a
/// request's user.
const GATEWAY_MARK: HeaderName = HeaderName::from_static("grpcgateway-accept");

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What etcd says to somebody who counts on the name in their certificate.
const CERTIFICATE_IGNORED: &str =
    "CommonName of client sending a request against gateway will be ignored and not used as expected";

/// Whether a path is the gateway's.
pub fn owns(path: &str) -> bool {
    routes::below(path).is_some()
}

/// Answers one request whose path the gateway [owns].
pub async fn serve(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    let below = routes::below(head.uri.path()).unwrap_or_default();
    if below.is_empty() {
        return reply::moved(&format!("{}/", head.uri.path()));
    }
    let Some(method) = routes::find(below).and_then(|path| Some((path, SCHEMA.method(path)?))) else {
        return reply::text(StatusCode::NOT_FOUND);
    };
    if relies_on_certificate(shared, &head, method.0) {
        return plain_http::failure(StatusCode::BAD_REQUEST, CERTIFICATE_IGNORED);
    }
    if websocket::is_asked_for(&head) {
        return websocket::upgrade(shared, method, &mut head);
    }
    if head.method != Method::POST {
        return reply::text(StatusCode::METHOD_NOT_ALLOWED);
    }
    match Call::new(shared, method, &mut head) {
        Ok(call) => call.respond(Input::of_body(shared, body)).await,
        Err(failure) => reply::failure(&failure),
    }
}

/// Whether a request needs a name and shows none but that of its certificate, which does not count here. etcd refuses requests
/// with a token as well, and so nobody with such a certificate can use its gateway.
fn relies_on_certificate(shared: &Shared, head: &request::Parts, path: &str) -> bool {
    let connection = head.extensions.get::<Arc<Connection>>();
    let has_token = [header::AUTHORIZATION.as_str(), "grpc-metadata-token", "sec-websocket-protocol"]
        .iter()
        .any(|name| head.headers.contains_key(*name));
    connection.is_some_and(|connection| connection.common_name.is_some())
        && !has_token
        && grpc::Method::from_path(path).is_some_and(|method| method.rule() != grpc::Rule::Open)
        && shared.system.auth().enabled()
}

/// One request on its way to gRPC.
struct Call {
    shared: Arc<Shared>,
    path: &'static str,
    method: schema::Method,
    metadata: HeaderMap,
    extensions: Extensions,
    /// Since when the client's deadline runs.
    start: Instant,
}

impl Call {
    fn new(
        shared: &Arc<Shared>,
        (path, method): (&'static str, schema::Method),
        head: &mut request::Parts,
    ) -> Result<Self, Status> {
        let metadata = metadata(&head.headers)?;
        // Who is at the other end of the connection.
        let extensions = std::mem::take(&mut head.extensions);
        Ok(Self { shared: Arc::clone(shared), path, method, metadata, extensions, start: Instant::now() })
    }

    async fn respond(self, input: Input) -> Response<Body> {
        if self.method.server_streams { self.stream(input).await } else { self.unary(input).await }
    }

    async fn unary(self, mut input: Input) -> Response<Body> {
        let message = match self.only_message(&mut input).await {
            Ok(message) => message,
            Err(failure) => return reply::failure(&failure),
        };
        drop(input);
        let answer = self.method.answer;
        let shared = Arc::clone(&self.shared);
        match self.call(Source::local(futures::stream::iter([message]))).await {
            Ok(Body::Unary(message)) => {
                let mut json = String::with_capacity(message.len() * 2);
                grpc::split_messages(&message).for_each(|message| encode::message(answer, message, &mut json));
                drop(message);
                // There was room for the message, and something may have been done: the text, a third larger, takes its place.
                reply::success(Body::Full(grpc::counted(&shared, json.into())))
            }
            // A method with one answer has no other body.
            Ok(_) => reply::failure(&Status::internal("the answer is none")),
            Err(failure) => reply::failure(&failure),
        }
    }

    /// The message of a request that has one; without a body it is empty.
    async fn only_message(&self, input: &mut Input) -> Result<Bytes, Status> {
        let json = input.only().await.inspect_err(|failure| self.shared.metrics.count_refusal(failure))?;
        self.message(json.as_deref().unwrap_or(b"{}")).map_err(Status::invalid_argument)
    }

    fn message(&self, json: &[u8]) -> Result<Bytes, String> {
        framed(self.method.request, json)
    }

    async fn stream(self, mut input: Input) -> Response<Body> {
        let answer = self.method.answer;
        let source = if self.method.client_streams {
            match self.requests(input).await {
                Ok(source) => source,
                Err(failure) => return reply::failure(&failure),
            }
        } else {
            match self.only_message(&mut input).await {
                Ok(message) => Source::local(futures::stream::iter([message])),
                Err(failure) => return reply::failure(&failure),
            }
        };
        match self.call(source).await {
            // The status of the answer is that of the first message.
            Ok(Body::Stream(mut messages)) => match messages.next().await {
                Some(Out::Messages(first)) => reply::success(lines::body(answer, first, messages)),
                Some(Out::End(Ok(()))) | None => reply::no_messages(),
                Some(Out::End(Err(failure))) => reply::stream_failure(&failure),
            },
            Ok(_) => reply::stream_failure(&Status::internal("the answer is no stream")),
            Err(failure) => reply::stream_failure(&failure),
        }
    }

    /// The messages of a stream. The first one is looked at before anything is answered; a later one that is wrong ends
    /// the requests, and the answers to those before it go on, as in etcd.
    async fn requests(&self, mut input: Input) -> Result<Source, Status> {
        let first = match input.next().await.map_err(|failure| Status::unknown(failure.message()))? {
            Some(json) => Some(self.message(&json).map_err(Status::unknown)?),
            None => None,
        };
        let request = self.method.request;
        let rest = futures::stream::unfold(input, move |mut input| async move {
            let json = input.next().await.ok()??;
            Some((framed(request, &json).ok()?, input))
        });
        Ok(Source::local(futures::stream::iter(first).chain(rest)))
    }

    /// The body that gRPC answers with.
    async fn call(self, source: Source) -> Result<Body, Status> {
        // What it took to read the request counts.
        if grpc::timeout(&self.metadata).is_some_and(|timeout| self.start.elapsed() >= timeout) {
            return Err(Status::deadline_exceeded("context deadline exceeded"));
        }
        let mut request = Request::new(source);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static(self.path);
        *request.headers_mut() = self.metadata;
        *request.extensions_mut() = self.extensions;
        let response = grpc::serve(self.shared, request).await;
        match Status::from_header_map(response.headers()) {
            Some(failure) if failure.code() != Code::Ok => Err(failure),
            Some(_) | None => Ok(response.into_body()),
        }
    }
}

/// A JSON message as a gRPC frame.
fn framed(id: schema::MessageId, json: &[u8]) -> Result<Bytes, String> {
    let mut message = Vec::with_capacity(json.len());
    decode::message(id, json, &mut message)?;
    let mut frame = BytesMut::with_capacity(grpc::PREFIX_BYTES + message.len());
    grpc::put_prefix(message.len(), &mut frame);
    frame.put_slice(&message);
    Ok(frame.freeze())
}

/// The metadata of a request: what is marked as such, the token, and the deadline.
fn metadata(headers: &HeaderMap) -> Result<HeaderMap, Status> {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(METADATA_PREFIX) else { continue };
        if let Ok(name) = HeaderName::try_from(name) {
            metadata.append(name, value.clone());
        }
    }
    if let Some(token) = headers.get(header::AUTHORIZATION) {
        metadata.insert(header::AUTHORIZATION, token.clone());
    }
    metadata.remove(TIMEOUT);
    if let Some(timeout) = headers.get(TIMEOUT) {
        if grpc::timeout(headers).is_none() {
            let text = String::from_utf8_lossy(timeout.as_bytes()).into_owned();
            return Err(Status::invalid_argument(format!("invalid grpc-timeout: {text}")));
        }
        metadata.insert(TIMEOUT, timeout.clone());
    }
    let accept = headers.get(header::ACCEPT).cloned().unwrap_or(HeaderValue::from_static("*/*"));
    metadata.insert(GATEWAY_MARK, accept);
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use quorate_proto::etcdserverpb as pb;

    fn message<M: Message + Default>(path: &str, json: &str) -> Result<M, String> {
        let mut wire = Vec::new();
        let json = scanner::first_value(json.as_bytes()).expect("sound JSON");
        decode::message(SCHEMA.method(path).expect("a method").request, json, &mut wire)?;
        Ok(M::decode(&wire[..]).expect("a message"))
    }

    fn range(json: &str) -> Result<pb::RangeRequest, String> {
        message("/etcdserverpb.KV/Range", json)
    }

    fn shown(path: &str, answer: &impl Message) -> String {
        let mut json = String::new();
        encode::message(SCHEMA.method(path).expect("a method").answer, &answer.encode_to_vec(), &mut json);
        json
    }

    #[test]
    fn fields_have_two_names_and_numbers_two_forms() {
        let expected = pb::RangeRequest {
            key: "foo".into(),
            range_end: "\0".into(),
            limit: 2,
            sort_order: 2,
            sort_target: 3,
            serializable: true,
            ..Default::default()
        };
        for json in [
            r#"{"key":"Zm9v","range_end":"AA==","limit":2,"sort_order":"DESCEND","sort_target":3,"serializable":true}"#,
            r#"{"key":"Zm9v","rangeEnd":"AA","limit":"2","sortOrder":2,"sortTarget":"MOD","serializable":true,"x":[{}]}"#,
            r#"{"range_end":"YQ==","key":"Zm9v","rangeEnd":"AA==","limit":"2","sort_order":2,"sort_target":3,
                "serializable":true,"revision":null}"#,
        ] {
            assert_eq!(range(json).unwrap(), expected, "{json}");
        }
        assert_eq!(range("null").unwrap(), pb::RangeRequest::default());
        assert_eq!(range(r#"{"key":"_-8="}"#).unwrap().key, &b"\xff\xef"[..]);
        assert_eq!(range(r#"{"key":[ 255,239 ]}"#).unwrap().key, &b"\xff\xef"[..]);
        assert_eq!(range(r#"{"key":[0,null],"range_end":[]}"#).unwrap(), range(r#"{"key":"AAA="}"#).unwrap());
        assert_eq!(range(r#"{"key":"\/+8\u003d"}"#).unwrap().key, &b"\xff\xef"[..]);
    }

    #[test]
    fn nested_messages_and_alternatives() {
        let json = r#"{"compare":[{"key":"YQ==","target":"VERSION","version":"0"}],
            "success":[{"requestPut":{"key":"YQ=="}},{},{"request_txn":{"failure":[{"requestRange":{}}]}}]}"#;
        let txn: pb::TxnRequest = message("/etcdserverpb.KV/Txn", json).unwrap();
        // A zero that is chosen is not the same as none.
        assert_eq!(txn.compare[0].target_union, Some(pb::compare::TargetUnion::Version(0)));
        assert_eq!(txn.success.len(), 3);
        assert_eq!(txn.success[1].request, None);
        let Some(pb::request_op::Request::RequestTxn(inner)) = &txn.success[2].request else { panic!("{txn:?}") };
        let empty = pb::request_op::Request::RequestRange(pb::RangeRequest::default());
        assert_eq!(inner.failure[0].request, Some(empty));
    }

    #[test]
    fn wrong_values_are_told_as_go_tells_them() {
        for (json, expected) in [
            ("[]", "json: cannot unmarshal array into Go value of type map[string]json.RawMessage"),
            (r#"{"key":1}"#, "json: cannot unmarshal number into Go value of type []uint8"),
            (r#"{"key":[97,300]}"#, "json: cannot unmarshal number 300 into Go value of type uint8"),
            (r#"{"key":[-1]}"#, "json: cannot unmarshal number -1 into Go value of type uint8"),
            (r#"{"key":[1.5]}"#, "json: cannot unmarshal number 1.5 into Go value of type uint8"),
            (r#"{"key":[97,"98"]}"#, "json: cannot unmarshal string into Go value of type uint8"),
            (r#"{"key":[[97]]}"#, "json: cannot unmarshal array into Go value of type uint8"),
            (r#"{"key":"***"}"#, "illegal base64 data at input byte 0"),
            (r#"{"key":"Zm9vZ"}"#, "illegal base64 data at input byte 4"),
            (r#"{"limit":"x"}"#, "invalid character 'x' looking for beginning of value"),
            (r#"{"limit":""}"#, "unexpected end of JSON input"),
            (r#"{"limit":"12x"}"#, "invalid character 'x' after top-level value"),
            (r#"{"limit":1.5}"#, "json: cannot unmarshal number 1.5 into Go value of type int64"),
            (
                r#"{"limit":9223372036854775808}"#,
                "json: cannot unmarshal number 9223372036854775808 into Go value of type int64",
            ),
            (r#"{"limit":true}"#, "json: cannot unmarshal bool into Go value of type int64"),
            (r#"{"serializable":"true"}"#, "json: cannot unmarshal string into Go value of type bool"),
            (r#"{"sort_order":"NOPE"}"#, r#"unknown value "\"NOPE\"" for enum etcdserverpb.RangeRequest.SortOrder"#),
        ] {
            assert_eq!(range(json).unwrap_err(), expected, "{json}");
        }
        let failure = message::<pb::TxnRequest>("/etcdserverpb.KV/Txn", r#"{"success":{}}"#).unwrap_err();
        assert_eq!(failure, "json: cannot unmarshal object into Go value of type []json.RawMessage");
        let failure = message::<pb::LeaseGrantRequest>("/etcdserverpb.Lease/LeaseGrant", r#"{"TTL":[]}"#).unwrap_err();
        assert_eq!(failure, "json: cannot unmarshal array into Go value of type int64");
    }

    #[test]
    fn answers_are_shown_as_etcd_shows_them() {
        let header = pb::ResponseHeader { cluster_id: u64::MAX, member_id: 1, revision: -1, raft_term: 0 };
        let kv = |key: &'static str| quorate_proto::mvccpb::KeyValue {
            key: key.into(),
            mod_revision: 5,
            ..Default::default()
        };
        let answer =
            pb::RangeResponse { header: Some(header), kvs: vec![kv("foo"), kv("a")], more: true, ..Default::default() };
        assert_eq!(
            shown("/etcdserverpb.KV/Range", &answer),
            r#"{"header":{"cluster_id":"18446744073709551615","member_id":"1","revision":"-1"},"#.to_owned()
                + r#""kvs":[{"key":"Zm9v","mod_revision":"5"},{"key":"YQ==","mod_revision":"5"}],"more":true}"#
        );
        let member =
            pb::Member { id: 7, name: "a<b>\n".into(), peer_urls: vec!["x".into(), "y".into()], ..Default::default() };
        let answer = pb::MemberListResponse { header: None, members: vec![member] };
        assert_eq!(
            shown("/etcdserverpb.Cluster/MemberList", &answer),
            r#"{"members":[{"ID":"7","name":"a\u003cb\u003e\n","peerURLs":["x","y"]}]}"#
        );
        let alarm = pb::AlarmMember { member_id: 0, alarm: 1 };
        let answer = pb::AlarmResponse { header: None, alarms: vec![alarm, pb::AlarmMember::default()] };
        assert_eq!(shown("/etcdserverpb.Maintenance/Alarm", &answer), r#"{"alarms":[{"alarm":"NOSPACE"},{}]}"#);
        assert_eq!(shown("/etcdserverpb.KV/Put", &pb::PutResponse::default()), "{}");
    }

    #[test]
    fn metadata_is_what_is_marked_and_the_token() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-metadata-hasleader", HeaderValue::from_static("true"));
        headers.insert("authorization", HeaderValue::from_static("Bearer x"));
        headers.insert("hasleader", HeaderValue::from_static("false"));
        headers.insert("grpc-timeout", HeaderValue::from_static("5S"));
        let found = metadata(&headers).unwrap();
        let value = |name: &str| found.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!((value("hasleader"), value("authorization")), (Some("true"), Some("Bearer x")));
        assert_eq!((value("grpc-timeout"), value("grpcgateway-accept")), (Some("5S"), Some("*/*")));
        headers.insert("grpc-timeout", HeaderValue::from_static("nope"));
        assert_eq!(metadata(&headers).unwrap_err().message(), "invalid grpc-timeout: nope");
    }
}
