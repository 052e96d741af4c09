//! A whole run: two systems, a list of points, and rounds in which the systems take turns at each point.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::{Cluster, System};
use crate::connection::wait_until_serving;
use crate::load::{self, Load, Measurement};
use crate::workload::{self, Data, Workload};

/// How long a cluster may take until it serves.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// One workload at one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// What is asked.
    pub workload: Workload,
    /// Calls in flight at most.
    pub clients: usize,
    /// Calls due per second; `None` is a closed loop.
    pub rate: Option<f64>,
}

impl Point {
    /// What the report calls it.
    pub fn label(&self) -> String {
        let name = self.workload.name();
        match (self.workload, self.rate) {
            (Workload::Watch { watchers }, Some(rate)) => format!("{name}, {watchers} watchers, {rate:.0} puts/s"),
            (Workload::Watch { watchers }, None) => format!("{name}, {watchers} watchers, {} writers", self.clients),
            (_, Some(rate)) => format!("{name}, {rate:.0}/s"),
            (_, None) => format!("{name}, {} clients", self.clients),
        }
    }
}

/// Everything that a run needs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The two systems; the first is compared with the second.
    pub systems: [System; 2],
    /// In the order in which they run.
    pub points: Vec<Point>,
    /// How often each point runs on each system.
    pub rounds: usize,
    /// Keys and values.
    pub data: Data,
    /// Connections for each point; 0 picks as many as there are clients, between 3 and 100.
    pub connections: usize,
    /// Threads of the load generator.
    pub threads: usize,
    /// Before each measurement.
    pub warm_up: Duration,
    /// Each measurement.
    pub measure: Duration,
}

/// What came of one point: for every round, one measurement of each system.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The point.
    pub point: Point,
    /// In order of the rounds.
    pub rounds: Vec<[Measurement; 2]>,
}

/// Runs the plan with data and logs below `dir`, telling `progress` of every measurement.
///
/// # Errors
/// When a system does not start or ends during the run.
pub fn run(plan: &Plan, dir: &Path, mut progress: impl FnMut(&str)) -> Result<Vec<Outcome>> {
    let start = |index: usize| -> Result<Cluster> {
        let system = &plan.systems[index];
        let dir = dir.join(format!("{index}-{}", system.name));
        let cluster = Cluster::start(system, &dir)?;
        prepare(plan, &cluster).with_context(|| format!("{}; logs are in {}", system.name, dir.display()))?;
        Ok(cluster)
    };
    let mut clusters = [start(0)?, start(1)?];
    let mut outcomes: Vec<Outcome> = plan.points.iter().map(|&point| Outcome { point, rounds: Vec::new() }).collect();
    for round in 0..plan.rounds {
        for outcome in &mut outcomes {
            let load = load_of(plan, outcome.point);
            // Whoever goes second finds a machine that the first has warmed up: turns alternate.
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            let mut measured = [None, None];
            for system in order {
                let measurement = load::run(&load, &mut clusters[system])
                    .with_context(|| format!("{} on {}", outcome.point.label(), plan.systems[system].name))?;
                progress(&format!(
                    "round {}/{}  {:<38} {:<10} {:>9.0} /s  p99 {:>8.2} ms  {:>7.1} CPU µs/op (+{:.1} here){}",
                    round + 1,
                    plan.rounds,
                    outcome.point.label(),
                    plan.systems[system].name,
                    measurement.per_second,
                    measurement.p99_us as f64 / 1000.0,
                    measurement.cpu_us_per_op,
                    measurement.generator_cpu_us_per_op,
                    errors(&measurement)
                ));
                measured[system] = Some(measurement);
            }
            if let [Some(first), Some(second)] = measured {
                outcome.rounds.push([first, second]);
            }
        }
    }
    Ok(outcomes)
}

fn errors(measurement: &Measurement) -> String {
    match &measurement.first_error {
        Some(error) => format!("  {} errors, first: {error}", measurement.errors),
        None => String::new(),
    }
}

fn prepare(plan: &Plan, cluster: &Cluster) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        wait_until_serving(cluster.client_ports(), START_PATIENCE).await?;
        workload::fill(&plan.data, cluster.client_ports()[0]).await
    })
}

fn load_of(plan: &Plan, point: Point) -> Load {
    let connections = if plan.connections == 0 { point.clients.clamp(3, 100) } else { plan.connections };
    Load {
        workload: point.workload,
        data: plan.data.clone(),
        clients: point.clients,
        connections,
        threads: plan.threads,
        rate: point.rate,
        warm_up: plan.warm_up,
        measure: plan.measure,
    }
}
