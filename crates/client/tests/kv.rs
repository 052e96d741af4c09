//! The typed calls against a real server: options and answers mean what they say.

mod common;

use common::Cluster;
use quorate_client::{
    AlarmType, Client, Compare, DeleteOptions, GetOptions, GetResponse, Is, Op, OpResponse, PutOptions, SortBy, Txn,
};

/// Keys and values as `k=v`.
fn text(response: &GetResponse) -> String {
    let pair = |kv: &quorate_client::KeyValue| {
        format!("{}={}", String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value))
    };
    response.kvs.iter().map(pair).collect::<Vec<_>>().join(" ")
}

async fn fill(client: &Client, pairs: &str) {
    for pair in pairs.split_whitespace() {
        let (key, value) = pair.split_once('=').unwrap();
        client.put(key, value, None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_choose_keys_order_and_revision() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    fill(&client, "a/1=3 a/2=1 b=2 a/2=9").await;
    let get = async |key: &str, options: GetOptions| client.get(key, options).await.unwrap();
    let all = || GetOptions::new().prefix();

    assert_eq!(text(&get("", all()).await), "a/1=3 a/2=9 b=2");
    assert_eq!(text(&get("a/", all()).await), "a/1=3 a/2=9");
    assert_eq!(text(&get("a/2", GetOptions::new().from_key()).await), "a/2=9 b=2");
    assert_eq!(text(&get("a/2", GetOptions::new().range_end("b")).await), "a/2=9");
    assert_eq!(text(&get("", all().revision(4)).await), "a/1=3 a/2=1 b=2");
    assert_eq!(text(&get("", all().keys_only()).await), "a/1= a/2= b=");
    assert_eq!(text(&get("", all().sort_descending(SortBy::Value)).await), "a/2=9 a/1=3 b=2");
    assert_eq!(text(&get("", all().sort_ascending(SortBy::ModRevision)).await), "a/1=3 b=2 a/2=9");
    assert_eq!(text(&get("", all().serializable()).await), "a/1=3 a/2=9 b=2");
    let limited = get("", all().limit(2)).await;
    assert_eq!((text(&limited).as_str(), limited.more, limited.count, limited.revision), ("a/1=3 a/2=9", true, 3, 5));
    let counted = get("", all().count_only()).await;
    assert_eq!((counted.kvs.len(), counted.count), (0, 3));
    client.compact(5).await.unwrap();
    assert!(client.get("b", GetOptions::new().revision(4)).await.unwrap_err().is_compacted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_tell_what_was_there_before() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    assert_eq!(client.put("a", "1", PutOptions::new().prev_kv()).await.unwrap().prev_kv, None);
    let put = client.put("a", "2", PutOptions::new().prev_kv()).await.unwrap();
    assert_eq!((put.revision, put.prev_kv.unwrap().value), (3, "1".into()));
    client.put("b", "3", None).await.unwrap();
    let deleted = client.delete("a", DeleteOptions::new().from_key().prev_kv()).await.unwrap();
    let before: Vec<_> = deleted.prev_kvs.into_iter().map(|kv| kv.value).collect();
    assert_eq!((deleted.revision, deleted.deleted, before), (5, 2, vec!["2".into(), "3".into()]));
    assert_eq!(client.delete("a", None).await.unwrap().deleted, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_choose_the_branch() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    fill(&client, "a=1 a=2 b=1").await;
    let holds = async |compare: Compare| client.txn(Txn::new().when([compare])).await.unwrap().succeeded;
    assert!(holds(Compare::missing("c")).await && !holds(Compare::missing("a")).await);
    assert!(holds(Compare::exists("a")).await && !holds(Compare::exists("c")).await);
    assert!(holds(Compare::version("a", Is::Equal, 2)).await);
    assert!(holds(Compare::create_revision("a", Is::Less, 3)).await);
    assert!(holds(Compare::mod_revision("a", Is::Greater, 2)).await);
    assert!(holds(Compare::value("a", Is::NotEqual, "1")).await);
    assert!(holds(Compare::lease("a", Is::Equal, 0)).await);
    assert!(!holds(Compare::value("", Is::Equal, "1").prefix()).await);
    assert!(holds(Compare::value("b", Is::Equal, "1").from_key()).await);

    let txn = Txn::new()
        .when([Compare::missing("c")])
        .then([
            Op::put("c", "new", None),
            Op::get("c", None),
            Op::delete("a", None),
            Op::txn(Txn::new().when([Compare::exists("a")]).then([Op::put("d", "inner", None)])),
        ])
        .or_else([Op::get("c", None)]);
    let done = client.txn(txn.clone()).await.unwrap();
    assert!(done.succeeded && done.revision == 5);
    let [OpResponse::Put(_), OpResponse::Get(got), OpResponse::Delete(deleted), OpResponse::Txn(inner)] =
        &done.responses[..]
    else {
        panic!("{done:?}")
    };
    assert_eq!((text(got).as_str(), deleted.deleted, inner.succeeded), ("c=new", 1, true));
    let again = client.txn(txn).await.unwrap();
    let [OpResponse::Get(got)] = &again.responses[..] else { panic!("{again:?}") };
    assert_eq!((again.succeeded, text(got).as_str()), (false, "c=new"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_can_be_listed_added_and_removed() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    assert_eq!(client.member_list().await.unwrap().len(), 1);
    let learner = client.member_add(["http://127.0.0.1:1"], true).await.unwrap();
    assert!(learner.is_learner && learner.name.is_empty());
    let members = client.member_update(learner.id, ["http://127.0.0.1:2"]).await.unwrap();
    assert!(members.iter().any(|member| member.id == learner.id && member.peer_urls == ["http://127.0.0.1:2"]));
    let error = client.member_promote(learner.id).await.unwrap_err();
    assert!(error.to_string().contains("in sync with leader"), "{error}");
    assert_eq!(client.member_remove(learner.id).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_can_be_operated() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let client = cluster.client().await;
    fill(&client, "a=1 b=2").await;
    client.get("a", None).await.unwrap();
    let mut hashes = Vec::new();
    for url in client.endpoints() {
        assert!(client.status(&url).await.unwrap().db_size > 0);
        // A member may be behind for a moment.
        while client.at(&url).unwrap().get("b", None).await.unwrap().count == 0 {}
        hashes.push(client.hash_kv(&url, 3).await.unwrap().hash);
        client.defragment(&url).await.unwrap();
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 1);

    let mut snapshot = client.snapshot(&cluster.url(0)).await.unwrap();
    let mut bytes = 0;
    while let Some(piece) = snapshot.next().await {
        bytes += piece.unwrap().len();
    }
    // More than the checksum that ends it; how the rest looks is the server's affair.
    assert!(bytes > 32 && snapshot.remaining_bytes() == 0, "{bytes} bytes");

    assert_eq!(client.alarm_list().await.unwrap(), []);
    assert_eq!(client.alarm_disarm(0, AlarmType::None).await.unwrap(), []);

    let target = (cluster.leader().await + 1) % 3;
    let id = client.status(&cluster.url(target)).await.unwrap().header.unwrap().member_id;
    client.move_leader(id).await.unwrap();
    assert_eq!(cluster.leader().await, target);
}
