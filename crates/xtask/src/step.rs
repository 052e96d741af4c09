//! Named steps that run one after another, each with its time, and a summary that says which failed.

use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

/// Runs steps in order. A failed step does not stop the ones after it: one run shows everything that is wrong.
#[derive(Default)]
pub struct Steps {
    done: Vec<(String, Duration, Option<String>)>,
}

impl Steps {
    /// Runs one step and keeps its outcome.
    pub fn run(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        println!("\n=== {name}");
        let start = Instant::now();
        let error = step().err().map(|error| format!("{error:#}"));
        let took = start.elapsed();
        match &error {
            None => println!("=== {name}: ok in {:.1} s", took.as_secs_f64()),
            Some(error) => println!("=== {name}: FAILED in {:.1} s\n{error}", took.as_secs_f64()),
        }
        self.done.push((name.to_owned(), took, error));
    }

    /// Prints the summary.
    ///
    /// # Errors
    /// Names the steps that failed, if any did.
    pub fn finish(self) -> Result<()> {
        println!("\n=== summary");
        for (name, took, error) in &self.done {
            let outcome = if error.is_none() { "ok" } else { "FAILED" };
            println!("{outcome:>6} {:>7.1} s  {name}", took.as_secs_f64());
        }
        let total: Duration = self.done.iter().map(|(_, took, _)| *took).sum();
        println!("       {:>7.1} s  in all", total.as_secs_f64());

        let failed: Vec<String> = self
            .done
            .iter()
            .filter_map(|(name, _, error)| error.as_ref().map(|error| format!("{name}: {error}")))
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        bail!("{} of {} steps failed:\n  {}", failed.len(), self.done.len(), failed.join("\n  "))
    }
}

/// Runs a command with this program's output and waits for it.
///
/// # Errors
/// When it cannot start, or ends with anything but success.
pub fn exec(command: &mut Command) -> Result<()> {
    let line = describe(command);
    println!("$ {line}");
    let status = command.status().with_context(|| format!("cannot run `{line}`"))?;
    if !status.success() {
        bail!("`{line}`: {status}");
    }
    Ok(())
}

fn describe(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    std::iter::once(name)
        .chain(command.get_args().map(|arg| arg.to_string_lossy().into_owned()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Today, in days since 1970: by it CI's part of something long is another one each day.
pub fn day() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400)
}
