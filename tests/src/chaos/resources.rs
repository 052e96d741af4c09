//! What the members' processes have of memory and file descriptors, sampled all the time, and whether they leak.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::timeline::Timeline;
use crate::memory::Usage;

const INTERVAL: Duration = Duration::from_secs(1);
/// No member may ever have more memory than this: caches, tail and queues at their defaults, and the little data there is.
const RESIDENT_BYTES_MAX: u64 = 700 << 20;
/// Nor more descriptors: files, peers, and the connections of all clients of a run.
const DESCRIPTORS_MAX: usize = 512;
/// How many descriptors a member may have beside those it had before the first client came, when the last one has gone.
const DESCRIPTORS_LEFT_MAX: usize = 32;
/// A process has to live for so many samples until its growth says something.
const GROWTH_SAMPLES_MIN: usize = 600;
/// How much more memory the last quarter of its life may take than the second, beside a half.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// The processes of all members that run.
pub type Pids = Arc<Mutex<BTreeMap<usize, u32>>>;

/// A sampler at work.
#[derive(Debug)]
pub struct Resources {
    task: JoinHandle<()>,
    samples: Arc<Mutex<BTreeMap<u32, Vec<Usage>>>>,
    before: BTreeMap<usize, usize>,
    pids: Pids,
    timeline: Arc<Timeline>,
}

impl Resources {
    /// Starts to sample. No client may be connected yet.
    pub fn start(pids: Pids, timeline: &Arc<Timeline>) -> Resources {
        let samples = Arc::<Mutex<BTreeMap<u32, Vec<Usage>>>>::default();
        let before = usages(&pids).into_iter().map(|(member, _, usage)| (member, usage.descriptors)).collect();
        let task = tokio::spawn(sample(pids.clone(), samples.clone()));
        Resources { task, samples, before, pids, timeline: timeline.clone() }
    }

    /// Judges all samples. All clients must have gone.
    pub fn finish(self) {
        self.task.abort();
        let mut left = Vec::new();
        for (member, _, usage) in usages(&self.pids) {
            let before = self.before.get(&member).copied().unwrap_or(usage.descriptors);
            left.push(format!("m{member} {before} and {}, {} MiB", usage.descriptors, usage.resident_bytes >> 20));
            if usage.descriptors > before + DESCRIPTORS_LEFT_MAX {
                let now = usage.descriptors;
                self.timeline
                    .violation(format!("m{member} had {before} descriptors before all clients, and {now} after them"));
            }
        }
        self.timeline
            .say(&format!("descriptors before and after all clients, and memory after them: {}", left.join("; ")));
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        for (pid, samples) in samples.iter() {
            for violation in judge(samples) {
                self.timeline.violation(format!("process {pid}: {violation}"));
            }
        }
        let all = || samples.values().flatten();
        let peak = all().map(|usage| usage.resident_bytes).max().unwrap_or(0) >> 20;
        let descriptors = all().map(|usage| usage.descriptors).max().unwrap_or(0);
        self.timeline.say(&format!("at most {peak} MiB and {descriptors} descriptors, in {} processes", samples.len()));
    }
}

fn usages(pids: &Pids) -> Vec<(usize, u32, Usage)> {
    let pids = pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // A process may be gone by now.
    pids.into_iter().filter_map(|(member, pid)| Some((member, pid, Usage::of(pid).ok()?))).collect()
}

async fn sample(pids: Pids, samples: Arc<Mutex<BTreeMap<u32, Vec<Usage>>>>) {
    loop {
        for (_, pid, usage) in usages(&pids) {
            samples.lock().unwrap_or_else(PoisonError::into_inner).entry(pid).or_default().push(usage);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What is wrong with the samples of one process.
fn judge(samples: &[Usage]) -> Vec<String> {
    let mut violations = Vec::new();
    if let Some(most) = samples.iter().map(|usage| usage.resident_bytes).max().filter(|most| *most > RESIDENT_BYTES_MAX)
    {
        violations.push(format!("{} MiB of memory", most >> 20));
    }
    if let Some(most) = samples.iter().map(|usage| usage.descriptors).max().filter(|most| *most > DESCRIPTORS_MAX) {
        violations.push(format!("{most} file descriptors"));
    }
    if samples.len() >= GROWTH_SAMPLES_MIN {
        let quarter = samples.len() / 4;
        let (early, late) = (median(&samples[quarter..2 * quarter]), median(&samples[3 * quarter..]));
        if late > early + early / 2 + GROWTH_BYTES_MAX {
            violations.push(format!("its memory grows: {} MiB, later {} MiB", early >> 20, late >> 20));
        }
    }
    violations
}

fn median(samples: &[Usage]) -> u64 {
    let mut bytes: Vec<u64> = samples.iter().map(|usage| usage.resident_bytes).collect();
    bytes.sort_unstable();
    bytes.get(bytes.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usages(mib: impl Fn(u64) -> u64, count: u64) -> Vec<Usage> {
        (0..count).map(|number| Usage { resident_bytes: mib(number) << 20, descriptors: 50 }).collect()
    }

    #[test]
    fn what_grows_and_what_is_large_is_found() {
        assert_eq!(judge(&usages(|_| 100, 2000)), [""; 0]);
        assert_eq!(judge(&usages(|number| 50 + number / 5, 2000)).len(), 1, "it grows");
        assert_eq!(judge(&usages(|number| 50 + number / 5, 500)), [""; 0], "too young to judge");
        assert_eq!(judge(&usages(|number| if number == 3 { 900 } else { 50 }, 20)).len(), 1, "a peak");
        let leaky = [Usage { resident_bytes: 0, descriptors: 5000 }];
        assert_eq!(judge(&leaky), ["5000 file descriptors"]);
    }
}
