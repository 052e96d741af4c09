//! Looks for less that still fails in the same way.

use quorate_sim::{Less, Plan};
use std::time::{Duration, Instant};

/// How long it looks.
const TIME_MAX: Duration = Duration::from_secs(180);

/// Reduces `plan` as long as `fails` says that what is left fails.
pub fn shrink(plan: &Plan, fails: impl Fn(&Less) -> bool) -> Less {
    let begin = Instant::now();
    let mut search = Search { least: Less::default(), fails: |less: &Less| begin.elapsed() < TIME_MAX && fails(less) };
    search.clients();
    search.members(plan);
    search.faults(plan);
    if search.length(plan) {
        search.faults(plan);
    }
    search.clients();
    search.least
}

struct Search<F> {
    least: Less,
    fails: F,
}

impl<F: Fn(&Less) -> bool> Search<F> {
    fn try_out(&mut self, less: Less) -> bool {
        let fails = less != self.least && (self.fails)(&less);
        if fails {
            self.least = less;
        }
        fails
    }

    fn clients(&mut self) {
        let most = self.least.clients_max.unwrap_or(usize::MAX);
        for fewer in [0, 1, 2, 4].into_iter().filter(|fewer| *fewer < most) {
            if self.try_out(Less { clients_max: Some(fewer), ..self.least.clone() }) {
                return;
            }
        }
    }

    fn members(&mut self, plan: &Plan) {
        // All voters and no learner is less, too.
        let fewer = [1, 3, 5].into_iter().filter(|members| *members < plan.members + plan.learners);
        for members in fewer.filter(|members| *members <= plan.members) {
            if self.try_out(Less { members: Some(members), ..self.least.clone() }) {
                return;
            }
        }
    }

    /// Half of them, a quarter, and so on down to each single one.
    fn faults(&mut self, plan: &Plan) {
        let count = plan.faults.len();
        let mut size = count.div_ceil(2);
        while size > 0 {
            for start in (0..count).step_by(size) {
                let mut without = self.least.without.clone();
                without.extend((start..count.min(start + size)).filter(|place| !self.least.without.contains(place)));
                without.sort_unstable();
                self.try_out(Less { without, ..self.least.clone() });
            }
            size /= 2;
        }
    }

    /// Whether a shorter time does.
    fn length(&mut self, plan: &Plan) -> bool {
        let (mut too_short, mut enough) = (0, plan.length.as_millis() as u64);
        let whole = enough;
        while enough - too_short > whole / 20 + 1 {
            let middle = (too_short + enough) / 2;
            if self.try_out(Less { length_ms: Some(middle), ..self.least.clone() }) {
                enough = middle;
            } else {
                too_short = middle;
            }
        }
        enough < whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_sim::Mode;

    #[test]
    fn what_a_failure_needs_is_left_and_nothing_else() {
        let plan =
            (1..).map(|seed| Plan::new(seed, Mode::Fast)).find(|plan| plan.members == 5 && plan.faults.len() > 9);
        let plan = plan.unwrap();
        let needed = [2, 7];
        let fails = |less: &Less| {
            needed.iter().all(|place| !less.without.contains(place))
                && less.clients_max.is_none_or(|most| most >= 2)
                && less.members.is_none_or(|members| members >= 3)
                && less.length_ms.is_none_or(|length| length >= 5000)
        };
        let least = shrink(&plan, fails);
        let others: Vec<usize> = (0..plan.faults.len()).filter(|place| !needed.contains(place)).collect();
        assert_eq!((least.without, least.clients_max, least.members), (others, Some(2), Some(3)));
        assert!(least.length_ms.is_some_and(|length| (5000..6600).contains(&length)), "{:?}", least.length_ms);
    }
}
