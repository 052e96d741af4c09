//! The body of every response: gRPC's messages and trailers, or plain HTTP.

use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;

/// What a stream of answers yields.
pub enum Out {
    /// One or more encoded messages.
    Messages(Bytes),
    /// The end. Nothing comes after it.
    End(Result<(), Status>),
}

/// A response body.
pub enum Body {
    /// Nothing (more).
    Empty,
    /// All of an HTTP body.
    Full(Bytes),
    /// The one message of a unary answer, already encoded.
    Unary(Bytes),
    /// Only the trailers of success are left.
    Trailers,
    /// Messages as they come.
    Stream(Pin<Box<dyn Stream<Item = Out> + Send>>),
    /// An HTTP body as it comes, without trailers.
    Plain(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

fn trailers_ok() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}

fn trailers(result: Result<(), Status>) -> HeaderMap {
    match result {
        Ok(()) => trailers_ok(),
        Err(status) => {
            let mut trailers = HeaderMap::with_capacity(2);
            // It fails only on a text that cannot be a header, and the text is percent-encoded.
            if status.add_header(&mut trailers).is_err() {
                trailers.insert("grpc-status", HeaderValue::from_static("2"));
            }
            trailers
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let frame = match std::mem::replace(this, Self::Empty) {
            Self::Empty => return Poll::Ready(None),
            Self::Full(bytes) => Frame::data(bytes),
            Self::Unary(message) => {
                *this = Self::Trailers;
                Frame::data(message)
            }
            Self::Trailers => Frame::trailers(trailers_ok()),
            Self::Stream(mut stream) => {
                let out = match stream.as_mut().poll_next(context) {
                    Poll::Ready(out) => out,
                    Poll::Pending => {
                        *this = Self::Stream(stream);
                        return Poll::Pending;
                    }
                };
                match out {
                    Some(Out::Messages(messages)) => {
                        *this = Self::Stream(stream);
                        Frame::data(messages)
                    }
                    Some(Out::End(result)) => Frame::trailers(trailers(result)),
                    None => Frame::trailers(trailers_ok()),
                }
            }
            Self::Plain(mut stream) => match stream.as_mut().poll_next(context) {
                Poll::Ready(Some(bytes)) => {
                    *this = Self::Plain(stream);
                    Frame::data(bytes)
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    *this = Self::Plain(stream);
                    return Poll::Pending;
                }
            },
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Unary(_) | Self::Trailers | Self::Stream(_) | Self::Plain(_) => false,
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Empty => http_body::SizeHint::with_exact(0),
            Self::Full(bytes) => http_body::SizeHint::with_exact(bytes.len() as u64),
            // No length in the header: gRPC does without, and it costs bytes on the wire.
            Self::Unary(_) | Self::Trailers | Self::Stream(_) | Self::Plain(_) => http_body::SizeHint::default(),
        }
    }
}
