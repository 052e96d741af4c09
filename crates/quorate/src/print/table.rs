//! Tables: rows of texts, and the borders around them.

use std::io::Write as _;

use quorate_proto::etcdserverpb::{HashKvResponse, MemberListResponse, StatusResponse};

use super::{EndpointHealth, Reply, SnapshotStatus, put};
use crate::golang;

/// Cells with words are broken to this width.
const CELL_WIDTH_MAX: usize = 30;

const MEMBER_TITLES: [&str; 6] = ["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"];
const HEALTH_TITLES: [&str; 4] = ["endpoint", "health", "took", "error"];
const HASH_TITLES: [&str; 3] = ["endpoint", "hash", "hash revision"];
const SNAPSHOT_TITLES: [&str; 5] = ["hash", "revision", "total keys", "total size", "version"];
const STATUS_TITLES: [&str; 16] = [
    "endpoint",
    "ID",
    "version",
    "storage version",
    "db size",
    "in use",
    "percentage not in use",
    "quota",
    "is leader",
    "is learner",
    "raft term",
    "raft index",
    "raft applied index",
    "errors",
    "downgrade target version",
    "downgrade enabled",
];

/// False if the answer has no such form.
pub(super) fn render(reply: Reply<'_>, out: &mut Vec<u8>) -> bool {
    match reply {
        Reply::MemberList(response) => draw(&MEMBER_TITLES, &member_rows(response), out),
        Reply::EndpointHealth(endpoints) => draw(&HEALTH_TITLES, &health_rows(endpoints), out),
        Reply::EndpointStatus(endpoints) => draw(&STATUS_TITLES, &status_rows(endpoints), out),
        Reply::EndpointHashKv(endpoints) => draw(&HASH_TITLES, &hash_rows(endpoints), out),
        Reply::SnapshotStatus(status) => draw(&SNAPSHOT_TITLES, &snapshot_rows(status), out),
        Reply::Put(_)
        | Reply::Get(_)
        | Reply::Delete(_)
        | Reply::Txn(_)
        | Reply::Watch(_)
        | Reply::LeaseGrant(_)
        | Reply::LeaseRevoke { .. }
        | Reply::LeaseKeepAlive(_)
        | Reply::LeaseTimeToLive { .. }
        | Reply::LeaseList(_)
        | Reply::MemberAdd(_)
        | Reply::MemberRemove { .. }
        | Reply::MemberUpdate { .. }
        | Reply::MemberPromote { .. }
        | Reply::Alarm(_)
        | Reply::MoveLeader { .. }
        | Reply::Downgrade { .. }
        | Reply::DirectoryCheck(_)
        | Reply::AuthChange { .. }
        | Reply::AuthStatus(_)
        | Reply::UserGet { .. }
        | Reply::UserList(_)
        | Reply::RoleGet { .. }
        | Reply::RoleList(_) => return false,
    }
    true
}

pub(super) fn member_rows(response: &MemberListResponse) -> Vec<[String; 6]> {
    let row = |member: &quorate_proto::etcdserverpb::Member| {
        [
            format!("{:x}", member.id),
            if member.name.is_empty() { "unstarted" } else { "started" }.to_owned(),
            member.name.clone(),
            member.peer_urls.join(","),
            member.client_urls.join(","),
            member.is_learner.to_string(),
        ]
    };
    response.members.iter().map(row).collect()
}

fn health_rows(endpoints: &[EndpointHealth]) -> Vec<[String; 4]> {
    let row = |health: &EndpointHealth| {
        [
            health.endpoint.clone(),
            health.error.is_none().to_string(),
            golang::duration(health.took),
            health.error.clone().unwrap_or_default(),
        ]
    };
    endpoints.iter().map(row).collect()
}

pub(super) fn hash_rows(endpoints: &[(String, HashKvResponse)]) -> Vec<[String; 3]> {
    let row = |(endpoint, response): &(String, HashKvResponse)| {
        [endpoint.clone(), response.hash.to_string(), response.hash_revision.to_string()]
    };
    endpoints.iter().map(row).collect()
}

pub(super) fn snapshot_rows(status: &SnapshotStatus) -> Vec<[String; 5]> {
    vec![[
        format!("{:x}", status.hash),
        status.revision.to_string(),
        status.total_keys.to_string(),
        golang::human_bytes(status.total_bytes),
        status.version.clone(),
    ]]
}

pub(super) fn status_rows(endpoints: &[(String, StatusResponse)]) -> Vec<[String; 16]> {
    let row = |(endpoint, status): &(String, StatusResponse)| {
        let member_id = status.header.as_ref().map_or(0, |header| header.member_id);
        let downgrade = status.downgrade_info.clone().unwrap_or_default();
        let bytes = |size: i64| golang::human_bytes(u64::try_from(size).unwrap_or_default());
        // A server that does not tell its size uses all of it.
        let percent_in_use = (i128::from(status.db_size_in_use) * 100).checked_div(i128::from(status.db_size));
        [
            endpoint.clone(),
            format!("{member_id:x}"),
            status.version.clone(),
            status.storage_version.clone(),
            bytes(status.db_size),
            bytes(status.db_size_in_use),
            format!("{}%", 100 - percent_in_use.unwrap_or(100)),
            bytes(status.db_size_quota),
            (status.leader == member_id).to_string(),
            status.is_learner.to_string(),
            status.raft_term.to_string(),
            status.raft_index.to_string(),
            status.raft_applied_index.to_string(),
            status.errors.join(", "),
            downgrade.target_version,
            downgrade.enabled.to_string(),
        ]
    };
    endpoints.iter().map(row).collect()
}

/// Draws a table: titles in capitals and centred, cells on the right.
fn draw<const N: usize>(titles: &[&str; N], rows: &[[String; N]], out: &mut Vec<u8>) {
    let titles = titles.map(str::to_uppercase);
    let rows: Vec<[Vec<String>; N]> = rows.iter().map(|row| row.each_ref().map(|cell| wrap(cell))).collect();
    let width_of = |column: usize| {
        let cells = rows.iter().flat_map(|row| &row[column]);
        cells.chain([&titles[column]]).map(|text| text.chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width_of);

    let border = widths.map(|width| "-".repeat(width + 2)).join("+");
    put!(out, "+{border}+");
    let titles: [String; N] = std::array::from_fn(|column| format!("{:^1$}", titles[column], widths[column]));
    put!(out, "| {} |", titles.join(" | "));
    put!(out, "+{border}+");
    for row in &rows {
        let height = row.iter().map(Vec::len).max().unwrap_or_default();
        for line in 0..height {
            let text = |column: usize| row[column].get(line).map_or("", String::as_str);
            let cells: [String; N] = std::array::from_fn(|column| format!("{:>1$}", text(column), widths[column]));
            put!(out, "| {} |", cells.join(" | "));
        }
    }
    put!(out, "+{border}+");
}

/// Breaks a text between words into lines of [`CELL_WIDTH_MAX`], as even in length as possible.
fn wrap(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split(' ').collect();
    let longest = words.iter().map(|word| word.chars().count()).max().unwrap_or_default();
    let limit = CELL_WIDTH_MAX.min(text.chars().count()).max(longest);
    let width = |from: usize, to: usize| {
        words[from..to].iter().map(|word| word.chars().count()).sum::<usize>() + (to - from - 1)
    };
    // For every word: the least cost of the lines from there, and where the first of them ends.
    let mut best = vec![(0, words.len()); words.len() + 1];
    for from in (0..words.len()).rev() {
        if width(from, words.len()) <= limit {
            best[from] = (0, words.len());
            continue;
        }
        let ends = (from + 1..words.len()).take_while(|&to| to == from + 1 || width(from, to) <= limit);
        let costs = ends.map(|to| ((limit - width(from, to)).pow(2) + best[to].0, to));
        best[from] = costs.min_by_key(|(cost, _)| *cost).unwrap_or((0, words.len()));
    }
    let mut lines = Vec::new();
    let mut from = 0;
    while from < words.len() {
        let to = best[from].1;
        lines.push(words[from..to].join(" "));
        from = to;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_broken_between_words() {
        assert_eq!(wrap(""), [""]);
        assert_eq!(wrap("context deadline exceeded"), ["context deadline exceeded"]);
        assert_eq!(
            wrap("memberID:8630161756594109333 alarm:NOSPACE etcdserver: no leader"),
            ["memberID:8630161756594109333", "alarm:NOSPACE etcdserver: no", "leader"]
        );
        let url = "http://a-very-long-name-that-has-no-space.example:2379";
        assert_eq!(wrap(url), [url]);
    }
}
