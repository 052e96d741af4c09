//! The directory of a demonstration: which members there are and on which ports.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

/// Members of a new cluster.
const NODES: u16 = 3;
/// The ports that clients try by themselves.
const BASE_PORT: u16 = 2379;
const FILE: &str = "members";
const HEADING: &str = "# Members of this demonstration: name, client port, peer port";

/// A member and its ports on 127.0.0.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberLayout {
    /// Its name, which is also that of its data directory.
    pub name: String,
    /// Port for clients.
    pub client_port: u16,
    /// Port for the other members.
    pub peer_port: u16,
}

impl MemberLayout {
    /// Where clients find it.
    pub fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }
}

/// What a directory holds. Locked as long as this lives.
#[derive(Debug)]
pub struct Layout {
    /// The directory.
    pub dir: PathBuf,
    /// The members.
    pub members: Vec<MemberLayout>,
    _lock: File,
}

impl Layout {
    /// Opens a directory, or makes it with so many members on these ports.
    pub fn open(dir: &Path, nodes: Option<u16>, base_port: Option<u16>) -> Result<Self, String> {
        let failed = |what: &str, error: &dyn std::fmt::Display| format!("cannot {what} {}: {error}", dir.display());
        fs::create_dir_all(dir).map_err(|error| failed("make", &error))?;
        let path = dir.join(FILE);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(|error| failed("open", &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(format!("a demo already runs in {}", dir.display())),
            Err(TryLockError::Error(error)) => return Err(failed("lock", &error)),
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|error| failed("read", &error))?;
        let members = if text.is_empty() {
            let members = choose(nodes.unwrap_or(NODES), base_port)?;
            file.write_all(format(&members).as_bytes()).map_err(|error| failed("write", &error))?;
            members
        } else {
            let members = parse(&text).map_err(|error| format!("{} is damaged: {error}", path.display()))?;
            let same_count = nodes.is_none_or(|nodes| usize::from(nodes) == members.len());
            let same_ports = base_port.is_none_or(|port| numbered(members.len(), port) == members);
            if !same_count || !same_ports {
                return Err(format!(
                    "{} already holds a cluster, with {} members from port {} on: run without --nodes and --base-port \
                     to continue it, or choose another --dir",
                    dir.display(),
                    members.len(),
                    members.first().map_or(0, |member| member.client_port)
                ));
            }
            if let Some(port) = ports(&members).find(|port| !is_free(*port)) {
                return Err(format!("port {port} is in use, and the cluster in {} needs it", dir.display()));
            }
            members
        };
        Ok(Layout { dir: dir.to_owned(), members, _lock: file })
    }

    /// Where a member logs to.
    pub fn log(&self, index: usize) -> PathBuf {
        self.dir.join(format!("{}.log", self.members[index].name))
    }

    /// The options of a member: etcd's.
    pub fn server_arguments(&self, index: usize, engine: Option<&str>) -> Vec<OsString> {
        let member = &self.members[index];
        let cluster: Vec<String> = self.members.iter().map(|m| format!("{}={}", m.name, m.peer_url())).collect();
        let options = [
            ("--name", member.name.clone()),
            ("--listen-client-urls", member.client_url()),
            ("--advertise-client-urls", member.client_url()),
            ("--listen-peer-urls", member.peer_url()),
            ("--initial-advertise-peer-urls", member.peer_url()),
            ("--initial-cluster", cluster.join(",")),
            ("--initial-cluster-state", "new".to_owned()),
            ("--initial-cluster-token", "quorate-demo".to_owned()),
        ];
        let mut arguments: Vec<OsString> =
            options.into_iter().flat_map(|(name, value)| [name.into(), value.into()]).collect();
        arguments.extend(["--data-dir".into(), self.dir.join(&member.name).into_os_string()]);
        arguments.extend(engine.into_iter().flat_map(|engine| ["--storage-engine".into(), engine.into()]));
        arguments
    }
}

fn choose(nodes: u16, base_port: Option<u16>) -> Result<Vec<MemberLayout>, String> {
    let nodes = usize::from(nodes);
    let wanted = numbered(nodes, base_port.unwrap_or(BASE_PORT));
    let taken = ports(&wanted).find(|port| !is_free(*port));
    match (taken, base_port) {
        (None, _) => Ok(wanted),
        (Some(port), Some(_)) => Err(format!("port {port} is in use: choose another --base-port")),
        (Some(_), None) => any_free(nodes).map_err(|error| format!("cannot find free ports: {error}")),
    }
}

/// Members on consecutive ports.
fn numbered(nodes: usize, base_port: u16) -> Vec<MemberLayout> {
    let member = |(index, offset)| MemberLayout {
        name: format!("n{index}"),
        client_port: base_port + offset,
        peer_port: base_port + offset + 1,
    };
    (1..=nodes).zip((0..).step_by(2)).map(member).collect()
}

/// Members on ports that the system picks.
fn any_free(nodes: usize) -> std::io::Result<Vec<MemberLayout>> {
    // All listeners stay open until all ports are known, so that no port comes twice.
    let mut listeners = Vec::new();
    let mut port = || -> std::io::Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        listeners.push(listener);
        Ok(port)
    };
    (1..=nodes)
        .map(|index| Ok(MemberLayout { name: format!("n{index}"), client_port: port()?, peer_port: port()? }))
        .collect()
}

fn ports(members: &[MemberLayout]) -> impl Iterator<Item = u16> {
    members.iter().flat_map(|member| [member.client_port, member.peer_port])
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn format(members: &[MemberLayout]) -> String {
    let line = |member: &MemberLayout| format!("{} {} {}\n", member.name, member.client_port, member.peer_port);
    format!("{HEADING}\n{}", members.iter().map(line).collect::<String>())
}

fn parse(text: &str) -> Result<Vec<MemberLayout>, String> {
    let mut members = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let member = match words.as_slice() {
            // Names are directories: nothing that leads elsewhere.
            [name, client, peer] if name.chars().all(|c| c.is_ascii_alphanumeric()) => client
                .parse()
                .ok()
                .zip(peer.parse().ok())
                .map(|(client_port, peer_port)| MemberLayout { name: (*name).to_owned(), client_port, peer_port }),
            _ => None,
        };
        members.push(member.ok_or_else(|| format!("\"{line}\" is not a name and two ports"))?);
    }
    if members.is_empty() { Err("it names no members".to_owned()) } else { Ok(members) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let members = numbered(3, 2379);
        let text = format(&members);
        assert_eq!(text, format!("{HEADING}\nn1 2379 2380\nn2 2381 2382\nn3 2383 2384\n"));
        assert_eq!(parse(&text), Ok(members));
    }

    #[test]
    fn damage_is_told() {
        for text in ["n1 1", "n1 1 x", "../n1 1 2", "n1 1 2 3", "n1 1 70000"] {
            assert_eq!(parse(text), Err(format!("\"{text}\" is not a name and two ports")));
        }
        assert_eq!(parse("# nothing\n"), Err("it names no members".to_owned()));
    }

    #[test]
    fn a_second_run_continues_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("demo");
        let first = Layout::open(&dir, Some(2), None).unwrap();
        assert_eq!(Layout::open(&dir, None, None).unwrap_err(), format!("a demo already runs in {}", dir.display()));
        let members = first.members.clone();
        drop(first);
        assert!(Layout::open(&dir, Some(3), None).unwrap_err().contains("already holds a cluster, with 2 members"));
        assert_eq!(Layout::open(&dir, Some(2), None).unwrap().members, members);

        let in_use = TcpListener::bind((Ipv4Addr::LOCALHOST, members[1].peer_port)).unwrap();
        let error = Layout::open(&dir, None, None).unwrap_err();
        assert!(error.starts_with(&format!("port {} is in use", members[1].peer_port)), "{error}");
        drop(in_use);
    }

    #[test]
    fn a_port_in_use_is_refused_when_the_user_chose_it() {
        let dir = tempfile::tempdir().unwrap();
        let in_use = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = in_use.local_addr().unwrap().port().min(65_000);
        let error = Layout::open(dir.path(), Some(1), Some(port));
        if port == in_use.local_addr().unwrap().port() {
            assert_eq!(error.unwrap_err(), format!("port {port} is in use: choose another --base-port"));
        }
    }
}
