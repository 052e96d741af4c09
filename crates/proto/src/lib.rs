//! The messages and services that travel on the wire, generated from `proto/` at build time.
//!
//! Knows field numbers and gRPC paths, not what they mean: rules, defaults and limits live with the users of this
//! crate. Guarantees that etcd's messages have etcd's numbers, names and paths (see `tests/etcd_contract.txt`), and that
//! every `bytes` field is a [`bytes::Bytes`], so that keys and values are shared and not copied.
//!
//! Each service has a client and a server module, generic over the transport: this crate opens no connection.

macro_rules! generated {
    ($(#[$doc:meta])* $module:ident, $package:literal) => {
        $(#[$doc])*
        #[allow(missing_docs, clippy::all, unused_qualifications)]
        pub mod $module {
            include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
        }
    };
}

generated!(
    /// The services of etcd and their requests and answers.
    etcdserverpb,
    "etcdserverpb"
);
generated!(
    /// Keys, values and events.
    mvccpb,
    "mvccpb"
);
generated!(
    /// Users, roles and permissions.
    authpb,
    "authpb"
);
generated!(
    /// The lock service of etcd.
    v3lockpb,
    "v3lockpb"
);
generated!(
    /// The election service of etcd.
    v3electionpb,
    "v3electionpb"
);
generated!(
    /// The standard gRPC health service.
    health,
    "grpc.health.v1"
);
generated!(
    /// The service that Quorate offers beyond etcd's.
    quorate_v1,
    "quorate.v1"
);
generated!(
    /// What members say to each other.
    peer_v1,
    "quorate.peer.v1"
);

/// Encoded `google.protobuf.FileDescriptorSet` of everything in this crate, imports included and comments left out.
///
/// Field names in it are those of the `.proto` files (`peerURLs`), also where the Rust field is called differently
/// (`peer_urls`).
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
