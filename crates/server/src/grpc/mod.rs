//! gRPC over a hyper HTTP/2 stream: path to method, message in, message out. Knows framing, limits and metrics; what a
//! method does is in `service`.
//!
//! There is no router, no middleware and no boxed future on the way of a read or a write: this path is most of what a
//! request costs outside of the node.

mod body;
mod message;
mod method;
mod rule;
mod scan;
mod timeout;
mod track;

use crate::audit::{AuditLog, Who, Witness};
use crate::auth::Credentials;
use crate::client::Client;
use crate::connection::Connection;
use crate::inline::InlineExecutor;
use crate::limits::{Gauge, Limit, Taken};
use crate::metrics::client_api_minor;
use crate::service::{
    auth, cluster, election, extension, health, kv, lease, lock, maintenance, watch as watch_service,
};
use crate::shared::Shared;
use crate::status::{rejected, status, unknown};
pub use body::{Body, Out};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method as HttpMethod, Request, Response};
use hyper::rt::Executor as _;
pub use message::{MessageReader, PREFIX_BYTES, READ_TIMEOUT, Source, decode, encode, put_prefix, split_messages};
pub use method::{Kind, Method};
use prost::Message;
use quorate_core::Rejection;
use quorate_node::stages;
pub use rule::Rule;
use std::ops::Deref;
use std::sync::Arc;
pub use timeout::timeout;
use tokio::sync::watch;
use tonic::{Code, Status};
pub use track::Track;

/// What a client may send beyond `max-request-bytes` before the transport refuses it, as in etcd.
pub const OVERHEAD_BYTES: usize = 512 << 10;

/// Answers up to this size do not count: they are bounded by the number of requests.
const ANSWER_BYTES_UNCOUNTED: usize = 64 << 10;

/// A large answer. It counts for as long as the connection has any part of it.
struct CountedAnswer {
    message: Bytes,
    _taken: Taken<Arc<Gauge>>,
}

impl AsRef<[u8]> for CountedAnswer {
    fn as_ref(&self) -> &[u8] {
        &self.message
    }
}

/// Counts a large answer until all of it is sent: a client may read slowly, or not at all.
pub fn counted(shared: &Shared, message: Bytes) -> Bytes {
    if message.len() <= ANSWER_BYTES_UNCOUNTED {
        return message;
    }
    let (_, taken) = Gauge::add(Arc::clone(&shared.answers), message.len());
    Bytes::from_owner(CountedAnswer { message, _taken: taken })
}

/// As [`counted`], if there is room for it, or no other.
fn counted_if_room(shared: &Shared, message: Bytes) -> Result<Bytes, Status> {
    if message.len() <= ANSWER_BYTES_UNCOUNTED {
        return Ok(message);
    }
    let taken = Gauge::take_or_be_alone(Arc::clone(&shared.answers), message.len());
    let taken = taken.ok_or_else(|| Limit::AnswerBytes.refusal())?;
    Ok(Bytes::from_owner(CountedAnswer { message, _taken: taken }))
}

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// Whether a request is gRPC's, and not plain HTTP.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Answers one request.
pub async fn serve(shared: Arc<Shared>, request: Request<Source>) -> Response<Body> {
    let (head, body) = request.into_parts();
    if head.method != HttpMethod::POST {
        return refusal(&Status::new(Code::Internal, format!("http2: unexpected method {:?}", head.method.as_str())));
    }
    let Some(method) = Method::from_path(head.uri.path()) else {
        return refusal(&Status::unimplemented(method::unknown(head.uri.path())));
    };
    let Some(_permit) = Gauge::take(&*shared.requests, 1) else {
        let failure = Limit::Requests.refusal();
        shared.metrics.count_refusal(&failure);
        return refusal(&failure);
    };
    shared.metrics.client_request(method.kind(), &head.headers);
    let is_old = client_api_minor(&head.headers).is_some_and(|minor| minor < 6);
    let wants_leader = head.headers.get("hasleader").is_some_and(|value| value == "true");
    let timeout = timeout(&head.headers);
    let connection: Option<Arc<Connection>> = head.extensions.get().cloned();
    let executor: Option<InlineExecutor> = head.extensions.get().cloned();
    let credentials = Credentials::of(&head.headers, connection.as_deref());
    drop(head);
    let call = async {
        let mut client = Client::new(Arc::clone(&shared), credentials);
        let admitted = admit(&mut client, method).await;
        let user = client.user().map(str::to_owned);
        let call = Call { client: &client, method, wants_leader, who: Who { connection, user }, executor };
        match admitted {
            Ok(()) if is_old => suit_old_client(call.dispatch(body).await),
            Ok(()) => call.dispatch(body).await,
            Err(failure) => {
                call.leave(body);
                call.refused(&failure).await
            }
        }
    };
    let Some(timeout) = timeout else { return call.await };
    // Whoever sets a deadline pays for it. What was proposed by then may still happen, as with a client that leaves.
    match tokio::time::timeout(timeout, Box::pin(call)).await {
        Ok(response) => response,
        Err(_) => refusal(&Status::deadline_exceeded("context deadline exceeded")),
    }
}

/// Finds out who the client is, and whether they may call the method at all.
async fn admit(client: &mut Client, method: Method) -> Result<(), Status> {
    let rule = method.rule();
    if !rule.needs_proof() {
        return Ok(());
    }
    let proven = client.prove().await;
    let admitted = proven.and_then(|()| rule.check(&client.system.auth(), client.node.caller()).map_err(rejected));
    // In etcd it is the requests inside of it that are refused.
    if method.is_recipe() { admitted.map_err(unknown) } else { admitted }
}

/// An answer that is only a failure.
fn refusal(status: &Status) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, CONTENT_TYPE);
    // It fails only on a text that cannot be a header, and the text is percent-encoded.
    if status.add_header(headers).is_err() {
        headers.insert("grpc-status", HeaderValue::from_static("2"));
    }
    response
}

/// With this code a learner refused until 3.6; etcd's clients of that time ask another member after it, and after no other.
fn suit_old_client(mut response: Response<Body>) -> Response<Body> {
    let learner = status(&quorate_node::Error::NotSupportedForLearner);
    let refused = Status::from_header_map(response.headers());
    if refused.is_some_and(|refused| refused.code() == learner.code() && refused.message() == learner.message()) {
        response.headers_mut().insert("grpc-status", (Code::Unavailable as i32).into());
    }
    response
}

fn answer(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(http::header::CONTENT_TYPE, CONTENT_TYPE);
    response
}

/// One call of a method.
struct Call<'a> {
    client: &'a Client,
    method: Method,
    /// Whether the client would rather have an error than an answer without a leader.
    wants_leader: bool,
    /// For the audit log.
    who: Who,
    /// What else runs with the connection, if it is one of a client's.
    executor: Option<InlineExecutor>,
}

/// What a stream's handler gets with its requests.
pub struct Session {
    /// The server, as the client may use it.
    pub client: Client,
    /// The messages that the client sends.
    pub requests: MessageReader<Arc<Gauge>>,
    /// Changes when there has been no leader for long; there only if the client asked to be told.
    pub no_leader: Option<watch::Receiver<u64>>,
    /// For the audit log.
    pub who: Who,
    /// Counts what goes in and out.
    pub track: Track<Arc<Shared>>,
    _permit: Taken<Arc<Gauge>>,
}

impl Session {
    /// The client's next message, `None` at their end. Cancel-safe.
    ///
    /// # Errors
    /// What the client sent cannot be, or the stream must end: see [`end`].
    pub async fn next_request(&mut self) -> Result<Option<Bytes>, Status> {
        tokio::select! {
            biased;
            request = self.requests.next() => request,
            failure = end(&self.client, &mut self.no_leader) => Err(failure),
        }
    }
}

/// Resolves when a stream must end, with the reason: the server stops, or there has been no leader for long and the
/// client asked to be told.
pub async fn end(shared: &Shared, no_leader: &mut Option<watch::Receiver<u64>>) -> Status {
    let lost = async {
        let told = match no_leader {
            Some(no_leader) => no_leader.changed().await.is_ok(),
            None => false,
        };
        if !told {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = shared.stopping.cancelled() => status(&quorate_node::Error::Stopped),
        () = lost => status(&quorate_node::Error::NoLeader),
    }
}

impl<'a> Call<'a> {
    /// Lets a request end by itself, beside its answer.
    fn leave(&self, rest: Source) {
        if let Some(executor) = self.executor.as_ref().filter(|_| !rest.is_ended()) {
            executor.execute(rest.end());
        }
    }

    /// Answers a call of somebody who may not call at all.
    async fn refused(self, failure: &Status) -> Response<Body> {
        let shared: &Shared = self.client.shared();
        Track::start(shared, self.method).fail(failure);
        if let Some(audit) = self.audit() {
            audit.ended(&self.who, self.method, None, None, (failure.code(), failure.message())).await;
        }
        refusal(failure)
    }

    /// Answers the call. Of a stream, this is only its start.
    async fn dispatch(self, body: Source) -> Response<Body> {
        match self.method {
            Method::Range => self.unary(body, kv::range).await,
            Method::Put => self.unary(body, kv::put).await,
            Method::Txn => self.unary_that_changes(body, kv::txn, kv::has_changed).await,
            Method::DeleteRange => self.unary(body, kv::delete_range).await,
            // Boxed, so that what is rare does not make every request's future larger.
            Method::Compact => Box::pin(self.unary(body, kv::compact)).await,
            Method::RangeStream => Box::pin(self.stream(body, kv::range_stream)).await,
            Method::Watch => self.bidi(body, watch_service::watch).await,
            Method::LeaseGrant => Box::pin(self.unary(body, lease::grant)).await,
            Method::LeaseRevoke => Box::pin(self.unary(body, lease::revoke)).await,
            Method::LeaseKeepAlive => self.bidi(body, lease::keep_alive).await,
            Method::LeaseTimeToLive => Box::pin(self.unary(body, lease::time_to_live)).await,
            Method::LeaseLeases => Box::pin(self.unary(body, lease::leases)).await,
            Method::MemberList => Box::pin(self.unary(body, cluster::member_list)).await,
            Method::MemberAdd => Box::pin(self.unary(body, cluster::member_add)).await,
            Method::MemberRemove => Box::pin(self.unary(body, cluster::member_remove)).await,
            Method::MemberUpdate => Box::pin(self.unary(body, cluster::member_update)).await,
            Method::MemberPromote => Box::pin(self.unary(body, cluster::member_promote)).await,
            Method::Status => Box::pin(self.unary(body, maintenance::status)).await,
            Method::Alarm => Box::pin(self.unary(body, maintenance::alarm)).await,
            Method::Defragment => Box::pin(self.unary(body, maintenance::defragment)).await,
            Method::Hash => Box::pin(self.unary(body, maintenance::hash)).await,
            Method::HashKv => Box::pin(self.unary(body, maintenance::hash_kv)).await,
            Method::Snapshot => Box::pin(self.stream(body, maintenance::snapshot)).await,
            Method::MoveLeader => Box::pin(self.unary(body, maintenance::move_leader)).await,
            Method::Downgrade => Box::pin(self.unary(body, maintenance::downgrade)).await,
            Method::AuthStatus => Box::pin(self.unary(body, auth::auth_status)).await,
            Method::Authenticate => Box::pin(self.unary(body, auth::authenticate)).await,
            Method::AuthEnable => Box::pin(self.unary(body, auth::enable)).await,
            Method::AuthDisable => Box::pin(self.unary(body, auth::disable)).await,
            Method::UserAdd => Box::pin(self.unary(body, auth::user_add)).await,
            Method::UserGet => Box::pin(self.unary(body, auth::user_get)).await,
            Method::UserList => Box::pin(self.unary(body, auth::user_list)).await,
            Method::UserDelete => Box::pin(self.unary(body, auth::user_delete)).await,
            Method::UserChangePassword => Box::pin(self.unary(body, auth::user_change_password)).await,
            Method::UserGrantRole => Box::pin(self.unary(body, auth::user_grant_role)).await,
            Method::UserRevokeRole => Box::pin(self.unary(body, auth::user_revoke_role)).await,
            Method::RoleAdd => Box::pin(self.unary(body, auth::role_add)).await,
            Method::RoleGet => Box::pin(self.unary(body, auth::role_get)).await,
            Method::RoleList => Box::pin(self.unary(body, auth::role_list)).await,
            Method::RoleDelete => Box::pin(self.unary(body, auth::role_delete)).await,
            Method::RoleGrantPermission => Box::pin(self.unary(body, auth::role_grant_permission)).await,
            Method::RoleRevokePermission => Box::pin(self.unary(body, auth::role_revoke_permission)).await,
            Method::Lock => Box::pin(self.unary(body, lock::lock)).await,
            Method::Unlock => Box::pin(self.unary(body, lock::unlock)).await,
            Method::Campaign => Box::pin(self.unary(body, election::campaign)).await,
            Method::Proclaim => Box::pin(self.unary(body, election::proclaim)).await,
            Method::Leader => Box::pin(self.unary(body, election::leader)).await,
            Method::Observe => Box::pin(self.stream(body, election::observe)).await,
            Method::Resign => Box::pin(self.unary(body, election::resign)).await,
            Method::HealthCheck => Box::pin(self.unary(body, health::check)).await,
            Method::HealthWatch => Box::pin(self.stream(body, health::watch)).await,
            Method::ClusterHealth => Box::pin(self.unary(body, extension::cluster_health)).await,
            Method::MaintenanceProgress => Box::pin(self.unary(body, extension::maintenance_progress)).await,
        }
    }

    async fn unary<Q, A, F>(self, body: Source, handler: impl FnOnce(&'a Client, Q) -> F) -> Response<Body>
    where
        Q: Message + Default,
        A: Message,
        F: Future<Output = Result<A, Status>>,
    {
        let changes = self.method.is_proposed();
        self.unary_that_changes(body, handler, move |_| changes).await
    }

    /// Of a method whose answer says whether it has changed something.
    async fn unary_that_changes<Q, A, F>(
        self,
        body: Source,
        handler: impl FnOnce(&'a Client, Q) -> F,
        has_changed: impl FnOnce(&A) -> bool,
    ) -> Response<Body>
    where
        Q: Message + Default,
        A: Message,
        F: Future<Output = Result<A, Status>>,
    {
        let shared: &'a Shared = self.client.shared();
        // The scope also holds when the future is dropped, and with it the track.
        stages::scope(async move {
            let mut track = Track::start(shared, self.method);
            let mut witness = self.audit().map(|audit| audit.witness(&self.who, self.method));
            let outcome = self.unary_message(body, handler, has_changed, &mut track, witness.as_mut()).await;
            if let Some(witness) = witness {
                match &outcome {
                    Ok(message) => witness.end(message.get(PREFIX_BYTES..), (Code::Ok, "")).await,
                    Err(failure) => witness.end(None, (failure.code(), failure.message())).await,
                }
            }
            match outcome {
                Ok(message) => {
                    track.end(Code::Ok);
                    answer(Body::Unary(message))
                }
                Err(failure) => {
                    track.fail(&failure);
                    refusal(&failure)
                }
            }
        })
        .await
    }

    async fn unary_message<Q, A, F>(
        &self,
        body: Source,
        handler: impl FnOnce(&'a Client, Q) -> F,
        has_changed: impl FnOnce(&A) -> bool,
        track: &mut Track<&'a Shared>,
        witness: Option<&mut Witness<'_>>,
    ) -> Result<Bytes, Status>
    where
        Q: Message + Default,
        A: Message,
        F: Future<Output = Result<A, Status>>,
    {
        self.check_leader()?;
        let mut reader = self.reader(body, &*self.client.inflight);
        let message = reader.only().await?;
        if let Some(rest) = reader.unended() {
            self.leave(rest);
        }
        track.received(message.len());
        if let Some(witness) = witness {
            witness.request = Some(message.clone());
        }
        if self.method.is_proposed() && message.len() > self.client.request_bytes_max {
            return Err(rejected(Rejection::RequestTooLarge));
        }
        if self.method == Method::Txn && scan::has_too_many_ops(&message, self.client.txn_ops_max) {
            return Err(rejected(Rejection::TooManyOps));
        }
        let reply = handler(self.client, decode(message)?).await?;
        let mut out = BytesMut::new();
        encode(&reply, &mut out);
        // INVARIANT(refusal-unchanged): what has changed something is answered: a refusal says that nothing has happened.
        let message = match has_changed(&reply) {
            true => counted(self.client, out.freeze()),
            false => counted_if_room(self.client, out.freeze())?,
        };
        track.sent(1, message.len());
        Ok(message)
    }

    /// A method with one request and a stream of answers.
    async fn stream<Q, F>(self, body: Source, handler: fn(Session, Q) -> F) -> Response<Body>
    where
        Q: Message + Default,
        F: Future<Output = Result<Body, (Session, Status)>>,
    {
        let mut session = match self.session(body) {
            Ok(session) => session,
            Err(failure) => return refusal(&failure),
        };
        let message = session.requests.only().await;
        let audit = self.audit().zip(message.as_ref().ok().cloned());
        let request = message.and_then(|message| {
            session.track.received(message.len());
            decode(message)
        });
        let outcome = match request {
            Ok(request) => handler(session, request).await,
            Err(failure) => Err((session, failure)),
        };
        if let Some((audit, message)) = audit {
            let code =
                outcome.as_ref().map_or_else(|(_, failure)| (failure.code(), failure.message()), |_| (Code::Ok, ""));
            audit.ended(&self.who, self.method, Some(message), None, code).await;
        }
        match outcome {
            Ok(body) => answer(body),
            Err((mut session, failure)) => {
                session.track.fail(&failure);
                refusal(&failure)
            }
        }
    }

    /// A method with streams both ways.
    async fn bidi(self, body: Source, handler: fn(Session) -> Body) -> Response<Body> {
        let session = self.session(body);
        if let Some(audit) = self.audit() {
            let code = session.as_ref().map_or_else(|failure| (failure.code(), failure.message()), |_| (Code::Ok, ""));
            audit.ended(&self.who, self.method, None, None, code).await;
        }
        match session {
            Ok(session) => answer(handler(session)),
            Err(failure) => refusal(&failure),
        }
    }

    fn session(&self, body: Source) -> Result<Session, Status> {
        let mut track = Track::start(Arc::clone(self.client.shared()), self.method);
        // The stream outlives this call, and with it the call's own permit.
        let permit = self
            .check_leader()
            .and_then(|()| Gauge::take(Arc::clone(&self.client.requests), 1).ok_or_else(|| Limit::Requests.refusal()));
        match permit {
            Ok(permit) => Ok(Session {
                client: self.client.clone(),
                requests: self.reader(body, Arc::clone(&self.client.inflight)),
                no_leader: self.wants_leader.then(|| self.client.no_leader.clone()),
                who: self.who.clone(),
                track,
                _permit: permit,
            }),
            Err(failure) => {
                track.fail(&failure);
                Err(failure)
            }
        }
    }

    /// The audit log, if it wants this call.
    fn audit(&self) -> Option<&'a AuditLog> {
        self.client.audit.as_ref().filter(|audit| audit.wants(self.method))
    }

    fn reader<G: Deref<Target = Gauge> + Clone>(&self, body: Source, inflight: G) -> MessageReader<G> {
        MessageReader::new(body, inflight, self.client.request_bytes_max + OVERHEAD_BYTES)
    }

    fn check_leader(&self) -> Result<(), Status> {
        if self.wants_leader && !self.client.system.has_leader() {
            return Err(status(&quorate_node::Error::NoLeader));
        }
        Ok(())
    }
}
