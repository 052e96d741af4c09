//! Who this member is: read from the data directory, or found out at the first start.

use crate::env::Env;
use crate::peer::{PeerError, Peers};
use crate::start_stage::StartStage;
use crate::{Config, EngineKind, Error, InitialClusterState};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quorate_proto::peer_v1 as pb;
use quorate_sabotage::sabotage;
use quorate_wal::Disk;
use sha1::{Digest, Sha1};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of the layout of the data directory.
const FORMAT: &str = "quorate-data-1";

pub(crate) const IDENTITY_FILE: &str = "IDENTITY";

/// How long a first start of a new cluster waits for peers that may know this member already.
const ASK_PEERS_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a member that joins a running cluster tries to reach it.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

/// How long one member may take to answer who is in the cluster, the leader's confirmation included.
const JOIN_ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause before all are asked again.
const JOIN_PAUSE: Duration = Duration::from_millis(200);

/// What a data directory says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataIdentity {
    pub cluster_id: u64,
    pub member_id: u64,
    /// Random number of this directory.
    pub data_dir_id: u64,
    pub engine: EngineKind,
    /// The members of a cluster that is being made: every one of them starts with the same. Empty when joining.
    pub initial_members: BTreeMap<u64, Vec<String>>,
}

/// The id that etcd gives a member: SHA-1 of its sorted peer URLs, the cluster token, and for a member that is added later
/// the time.
pub(crate) fn member_id(peer_urls: &[String], token: &str, time_s: Option<u64>) -> u64 {
    let sorted: BTreeSet<&str> = peer_urls.iter().map(String::as_str).collect();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url);
    }
    hash.update(token);
    if let Some(time) = time_s {
        hash.update(time.to_string());
    }
    first_u64(hash)
}

/// The id that etcd gives a cluster: SHA-1 of its first members' ids.
pub(crate) fn cluster_id(members: impl IntoIterator<Item = u64>) -> u64 {
    let sorted: BTreeSet<u64> = members.into_iter().collect();
    let mut hash = Sha1::new();
    for id in sorted {
        hash.update(id.to_be_bytes());
    }
    first_u64(hash)
}

fn first_u64(hash: Sha1) -> u64 {
    let digest: [u8; 20] = hash.finalize().into();
    digest[..8].iter().fold(0, |id, byte| (id << 8) | u64::from(*byte))
}

/// Reads the identity of the data directory, or makes one. `true`: it was made now, and has to be kept with [`keep`] once
/// the log is there.
pub(crate) async fn identity(config: &Config, env: &dyn Env) -> Result<(DataIdentity, bool), Error> {
    let disk = env.disk();
    if let Some(identity) = stored_identity(&config.data_dir, env)? {
        if identity.engine != config.engine {
            return Err(Error::Fatal(format!(
                "{}: the data directory was made with --storage-engine {}, not {}: start it with that engine (to change \
                 engines, remove the member, delete its data directory, and add it again)",
                config.data_dir.display(),
                identity.engine.name(),
                config.engine.name(),
            )));
        }
        return Ok((identity, false));
    }
    refuse_foreign_directory(disk.as_ref(), &config.data_dir)?;
    refuse_lost_identity(disk.as_ref(), config)?;
    config.start_progress.enter(StartStage::AskingOthers);
    let identity = match config.initial_cluster_state {
        InitialClusterState::New => found(config, env).await?,
        InitialClusterState::Existing => join(config, env).await?,
    };
    config.start_progress.enter(StartStage::Opening);
    Ok((identity, true))
}

/// The identity that the data directory has, if it has one.
pub(crate) fn stored_identity(data_dir: &Path, env: &dyn Env) -> Result<Option<DataIdentity>, Error> {
    let path = data_dir.join(IDENTITY_FILE);
    read_text(env.disk().as_ref(), &path)?.map(|text| parse(&text, &path)).transpose()
}

/// Makes an identity that was found now durable: from here on the directory is this member's.
pub(crate) fn keep(config: &Config, env: &dyn Env, identity: &DataIdentity) -> Result<(), Error> {
    let path = config.data_dir.join(IDENTITY_FILE);
    write_text(env.disk().as_ref(), &config.data_dir, &path, &format(identity))
}

/// A member that has an identity has a log. Without it, it could vote a second time in one term, and would have lost what it
/// acknowledged.
pub(crate) fn refuse_lost_log(env: &dyn Env, wal_dir: &Path) -> Result<(), Error> {
    match env.disk().list(wal_dir) {
        Ok(names) if !names.is_empty() => Ok(()),
        Ok(_) | Err(_) => Err(Error::Fatal(format!(
            "{}: the write-ahead log is gone, and what it held that no other file holds is lost: bring the directory back, or \
             remove the member (`quorate member remove`), add it again (`quorate member add`), and start it with an empty \
             data directory and --initial-cluster-state existing",
            wal_dir.display()
        ))),
    }
}

/// The engine's files are made after the identity, but by a restore, which writes the identity last. With the one and without
/// the other, the directory is that of a restore that did not end, or its identity is lost: a member that began anew on it
/// would take what is there for its own.
fn refuse_lost_identity(disk: &dyn Disk, config: &Config) -> Result<(), Error> {
    // A directory opens for reading, too.
    let there = |path: &Path| disk.open_read(path).is_ok();
    let mut paths = EngineKind::ALL.into_iter().filter_map(|engine| engine.path(&config.data_dir));
    match paths.find(|path| there(path)) {
        Some(path) => Err(Error::Fatal(format!(
            "{}: there is {} and no {IDENTITY_FILE}: a `snapshot restore` was interrupted (remove the directory and restore \
             again), or the file was lost (bring it back, or remove the member, and add it again with an empty data directory)",
            config.data_dir.display(),
            path.display()
        ))),
        None => Ok(()),
    }
}

/// A data directory with etcd's files in it is not ours to write to.
fn refuse_foreign_directory(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    if disk.open(&dir.join("member/snap/db")).is_ok() {
        return Err(Error::Fatal(format!(
            "{}: this is a data directory of etcd; give Quorate one of its own",
            dir.display()
        )));
    }
    Ok(())
}

/// Members of a configuration, by id: name and peer URLs.
pub(crate) type ConfiguredMembers = BTreeMap<u64, (String, Vec<String>)>;

/// All members of the configuration. No URL may be there twice: members with the same URLs would have the same id.
pub(crate) fn configured_members(config: &Config) -> Result<ConfiguredMembers, Error> {
    let mut by_name: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (name, url) in &config.initial_cluster {
        crate::urls::place(url).map_err(|e| Error::Fatal(format!("--initial-cluster: {e}")))?;
        if !seen.insert(url) {
            let all: Vec<_> = config.initial_cluster.iter().map(|(name, url)| format!("{name}={url}")).collect();
            return Err(Error::Fatal(format!(
                "initial cluster {} has duplicate url: give each member a peer URL of its own",
                all.join(",")
            )));
        }
        by_name.entry(name).or_default().push(url.clone());
    }
    Ok(by_name
        .into_iter()
        .map(|(name, urls)| (member_id(&urls, &config.initial_cluster_token, None), (name.to_owned(), urls)))
        .collect())
}

/// This member among those of the configuration.
pub(crate) fn local_member(config: &Config, members: &ConfiguredMembers) -> Result<u64, Error> {
    members.iter().find(|(_, (name, _))| *name == config.name).map(|(id, _)| *id).ok_or_else(|| {
        Error::Fatal(format!(
            "couldn't find local name {:?} in the initial cluster configuration: put {}=<peer URL> into --initial-cluster",
            config.name, config.name
        ))
    })
}

/// The first start of a new cluster.
async fn found(config: &Config, env: &dyn Env) -> Result<DataIdentity, Error> {
    let members = configured_members(config)?;
    let me = local_member(config, &members)?;
    let cluster = cluster_id(members.keys().copied());
    for (id, (name, urls)) in members.iter().filter(|(id, _)| **id != me) {
        let Ok(info) = Peers::cluster_info(env, urls, false, ASK_PEERS_TIMEOUT).await else { continue };
        if info.cluster_id != cluster {
            return Err(Error::Fatal(format!(
                "member {name} ({id:x}) belongs to cluster {:x}, not to {cluster:x}: cluster ID mismatch; use another \
                 --initial-cluster-token, or correct --initial-cluster",
                info.cluster_id
            )));
        }
        refuse_if_started(&info, me)?;
    }
    let initial_members = members.into_iter().map(|(id, (_, urls))| (id, urls)).collect();
    Ok(new_identity(config, env, cluster, me, initial_members))
}

/// The first start of a member that was added to a running cluster.
async fn join(config: &Config, env: &dyn Env) -> Result<DataIdentity, Error> {
    let others: Vec<String> =
        config.initial_cluster.iter().filter(|(name, _)| *name != config.name).map(|(_, url)| url.clone()).collect();
    let ask = async |url| Peers::cluster_info(env, &[url], true, JOIN_ASK_TIMEOUT).await;
    let info = ask_to_join(&others, ask).await?;
    let mine: BTreeSet<&String> = config.initial_advertise_peer_urls.iter().collect();
    let member = info.members.iter().find(|m| m.peer_urls.iter().collect::<BTreeSet<_>>() == mine).ok_or_else(|| {
        Error::Fatal(format!(
            "the cluster has no member with the peer URLs {}: add it first (`quorate member add {} --peer-urls={}`)",
            config.initial_advertise_peer_urls.join(","),
            config.name,
            config.initial_advertise_peer_urls.join(",")
        ))
    })?;
    refuse_if_started(&info, member.id)?;
    Ok(new_identity(config, env, info.cluster_id, member.id, BTreeMap::new()))
}

/// Who is in the cluster. A member that lags may not know yet that this one was added, take it for one that was removed, or not
/// know the directory under which it has voted: its word counts only if the leader has confirmed it. All are asked, until one
/// has such an answer, or time is up. A cluster without a leader cannot need this member to get one, for it has no vote before
/// a leader has promoted it.
async fn ask_to_join<A, F>(others: &[String], ask: A) -> Result<pb::ClusterInfoReply, Error>
where
    A: Fn(String) -> F,
    F: Future<Output = Result<pb::ClusterInfoReply, PeerError>>,
{
    let mut leaderless = None;
    let attempt = async {
        loop {
            let mut asked: FuturesUnordered<_> = others.iter().map(async |url| (url, ask(url.clone()).await)).collect();
            while let Some((url, answer)) = asked.next().await {
                match answer {
                    Ok(info) if info.confirmed => return info,
                    Ok(_) => {
                        tracing::info!(url, "a member of the cluster cannot reach the leader: asking again");
                        leaderless = Some(url);
                    }
                    Err(error) => tracing::info!(url, %error, "cannot ask a member of the cluster to join"),
                }
            }
            tokio::time::sleep(JOIN_PAUSE).await;
        }
    };
    tokio::time::timeout(JOIN_TIMEOUT, attempt).await.map_err(|_elapsed| {
        let why = match leaderless {
            None => format!("no member of --initial-cluster answers at {}: are they up?", others.join(", ")),
            Some(url) => format!(
                "the member at {url} answers, but reaches no leader that could confirm who is in the cluster: start this \
                 member again when the cluster has a leader"
            ),
        };
        Error::Fatal(format!("cannot fetch cluster info from peer urls: {why}"))
    })
}

/// A member that has started before and comes without its data was wiped. Under its old identity it could vote twice in one
/// term and lose what it acknowledged.
fn refuse_if_started(info: &pb::ClusterInfoReply, me: u64) -> Result<(), Error> {
    match info.members.iter().find(|m| m.id == me) {
        Some(member) if member.started && !sabotage!(DataDirUnchecked) => Err(Error::Fatal(format!(
            "member {me:x} has already been bootstrapped, and this data directory is not the one it had: bring the old \
             directory back, or remove the member (`quorate member remove {me:x}`), add it again (`quorate member add`), \
             and start with --initial-cluster-state existing and an empty data directory"
        ))),
        Some(_) | None => Ok(()),
    }
}

pub(crate) fn new_identity(
    config: &Config,
    env: &dyn Env,
    cluster_id: u64,
    member_id: u64,
    initial_members: BTreeMap<u64, Vec<String>>,
) -> DataIdentity {
    // 0 stands for "not known" in peer messages.
    let data_dir_id = env.random_u64().max(1);
    DataIdentity { cluster_id, member_id, data_dir_id, engine: config.engine, initial_members }
}

fn format(identity: &DataIdentity) -> String {
    let mut text = format!(
        "{FORMAT}\ncluster_id {:016x}\nmember_id {:016x}\ndata_dir_id {:016x}\nengine {}\n",
        identity.cluster_id,
        identity.member_id,
        identity.data_dir_id,
        identity.engine.name()
    );
    for (id, urls) in &identity.initial_members {
        text.push_str(&format!("initial_member {id:016x} {}\n", urls.join(" ")));
    }
    let crc = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("crc32c {crc:08x}\n"));
    text
}

fn parse(text: &str, path: &Path) -> Result<DataIdentity, Error> {
    let bad = |what: &str| {
        Error::Fatal(format!(
            "{}: {what}; the member cannot tell who it is: restore the file from a backup, or remove the member and add it \
             again with an empty data directory",
            path.display()
        ))
    };
    if !text.starts_with(&format!("{FORMAT}\n")) {
        let first = text.lines().next().unwrap_or_default();
        return Err(Error::Fatal(format!(
            "{}: the data directory has format {first:?}, this version knows {FORMAT:?}: start the version of Quorate that \
             wrote it",
            path.display()
        )));
    }
    let (body, crc) = text.rsplit_once("crc32c ").ok_or_else(|| bad("the checksum is missing"))?;
    if u32::from_str_radix(crc.trim_end(), 16) != Ok(crc32c::crc32c(body.as_bytes())) {
        return Err(bad("the checksum does not match"));
    }
    let field = |name: &str| {
        body.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .ok_or_else(|| bad(&format!("{name} is missing")))
    };
    let number = |name: &str| {
        field(name).and_then(|v| u64::from_str_radix(v, 16).map_err(|_| bad(&format!("{name} is not a number"))))
    };
    let mut initial_members = BTreeMap::new();
    for line in body.lines().filter_map(|line| line.strip_prefix("initial_member ")) {
        let mut words = line.split(' ');
        let id =
            words.next().and_then(|id| u64::from_str_radix(id, 16).ok()).ok_or_else(|| bad("a member has no id"))?;
        initial_members.insert(id, words.map(str::to_owned).collect());
    }
    Ok(DataIdentity {
        cluster_id: number("cluster_id")?,
        member_id: number("member_id")?,
        data_dir_id: number("data_dir_id")?,
        engine: EngineKind::from_name(field("engine")?).ok_or_else(|| bad("the engine is unknown"))?,
        initial_members,
    })
}

fn fatal(path: &Path, error: &std::io::Error) -> Error {
    Error::Fatal(format!("{}: {error}", path.display()))
}

/// The text of a small file; `None` if it is not there.
pub(crate) fn read_text(disk: &dyn Disk, path: &Path) -> Result<Option<String>, Error> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fatal(path, &error)),
    };
    let length = file.len().map_err(|e| fatal(path, &e))?;
    // The file has a few lines; whatever is larger is not it.
    let mut text = vec![0; usize::try_from(length).unwrap_or(usize::MAX).min(1 << 20)];
    let read = file.read_at(0, &mut text).map_err(|e| fatal(path, &e))?;
    text.truncate(read);
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

/// Written beside, synced, renamed, directory synced: it is there whole or not at all.
pub(crate) fn write_text(disk: &dyn Disk, dir: &Path, path: &Path, text: &str) -> Result<(), Error> {
    let temporary: PathBuf = path.with_extension("new");
    let attempt = || {
        match disk.remove(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = disk.create(&temporary)?;
        file.write_at(0, text.as_bytes())?;
        file.sync_data()?;
        disk.rename(&temporary, path)?;
        disk.sync_dir(dir)
    };
    attempt().map_err(|e| fatal(path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_etcds() {
        // What a single etcd with default flags shows.
        let member = member_id(&["http://localhost:2380".into()], "etcd-cluster", None);
        assert_eq!(format!("{member:x}"), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id([member])), "cdf818194e3a8c32");
    }

    #[test]
    fn members_with_the_same_url_are_refused() {
        let initial_cluster = [("a", "http://h:1"), ("b", "http://h:1")].map(|(name, url)| (name.into(), url.into()));
        let config = Config { initial_cluster: initial_cluster.into(), ..Config::default() };
        let refused = configured_members(&config).unwrap_err().to_string();
        assert!(refused.contains("initial cluster a=http://h:1,b=http://h:1 has duplicate url"), "{refused}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_joins_believes_nobody_whom_no_leader_has_confirmed() {
        let others = ["http://a:1".to_owned(), "http://b:1".to_owned()];
        let info = |confirmed| Ok(pb::ClusterInfoReply { cluster_id: 7, members: vec![], confirmed });
        let silent = || Err(PeerError::NotConnected("nobody is there".into()));

        // There is a leader only after some rounds, and only one member reaches it.
        let rounds = std::cell::Cell::new(0);
        let late = ask_to_join(&others, |url| {
            rounds.set(rounds.get() + 1);
            std::future::ready(info(url == others[1] && rounds.get() > 9))
        });
        assert!(late.await.unwrap().confirmed);

        let begin = tokio::time::Instant::now();
        let half = |url| std::future::ready(if url == others[0] { info(false) } else { silent() });
        let text = ask_to_join(&others, half).await.unwrap_err().to_string();
        assert!(text.contains("http://a:1 answers, but reaches no leader"), "{text}");
        assert_eq!(begin.elapsed(), JOIN_TIMEOUT);
        let text = ask_to_join(&others, |_| std::future::ready(silent())).await.unwrap_err().to_string();
        assert!(text.contains("no member of --initial-cluster answers at http://a:1, http://b:1"), "{text}");
    }

    #[test]
    fn identity_reads_back_and_every_flip_is_found() {
        let identity = DataIdentity {
            cluster_id: 1,
            member_id: 2,
            data_dir_id: 3,
            engine: EngineKind::Sled,
            initial_members: BTreeMap::from([(2, vec!["http://a:1".into(), "http://b:2".into()])]),
        };
        let text = format(&identity);
        assert_eq!(parse(&text, Path::new("x")), Ok(identity));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let flipped = String::from_utf8_lossy(&bytes);
            if at != text.len() - 1 {
                assert!(parse(&flipped, Path::new("x")).is_err(), "byte {at}: {flipped}");
            }
        }
    }
}
