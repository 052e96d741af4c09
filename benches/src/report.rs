//! From measurements to ratios, as a table for people and as JSON for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::load::Measurement;
use crate::rounds::{Outcome, Plan};

/// What is compared, and which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Calls or events per second.
    Throughput,
    /// Median latency.
    P50,
    /// 99th percentile of latency.
    P99,
    /// 99.9th percentile of latency.
    P999,
    /// Servers' CPU time for each call or event.
    Cpu,
    /// Peak resident memory.
    PeakRss,
}

impl Metric {
    /// All of them, in the order of the table.
    pub const ALL: [Metric; 6] =
        [Metric::Throughput, Metric::P50, Metric::P99, Metric::P999, Metric::Cpu, Metric::PeakRss];

    /// Heading of its column.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Throughput => "throughput",
            Metric::P50 => "p50",
            Metric::P99 => "p99",
            Metric::P999 => "p99.9",
            Metric::Cpu => "CPU/op",
            Metric::PeakRss => "peak RSS",
        }
    }

    /// Whether more of it is better.
    pub fn more_is_better(self) -> bool {
        self == Metric::Throughput
    }

    fn of(self, measurement: &Measurement) -> f64 {
        match self {
            Metric::Throughput => measurement.per_second,
            Metric::P50 => measurement.p50_us as f64,
            Metric::P99 => measurement.p99_us as f64,
            Metric::P999 => measurement.p999_us as f64,
            Metric::Cpu => measurement.cpu_us_per_op,
            Metric::PeakRss => measurement.peak_rss_bytes as f64,
        }
    }
}

/// First system over second: the median over the rounds of the ratio within each round. `None` where nothing was
/// measured.
pub fn ratio(outcome: &Outcome, metric: Metric) -> Option<f64> {
    let ratios = outcome.rounds.iter().map(|[first, second]| metric.of(first) / metric.of(second));
    median(ratios.filter(|ratio| ratio.is_finite() && *ratio > 0.0).collect())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

fn median_of(outcome: &Outcome, system: usize, metric: Metric) -> f64 {
    median(outcome.rounds.iter().map(|round| metric.of(&round[system])).collect()).unwrap_or(0.0)
}

/// Two tables: the medians of each system, then the ratios.
pub fn table(plan: &Plan, outcomes: &[Outcome]) -> String {
    let width = outcomes.iter().map(|outcome| outcome.point.label().len()).max().unwrap_or(0);
    let names = plan.systems.each_ref().map(|system| system.name.as_str());
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:width$}  {:10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>8} {:>7}",
        "median of the rounds", "", "per s", "p50 ms", "p99 ms", "p99.9 ms", "CPU µs/op", "RSS MiB", "errors"
    );
    for outcome in outcomes {
        for (system, name) in names.iter().enumerate() {
            let of = |metric| median_of(outcome, system, metric);
            let errors: u64 = outcome.rounds.iter().map(|round| round[system].errors).sum();
            let _ = writeln!(
                text,
                "{:width$}  {:10} {:>10.0} {:>9.2} {:>9.2} {:>9.2} {:>9.1} {:>8.0} {:>7}",
                if system == 0 { outcome.point.label() } else { String::new() },
                name,
                of(Metric::Throughput),
                of(Metric::P50) / 1000.0,
                of(Metric::P99) / 1000.0,
                of(Metric::P999) / 1000.0,
                of(Metric::Cpu),
                of(Metric::PeakRss) / f64::from(1 << 20),
                errors
            );
        }
    }
    let title = format!("{} / {}", names[0], names[1]);
    let _ = write!(text, "\n{title:width$} ");
    for metric in Metric::ALL {
        let _ = write!(text, " {:>10}", metric.name());
    }
    text.push('\n');
    for outcome in outcomes {
        let _ = write!(text, "{:width$} ", outcome.point.label());
        for metric in Metric::ALL {
            let shown = ratio(outcome, metric).map_or("-".to_owned(), |ratio| format!("{ratio:.2}x"));
            let _ = write!(text, " {shown:>10}");
        }
        text.push('\n');
    }
    text
}

/// Everything that was measured, round by round, and the ratios.
pub fn json(plan: &Plan, outcomes: &[Outcome]) -> Value {
    let points: Vec<Value> = outcomes
        .iter()
        .map(|outcome| {
            let ratios: serde_json::Map<String, Value> =
                Metric::ALL.iter().map(|&metric| (metric.name().to_owned(), json!(ratio(outcome, metric)))).collect();
            let rounds: Vec<Value> =
                outcome.rounds.iter().map(|[first, second]| json!([measurement(first), measurement(second)])).collect();
            json!({
                "label": outcome.point.label(),
                "workload": outcome.point.workload.name(),
                "clients": outcome.point.clients,
                "rate_per_s": outcome.point.rate,
                "ratios": ratios,
                "rounds": rounds,
            })
        })
        .collect();
    json!({
        "systems": plan.systems.each_ref().map(|system| json!({
            "name": system.name, "version": system.version(), "args": system.args,
        })),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "measure_s": plan.measure.as_secs_f64(),
        "warm_up_s": plan.warm_up.as_secs_f64(),
        "keys": plan.data.keys,
        "value_bytes": plan.data.value_bytes,
        "threads": plan.threads,
        "points": points,
    })
}

fn measurement(measurement: &Measurement) -> Value {
    json!({
        "per_s": measurement.per_second,
        "p50_us": measurement.p50_us,
        "p99_us": measurement.p99_us,
        "p999_us": measurement.p999_us,
        "cpu_us_per_op": measurement.cpu_us_per_op,
        "generator_cpu_us_per_op": measurement.generator_cpu_us_per_op,
        "peak_rss_bytes": measurement.peak_rss_bytes,
        "errors": measurement.errors,
        "first_error": measurement.first_error,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::rounds::Point;
    use crate::workload::Workload;

    pub(crate) fn outcome(per_second: &[[f64; 2]]) -> Outcome {
        let measured = |per_second: f64| Measurement {
            per_second,
            p50_us: 100,
            p99_us: 400,
            p999_us: 800,
            cpu_us_per_op: 20.0,
            generator_cpu_us_per_op: 10.0,
            peak_rss_bytes: 0,
            errors: 0,
            first_error: None,
        };
        Outcome {
            point: Point { workload: Workload::Put, clients: 64, rate: None },
            rounds: per_second.iter().map(|[first, second]| [measured(*first), measured(*second)]).collect(),
        }
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_own_ratios() {
        // Of the medians it would be 300 / 200; a slow hour that hits both systems in a round must not count.
        let outcome = outcome(&[[100.0, 50.0], [300.0, 200.0], [4000.0, 2000.0]]);
        assert_eq!(ratio(&outcome, Metric::Throughput), Some(2.0));
        assert_eq!(ratio(&outcome, Metric::P99), Some(1.0));
    }

    #[test]
    fn what_was_not_measured_has_no_ratio() {
        assert_eq!(ratio(&outcome(&[[1.0, 0.0]]), Metric::Throughput), None);
        assert_eq!(ratio(&outcome(&[[1.0, 1.0]]), Metric::PeakRss), None);
        assert_eq!(ratio(&outcome(&[]), Metric::P50), None);
    }
}
