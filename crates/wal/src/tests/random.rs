//! Random steps against the model. `PROPTEST_CASES` sets how many.

use super::model::{GROUPS, Pair, Step};
use super::{options, run};
use crate::fault::FaultDisk;
use proptest::prelude::*;

fn step() -> impl Strategy<Value = Step> {
    let group = 0..GROUPS;
    prop_oneof![
        10 => (group.clone(), 1..6u8, prop_oneof![4 => 0..200u16, 1 => 0..1500u16])
            .prop_map(|(group, entries, body_bytes)| Step::Append { group, entries, body_bytes }),
        2 => (group.clone(), 0..6u64).prop_map(|(group, back)| Step::Truncate { group, back }),
        3 => (group.clone(), 0..12u64).prop_map(|(group, ahead)| Step::Purge { group, ahead }),
        2 => group.clone().prop_map(|group| Step::Vote { group }),
        2 => group.clone().prop_map(|group| Step::Committed { group }),
        3 => (group, 0..8u64, 0..12u64, 0..2000u64)
            .prop_map(|(group, skip, len, bytes_max)| Step::Read { group, skip, len, bytes_max }),
        5 => Just(Step::Settle),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => any::<u64>().prop_map(|seed| Step::PowerCut { seed }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_what_the_model_is(
        steps in proptest::collection::vec(step(), 1..120),
        segment_bytes in prop_oneof![Just(1u64 << 10), Just(4 << 10), Just(64 << 10)],
    ) {
        run(async {
            let mut pair = Pair::new(FaultDisk::new(), options(segment_bytes)).unwrap();
            for step in &steps {
                pair.step(step).await.unwrap();
                pair.check_now();
            }
            pair.step(&Step::Settle).await.unwrap();
            pair.step(&Step::Reopen).await.unwrap();
            prop_assert!(!pair.is_fatal());
            Ok(())
        })?;
    }
}
