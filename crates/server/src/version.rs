//! Versions that clients read.

use quorate_core::{ClusterVersion, ClusterVersions};
use quorate_node::API_VERSION;

/// The etcd version whose API this server speaks. Clients parse it: kube-apiserver turns consistent reads off below 3.5.13,
/// Patroni picks its API prefix from it, and both want plain numbers.
pub const ETCD_SERVER: &str = "3.6.10";

/// The storage version in etcd's sense.
pub const ETCD_STORAGE: &str = "3.6.0";

/// This build.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");

/// This build and what it speaks, for `--version`.
pub const LONG: &str = concat!(env!("CARGO_PKG_VERSION"), " (etcd API 3.6.10)");

/// The cluster version as etcd writes it, and its storage version, which follows. Until the members have agreed on one, it is
/// that of this build: builds that do not tell their version speak the same API.
pub fn of_cluster(versions: ClusterVersions) -> String {
    with_patch(versions.current.unwrap_or(API_VERSION))
}

/// A cluster version with the patch version that it does not have.
pub fn with_patch(version: ClusterVersion) -> String {
    format!("{version}.0")
}

/// Reads `major.minor` or `major.minor.patch`, with a pre-release and a build behind it or not. As in etcd, what comes
/// behind the minor version does not matter.
pub fn parse(text: &str) -> Option<ClusterVersion> {
    let core = text.split(['-', '+']).next()?;
    let numbers: Vec<u32> = core.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    match *numbers.as_slice() {
        [major, minor] | [major, minor, _] => Some(ClusterVersion { major, minor }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_version_is_that_of_the_server() {
        assert_eq!(parse(ETCD_SERVER), Some(API_VERSION));
        assert_eq!(ETCD_STORAGE, of_cluster(ClusterVersions::default()));
    }

    #[test]
    fn targets_are_read_as_etcd_reads_them() {
        let version = |major, minor| Some(ClusterVersion { major, minor });
        assert_eq!(parse("3.5"), version(3, 5));
        assert_eq!(parse("3.5.12"), version(3, 5));
        assert_eq!(parse("4.0.0-rc.1+build"), version(4, 0));
        for wrong in ["", "3", "v3.5", "3.5.1.0", "3.x", "3.-5", "latest"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_long_version_names_the_api() {
        assert!(LONG.contains(ETCD_SERVER) && LONG.starts_with(BUILD));
    }
}
