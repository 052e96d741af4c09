//! Versions that clients read.

/// The etcd version whose API this server speaks. Clients parse it: kube-apiserver turns consistent reads off below 3.5.13,
/// Patroni picks its API prefix from it, and both want plain numbers.
pub const ETCD_SERVER: &str = "3.6.10";

/// The cluster version in etcd's sense: the API level that all members have.
pub const ETCD_CLUSTER: &str = "3.6.0";

/// The storage version in etcd's sense.
pub const ETCD_STORAGE: &str = "3.6.0";

/// This build.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");

/// This build and what it speaks, for `--version`.
pub const LONG: &str = concat!(env!("CARGO_PKG_VERSION"), " (etcd API 3.6.10)");

#[cfg(test)]
mod tests {
    #[test]
    fn the_long_version_names_the_api() {
        assert!(super::LONG.contains(super::ETCD_SERVER) && super::LONG.starts_with(super::BUILD));
    }
}
