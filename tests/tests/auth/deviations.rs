//! Where the answers are meant to differ from those of etcd 3.5.1, and why.

use crate::pair::{Deviation, Difference};

const DENIED: &str = "7 etcdserver: permission denied";
const NO_NAME: &str = "3 etcdserver: user name is empty";
const BAD_TOKEN: &str = "16 etcdserver: invalid auth token";

/// Whether etcd does what is refused here to whoever may not do it, has no name, or has no good token.
fn is_refused_here(difference: &Difference) -> bool {
    [DENIED, NO_NAME, BAD_TOKEN].contains(&difference.ours.as_str())
}

fn is_one_of(difference: &Difference, calls: &[&str]) -> bool {
    calls.iter().any(|call| difference.call.starts_with(call))
}

pub const WATCHERS_ARE_TOLD: Deviation = Deviation {
    why: "a watcher without a name or with a token that does not hold is told so, as since 3.6",
    covers: |found| {
        let denied = "code = PermissionDenied desc = etcdserver: permission denied";
        let theirs = found.theirs.replace("watch_id: 0,", "watch_id: -1,");
        let told = |reason: &str| theirs.replace(denied, reason) == found.ours;
        found.call.starts_with("watch")
            && theirs.contains(denied)
            && [
                "code = InvalidArgument desc = etcdserver: user name is empty",
                "code = Unauthenticated desc = etcdserver: invalid auth token",
                "code = InvalidArgument desc = etcdserver: revision of auth store is old",
            ]
            .into_iter()
            .any(told)
    },
};

pub const NO_NAME_FOR_LEASES: Deviation = Deviation {
    why: "leases need a name, and to see a lease's keys is to read them, as since 3.6",
    covers: |found| {
        found.call.starts_with("lease ")
            && (is_refused_here(found) && found.who != "root")
            && (found.ours != DENIED || found.call.ends_with("--keys"))
    },
};

/// Each covers what it says and no more.
pub const DEVIATIONS: &[Deviation] = &[
    WATCHERS_ARE_TOLD,
    NO_NAME_FOR_LEASES,
    Deviation {
        why: "while authentication is off nobody looks at tokens, as in 3.6",
        covers: |found| found.who.starts_with('?') && found.theirs == BAD_TOKEN && found.ours.starts_with("ok"),
    },
    Deviation {
        why: "a watcher that is refused has the id -1, as since 3.6",
        covers: |found| {
            let refused = |id: i64| format!("watch_id: {id}, created: true, canceled: true");
            found.theirs.contains(&refused(0)) && found.theirs.replace(&refused(0), &refused(-1)) == found.ours
        },
    },
    Deviation {
        why: "a watch from a key on is checked as one that has no end (GHSA-xg4h-6gfc-h4m8)",
        covers: |found| {
            let open =
                found.call.starts_with("watch ") && (found.call.ends_with(",)") || found.call.ends_with("everything"));
            open && found.theirs.contains("canceled: false") && found.ours.contains("PermissionDenied")
        },
    },
    Deviation {
        why: "transactions inside of transactions are checked as well (CVE-2026-33343)",
        covers: |found| found.call.matches("txn(").count() > 1 && is_refused_here(found),
    },
    Deviation {
        why: "what a put in a transaction does beside putting is checked as without one: prev_kv reads, a lease can delete",
        covers: |found| {
            let beside = found.call.contains("--prev-kv") || found.call.contains("--lease");
            found.call.matches("txn(").count() == 1 && beside && found.ours == DENIED
        },
    },
    Deviation {
        why: "members, state and alarms are told to users only, and only root changes anything, as since 3.6.10",
        covers: |found| {
            let calls = ["member", "status", "alarm", "downgrade", "move-leader", "compact"];
            is_one_of(found, &calls) && is_refused_here(found)
        },
    },
    Deviation {
        why: "the code of maintenance calls that are refused is that of the refusal, as since 3.6",
        covers: |found| {
            let text = found.theirs.strip_prefix("2 auth: ");
            is_one_of(found, &["defrag", "hash", "snapshot"])
                && text.is_some_and(|text| found.ours.ends_with(&format!("etcdserver: {text}")))
        },
    },
    Deviation {
        why: "who may not see an election is told so; etcd ends the stream without a word",
        covers: |found| found.call.starts_with("observe") && found.theirs.ends_with("the stream ended"),
    },
    Deviation {
        why: "who somebody is comes before what is wrong with the request",
        covers: |found| found.theirs.ends_with("field must be provided") && found.ours.starts_with("2 etcdserver: "),
    },
    Deviation {
        why: "a permission of no kind, for no key or for an empty range is refused, the latter as since 3.6",
        covers: |found| {
            let refused = "3 etcdserver: invalid auth management";
            let missing = "9 etcdserver: permission is not granted to the role";
            (found.call.starts_with("role grant-permission") && found.ours == refused)
                || (found.call == "role revoke-permission \"writer\" " && found.ours == missing)
        },
    },
    Deviation {
        why: "permissions for the same first key are in the order of their ends, whenever they were granted",
        covers: |found| {
            let sorted = |text: &str| {
                let mut letters: Vec<char> = text.chars().collect();
                letters.sort_unstable();
                letters
            };
            found.call.starts_with("role get") && sorted(&found.theirs) == sorted(&found.ours)
        },
    },
    Deviation {
        why: "the role root is shown with what it may do, as in 3.6",
        covers: |found| {
            let all = "perm: [Permission { perm_type: Readwrite, key: b\"\", range_end: b\"\\0\" }]";
            found.call == "role get \"root\"" && found.theirs == found.ours.replace(all, "perm: []")
        },
    },
    Deviation {
        why: "an empty password is one",
        covers: |found| found.call == "log in with \"\"" && found.who == "empty" && found.ours == "ok",
    },
];
