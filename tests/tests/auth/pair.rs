//! etcd 3.5.1 and the server under test, which are asked the same and must answer the same.
//!
//! Knows calls and names of users, not what should come of them. Guarantees that no difference goes by, but for those that a
//! test names beforehand, each with its reason; and that each of those is there.

use std::collections::HashMap;

use quorate_proto::etcdserverpb::AuthenticateRequest;
use quorate_proto::etcdserverpb::auth_client::AuthClient;
use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::server::Server;
use quorate_tests::tools::{bundled, skip};
use tonic::transport::{Channel, Endpoint};

use crate::calls::{Call, Metadata, get, put, refusal, single, token};

/// One of the two servers.
pub struct Side {
    pub cluster: Cluster,
    channels: Vec<Channel>,
    /// Of whom it gave one, the last.
    pub tokens: HashMap<String, String>,
}

impl Side {
    fn of(cluster: Cluster) -> Side {
        let connect = |url: String| Endpoint::from_shared(url).expect("a URL").connect_lazy();
        let channels = cluster.endpoints().into_iter().map(connect).collect();
        Side { cluster, channels, tokens: HashMap::new() }
    }

    pub fn channel(&self, member: usize) -> &Channel {
        &self.channels[member % self.channels.len()]
    }

    /// What shows a server who asks. Nobody (``) shows nothing, and `?text` shows that text.
    ///
    /// # Panics
    /// When somebody asks who has not logged in.
    pub fn credentials(&self, who: &str) -> Metadata {
        match (who, who.strip_prefix('?')) {
            ("", _) => Metadata::new(),
            (_, Some(text)) => token(text),
            (_, None) => token(self.tokens.get(who).unwrap_or_else(|| panic!("{who} has not logged in"))),
        }
    }

    /// What a read by root says of the revision.
    async fn revision(&self) -> i64 {
        let answer = get(&single("level")).send(self.channel(0), self.credentials("root")).await;
        let number = answer.split_once("revision: ").and_then(|(_, rest)| rest.split(',').next());
        number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no revision: {answer}"))
    }

    async fn log_in(&mut self, member: usize, name: &str, password: &str) -> String {
        let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        match AuthClient::new(self.channel(member).clone()).authenticate(request).await {
            Ok(answer) => {
                self.tokens.insert(name.to_owned(), answer.into_inner().token);
                "ok".to_owned()
            }
            Err(status) => refusal(&status),
        }
    }
}

/// Where the two answer differently.
#[derive(Debug)]
pub struct Difference {
    /// What was asked.
    pub call: String,
    /// Who asked.
    pub who: String,
    /// etcd's answer.
    pub theirs: String,
    /// This project's answer.
    pub ours: String,
}

/// A difference that is meant.
pub struct Deviation {
    pub why: &'static str,
    pub covers: fn(&Difference) -> bool,
}

/// The two.
pub struct Pair {
    pub theirs: Side,
    pub ours: Side,
    asked: usize,
    differences: Vec<Difference>,
}

impl Pair {
    /// One member of etcd 3.5.1, and three of the server under test; with flags that both know.
    pub async fn start(flags: &[String]) -> Option<Pair> {
        let Some(etcd) = bundled("etcd") else {
            skip("etcd 3.5.1 (cargo xtask install-tools)");
            return None;
        };
        let spec = |nodes| flags.iter().fold(ClusterSpec::new(nodes), |spec, flag| spec.flag(flag));
        // It may have to be built first, while nobody waits.
        if !Server::find().expect("a server binary").is_quorate() {
            println!("this project is compared with etcd, not etcd with etcd");
            return None;
        }
        let theirs = Cluster::start_with(Server::at(&etcd), spec(1).flag("--bcrypt-cost=4"));
        let (theirs, ours) = tokio::join!(theirs, Cluster::start(spec(3)));
        Some(Pair { theirs: Side::of(theirs?), ours: Side::of(ours?), asked: 0, differences: Vec::new() })
    }

    /// Asks both, this project's members in turn; tells whether they agree. Where only one did it, their revisions are made
    /// equal again.
    pub async fn ask(&mut self, who: &str, call: Call) -> bool {
        let member = self.asked;
        self.ask_at(member, who, call).await
    }

    /// As [`ask`](Self::ask), of one member: what was done through it is known to it.
    pub async fn ask_at(&mut self, member: usize, who: &str, call: Call) -> bool {
        let send = async |side: &Side| call.send(side.channel(member), side.credentials(who)).await;
        let (theirs, ours) = tokio::join!(send(&self.theirs), send(&self.ours));
        let one_did_it = theirs.starts_with("ok") != ours.starts_with("ok");
        let agree = self.compare(who, call.shown, theirs, ours);
        if one_did_it && self.theirs.tokens.contains_key("root") {
            self.level().await;
        }
        agree
    }

    /// Asks both, and requires that they do it.
    ///
    /// # Panics
    /// When one refuses.
    pub async fn must(&mut self, who: &str, call: Call) {
        let (theirs, ours) = self.both_do(who, &call).await;
        self.compare(who, call.shown, theirs, ours);
    }

    /// As [`must`](Self::must), without a comparison of the answers.
    ///
    /// # Panics
    /// When one refuses.
    pub async fn both_do(&self, who: &str, call: &Call) -> (String, String) {
        let send = async |side: &Side| call.send(side.channel(0), side.credentials(who)).await;
        let (theirs, ours) = tokio::join!(send(&self.theirs), send(&self.ours));
        assert!(theirs.starts_with("ok") && ours.starts_with("ok"), "{}: {theirs}, {ours}", call.shown);
        (theirs, ours)
    }

    /// Writes something else to the one whose revision is lower, until it is not.
    async fn level(&mut self) {
        let (theirs, ours) = tokio::join!(self.theirs.revision(), self.ours.revision());
        for (side, missing) in [(&self.theirs, ours - theirs), (&self.ours, theirs - ours)] {
            for _ in 0..missing {
                let answer = put("level").send(side.channel(0), side.credentials("root")).await;
                assert!(answer.starts_with("ok"), "{answer}");
            }
        }
    }

    /// Logs in to both, and keeps the tokens, which are not compared; tells whether the two agree.
    pub async fn log_in(&mut self, name: &str, password: &str) -> bool {
        let member = self.asked;
        let (theirs, ours) = (self.theirs.log_in(member, name, password), self.ours.log_in(member, name, password));
        let (theirs, ours) = tokio::join!(theirs, ours);
        self.compare(name, format!("log in with {password:?}"), theirs, ours)
    }

    /// Forgets that somebody has logged in.
    pub fn forget(&mut self, name: &str) {
        self.theirs.tokens.remove(name);
        self.ours.tokens.remove(name);
    }

    /// Takes two answers to the same question; tells whether they agree.
    pub fn compare(&mut self, who: &str, call: String, theirs: String, ours: String) -> bool {
        self.asked += 1;
        let agree = theirs == ours;
        if !agree {
            self.differences.push(Difference { call, who: who.to_owned(), theirs, ours });
        }
        agree
    }

    /// Ends the comparison, when nobody is asked who they are any more: what differs must be meant, and what is meant must
    /// have been seen.
    ///
    /// # Panics
    /// When that is not so, when there were fewer than `least` questions, or when the members hold different data.
    pub async fn finish(self, least: usize, deviations: &[Deviation]) {
        let of = |deviation: &Deviation| self.differences.iter().filter(|found| (deviation.covers)(found)).count();
        for deviation in deviations {
            println!("{} differ: {}", of(deviation), deviation.why);
        }
        let meant = |found: &&Difference| !deviations.iter().any(|deviation| (deviation.covers)(found));
        let unmeant: Vec<String> = self
            .differences
            .iter()
            .filter(meant)
            .map(|Difference { call, who, theirs, ours }| format!("{who:?}: {call}\n  etcd: {theirs}\n  ours: {ours}"))
            .collect();
        println!("{} questions, {} answers that differ", self.asked, self.differences.len());
        assert!(unmeant.is_empty(), "{} answers differ:\n{}", unmeant.len(), unmeant.join("\n"));
        for deviation in deviations {
            assert!(of(deviation) > 0, "no answer differs any more: {}", deviation.why);
        }
        assert!(self.asked >= least, "{} questions", self.asked);
        self.ours.cluster.assert_replicas_equal().await;
    }
}
