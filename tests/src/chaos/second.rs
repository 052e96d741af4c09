//! The client in another language: `programs/chaos_client.py`, on the Python package etcd3, and what it wrote down.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use quorate_checker::history::{Entry, Op, Outcome, Seen};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::load::LoadSpec;
use crate::programs::Program;
use crate::tools::{Python, script};

/// Its clients have numbers from here on, which make their values differ from everybody else's.
const FIRST_NUMBER: usize = 100_000;
const CLIENTS: usize = 3;

/// The clients at work.
#[derive(Debug)]
pub struct SecondClient {
    program: Program,
    file: PathBuf,
    epoch_ns: i128,
}

impl SecondClient {
    /// Starts them on the keys of a load, with times since `epoch`. `None`, with the reason printed, where there is no Python or
    /// no package.
    pub fn start(spec: &LoadSpec, endpoints: &[String], epoch: Instant, file: &Path) -> Option<SecondClient> {
        let python = Python::of("python-etcd3", "etcd3")?;
        let mut command = python.command(&script("chaos_client.py"));
        let numbers = [FIRST_NUMBER, CLIENTS].map(|number| number.to_string());
        let keys = [spec.keys.to_string(), spec.seed.to_string()];
        command.arg(file).args(numbers).arg(spec.prefix).args(keys);
        command.args(endpoints.iter().map(|endpoint| endpoint.trim_start_matches("http://")));
        let epoch_ns = monotonic_ns() - epoch.elapsed().as_nanos() as i128;
        let mut program = Program::start(command);
        program.hear("ready");
        Some(SecondClient { program, file: file.to_owned(), epoch_ns })
    }

    /// Ends them, and gives what they were told.
    ///
    /// # Errors
    /// When they did not end well, or wrote what cannot be read.
    pub fn finish(self) -> Result<Vec<Entry>> {
        self.program.finish_input();
        let text = std::fs::read_to_string(&self.file).with_context(|| self.file.display().to_string())?;
        text.lines().map(|line| entry(line, self.epoch_ns).with_context(|| line.to_owned())).collect()
    }
}

/// The present time of the clock that `Instant` reads, too.
fn monotonic_ns() -> i128 {
    let now = clock_gettime(ClockId::Monotonic);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

fn entry(line: &str, epoch_ns: i128) -> Result<Entry> {
    let line: Value = serde_json::from_str(line)?;
    let text = |name: &str| line[name].as_str().map(str::to_owned).with_context(|| name.to_owned());
    let number = |value: &Value| value.as_i64().context("a number");
    let time = |name: &str| -> Result<_> {
        let since = i128::from(number(&line[name])?) - epoch_ns;
        Ok(std::time::Duration::from_nanos(u64::try_from(since).context("a time before the beginning")?))
    };
    let key = text("key")?;
    let op = match text("op")?.as_str() {
        "put" => Op::Put { key, value: text("value")? },
        "cas" => Op::Cas { key, expected: number(&line["expected"])?, value: text("value")? },
        "get" => Op::Get { key, serializable: false },
        "stale" => Op::Get { key, serializable: true },
        other => bail!("an operation {other:?}"),
    };
    let outcome = match (line["revision"].as_i64(), line["read"].as_array()) {
        (None, _) => Outcome::Unknown,
        (Some(revision), None) => Outcome::Wrote { revision },
        (Some(revision), Some(read)) => Outcome::Read { revision, seen: seen(read.first())? },
    };
    Ok(Entry { start: time("start")?, end: time("end")?, op, outcome })
}

fn seen(read: Option<&Value>) -> Result<Option<Seen>> {
    let Some(Value::Array(fields)) = read else { return Ok(None) };
    let [value, create_revision, mod_revision, version] = fields.as_slice() else { bail!("{} fields", fields.len()) };
    Ok(Some(Seen {
        value: value.as_str().context("a value")?.to_owned(),
        create_revision: create_revision.as_i64().context("a revision")?,
        mod_revision: mod_revision.as_i64().context("a revision")?,
        version: version.as_i64().context("a version")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn lines_are_read_as_calls() {
        let line =
            r#"{"op":"put","key":"k","value":"v","expected":0,"start":1500,"revision":7,"read":null,"end":2500}"#;
        let put = entry(line, 1000).expect("a call");
        assert_eq!((put.start, put.end), (Duration::from_nanos(500), Duration::from_nanos(1500)));
        assert_eq!(put.outcome, Outcome::Wrote { revision: 7 });

        let line =
            r#"{"op":"cas","key":"k","value":"v","expected":3,"start":1,"revision":7,"read":[["w",2,6,4]],"end":2}"#;
        let cas = entry(line, 0).expect("a call");
        let seen = Seen { value: "w".to_owned(), create_revision: 2, mod_revision: 6, version: 4 };
        assert_eq!(cas.outcome, Outcome::Read { revision: 7, seen: Some(seen) });

        let line = r#"{"op":"get","key":"k","value":"v","expected":0,"start":1,"revision":7,"read":[null],"end":2}"#;
        assert_eq!(entry(line, 0).expect("a call").outcome, Outcome::Read { revision: 7, seen: None });
        let line = r#"{"op":"stale","key":"k","value":"v","expected":0,"start":1,"error":"no","end":2}"#;
        assert_eq!(entry(line, 0).expect("a call").outcome, Outcome::Unknown);
        entry("{}", 0).expect_err("no call");
    }
}
