//! Every call of the API with its request and answer as they are on the wire.
//!
//! One table per service says what each call may do, and with it how it is retried. This is the layer for tools that
//! pass requests through; services are better served by the methods of [`Client`].

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::etcdserverpb::*;
use quorate_proto::{quorate_v1 as qpb, v3electionpb as epb, v3lockpb as lpb};
use tonic::Streaming;
use tonic::codegen::tokio_stream::Stream;

use crate::transport::{Effect, Method, Transport};
use crate::{Client, Error};

/// Time to open a stream whose first answer may take as long as it likes.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Declares the raw form of a service.
///
/// `read` and `write` say what may be repeated; `by` names a function that decides by the request. `anywhere` marks
/// calls that also a member without a leader answers.
macro_rules! service {
    (
        $(#[$service_doc:meta])*
        $service:ident at $package:literal {
            $($(#[$doc:meta])* $name:ident = $method:literal $kind:ident $([$decide:ident])? ($request:ty) -> $answer:ty;)*
        }
    ) => {
        $(#[$service_doc])*
        #[derive(Debug, Clone)]
        pub struct $service {
            transport: Arc<Transport>,
            timeout: Duration,
        }

        impl $service {
            $(
                $(#[$doc])*
                ///
                #[doc = concat!("gRPC path `/", $package, "/", $method, "`.")]
                pub async fn $name(&self, request: $request) -> Result<$answer, Error> {
                    let method = service!(@method $kind $([$decide])? concat!("/", $package, "/", $method), request);
                    self.transport.unary(method, request, self.timeout).await
                }
            )*
        }
    };
    (@method read $path:expr, $request:ident) => {
        Method { path: $path, effect: Effect::Read, needs_leader: true }
    };
    (@method write $path:expr, $request:ident) => {
        Method { path: $path, effect: Effect::Write, needs_leader: true }
    };
    (@method read_anywhere $path:expr, $request:ident) => {
        Method { path: $path, effect: Effect::Read, needs_leader: false }
    };
    (@method write_anywhere $path:expr, $request:ident) => {
        Method { path: $path, effect: Effect::Write, needs_leader: false }
    };
    (@method by[$decide:ident] $path:expr, $request:ident) => {{
        let (effect, needs_leader) = $decide(&$request);
        Method { path: $path, effect, needs_leader }
    }};
}

service! {
    /// The key-value store.
    Kv at "etcdserverpb.KV" {
        /// Reads one key or a range of keys.
        range = "Range" by[range_effect] (RangeRequest) -> RangeResponse;
        /// Writes one key.
        put = "Put" write (PutRequest) -> PutResponse;
        /// Deletes a key or a range.
        delete_range = "DeleteRange" write (DeleteRangeRequest) -> DeleteRangeResponse;
        /// Applies one of two lists of operations. One that only reads is retried like a read.
        txn = "Txn" by[txn_effect] (TxnRequest) -> TxnResponse;
        /// Drops the history before a revision.
        compact = "Compact" write (CompactionRequest) -> CompactionResponse;
    }
}

impl Kv {
    /// Reads a range in several chunks. Older servers answer with an error of which
    /// [`is_unimplemented`](Error::is_unimplemented) is true.
    ///
    /// gRPC path `/etcdserverpb.KV/RangeStream`.
    pub async fn range_stream(&self, request: RangeRequest) -> Result<Streaming<RangeStreamResponse>, Error> {
        let (effect, needs_leader) = range_effect(&request);
        let method = Method { path: "/etcdserverpb.KV/RangeStream", effect, needs_leader };
        self.transport.server_streaming(method, request, self.timeout).await
    }
}

service! {
    /// Leases.
    Lease at "etcdserverpb.Lease" {
        /// Makes a lease.
        lease_grant = "LeaseGrant" write (LeaseGrantRequest) -> LeaseGrantResponse;
        /// Ends a lease and deletes its keys.
        lease_revoke = "LeaseRevoke" write (LeaseRevokeRequest) -> LeaseRevokeResponse;
        /// Tells how long a lease still has.
        lease_time_to_live = "LeaseTimeToLive" read (LeaseTimeToLiveRequest) -> LeaseTimeToLiveResponse;
        /// Lists the leases.
        lease_leases = "LeaseLeases" read (LeaseLeasesRequest) -> LeaseLeasesResponse;
    }
}

impl Lease {
    pub(crate) const KEEP_ALIVE: Method =
        Method { path: "/etcdserverpb.Lease/LeaseKeepAlive", effect: Effect::Read, needs_leader: true };

    /// Renews leases over one stream to one endpoint, without any retry. `requests` should hold the first request
    /// already: the server may not answer before it has one.
    ///
    /// gRPC path `/etcdserverpb.Lease/LeaseKeepAlive`.
    pub async fn lease_keep_alive(
        &self,
        requests: impl Stream<Item = LeaseKeepAliveRequest> + Send + 'static,
    ) -> Result<Streaming<LeaseKeepAliveResponse>, Error> {
        open(&self.transport, Self::KEEP_ALIVE, requests, self.timeout).await
    }
}

/// Watches.
#[derive(Debug, Clone)]
pub struct Watches {
    transport: Arc<Transport>,
    timeout: Duration,
}

impl Watches {
    pub(crate) const WATCH: Method =
        Method { path: "/etcdserverpb.Watch/Watch", effect: Effect::Read, needs_leader: true };

    /// Carries watches over one stream to one endpoint, without any retry or resumption. `requests` should hold the
    /// first request already: the server may not answer before it has one.
    ///
    /// gRPC path `/etcdserverpb.Watch/Watch`.
    pub async fn watch(
        &self,
        requests: impl Stream<Item = WatchRequest> + Send + 'static,
    ) -> Result<Streaming<WatchResponse>, Error> {
        open(&self.transport, Self::WATCH, requests, self.timeout).await
    }
}

service! {
    /// Membership.
    Cluster at "etcdserverpb.Cluster" {
        /// Adds a member.
        member_add = "MemberAdd" write (MemberAddRequest) -> MemberAddResponse;
        /// Removes a member.
        member_remove = "MemberRemove" write (MemberRemoveRequest) -> MemberRemoveResponse;
        /// Changes the peer addresses of a member.
        member_update = "MemberUpdate" write (MemberUpdateRequest) -> MemberUpdateResponse;
        /// Lists the members.
        member_list = "MemberList" by[member_list_effect] (MemberListRequest) -> MemberListResponse;
        /// Makes a learner a voter.
        member_promote = "MemberPromote" write (MemberPromoteRequest) -> MemberPromoteResponse;
    }
}

service! {
    /// Operating the members. Most calls are about the member that answers: choose it with [`Client::at`].
    Maintenance at "etcdserverpb.Maintenance" {
        /// Lists, raises or clears alarms.
        alarm = "Alarm" by[alarm_effect] (AlarmRequest) -> AlarmResponse;
        /// Tells how the member is.
        status = "Status" read_anywhere (StatusRequest) -> StatusResponse;
        /// Gives unused storage back to the operating system. May take long: see [`Client::with_timeout`].
        defragment = "Defragment" write_anywhere (DefragmentRequest) -> DefragmentResponse;
        /// Hashes the whole storage of the member.
        hash = "Hash" read_anywhere (HashRequest) -> HashResponse;
        /// Hashes the history up to a revision.
        hash_kv = "HashKV" read_anywhere (HashKvRequest) -> HashKvResponse;
        /// Hands leadership to another member; only the leader takes this call.
        move_leader = "MoveLeader" write (MoveLeaderRequest) -> MoveLeaderResponse;
        /// Prepares the cluster for an older version.
        downgrade = "Downgrade" write (DowngradeRequest) -> DowngradeResponse;
    }
}

impl Maintenance {
    /// Sends a copy of the storage of the member. A stream that breaks must be begun anew.
    ///
    /// gRPC path `/etcdserverpb.Maintenance/Snapshot`.
    pub async fn snapshot(&self, request: SnapshotRequest) -> Result<Streaming<SnapshotResponse>, Error> {
        let method = Method { path: "/etcdserverpb.Maintenance/Snapshot", effect: Effect::Read, needs_leader: false };
        self.transport.server_streaming(method, request, self.timeout).await
    }
}

service! {
    /// Authentication, users and roles.
    Auth at "etcdserverpb.Auth" {
        /// Turns authentication on.
        auth_enable = "AuthEnable" write (AuthEnableRequest) -> AuthEnableResponse;
        /// Turns authentication off.
        auth_disable = "AuthDisable" write (AuthDisableRequest) -> AuthDisableResponse;
        /// Tells whether authentication is on.
        auth_status = "AuthStatus" read (AuthStatusRequest) -> AuthStatusResponse;
        /// Exchanges a password for a token. The client does this by itself for the user in its options.
        authenticate = "Authenticate" read (AuthenticateRequest) -> AuthenticateResponse;
        /// Adds a user.
        user_add = "UserAdd" write (AuthUserAddRequest) -> AuthUserAddResponse;
        /// Lists the roles of a user.
        user_get = "UserGet" read (AuthUserGetRequest) -> AuthUserGetResponse;
        /// Lists the users.
        user_list = "UserList" read (AuthUserListRequest) -> AuthUserListResponse;
        /// Deletes a user.
        user_delete = "UserDelete" write (AuthUserDeleteRequest) -> AuthUserDeleteResponse;
        /// Sets the password of a user.
        user_change_password = "UserChangePassword" write (AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse;
        /// Gives a role to a user.
        user_grant_role = "UserGrantRole" write (AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse;
        /// Takes a role from a user.
        user_revoke_role = "UserRevokeRole" write (AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse;
        /// Adds a role.
        role_add = "RoleAdd" write (AuthRoleAddRequest) -> AuthRoleAddResponse;
        /// Lists the permissions of a role.
        role_get = "RoleGet" read (AuthRoleGetRequest) -> AuthRoleGetResponse;
        /// Lists the roles.
        role_list = "RoleList" read (AuthRoleListRequest) -> AuthRoleListResponse;
        /// Deletes a role.
        role_delete = "RoleDelete" write (AuthRoleDeleteRequest) -> AuthRoleDeleteResponse;
        /// Gives a permission to a role.
        role_grant_permission = "RoleGrantPermission" write (AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse;
        /// Takes a permission from a role.
        role_revoke_permission = "RoleRevokePermission" write (AuthRoleRevokePermissionRequest) -> AuthRoleRevokePermissionResponse;
    }
}

service! {
    /// Locks that the server keeps. Waiting for one is bounded by the client's time-out: see [`Client::with_timeout`].
    Lock at "v3lockpb.Lock" {
        /// Waits until the caller owns the lock.
        lock = "Lock" write (lpb::LockRequest) -> lpb::LockResponse;
        /// Gives the lock up.
        unlock = "Unlock" write (lpb::UnlockRequest) -> lpb::UnlockResponse;
    }
}

service! {
    /// Elections that the server runs. Waiting is bounded by the client's time-out: see [`Client::with_timeout`].
    Election at "v3electionpb.Election" {
        /// Waits until the caller leads.
        campaign = "Campaign" write (epb::CampaignRequest) -> epb::CampaignResponse;
        /// Replaces the announcement of the leader.
        proclaim = "Proclaim" write (epb::ProclaimRequest) -> epb::ProclaimResponse;
        /// Tells who leads.
        leader = "Leader" read (epb::LeaderRequest) -> epb::LeaderResponse;
        /// Gives leadership up.
        resign = "Resign" write (epb::ResignRequest) -> epb::ResignResponse;
    }
}

impl Election {
    /// Sends every leader, beginning with the current one; waits for the first as long as it takes.
    ///
    /// gRPC path `/v3electionpb.Election/Observe`.
    pub async fn observe(&self, request: epb::LeaderRequest) -> Result<Streaming<epb::LeaderResponse>, Error> {
        let method = Method { path: "/v3electionpb.Election/Observe", effect: Effect::Read, needs_leader: true };
        self.transport.server_streaming(method, request, FOREVER).await
    }
}

service! {
    /// What Quorate offers beyond etcd's API.
    Quorate at "quorate.v1.Quorate" {
        /// Asks every member how it is.
        cluster_health = "ClusterHealth" read_anywhere (qpb::ClusterHealthRequest) -> qpb::ClusterHealthResponse;
        /// How far long work on the storage of the member that answers is.
        maintenance_progress = "MaintenanceProgress" read_anywhere (qpb::MaintenanceProgressRequest)
            -> qpb::MaintenanceProgressResponse;
    }
}

macro_rules! accessors {
    ($($(#[$doc:meta])* $name:ident -> $service:ident;)*) => {
        /// Access to every call with its request and answer as they are on the wire, with the same balancing, retry
        /// and deadline as the other methods.
        impl Client {
            $(
                $(#[$doc])*
                pub fn $name(&self) -> $service {
                    $service { transport: self.transport.clone(), timeout: self.timeout }
                }
            )*

            /// Raw watches.
            pub fn watches(&self) -> Watches {
                Watches { transport: self.transport.clone(), timeout: self.timeout }
            }
        }
    };
}

accessors! {
    /// Raw calls of the key-value store.
    kv -> Kv;
    /// Raw calls about leases.
    lease -> Lease;
    /// Raw calls about membership.
    cluster -> Cluster;
    /// Raw calls for operating members.
    maintenance -> Maintenance;
    /// Raw calls about authentication, users and roles.
    auth -> Auth;
    /// Raw calls about locks.
    lock_service -> Lock;
    /// Raw calls about elections.
    election_service -> Election;
    /// Raw calls of Quorate's own service.
    quorate -> Quorate;
}

async fn open<Q, A>(
    transport: &Transport,
    method: Method,
    requests: impl Stream<Item = Q> + Send + 'static,
    timeout: Duration,
) -> Result<Streaming<A>, Error>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let opened = transport.bidirectional(method, requests, timeout).await;
    opened.map(|(_, stream)| stream).map_err(|status| Error::unavailable(&status))
}

fn range_effect(request: &RangeRequest) -> (Effect, bool) {
    (Effect::Read, !request.serializable)
}

fn txn_effect(request: &TxnRequest) -> (Effect, bool) {
    use request_op::Request;
    let mut effect = (Effect::Read, false);
    for operation in request.success.iter().chain(&request.failure) {
        match &operation.request {
            Some(Request::RequestRange(range)) => effect.1 |= !range.serializable,
            Some(Request::RequestPut(_) | Request::RequestDeleteRange(_) | Request::RequestTxn(_)) | None => {
                return (Effect::Write, true);
            }
        }
    }
    effect
}

fn member_list_effect(request: &MemberListRequest) -> (Effect, bool) {
    (Effect::Read, request.linearizable)
}

fn alarm_effect(request: &AlarmRequest) -> (Effect, bool) {
    use alarm_request::AlarmAction;
    match request.action() {
        AlarmAction::Get => (Effect::Read, false),
        AlarmAction::Activate | AlarmAction::Deactivate => (Effect::Write, true),
    }
}
