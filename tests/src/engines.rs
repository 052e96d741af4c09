//! Which storage engines a cluster's members run on, and how a test runs on several sets of them.

use std::str::FromStr;

use anyhow::{Context, Result};

use crate::server::Server;

/// The storage engines of a cluster's members. Of etcd's servers, which have only one, nobody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engines {
    /// redb on all.
    Redb,
    /// sled on all.
    Sled,
    /// redb and sled in turn, so that they check each other: a state that the two keep differently shows in the hashes.
    Mixed,
}

impl Engines {
    /// Its name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Engines::Redb => "redb",
            Engines::Sled => "sled",
            Engines::Mixed => "mixed",
        }
    }

    /// The engine of a member, as `--storage-engine` takes it.
    pub fn of(self, member: usize) -> &'static str {
        match self {
            Engines::Redb => "redb",
            Engines::Sled => "sled",
            Engines::Mixed => ["redb", "sled"][member % 2],
        }
    }

    /// Whether a test with these sets has to run on this one: on etcd once is enough.
    ///
    /// # Panics
    /// When there is no server to test.
    pub fn applies(self, sets: &[Engines]) -> bool {
        let applies = sets.first() == Some(&self) || Server::find().expect("a server binary").is_quorate();
        if !applies {
            println!("etcd has no choice of engines: {:?} stands for {self:?}", sets[0]);
        }
        applies
    }
}

impl FromStr for Engines {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Engines> {
        let known = [Engines::Redb, Engines::Sled, Engines::Mixed].into_iter().find(|known| known.name() == name);
        known.with_context(|| format!("{name:?} is none of redb, sled and mixed"))
    }
}

/// Makes a test of an `async fn name(engines: Engines)` for each set that is named, `name::redb` and so on:
/// `engine_tests! { name: redb sled mixed; }`
#[macro_export]
macro_rules! engine_tests {
    (@set redb) => { $crate::engines::Engines::Redb };
    (@set sled) => { $crate::engines::Engines::Sled };
    (@set mixed) => { $crate::engines::Engines::Mixed };
    ($($name:ident: $($set:ident)+;)+) => {$(
        mod $name {
            const SETS: &[$crate::engines::Engines] = &[$($crate::engine_tests!(@set $set)),+];
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $set() {
                    let engines = $crate::engine_tests!(@set $set);
                    if engines.applies(SETS) {
                        super::$name(engines).await;
                    }
                }
            )+
        }
    )+};
}
