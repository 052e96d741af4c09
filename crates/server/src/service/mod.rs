//! What each gRPC method does: convert, ask the node, convert back. Knows messages, not frames or sockets.

pub mod auth;
pub mod cluster;
pub mod election;
pub mod extension;
pub mod health;
pub mod kv;
pub mod lease;
pub mod lock;
pub mod maintenance;
mod range_stream;
mod recipe;
pub mod watch;

use crate::grpc::{Body, Out, Session};
use bytes::BytesMut;
use futures::stream;
use prost::Message;
use std::pin::Pin;
use tonic::{Code, Status};

/// A stream of answers that makes the next one when it is asked: nothing runs ahead of a slow client.
trait Answers: Send + 'static {
    /// Counters of the call.
    fn session(&mut self) -> &mut Session;

    /// Appends the next message or messages to `out`. `false` at the end.
    fn next(&mut self, out: &mut Outbox) -> impl Future<Output = Result<bool, Status>> + Send;
}

/// Encoded messages that wait to be sent.
#[derive(Default)]
struct Outbox {
    bytes: BytesMut,
    messages: u64,
}

impl Outbox {
    fn push<M: Message>(&mut self, message: &M) {
        crate::grpc::encode(message, &mut self.bytes);
        self.messages += 1;
    }

    fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// The response body that sends `answers`.
fn body(answers: impl Answers) -> Body {
    let stream: Pin<Box<dyn futures::Stream<Item = Out> + Send>> =
        Box::pin(stream::unfold(Some(Box::new(answers)), |answers| async move {
            let mut answers = answers?;
            let mut out = Outbox::default();
            let end = match answers.next(&mut out).await {
                Ok(true) => {
                    answers.session().track.sent(out.messages, out.bytes());
                    return Some((Out::Messages(out.bytes.freeze()), Some(answers)));
                }
                Ok(false) => Ok(()),
                Err(failure) => Err(failure),
            };
            let track = &mut answers.session().track;
            match &end {
                Ok(()) => track.end(Code::Ok),
                Err(failure) => track.fail(failure),
            }
            Some((Out::End(end), None))
        }));
    Body::Stream(stream)
}
