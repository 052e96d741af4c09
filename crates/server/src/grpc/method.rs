//! The methods that have a gRPC path here, each with its place in the tables of metrics.

/// How many messages go each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One each way.
    Unary,
    /// One there, many back.
    ServerStream,
    /// Many each way.
    Bidi,
}

impl Kind {
    /// The name in the label `grpc_type`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::Bidi => "bidi_stream",
        }
    }
}

macro_rules! methods {
    ($($name:ident $kind:ident $path:literal;)*) => {
        /// A method. The discriminant is its place in tables.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum Method {
            $($name,)*
        }

        impl Method {
            /// All of them, in the order of their discriminants.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The method that a request's path names.
            pub fn from_path(path: &str) -> Option<Self> {
                match path {
                    $($path => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The path: `/package.Service/Method`.
            pub const fn path(self) -> &'static str {
                match self {
                    $(Self::$name => $path,)*
                }
            }

            /// How many messages go each way.
            pub const fn kind(self) -> Kind {
                match self {
                    $(Self::$name => Kind::$kind,)*
                }
            }
        }
    };
}

// The most frequent come first: the match on the path goes from top to bottom.
methods! {
    Range Unary "/etcdserverpb.KV/Range";
    Put Unary "/etcdserverpb.KV/Put";
    Txn Unary "/etcdserverpb.KV/Txn";
    DeleteRange Unary "/etcdserverpb.KV/DeleteRange";
    LeaseKeepAlive Bidi "/etcdserverpb.Lease/LeaseKeepAlive";
    LeaseGrant Unary "/etcdserverpb.Lease/LeaseGrant";
    LeaseRevoke Unary "/etcdserverpb.Lease/LeaseRevoke";
    Watch Bidi "/etcdserverpb.Watch/Watch";
    RangeStream ServerStream "/etcdserverpb.KV/RangeStream";
    Compact Unary "/etcdserverpb.KV/Compact";
    LeaseTimeToLive Unary "/etcdserverpb.Lease/LeaseTimeToLive";
    LeaseLeases Unary "/etcdserverpb.Lease/LeaseLeases";
    MemberList Unary "/etcdserverpb.Cluster/MemberList";
    MemberAdd Unary "/etcdserverpb.Cluster/MemberAdd";
    MemberRemove Unary "/etcdserverpb.Cluster/MemberRemove";
    MemberUpdate Unary "/etcdserverpb.Cluster/MemberUpdate";
    MemberPromote Unary "/etcdserverpb.Cluster/MemberPromote";
    Status Unary "/etcdserverpb.Maintenance/Status";
    Alarm Unary "/etcdserverpb.Maintenance/Alarm";
    Defragment Unary "/etcdserverpb.Maintenance/Defragment";
    Hash Unary "/etcdserverpb.Maintenance/Hash";
    HashKv Unary "/etcdserverpb.Maintenance/HashKV";
    Snapshot ServerStream "/etcdserverpb.Maintenance/Snapshot";
    MoveLeader Unary "/etcdserverpb.Maintenance/MoveLeader";
    Downgrade Unary "/etcdserverpb.Maintenance/Downgrade";
    AuthStatus Unary "/etcdserverpb.Auth/AuthStatus";
    Authenticate Unary "/etcdserverpb.Auth/Authenticate";
    AuthEnable Unary "/etcdserverpb.Auth/AuthEnable";
    AuthDisable Unary "/etcdserverpb.Auth/AuthDisable";
    UserAdd Unary "/etcdserverpb.Auth/UserAdd";
    UserGet Unary "/etcdserverpb.Auth/UserGet";
    UserList Unary "/etcdserverpb.Auth/UserList";
    UserDelete Unary "/etcdserverpb.Auth/UserDelete";
    UserChangePassword Unary "/etcdserverpb.Auth/UserChangePassword";
    UserGrantRole Unary "/etcdserverpb.Auth/UserGrantRole";
    UserRevokeRole Unary "/etcdserverpb.Auth/UserRevokeRole";
    RoleAdd Unary "/etcdserverpb.Auth/RoleAdd";
    RoleGet Unary "/etcdserverpb.Auth/RoleGet";
    RoleList Unary "/etcdserverpb.Auth/RoleList";
    RoleDelete Unary "/etcdserverpb.Auth/RoleDelete";
    RoleGrantPermission Unary "/etcdserverpb.Auth/RoleGrantPermission";
    RoleRevokePermission Unary "/etcdserverpb.Auth/RoleRevokePermission";
    Lock Unary "/v3lockpb.Lock/Lock";
    Unlock Unary "/v3lockpb.Lock/Unlock";
    Campaign Unary "/v3electionpb.Election/Campaign";
    Proclaim Unary "/v3electionpb.Election/Proclaim";
    Leader Unary "/v3electionpb.Election/Leader";
    Observe ServerStream "/v3electionpb.Election/Observe";
    Resign Unary "/v3electionpb.Election/Resign";
    HealthCheck Unary "/grpc.health.v1.Health/Check";
    HealthWatch ServerStream "/grpc.health.v1.Health/Watch";
    ClusterHealth Unary "/quorate.v1.Quorate/ClusterHealth";
    MaintenanceProgress Unary "/quorate.v1.Quorate/MaintenanceProgress";
}

impl Method {
    /// Service and method, as in the labels `grpc_service` and `grpc_method`.
    pub fn names(self) -> (&'static str, &'static str) {
        self.path()[1..].split_once('/').unwrap_or_default()
    }

    /// Whether the request becomes an entry of the log, so that `max-request-bytes` bounds it.
    pub const fn is_proposed(self) -> bool {
        matches!(
            self,
            Self::Put
                | Self::Txn
                | Self::DeleteRange
                | Self::Compact
                | Self::LeaseGrant
                | Self::LeaseRevoke
                | Self::MemberAdd
                | Self::MemberUpdate
                | Self::UserAdd
                | Self::UserDelete
                | Self::UserChangePassword
                | Self::UserGrantRole
                | Self::UserRevokeRole
                | Self::RoleAdd
                | Self::RoleDelete
                | Self::RoleGrantPermission
                | Self::RoleRevokePermission
                | Self::Authenticate
                | Self::Lock
                | Self::Campaign
                | Self::Proclaim
        )
    }

    /// Whether it is a recipe of etcd's clients, carried out here in the client's name.
    pub const fn is_recipe(self) -> bool {
        matches!(
            self,
            Self::Lock | Self::Unlock | Self::Campaign | Self::Proclaim | Self::Leader | Self::Observe | Self::Resign
        )
    }

    /// Whether the answer waits for what other clients do: it says nothing of the server that it takes long.
    pub const fn waits_for_clients(self) -> bool {
        matches!(self, Self::Lock | Self::Campaign)
    }
}

/// What grpc-go says of a path that leads nowhere.
pub fn unknown(path: &str) -> String {
    const SERVICES: [&str; 10] = [
        "etcdserverpb.KV",
        "etcdserverpb.Watch",
        "etcdserverpb.Lease",
        "etcdserverpb.Cluster",
        "etcdserverpb.Maintenance",
        "etcdserverpb.Auth",
        "v3lockpb.Lock",
        "v3electionpb.Election",
        "grpc.health.v1.Health",
        "quorate.v1.Quorate",
    ];
    match path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) {
        Some((service, method)) if SERVICES.contains(&service) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
        None => format!("malformed method name: {path:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_its_method_and_back() {
        for (place, method) in Method::ALL.iter().enumerate() {
            assert_eq!(*method as usize, place);
            assert_eq!(Method::from_path(method.path()), Some(*method));
            let (service, name) = method.names();
            assert_eq!(format!("/{service}/{name}"), method.path());
        }
    }

    #[test]
    fn unknown_paths_are_named_as_grpc_go_names_them() {
        assert_eq!(unknown("/etcdserverpb.KV/Nope"), "unknown method Nope for service etcdserverpb.KV");
        assert_eq!(unknown("/a.B/C"), "unknown service a.B");
        assert_eq!(unknown("nonsense"), "malformed method name: \"nonsense\"");
    }
}
