//! Carries calls to endpoints: balancing, deadlines, retries, tokens.
//!
//! Knows what each call may do (read, write) and nothing of its content. Guarantees that a write is sent again only
//! when it is certain that nobody took the earlier one up.

use std::error::Error as _;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use quorate_sabotage::sabotage;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::client::Grpc;
use tonic::codegen::tokio_stream::Stream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::auth::{Auth, Refusals, Token};
use crate::connector::Tls;
use crate::endpoints::{Endpoint, Endpoints};
use crate::error::{Verdict, is_about_token, is_worth_reading_elsewhere, judge};
use crate::{ConnectOptions, Error};

const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Shortest time that an attempt gets before the next endpoint is asked.
const ATTEMPT_MIN: Duration = Duration::from_millis(200);

/// What a call does, which decides what a retry may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Changes nothing, or nothing that matters when it is done twice.
    Read,
    /// Must not be done twice.
    Write,
}

/// One call of the API.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Method {
    pub(crate) path: &'static str,
    pub(crate) effect: Effect,
    /// The call is pointless on a member that sees no leader.
    pub(crate) needs_leader: bool,
}

#[derive(Debug)]
pub(crate) struct Transport {
    pub(crate) options: Arc<ConnectOptions>,
    pub(crate) endpoints: Endpoints,
    pub(crate) tls: Arc<Tls>,
    auth: Arc<Auth>,
}

impl Transport {
    pub(crate) fn connect<S: AsRef<str>>(addresses: &[S], options: ConnectOptions) -> Result<Self, Error> {
        let tls = Arc::new(Tls::new(options.tls.clone())?);
        let list = addresses.iter().map(|address| Endpoint::new(address.as_ref(), &options, &tls).map(Arc::new));
        let endpoints = Endpoints::new(list.collect::<Result<_, _>>()?)?;
        let auth = Arc::new(Auth::new(options.user.clone()));
        Ok(Transport { options: Arc::new(options), endpoints, tls, auth })
    }

    /// The same transport for one endpoint alone, over its existing connection if there is one.
    pub(crate) fn pinned(&self, endpoint: Arc<Endpoint>) -> Result<Self, Error> {
        let endpoints = Endpoints::new(vec![endpoint])?;
        Ok(Transport { options: self.options.clone(), endpoints, tls: self.tls.clone(), auth: self.auth.clone() })
    }

    /// Does a call with one answer.
    pub(crate) async fn unary<Q, A>(&self, method: Method, request: Q, timeout: Duration) -> Result<A, Error>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.call::<Unary<A>, Q>(method, request, timeout).await
    }

    /// Opens a call that answers with a stream. `timeout` is for opening it, the stream itself may last.
    pub(crate) async fn server_streaming<Q, A>(
        &self,
        method: Method,
        request: Q,
        timeout: Duration,
    ) -> Result<Streaming<A>, Error>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.call::<ServerStream<A>, Q>(method, request, timeout).await
    }

    /// Makes a call with the current token, and again with new ones if the servers do not know it any more.
    async fn call<S, Q>(&self, method: Method, request: Q, timeout: Duration) -> Result<S::Answer, Error>
    where
        S: Shape,
        Q: Message + Clone + 'static,
    {
        let deadline = Instant::now() + timeout;
        let mut refusals = Refusals::default();
        loop {
            let token = self.token(deadline).await?;
            let result = self.call_with::<S, Q>(token.as_ref(), method, &request, deadline).await;
            let refusal = match &result {
                Err(Error::Rejected { message, .. }) if self.auth.has_user() && is_about_token(message) => message,
                Ok(_) | Err(_) => return result,
            };
            let Some(pause) = refusals.next() else { return result };
            self.auth.forget(token.as_ref());
            if Instant::now() + pause >= deadline {
                let text = format!("no token was accepted in time, the last one was refused: {refusal}");
                return Err(Error::unavailable(&Status::deadline_exceeded(text)));
            }
            sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
        }
    }

    /// Asks one endpoint after another, as far as `method` may be repeated, until `deadline`.
    async fn call_with<S, Q>(
        &self,
        token: Option<&Token>,
        method: Method,
        request: &Q,
        deadline: Instant,
    ) -> Result<S::Answer, Error>
    where
        S: Shape,
        Q: Message + Clone + 'static,
    {
        let mut attempts = Attempts::new(&self.endpoints, method, deadline);
        loop {
            let (endpoint, until) = attempts.next().await;
            let request = self.request(method, request.clone(), token, S::ENDS_IN_TIME.then_some(until));
            let attempt = async {
                let grpc = grpc(&endpoint.channel).await?;
                S::send(grpc, request, path(method.path)).await
            };
            let result = timeout_at(until, attempt).await.unwrap_or_else(|_| Err(timed_out(&endpoint)));
            if let Some(result) = attempts.settle(&endpoint, result) {
                return result.map(Response::into_inner);
            }
        }
    }

    /// Opens a call with streams in both directions on one endpoint, which is returned with it: once. `timeout` is for
    /// opening it, the streams themselves may last.
    ///
    /// Many servers answer only when they have something to say, so something must be in `requests` for this to end.
    pub(crate) async fn bidirectional<Q, A>(
        &self,
        method: Method,
        requests: impl Stream<Item = Q> + Send + 'static,
        timeout: Duration,
    ) -> Result<(Arc<Endpoint>, Streaming<A>), Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let deadline = Instant::now() + timeout;
        let token = self.token(deadline).await.map_err(|error| match error {
            Error::Rejected { code, message } => Status::new(code, message),
            other => Status::unavailable(other.to_string()),
        })?;
        let endpoint = self.endpoints.pick(&[]).ok_or_else(|| Status::unavailable("no endpoints"))?;
        let opening = async {
            let mut grpc = grpc(&endpoint.channel).await?;
            let request = self.request(method, requests, token.as_ref(), None);
            grpc.streaming(request, path(method.path), ProstCodec::default()).await
        };
        match timeout_at(deadline, opening).await.unwrap_or_else(|_| Err(timed_out(&endpoint))) {
            Ok(response) => {
                endpoint.succeeded();
                Ok((endpoint, response.into_inner()))
            }
            Err(status) => {
                if is_about_token(status.message()) {
                    self.auth.forget(token.as_ref());
                } else if is_worth_reading_elsewhere(&status) {
                    endpoint.failed();
                }
                Err(status)
            }
        }
    }

    pub(crate) fn has_user(&self) -> bool {
        self.auth.has_user()
    }

    /// Makes the next call log in anew.
    pub(crate) fn forget_token(&self) {
        self.auth.forget_any();
    }

    /// Logs in if there is a user and that has not happened yet.
    pub(crate) async fn log_in(&self) -> Result<(), Error> {
        self.token(Instant::now() + self.options.timeout).await.map(drop)
    }

    /// The current token, from a login if need be. `None` if the client has no user or the server wants no token.
    async fn token(&self, deadline: Instant) -> Result<Option<Token>, Error> {
        const METHOD: Method =
            Method { path: "/etcdserverpb.Auth/Authenticate", effect: Effect::Read, needs_leader: true };
        if let Some(known) = self.auth.known() {
            return Ok(known);
        }
        let login = match timeout_at(deadline, self.auth.begin_login()).await {
            Ok(login) => login,
            Err(_) => return Err(Error::unavailable(&Status::deadline_exceeded("no login in time"))),
        };
        // Somebody else may have logged in while this call waited for its turn.
        if let Some(known) = self.auth.known() {
            return Ok(known);
        }
        let answer = self.call_with::<Unary<_>, _>(None, METHOD, &login.request(), deadline).await;
        login.finish(answer)
    }

    fn request<Q>(&self, method: Method, message: Q, token: Option<&Token>, until: Option<Instant>) -> Request<Q> {
        let mut request = Request::new(message);
        if let Some(until) = until {
            request.set_timeout(until.saturating_duration_since(Instant::now()));
        }
        let metadata = request.metadata_mut();
        if let Some(token) = token {
            metadata.insert("token", token.value());
        }
        if method.needs_leader && self.options.require_leader {
            metadata.insert("hasleader", MetadataValue::<Ascii>::from_static("true"));
        }
        request
    }
}

/// How a call is answered.
trait Shape {
    /// What its beginning is answered with.
    type Answer: Send;
    /// Whether the server is told the deadline, for that of the whole call.
    const ENDS_IN_TIME: bool;

    fn send<Q: Message + 'static>(
        grpc: Grpc<Channel>,
        request: Request<Q>,
        path: http::uri::PathAndQuery,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

/// With one message.
struct Unary<A>(PhantomData<A>);

impl<A: Message + Default + 'static> Shape for Unary<A> {
    type Answer = A;
    const ENDS_IN_TIME: bool = true;

    async fn send<Q: Message + 'static>(
        mut grpc: Grpc<Channel>,
        request: Request<Q>,
        path: http::uri::PathAndQuery,
    ) -> Result<Response<A>, Status> {
        grpc.unary(request, path, ProstCodec::default()).await
    }
}

/// With a stream of messages.
struct ServerStream<A>(PhantomData<A>);

impl<A: Message + Default + 'static> Shape for ServerStream<A> {
    type Answer = Streaming<A>;
    const ENDS_IN_TIME: bool = false;

    async fn send<Q: Message + 'static>(
        mut grpc: Grpc<Channel>,
        request: Request<Q>,
        path: http::uri::PathAndQuery,
    ) -> Result<Response<Streaming<A>>, Status> {
        grpc.server_streaming(request, path, ProstCodec::default()).await
    }
}

async fn grpc(channel: &Channel) -> Result<Grpc<Channel>, Status> {
    // Servers send ranges of any size.
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    Ok(grpc)
}

fn path(path: &'static str) -> http::uri::PathAndQuery {
    http::uri::PathAndQuery::from_static(path)
}

/// An attempt ended by this side. Like a failure of the transport, it says nothing about the server's view.
fn timed_out(endpoint: &Endpoint) -> Status {
    let mut status = Status::deadline_exceeded(format!("no answer from {} in time", endpoint.url));
    status.set_source(Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut)));
    status
}

/// One call on its way: which endpoint is next, and whether there may be a next one.
struct Attempts<'a> {
    endpoints: &'a Endpoints,
    method: Method,
    deadline: Instant,
    /// Endpoints that failed in this round. After a round comes a pause, and then all are tried again.
    tried: Vec<Arc<Endpoint>>,
    backoff: Duration,
    /// What the call ends with if no endpoint does it.
    telling: Option<(Telling, Error)>,
}

/// How much a failed attempt says about why the call cannot be done, least first: that one member is down does not tell why the
/// others cannot do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Telling {
    /// There was no connection, or it broke.
    NotReached,
    /// The endpoint has said nothing in time.
    Silent,
    /// It refused the connection, and said why.
    RefusedConnection,
    /// A member looked at the request, and said why it cannot do it.
    Answered,
}

impl<'a> Attempts<'a> {
    fn new(endpoints: &'a Endpoints, method: Method, deadline: Instant) -> Self {
        Attempts { endpoints, method, deadline, tried: Vec::new(), backoff: BACKOFF_MIN, telling: None }
    }

    /// The endpoint to try next, and until when.
    async fn next(&mut self) -> (Arc<Endpoint>, Instant) {
        let endpoint = loop {
            if let Some(endpoint) = self.endpoints.pick(&self.tried) {
                break endpoint;
            }
            self.tried.clear();
            sleep(self.backoff.mul_f64(rand::random_range(0.5..1.0))).await;
            self.backoff = BACKOFF_MAX.min(self.backoff * 2);
        };
        self.tried.push(endpoint.clone());
        let others_left = self.tried.len() < self.endpoints.len();
        let until = match self.method.effect {
            // A member that hangs must not use up the time of those that do not.
            Effect::Read if others_left => {
                let left = self.deadline.saturating_duration_since(Instant::now());
                self.deadline.min(Instant::now() + ATTEMPT_MIN.max(left / 2))
            }
            Effect::Read | Effect::Write => self.deadline,
        };
        (endpoint, until)
    }

    /// Judges the result of an attempt: what the call ends with, or `None` if it goes on with the next endpoint.
    fn settle<T>(&mut self, endpoint: &Endpoint, result: Result<T, Status>) -> Option<Result<T, Error>> {
        let status = match result {
            Ok(answer) => {
                endpoint.succeeded();
                return Some(Ok(answer));
            }
            Err(status) => status,
        };
        let verdict = judge(&status);
        let goes_on = match (self.method.effect, verdict) {
            (_, Verdict::Refused) => return Some(Err(Error::rejected(&status))),
            (_, Verdict::NotTaken) => true,
            (Effect::Read, Verdict::Unknown) if is_worth_reading_elsewhere(&status) => true,
            (Effect::Read, Verdict::Unknown) => return Some(Err(Error::rejected(&status))),
            (Effect::Write, Verdict::Unknown) => sabotage!(ClientResendsUnknown),
        };
        endpoint.failed();
        tracing::debug!(endpoint = endpoint.url, path = self.method.path, %status, ?verdict, "attempt failed");
        if !goes_on && sabotage!(ClientUnknownIsNothing) {
            return Some(Err(Error::unavailable(&status)));
        }
        if !goes_on {
            return Some(Err(Error::unknown_outcome(&status)));
        }
        let failure = tell(endpoint, &status);
        // Of two that tell as much, the newer one.
        if self.telling.as_ref().is_none_or(|(telling, _)| failure.0 >= *telling) {
            self.telling = Some(failure);
        }
        // The pause before the next round must not end after the deadline.
        let next_at = Instant::now() + self.backoff;
        if next_at < self.deadline {
            return None;
        }
        self.telling.take().map(|(_, error)| Err(error))
    }
}

/// What an attempt says that failed, and how much that is.
fn tell(endpoint: &Endpoint, status: &Status) -> (Telling, Error) {
    if let Some(reason) = endpoint.refusal() {
        return (Telling::RefusedConnection, Error::refused_connection(status, reason));
    }
    let telling = match (status.source(), status.code()) {
        (None, _) => Telling::Answered,
        (Some(_), Code::DeadlineExceeded) => Telling::Silent,
        (Some(_), _) => Telling::NotReached,
    };
    (telling, Error::unavailable_at(&endpoint.url, status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::text;

    const READ: Method = Method { path: "/etcdserverpb.KV/Range", effect: Effect::Read, needs_leader: true };

    fn not_reached() -> Status {
        Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)))
    }

    /// What a call ends with whose attempts, one endpoint after the other, fail like this, the last one at the deadline.
    async fn ends_with(failures: &[fn(&Endpoint) -> Status]) -> Error {
        let transport = Transport::connect(&["127.0.0.1:1", "127.0.0.1:2"], ConnectOptions::new()).unwrap();
        let all = &transport.endpoints;
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut attempts = Attempts::new(all, READ, deadline);
        let (last, before) = failures.split_last().unwrap();
        for failure in before {
            let (endpoint, _) = attempts.next().await;
            let failed = failure(&endpoint);
            assert!(attempts.settle::<()>(&endpoint, Err(failed)).is_none(), "there is time for the next one");
        }
        let (endpoint, _) = attempts.next().await;
        tokio::time::advance(Duration::from_secs(60)).await;
        let failed = last(&endpoint);
        attempts.settle::<()>(&endpoint, Err(failed)).expect("the time is over").unwrap_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_with_what_tells_most_whichever_endpoint_was_the_last() {
        let unreachable = |_: &Endpoint| not_reached();
        let leaderless = |_: &Endpoint| Status::unavailable(text::NO_LEADER);
        let late = |_: &Endpoint| Status::unavailable("etcdserver: request timed out");
        let message = |error: Error| match error {
            Error::Unavailable { message, .. } => message,
            other => panic!("{other:?}"),
        };
        assert_eq!(message(ends_with(&[leaderless, unreachable]).await), text::NO_LEADER);
        assert_eq!(message(ends_with(&[unreachable, leaderless]).await), text::NO_LEADER);
        assert_eq!(message(ends_with(&[timed_out, leaderless, unreachable]).await), text::NO_LEADER);
        let newest = message(ends_with(&[leaderless, late, unreachable]).await);
        assert_eq!(newest, "etcdserver: request timed out", "of what members answered, the newest");
        let silent = message(ends_with(&[timed_out, unreachable]).await);
        assert!(silent.starts_with("no answer from"), "{silent}");
        let nobody = message(ends_with(&[unreachable, unreachable]).await);
        assert!(nobody.contains("connection refused"), "{nobody}");
    }
}
