//! Which path is which method: etcd's paths, as `fields.txt` of the contract lists them. This table is all that the gateway
//! knows of single methods; their messages come from the descriptors.

/// HTTP path below `/v3` and the gRPC path behind it.
const ROUTES: &[(&str, &str)] = &[
    ("/kv/range", "/etcdserverpb.KV/Range"),
    // Not in etcd, where this method has no path.
    ("/kv/rangestream", "/etcdserverpb.KV/RangeStream"),
    ("/kv/put", "/etcdserverpb.KV/Put"),
    ("/kv/deleterange", "/etcdserverpb.KV/DeleteRange"),
    ("/kv/txn", "/etcdserverpb.KV/Txn"),
    ("/kv/compaction", "/etcdserverpb.KV/Compact"),
    ("/watch", "/etcdserverpb.Watch/Watch"),
    ("/lease/grant", "/etcdserverpb.Lease/LeaseGrant"),
    ("/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
    ("/kv/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
    ("/lease/keepalive", "/etcdserverpb.Lease/LeaseKeepAlive"),
    ("/lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive"),
    ("/kv/lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive"),
    ("/lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
    ("/kv/lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
    ("/cluster/member/add", "/etcdserverpb.Cluster/MemberAdd"),
    ("/cluster/member/remove", "/etcdserverpb.Cluster/MemberRemove"),
    ("/cluster/member/update", "/etcdserverpb.Cluster/MemberUpdate"),
    ("/cluster/member/list", "/etcdserverpb.Cluster/MemberList"),
    ("/cluster/member/promote", "/etcdserverpb.Cluster/MemberPromote"),
    ("/maintenance/alarm", "/etcdserverpb.Maintenance/Alarm"),
    ("/maintenance/status", "/etcdserverpb.Maintenance/Status"),
    ("/maintenance/defragment", "/etcdserverpb.Maintenance/Defragment"),
    ("/maintenance/hash", "/etcdserverpb.Maintenance/Hash"),
    ("/maintenance/hashkv", "/etcdserverpb.Maintenance/HashKV"),
    ("/maintenance/snapshot", "/etcdserverpb.Maintenance/Snapshot"),
    ("/maintenance/transfer-leadership", "/etcdserverpb.Maintenance/MoveLeader"),
    ("/maintenance/downgrade", "/etcdserverpb.Maintenance/Downgrade"),
    ("/auth/enable", "/etcdserverpb.Auth/AuthEnable"),
    ("/auth/disable", "/etcdserverpb.Auth/AuthDisable"),
    ("/auth/status", "/etcdserverpb.Auth/AuthStatus"),
    ("/auth/authenticate", "/etcdserverpb.Auth/Authenticate"),
    ("/auth/user/add", "/etcdserverpb.Auth/UserAdd"),
    ("/auth/user/get", "/etcdserverpb.Auth/UserGet"),
    ("/auth/user/list", "/etcdserverpb.Auth/UserList"),
    ("/auth/user/delete", "/etcdserverpb.Auth/UserDelete"),
    ("/auth/user/changepw", "/etcdserverpb.Auth/UserChangePassword"),
    ("/auth/user/grant", "/etcdserverpb.Auth/UserGrantRole"),
    ("/auth/user/revoke", "/etcdserverpb.Auth/UserRevokeRole"),
    ("/auth/role/add", "/etcdserverpb.Auth/RoleAdd"),
    ("/auth/role/get", "/etcdserverpb.Auth/RoleGet"),
    ("/auth/role/list", "/etcdserverpb.Auth/RoleList"),
    ("/auth/role/delete", "/etcdserverpb.Auth/RoleDelete"),
    ("/auth/role/grant", "/etcdserverpb.Auth/RoleGrantPermission"),
    ("/auth/role/revoke", "/etcdserverpb.Auth/RoleRevokePermission"),
    ("/lock/lock", "/v3lockpb.Lock/Lock"),
    ("/lock/unlock", "/v3lockpb.Lock/Unlock"),
    ("/election/campaign", "/v3electionpb.Election/Campaign"),
    ("/election/proclaim", "/v3electionpb.Election/Proclaim"),
    ("/election/leader", "/v3electionpb.Election/Leader"),
    ("/election/observe", "/v3electionpb.Election/Observe"),
    ("/election/resign", "/v3electionpb.Election/Resign"),
];

/// Where the gateway begins. The older names are those of etcd 3.3 and 3.4, whose clients may still use them.
const PREFIXES: &[&str] = &["/v3", "/v3beta", "/v3alpha"];

/// What comes after the gateway's prefix; `None` for a path that is none of its.
pub fn below(path: &str) -> Option<&str> {
    PREFIXES.iter().filter_map(|prefix| path.strip_prefix(prefix)).find(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The gRPC path behind what comes after the prefix.
pub fn find(below: &str) -> Option<&'static str> {
    ROUTES.iter().find(|(path, _)| *path == below).map(|(_, method)| *method)
}

#[cfg(test)]
mod tests {
    use super::super::schema::SCHEMA;
    use super::*;

    #[test]
    fn every_method_of_etcd_has_a_path_and_every_path_a_method() {
        for (path, method) in ROUTES {
            assert!(SCHEMA.method(method).is_some(), "{path} {method}");
            assert_eq!(ROUTES.iter().filter(|(other, _)| other == path).count(), 1, "{path} is there once");
        }
        let has_path = |method: &&str| ROUTES.iter().any(|(_, known)| known == method);
        let mut without: Vec<_> = SCHEMA.paths().filter(|method| !has_path(method)).collect();
        without.retain(|method| !method.starts_with("/quorate."));
        without.sort_unstable();
        assert_eq!(without, ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]);
    }

    #[test]
    fn older_prefixes_lead_to_the_same() {
        for (path, expected) in [
            ("/v3/kv/put", Some("/kv/put")),
            ("/v3beta/kv/put", Some("/kv/put")),
            ("/v3alpha/kv/put", Some("/kv/put")),
            ("/v3", Some("")),
            ("/v3/", Some("/")),
            ("/v33/kv/put", None),
            ("/v2/keys", None),
            ("/", None),
        ] {
            assert_eq!(below(path), expected, "{path}");
        }
    }
}
