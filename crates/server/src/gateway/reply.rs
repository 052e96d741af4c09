//! Answers of the gateway that are no messages, with the bodies of etcd's; and which HTTP status a gRPC code has.

use super::encode::quoted;
use crate::grpc::Body;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use std::fmt::Write;
use tonic::{Code, Status};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Which HTTP status a gRPC code has: grpc-gateway's table.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // 499, "client closed request": nginx's, and not registered.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn response(code: StatusCode, content_type: HeaderValue, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// An answer with messages.
pub fn success(body: Body) -> Response<Body> {
    let mut response = response(StatusCode::OK, JSON, body);
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(HeaderName::from_static("grpc-metadata-content-type"), grpc);
    response
}

/// The answer of a stream that ended without a message.
pub fn no_messages() -> Response<Body> {
    response(StatusCode::OK, JSON, Body::Empty)
}

/// A request that failed. Releases up to 3.5 say the text twice, and their clients read the first.
pub fn failure(status: &Status) -> Response<Body> {
    let mut message = String::new();
    quoted(status.message(), &mut message);
    let body = format!("{{\"error\":{message},\"code\":{},\"message\":{message}}}", status.code() as i32);
    response(http_status(status.code()), JSON, Body::Full(body.into()))
}

/// A stream that failed before its first message.
pub fn stream_failure(status: &Status) -> Response<Body> {
    response(http_status(status.code()), JSON, Body::Full(error_line(status).into()))
}

/// The last line of a stream that failed: with the names of etcd 3.5 and of 3.6.
pub fn error_line(status: &Status) -> String {
    let (code, http) = (status.code() as i32, http_status(status.code()));
    let mut line = format!("{{\"error\":{{\"grpc_code\":{code},\"http_code\":{},\"message\":", http.as_u16());
    quoted(status.message(), &mut line);
    let reason = http.canonical_reason().unwrap_or_default();
    // Writing to a String cannot fail.
    let _ = writeln!(line, ",\"http_status\":\"{reason}\",\"code\":{code}}}}}");
    line
}

/// A path or a method that is not there, in the words of HTTP.
pub fn text(code: StatusCode) -> Response<Body> {
    let body = format!("{}\n", code.canonical_reason().unwrap_or_default());
    let mut response = response(code, TEXT, Body::Full(body.into()));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A path that needs a slash at its end.
pub fn moved(to: &str) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}
