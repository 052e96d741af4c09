//! The demonstration cluster: starts, survives the loss of its leader, and leaves nothing behind.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use crate::programs::{QUORATE, program};
use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(60);

/// A running demonstration and what it prints.
struct Demo {
    process: Child,
    lines: Receiver<String>,
}

impl Demo {
    fn start(dir: &Path, server: &[String]) -> Self {
        let mut command = Command::new(QUORATE);
        command.arg("demo").arg("--dir").arg(dir);
        // Any program that takes etcd's options can be the member.
        if let [program] = server {
            command.args(["--program", program]);
        }
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Demo { process, lines }
    }

    /// Waits for lines that hold these texts, in any order.
    fn expect_all(&self, texts: &[&str]) {
        let mut missing = texts.to_vec();
        while !missing.is_empty() {
            let line = self.expect("");
            missing.retain(|text| !line.contains(text));
        }
    }

    /// The next line that holds `text`.
    fn expect(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("there was no line with: {text}"));
            println!("{line}");
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Reads the introduction: the processes of the members, and where clients find them.
    fn introduction(&self) -> (Vec<Pid>, String) {
        let pids = ["  n1  http", "  n2  http", "  n3  http"].map(|name| {
            let line = self.expect(name);
            let (_, rest) = line.split_once(" pid ").unwrap();
            Pid::from_raw(rest.split(' ').next().unwrap().parse().unwrap()).unwrap()
        });
        let line = self.expect("ETCDCTL_ENDPOINTS=");
        (pids.to_vec(), line.split_once("ETCDCTL_ENDPOINTS=").unwrap().1.to_owned())
    }

    fn stop(mut self) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::INT).unwrap();
        self.expect("Stopped");
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Ended already, unless the test failed.
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
    }
}

fn quorate(endpoints: &str, args: &[&str]) -> String {
    let mut command = Command::new(QUORATE);
    let output = command.args(args).env_clear().env("QUORATE_ENDPOINTS", endpoints).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether the process does anything. One that has ended may stay in the table until somebody asks how.
fn is_running(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

#[test]
fn a_cluster_to_try_things_on() {
    let Some(server) = program() else {
        println!("skipped: needs etcd");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let demo = Demo::start(dir.path(), &server);
    let leads = demo.expect(" leads (term ");
    let leader: usize =
        leads.split_once(" leads").unwrap().0.trim_end().chars().last().unwrap().to_digit(10).unwrap() as usize;
    let (pids, endpoints) = demo.introduction();
    assert_eq!(quorate(&endpoints, &["put", "greeting", "hello"]), "OK\n");

    kill_process(pids[leader - 1], Signal::KILL).unwrap();
    demo.expect(&format!("n{leader} lost: killed by signal 9"));
    // It may be back before the others elect a leader, and then may be that.
    demo.expect_all(&[&format!("n{leader} is back"), " leads "]);
    assert_eq!(quorate(&endpoints, &["get", "greeting"]), "greeting\nhello\n");
    demo.stop();
    assert!(!pids.into_iter().any(is_running));

    let again = Demo::start(dir.path(), &server);
    let (pids, same_endpoints) = again.introduction();
    assert_eq!(same_endpoints, endpoints);
    assert_eq!(quorate(&endpoints, &["get", "greeting"]), "greeting\nhello\n");
    if server.len() == 1 {
        // Only our own server knows that it must not outlive the demonstration.
        again.stop();
    } else {
        kill_process(Pid::from_child(&again.process), Signal::KILL).unwrap();
        thread::sleep(Duration::from_secs(1));
    }
    assert!(!pids.into_iter().any(is_running));
}

#[test]
fn members_that_cannot_run_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(QUORATE);
    command.arg("demo").arg("--dir").arg(dir.path()).args(["--nodes", "1", "--program", "/does/not/exist"]);
    let output = command.output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("n1 cannot run (not started: "), "{errors}");
}
