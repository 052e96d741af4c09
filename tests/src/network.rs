//! Where members listen: on loopback, or each in a network namespace of its own whose links can be cut.
//!
//! The namespaces hang on one bridge in the namespace of the test, which reaches them all, whatever is cut between
//! them. A cut is silent, as a broken cable is: the sender's neighbour table points to an address that nobody has. It
//! works for one direction at a time.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use crate::server::run_by;

/// Nobody has this hardware address.
const NOWHERE: &str = "02:00:00:00:00:ff";

/// Below the range from which the kernel takes ports for outgoing connections: a member that is down must find its port
/// free when it comes back.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// Which kind of network a cluster gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkKind {
    /// 127.0.0.1, a port for each listener.
    Loopback,
    /// A network namespace for each member.
    Namespaces,
}

/// The network of one cluster.
#[derive(Debug)]
pub enum Network {
    /// Nothing to set up and nothing to cut.
    Loopback,
    /// Namespaces and their bridge; removed when dropped.
    Namespaces(Namespaces),
}

impl Network {
    /// Sets up a network without members.
    ///
    /// # Errors
    /// When namespaces are not permitted here.
    pub fn new(kind: NetworkKind) -> Result<Network> {
        match kind {
            NetworkKind::Loopback => Ok(Network::Loopback),
            NetworkKind::Namespaces => Ok(Network::Namespaces(Namespaces::new()?)),
        }
    }

    /// Adds member `index`; gives its addresses for clients and for peers, `host:port`.
    ///
    /// # Errors
    /// When there is no free port, or the namespace cannot be made.
    pub fn add(&mut self, index: usize) -> Result<(String, String)> {
        match self {
            Network::Loopback => Ok((format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?))),
            Network::Namespaces(namespaces) => {
                namespaces.add(index)?;
                let address = namespaces.address(index);
                Ok((format!("{address}:{CLIENT_PORT}"), format!("{address}:{PEER_PORT}")))
            }
        }
    }

    /// The command that runs `command` where member `index` lives.
    pub fn inside(&self, index: usize, command: Command) -> Command {
        match self {
            Network::Loopback => command,
            Network::Namespaces(namespaces) => {
                // Not `ip netns exec`: that makes a mount namespace, too, in which a disk stays mounted after its power cut.
                let mut outer = Command::new("nsenter");
                outer.arg(format!("--net=/run/netns/{}", namespaces.name(index)));
                run_by(outer, &command)
            }
        }
    }

    /// # Panics
    /// On loopback, where nothing can be cut.
    pub fn namespaces(&self) -> &Namespaces {
        match self {
            Network::Namespaces(namespaces) => namespaces,
            Network::Loopback => panic!("a test that cuts links asks for `NetworkKind::Namespaces`"),
        }
    }
}

/// Network namespaces on one bridge.
#[derive(Debug)]
pub struct Namespaces {
    /// Part of every name, so that two runs do not meet.
    tag: String,
    /// The third byte of all addresses.
    subnet: u8,
    members: Vec<usize>,
}

impl Namespaces {
    /// Whether this process may make namespaces; if not, why.
    ///
    /// # Errors
    /// What the system said.
    pub fn permitted() -> Result<()> {
        let name = format!("qt{}probe", std::process::id());
        ip(&["netns", "add", &name])?;
        ip(&["netns", "del", &name])
    }

    /// Whether the kernel has a qdisc for [`shape`](Self::shape); if not, what it said.
    ///
    /// # Errors
    /// What the system said.
    pub fn shapes(qdisc: &str) -> Result<()> {
        let mut probe = Namespaces::new()?;
        probe.add(0)?;
        probe.shape(0, qdisc)
    }

    fn new() -> Result<Namespaces> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Interface names have 15 characters at most.
        let tag = format!("q{:x}{count:x}", pid & 0xfffff);
        let subnet = (pid.wrapping_add(count) % 250) as u8;
        let namespaces = Namespaces { tag, subnet, members: Vec::new() };
        ip(&["link", "add", &namespaces.bridge(), "type", "bridge"])?;
        ip(&["addr", "add", &format!("10.213.{subnet}.254/24"), "dev", &namespaces.bridge()])?;
        ip(&["link", "set", &namespaces.bridge(), "up"])?;
        Ok(namespaces)
    }

    fn bridge(&self) -> String {
        format!("{}b", self.tag)
    }

    fn name(&self, index: usize) -> String {
        format!("{}n{index}", self.tag)
    }

    fn veth(&self, index: usize) -> String {
        format!("{}v{index}", self.tag)
    }

    fn address(&self, index: usize) -> String {
        format!("10.213.{}.{}", self.subnet, index + 1)
    }

    fn add(&mut self, index: usize) -> Result<()> {
        let (name, outer, address) = (self.name(index), self.veth(index), self.address(index));
        ip(&["netns", "add", &name])?;
        self.members.push(index);
        ip(&["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
        ip(&["link", "set", &outer, "master", &self.bridge(), "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        ip(&["-n", &name, "addr", "add", &format!("{address}/24"), "dev", "eth0"])
    }

    /// From now on nothing that member `from` sends to member `to` arrives.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn cut(&self, from: usize, to: usize) -> Result<()> {
        let (name, to) = (self.name(from), self.address(to));
        ip(&["-n", &name, "neigh", "replace", &to, "lladdr", NOWHERE, "dev", "eth0", "nud", "permanent"])
    }

    /// Cuts both directions between every member of `left` and every member of `right`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn split(&self, left: &[usize], right: &[usize]) -> Result<()> {
        for &a in left {
            for &b in right {
                self.cut(a, b)?;
                self.cut(b, a)?;
            }
        }
        Ok(())
    }

    /// From now on what a member sends goes through a queue of the kernel, a *qdisc*, as `tc` takes it (`tbf rate 1mbit ..`).
    ///
    /// # Errors
    /// When the kernel does not have it.
    pub fn shape(&self, member: usize, qdisc: &str) -> Result<()> {
        let name = self.name(member);
        let mut args = vec!["-n", &name, "qdisc", "replace", "dev", "eth0", "root"];
        args.extend(qdisc.split_whitespace());
        run("tc", &args)
    }

    /// Takes away what [`shape`](Self::shape) has done to a member.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn unshape(&self, member: usize) -> Result<()> {
        run("tc", &["-n", &self.name(member), "qdisc", "del", "dev", "eth0", "root"])
    }

    /// Mends every link that was [`cut`](Self::cut).
    ///
    /// # Errors
    /// When the system refuses.
    pub fn heal(&self) -> Result<()> {
        for &member in &self.members {
            ip(&["-n", &self.name(member), "neigh", "flush", "dev", "eth0", "nud", "permanent"])?;
        }
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for &member in &self.members {
            // The kernel clears a namespace away when it gets to it; the pair's outer end would stay until then.
            let _ = ip(&["link", "del", &self.veth(member)]);
            let _ = ip(&["netns", "del", &self.name(member)]);
        }
        let _ = ip(&["link", "del", &self.bridge()]);
    }
}

/// A port of [`PORTS`] that nobody else has, and that this process has not chosen before: who got the earlier one may not
/// have started to listen yet.
fn free_port() -> Result<u16> {
    static CHOSEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _ in 0..100 {
        let port = rand::random_range(PORTS);
        match TcpListener::bind(("127.0.0.1", port)) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
            Ok(_) if CHOSEN.lock().unwrap().insert(port) => return Ok(port),
            Ok(_) => {}
        }
    }
    bail!("no free port between {} and {}", PORTS.start, PORTS.end)
}

fn ip(args: &[&str]) -> Result<()> {
    run("ip", args)
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
