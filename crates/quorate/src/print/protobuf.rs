//! The message of the API in its encoding on the wire.

use prost::Message;
use quorate_proto::etcdserverpb::{AuthUserAddResponse, WatchResponse};

use super::Reply;

/// False if the answer has no such form.
pub(super) fn render(reply: Reply<'_>, out: &mut Vec<u8>) -> bool {
    let encoded = match reply {
        Reply::Put(response) => response.encode_to_vec(),
        Reply::Get(response) => response.encode_to_vec(),
        Reply::Delete(response) => response.encode_to_vec(),
        Reply::Txn(response) => response.encode_to_vec(),
        // What etcd's client hands to its user: not the bookkeeping of the stream.
        Reply::Watch(response) => {
            WatchResponse { watch_id: 0, fragment: false, cancel_reason: String::new(), ..response.clone() }
                .encode_to_vec()
        }
        Reply::MemberAdd(response) => response.encode_to_vec(),
        Reply::MemberRemove { response, .. } => response.encode_to_vec(),
        Reply::MemberUpdate { response, .. } => response.encode_to_vec(),
        Reply::MemberPromote { response, .. } => response.encode_to_vec(),
        Reply::MemberList(response) => response.encode_to_vec(),
        Reply::Alarm(response) => response.encode_to_vec(),
        Reply::MoveLeader { response, .. } => response.encode_to_vec(),
        Reply::Downgrade { response, .. } => response.encode_to_vec(),
        // The answers to all changes of users and roles are a header in the same place.
        Reply::AuthChange { header, .. } => AuthUserAddResponse { header: *header }.encode_to_vec(),
        Reply::AuthStatus(response) => response.encode_to_vec(),
        Reply::UserGet { response, .. } => response.encode_to_vec(),
        Reply::UserList(response) => response.encode_to_vec(),
        Reply::RoleGet { response, .. } => response.encode_to_vec(),
        Reply::RoleList(response) => response.encode_to_vec(),
        Reply::LeaseGrant(_)
        | Reply::LeaseRevoke { .. }
        | Reply::LeaseKeepAlive(_)
        | Reply::LeaseTimeToLive { .. }
        | Reply::LeaseList(_)
        | Reply::EndpointHealth(_)
        | Reply::EndpointStatus(_)
        | Reply::EndpointHashKv(_)
        | Reply::SnapshotStatus(_)
        | Reply::DirectoryCheck(_) => return false,
    };
    out.extend_from_slice(&encoded);
    true
}
