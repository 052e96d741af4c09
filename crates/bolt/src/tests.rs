use crate::{BucketPlan, Database, Plan, PlanBroken, ReadError, Source, Writer};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io;

type Elements = BTreeMap<Vec<u8>, Vec<u8>>;
type Buckets = BTreeMap<Vec<u8>, Elements>;

struct Memory(Vec<u8>);

impl Source for Memory {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.0.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

fn plan(buckets: &Buckets) -> Plan {
    let bucket = |elements: &Elements| {
        let mut plan = BucketPlan::default();
        elements.iter().for_each(|(key, value)| plan.add(key, value.len()));
        plan
    };
    let mut plan = Plan::default();
    buckets.iter().for_each(|(name, elements)| plan.add(name, bucket(elements)));
    plan
}

fn written(buckets: &Buckets) -> Vec<u8> {
    let plan = plan(buckets);
    let size = plan.file_bytes();
    let mut out = Vec::new();
    let mut writer = Writer::new(plan, &mut out);
    for elements in buckets.values() {
        for (key, value) in elements {
            writer.add(key, value, &mut out).unwrap();
        }
        writer.end_bucket(&mut out).unwrap();
    }
    writer.finish(&mut out).unwrap();
    assert_eq!(out.len() as u64, size);
    out
}

fn read(bytes: Vec<u8>) -> Result<Buckets, ReadError> {
    let database = Database::open(Memory(bytes))?;
    let mut buckets = Buckets::new();
    for bucket in database.buckets()? {
        let mut elements = Elements::new();
        let mut cursor = bucket.cursor();
        while let Some((_, leaf)) = cursor.next_leaf(&database)? {
            elements.extend(leaf.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
        }
        buckets.insert(bucket.name().to_vec(), elements);
    }
    Ok(buckets)
}

fn some_buckets() -> Buckets {
    let many = (0..200_000u64).map(|number| (number.to_be_bytes().to_vec(), b"value".to_vec())).collect();
    let large = [(b"a".to_vec(), vec![7; 300_000]), (b"b".to_vec(), vec![8; 10])].into();
    [(b"empty".to_vec(), Elements::new()), (b"large".to_vec(), large), (b"many".to_vec(), many)].into()
}

#[test]
fn what_is_written_is_read() {
    for buckets in [Buckets::new(), some_buckets()] {
        assert_eq!(read(written(&buckets)).unwrap(), buckets);
    }
}

#[test]
fn elements_that_were_not_planned_are_refused() {
    let buckets: Buckets = [(b"b".to_vec(), [(b"k".to_vec(), b"v".to_vec())].into())].into();
    let with = |key: &[u8], value: &[u8]| {
        let mut out = Vec::new();
        Writer::new(plan(&buckets), &mut out).add(key, value, &mut out)
    };
    assert_eq!(with(b"k", b"v"), Ok(()));
    assert_eq!(with(b"k", b"vv"), Err(PlanBroken));
    assert_eq!(with(b"l", b"v"), Err(PlanBroken));
    let mut out = Vec::new();
    let mut writer = Writer::new(plan(&buckets), &mut out);
    assert_eq!(writer.end_bucket(&mut out), Err(PlanBroken));
    assert_eq!(Writer::new(plan(&buckets), &mut out).finish(&mut out), Err(PlanBroken));
}

#[test]
fn a_file_that_was_cut_off_is_refused_with_its_end() {
    let bytes = written(&some_buckets());
    for length in [0, 100, 4096, 8192, bytes.len() - 1] {
        let error = read(bytes[..length].to_vec()).unwrap_err();
        assert!(matches!(error, ReadError::Damaged { .. }), "{length}: {error}");
    }
}

fn any_elements() -> impl Strategy<Value = Elements> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    proptest::collection::btree_map(bytes(), bytes(), 0..20)
}

proptest! {
    #[test]
    fn any_buckets_come_back(buckets in proptest::collection::btree_map("[a-z]{1,6}", any_elements(), 0..6)) {
        let buckets: Buckets = buckets.into_iter().map(|(name, elements)| (name.into_bytes(), elements)).collect();
        prop_assert_eq!(read(written(&buckets)).unwrap(), buckets);
    }

    /// Neither a panic, nor a walk without end.
    #[test]
    fn any_damage_is_an_error_or_other_content(
        elements in any_elements(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..8),
    ) {
        let mut bytes = written(&[(b"b".to_vec(), elements)].into());
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        let _ = read(bytes);
    }
}
