//! `/debug/...`: what this process does with its memory and its time. `/debug/vars` is always there, as in etcd; the rest
//! only with `--enable-pprof`, because profiling costs, and tells how the process is built.

use crate::metrics;
use crate::shared::Shared;
use http::StatusCode;
use pprof::ProfilerGuardBuilder;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Samples per second: not a divisor of what timers run at.
const FREQUENCY_HERTZ: i32 = 99;
/// How long a profile is, if nothing else is asked for; Go's default.
const SECONDS_DEFAULT: u64 = 30;
const SECONDS_MAX: u64 = 300;

const INDEX: &str = "\
/debug/pprof/profile?seconds=30  where processor time goes: collapsed stacks, one per line with its samples,
                                 for flamegraph.pl, inferno-flamegraph or speedscope
/debug/pprof/heap                memory, as the kernel and our own counters see it
/debug/pprof/tasks               threads, tasks and queue of the front's runtime and the node's, and the time that each kind of
                                 thread has used
";

/// A text to answer with.
pub type Answer = (StatusCode, String);

/// `/debug/vars`: as Go's expvar, as far as that makes sense here.
pub fn vars(shared: &Shared) -> String {
    let process = metrics::process::read().unwrap_or_default();
    let front = tokio::runtime::Handle::current().metrics();
    // What is on the command line can be read by everybody on this machine; secrets are in files.
    let cmdline: Vec<String> = std::env::args().collect();
    let status = shared.system.status();
    let value = json!({
        "cmdline": cmdline,
        "file_descriptor_limit": process.max_fds,
        "memstats": { "Sys": process.virtual_bytes, "HeapInuse": process.resident_bytes },
        "raft.status": {
            "id": format!("{:x}", shared.system.member_id().get()),
            "term": status.term.get(),
            "commit": status.committed_index.get(),
            "applied": status.applied_index.get(),
            "lead": status.leader.map_or_else(|| "0".to_owned(), |leader| format!("{:x}", leader.get())),
        },
        "tasks": front.num_alive_tasks() + shared.system.runtime_metrics().num_alive_tasks(),
        "requests": shared.requests.used(),
        "inflight_bytes": shared.inflight.used(),
    });
    format!("{value:#}\n")
}

/// A path below `/debug/pprof`; `None` if there is no such.
pub async fn pprof(shared: &Shared, path: &str, query: &str) -> Option<Answer> {
    Some(match path {
        "" | "/" => (StatusCode::OK, INDEX.to_owned()),
        "/profile" => profile(shared, query).await,
        "/heap" => (StatusCode::OK, heap(shared)),
        "/tasks" => (StatusCode::OK, tasks(shared)),
        _ => return None,
    })
}

async fn profile(shared: &Shared, query: &str) -> Answer {
    let seconds = match query.split('&').find_map(|part| part.strip_prefix("seconds=")).map(str::parse) {
        None => SECONDS_DEFAULT,
        Some(Ok(seconds)) if (1..=SECONDS_MAX).contains(&seconds) => seconds,
        Some(_) => return (StatusCode::BAD_REQUEST, format!("seconds must be from 1 to {SECONDS_MAX}\n")),
    };
    // Sampling is the whole process's: there is one at a time.
    let Ok(_alone) = shared.profiling.try_lock() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "a profile is being taken already\n".to_owned());
    };
    let failed = |error: pprof::Error| (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot profile: {error}\n"));
    let builder = ProfilerGuardBuilder::default().frequency(FREQUENCY_HERTZ);
    // Unwinding from within these could wait for a lock that the interrupted code holds.
    let guard = match builder.blocklist(&["libc", "libgcc", "pthread", "vdso"]).build() {
        Ok(guard) => guard,
        Err(error) => return failed(error),
    };
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
        () = shared.stopping.cancelled() => {}
    }
    // Finding names takes long.
    match tokio::task::spawn_blocking(move || guard.report().build().map(|report| collapse(&report))).await {
        Ok(Ok(text)) => (StatusCode::OK, text),
        Ok(Err(error)) => failed(error),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot profile: {error}\n")),
    }
}

/// `thread;outermost;...;innermost samples`, one line for each stack.
fn collapse(report: &pprof::Report) -> String {
    let mut lines: Vec<String> = Vec::with_capacity(report.data.len());
    for (frames, samples) in &report.data {
        let mut line = frames.thread_name_or_id();
        for frame in frames.frames.iter().rev() {
            for symbol in frame.iter().rev() {
                let _ = write!(line, ";{symbol}");
            }
        }
        let _ = writeln!(line, " {samples}");
        lines.push(line);
    }
    lines.sort_unstable();
    lines.concat()
}

fn heap(shared: &Shared) -> String {
    let mut text = String::new();
    for path in ["/proc/self/smaps_rollup", "/proc/self/status"] {
        let read = std::fs::read_to_string(path).unwrap_or_default();
        let wanted = ["Rss", "Pss", "Private", "Anonymous", "Swap", "VmPeak", "VmHWM", "VmRSS", "VmData", "Threads"];
        for line in read.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name))) {
            let _ = writeln!(text, "{line}");
        }
    }
    let _ = writeln!(text, "requests under way: {}", shared.requests.used());
    let _ = writeln!(text, "bytes of requests under way: {}", shared.inflight.used());
    // The node's own: sizes of index, tail, caches, queues.
    for line in shared.system.metrics_text().lines().filter(|line| !line.starts_with('#') && line.contains("bytes")) {
        let _ = writeln!(text, "{line}");
    }
    text
}

fn tasks(shared: &Shared) -> String {
    let mut text = String::new();
    let front = tokio::runtime::Handle::current().metrics();
    for (whose, runtime) in [("front", front), ("node", shared.system.runtime_metrics())] {
        let _ = writeln!(text, "{whose}: worker threads: {}", runtime.num_workers());
        let _ = writeln!(text, "{whose}: tasks alive: {}", runtime.num_alive_tasks());
        let _ = writeln!(text, "{whose}: tasks that wait for a worker: {}", runtime.global_queue_depth());
    }
    for (name, (count, ticks)) in threads() {
        // USER_HZ is 100 on every architecture that Linux still builds for.
        let _ = writeln!(text, "threads {name}: {count}, {}.{:02} s of processor time", ticks / 100, ticks % 100);
    }
    text
}

/// The threads of this process by name: how many there are, and the clock ticks that they have used together.
fn threads() -> BTreeMap<String, (usize, u64)> {
    let mut threads = BTreeMap::new();
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    // One that has ended meanwhile has no file.
    for stat in tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok()) {
        if let Some((name, ticks)) = thread(&stat) {
            let (count, sum) = threads.entry(name).or_insert((0, 0));
            *count += 1;
            *sum += ticks;
        }
    }
    threads
}

/// Name and used ticks of a line of `/proc/PID/task/TID/stat`.
fn thread(stat: &str) -> Option<(String, u64)> {
    // The name may hold blanks and parentheses itself.
    let (front, fields) = stat.rsplit_once(')')?;
    let (_, name) = front.split_once('(')?;
    let mut fields = fields.split_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
    Some((name.to_owned(), user + system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_told_by_name() {
        let stat = "12 (a) b (c) S 1 1 1 0 -1 4194560 100 0 0 0 7 5 3 2 20 0 9 0 100 1000 10";
        assert_eq!(thread(stat), Some(("a) b (c".to_owned(), 12)));
        assert_eq!(thread("12 (a"), None);
        assert!(threads().values().map(|(count, _)| count).sum::<usize>() > 0);
    }
}
