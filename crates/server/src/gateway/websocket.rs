//! Any method of the gateway over a WebSocket, as etcd offers it for browsers: each message from the client is a piece of
//! the request's body, each line of the answer is a message to the client. Knows bytes, no method.

use super::input::{self, Input};
use super::{Call, reply, schema};
use crate::grpc::Body;
use crate::limits::{Gauge, Limit, Taken};
use crate::shared::Shared;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{SinkExt, Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header, request};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// What a browser, which cannot set the header `Authorization`, names as its protocol: this, a comma and the token.
const BEARER: &str = "Bearer";

/// Whether a request asks for a WebSocket.
pub fn is_asked_for(head: &request::Parts) -> bool {
    head.version == Version::HTTP_11
        && head.method == Method::GET
        && has_word(&head.headers, header::CONNECTION, "upgrade")
        && has_word(&head.headers, header::UPGRADE, "websocket")
}

fn has_word(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(word))
}

/// Agrees, and serves the method on the connection once it is no longer HTTP's.
pub fn upgrade(
    shared: &Arc<Shared>,
    method: (&'static str, schema::Method),
    head: &mut request::Parts,
) -> Response<Body> {
    // No rule of browsers keeps a page from opening a WebSocket to another site and reading what comes, so this does.
    if !shared.access.admits(head.headers.get(header::ORIGIN)) {
        return reply::text(StatusCode::FORBIDDEN);
    }
    let key = head.headers.get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let accept = key.and_then(|key| HeaderValue::try_from(key).ok());
    let (Some(accept), Some(upgrade)) = (accept, head.extensions.remove::<OnUpgrade>()) else {
        return reply::text(StatusCode::BAD_REQUEST);
    };
    let protocol = head.headers.get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|protocol| protocol.to_str().ok());
    let protocol = protocol.filter(|protocol| protocol.starts_with(BEARER)).map(str::to_owned);
    if let Some(token) = protocol.as_deref().and_then(token)
        && let Ok(value) = HeaderValue::try_from(format!("{BEARER} {token}"))
    {
        head.headers.insert(header::AUTHORIZATION, value);
    }
    let call = match Call::new(shared, method, head) {
        Ok(call) => call,
        Err(failure) => return reply::failure(&failure),
    };
    // The connection is not counted any more, so the socket is.
    let Some(permit) = Gauge::take(Arc::clone(&shared.requests), 1) else {
        let failure = Limit::Requests.refusal();
        shared.metrics.count_refusal(&failure);
        return reply::failure(&failure);
    };
    let socket = Socket { shared: Arc::clone(shared), call, _permit: permit };
    shared.detached.spawn(socket.run(upgrade));

    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if protocol.is_some() {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(BEARER));
    }
    response
}

/// The token in a list of protocols, if there is one.
fn token(protocols: &str) -> Option<&str> {
    protocols.strip_prefix(BEARER)?.trim_start().strip_prefix(',').map(str::trim)
}

/// One WebSocket. Ends when the answer does, when the client closes, or with the server.
struct Socket {
    shared: Arc<Shared>,
    call: Call,
    _permit: Taken<Arc<Gauge>>,
}

type Connection = WebSocketStream<TokioIo<Upgraded>>;

impl Socket {
    async fn run(self, upgrade: OnUpgrade) {
        let Self { shared, call, _permit } = self;
        let stopping = shared.stopping.clone();
        let serve = async {
            let Ok(upgraded) = upgrade.await else { return };
            let bytes_max = Some(input::bytes_max(&shared));
            let config = WebSocketConfig::default().max_message_size(bytes_max).max_frame_size(bytes_max);
            let connection = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
            converse(&shared, call, connection).await;
        };
        tokio::select! {
            () = serve => {}
            () = stopping.cancelled() => {}
        }
    }
}

async fn converse(shared: &Shared, call: Call, mut connection: Connection) {
    let (pieces, body) = mpsc::channel(1);
    let mut answer = answer(call, Input::new(shared, pieces_of(body)));
    // What the client has said and the method has not asked for yet; until then nothing more is read.
    let mut waiting: Option<Bytes> = None;
    loop {
        tokio::select! {
            message = connection.next(), if waiting.is_none() => match message {
                Some(Ok(Message::Text(text))) => waiting = Some(line(text.as_bytes())),
                Some(Ok(Message::Binary(data))) => waiting = Some(line(&data)),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
            place = pieces.reserve(), if waiting.is_some() => {
                let piece = waiting.take();
                // A method that has all it wants does not listen any more.
                if let (Ok(place), Some(piece)) = (place, piece) {
                    place.send(piece);
                }
            }
            chunk = answer.next() => match chunk {
                Some(chunk) => {
                    if send(&mut connection, &chunk).await.is_err() {
                        return;
                    }
                }
                None => break,
            },
        }
    }
    // The client may be gone already.
    let _ = connection.close(None).await;
}

/// A message and a line end, so that a number ends with it.
fn line(text: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(text.len() + 1);
    line.put_slice(text);
    line.put_u8(b'\n');
    line.freeze()
}

fn pieces_of(body: mpsc::Receiver<Bytes>) -> impl Stream<Item = Result<Bytes, tonic::Status>> + Send {
    futures::stream::unfold(body, |mut body| async move { Some((Ok(body.recv().await?), body)) })
}

/// The body of the answer, whatever its status.
fn answer(call: Call, input: Input) -> BoxStream<'static, Bytes> {
    let response = futures::stream::once(call.respond(input));
    response
        .flat_map(|response| match response.into_body() {
            Body::Full(body) => futures::stream::iter([body]).boxed(),
            Body::Plain(lines) => lines.boxed(),
            Body::Empty | Body::Unary(_) | Body::Trailers | Body::Stream(_) => futures::stream::empty().boxed(),
        })
        .boxed()
}

async fn send(connection: &mut Connection, chunk: &Bytes) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    for line in chunk.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        if let Ok(text) = Utf8Bytes::try_from(chunk.slice_ref(line)) {
            connection.feed(Message::Text(text)).await?;
        }
    }
    connection.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browsers_token_is_among_its_protocols() {
        assert_eq!(token("Bearer, abc.1"), Some("abc.1"));
        assert_eq!(token("Bearer,abc"), Some("abc"));
        assert_eq!(token("Bearer"), None);
        assert_eq!(token("other, abc"), None);
    }
}
