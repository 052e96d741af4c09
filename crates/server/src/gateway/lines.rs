//! The body of a stream's answer: one line of JSON for each message. Made when the client has taken the last one.

use super::schema::MessageId;
use super::{encode, reply};
use crate::grpc::{self, Body, Out};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use std::pin::Pin;

type Messages = Pin<Box<dyn Stream<Item = Out> + Send>>;

/// The lines for `first`, and then for whatever comes.
pub fn body(answer: MessageId, first: Bytes, rest: Messages) -> Body {
    let out = futures::stream::iter([Out::Messages(first)]).chain(rest);
    let lines = out.filter_map(move |out| async move {
        match out {
            Out::Messages(messages) => Some(lines(answer, &messages)),
            Out::End(Err(failure)) => Some(reply::error_line(&failure).into()),
            Out::End(Ok(())) => None,
        }
    });
    Body::Plain(Box::pin(lines))
}

fn lines(answer: MessageId, messages: &[u8]) -> Bytes {
    let mut text = String::with_capacity(messages.len() * 2);
    for message in grpc::split_messages(messages) {
        text.push_str("{\"result\":");
        encode::message(answer, message, &mut text);
        text.push_str("}\n");
    }
    text.into()
}
