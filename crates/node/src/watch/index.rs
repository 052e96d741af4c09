//! Which watchers want a key. Knows key ranges and opaque ids, not watchers.
//!
//! Single keys are in a hash map, intervals in a treap that knows the largest end below each node, so that a look-up
//! costs O(log n + matches) however many ranges there are. Watchers of the same range share a node.

use bytes::Bytes;
use quorate_core::KeyRange;
use std::cmp::Ordering;
use std::collections::HashMap;

/// A set of `(range, id)`. The hash map is looked up but never iterated, so its order decides nothing.
pub(super) struct Index<I> {
    single: HashMap<Bytes, Vec<I>>,
    intervals: Link<I>,
    /// Nodes made so far: the source of the treap's priorities.
    nodes_made: u64,
}

impl<I: Copy + Ord> Index<I> {
    pub(super) fn new() -> Self {
        Self { single: HashMap::new(), intervals: None, nodes_made: 0 }
    }

    /// Adds `id` under `range`, once.
    pub(super) fn insert(&mut self, range: &KeyRange, id: I) {
        match interval(range) {
            None => insert_sorted(self.single.entry(range.start().clone()).or_default(), id),
            Some((start, end)) => {
                self.nodes_made += 1;
                insert(&mut self.intervals, start, end, id, mix(self.nodes_made));
            }
        }
    }

    /// Takes `id` under `range` out again. That it is not there is no fault.
    pub(super) fn remove(&mut self, range: &KeyRange, id: I) {
        match interval(range) {
            None => {
                if let Some(ids) = self.single.get_mut(range.start()) {
                    remove_sorted(ids, id);
                    if ids.is_empty() {
                        self.single.remove(range.start());
                    }
                }
            }
            Some((start, end)) => remove(&mut self.intervals, start, &end, id),
        }
    }

    /// Visits every id whose range contains `key`, each once.
    pub(super) fn matches(&self, key: &[u8], visit: &mut impl FnMut(I)) {
        if let Some(ids) = self.single.get(key) {
            ids.iter().copied().for_each(&mut *visit);
        }
        stab(&self.intervals, key, visit);
    }
}

/// Where an interval ends. The order matters: no bound is larger than every bound.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Unbounded,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < end.as_ref(),
            Self::Unbounded => true,
        }
    }
}

/// The interval that `range` is; `None` for a single key.
fn interval(range: &KeyRange) -> Option<(&Bytes, End)> {
    match range {
        KeyRange::Single(_) => None,
        KeyRange::Interval { start, end } => Some((start, End::Before(end.clone()))),
        KeyRange::From { start } => Some((start, End::Unbounded)),
    }
}

type Link<I> = Option<Box<Node<I>>>;

/// Ordered by `(start, end)` from left to right, by `priority` from top to bottom.
struct Node<I> {
    start: Bytes,
    end: End,
    /// Who watches exactly this interval, sorted.
    ids: Vec<I>,
    priority: u64,
    /// The largest `end` in this subtree: a subtree that ends before a key need not be looked at.
    end_max: End,
    left: Link<I>,
    right: Link<I>,
}

impl<I> Node<I> {
    fn update(&mut self) {
        let below = [&self.left, &self.right].into_iter().flatten().map(|node| &node.end_max);
        self.end_max = below.fold(&self.end, Ord::max).clone();
    }

    fn place(&self, start: &Bytes, end: &End) -> Ordering {
        start.cmp(&self.start).then_with(|| end.cmp(&self.end))
    }
}

fn insert<I: Copy + Ord>(link: &mut Link<I>, start: &Bytes, end: End, id: I, priority: u64) {
    let Some(node) = link else {
        let (start, end_max) = (start.clone(), end.clone());
        *link = Some(Box::new(Node { start, end, ids: vec![id], priority, end_max, left: None, right: None }));
        return;
    };
    match node.place(start, &end) {
        Ordering::Equal => insert_sorted(&mut node.ids, id),
        Ordering::Less => {
            insert(&mut node.left, start, end, id, priority);
            if node.left.as_ref().is_some_and(|left| left.priority > node.priority) {
                raise_left(link);
            } else {
                node.update();
            }
        }
        Ordering::Greater => {
            insert(&mut node.right, start, end, id, priority);
            if node.right.as_ref().is_some_and(|right| right.priority > node.priority) {
                raise_right(link);
            } else {
                node.update();
            }
        }
    }
}

/// Turns the left child into the parent of the node at `link`.
fn raise_left<I>(link: &mut Link<I>) {
    if let Some(mut node) = link.take() {
        *link = node.left.take().map(|mut left| {
            node.left = left.right.take();
            node.update();
            left.right = Some(node);
            left.update();
            left
        });
    }
}

/// Turns the right child into the parent of the node at `link`.
fn raise_right<I>(link: &mut Link<I>) {
    if let Some(mut node) = link.take() {
        *link = node.right.take().map(|mut right| {
            node.right = right.left.take();
            node.update();
            right.left = Some(node);
            right.update();
            right
        });
    }
}

fn remove<I: Copy + Ord>(link: &mut Link<I>, start: &Bytes, end: &End, id: I) {
    let Some(node) = link else { return };
    match node.place(start, end) {
        Ordering::Equal => {
            remove_sorted(&mut node.ids, id);
            if node.ids.is_empty() {
                let (left, right) = (node.left.take(), node.right.take());
                *link = merge(left, right);
            }
            return;
        }
        Ordering::Less => remove(&mut node.left, start, end, id),
        Ordering::Greater => remove(&mut node.right, start, end, id),
    }
    node.update();
}

/// One tree of two, where all of `left` is before all of `right`.
fn merge<I>(left: Link<I>, right: Link<I>) -> Link<I> {
    match (left, right) {
        (None, other) | (other, None) => other,
        (Some(mut left), Some(mut right)) => {
            if left.priority > right.priority {
                left.right = merge(left.right.take(), Some(right));
                left.update();
                Some(left)
            } else {
                right.left = merge(Some(left), right.left.take());
                right.update();
                Some(right)
            }
        }
    }
}

fn stab<I: Copy>(link: &Link<I>, key: &[u8], visit: &mut impl FnMut(I)) {
    let Some(node) = link else { return };
    if !node.end_max.is_after(key) {
        return;
    }
    stab(&node.left, key, visit);
    if node.start.as_ref() <= key {
        if node.end.is_after(key) {
            node.ids.iter().copied().for_each(&mut *visit);
        }
        stab(&node.right, key, visit);
    }
}

fn insert_sorted<I: Copy + Ord>(ids: &mut Vec<I>, id: I) {
    if let Err(place) = ids.binary_search(&id) {
        ids.insert(place, id);
    }
}

fn remove_sorted<I: Copy + Ord>(ids: &mut Vec<I>, id: I) {
    if let Ok(place) = ids.binary_search(&id) {
        ids.remove(place);
    }
}

/// SplitMix64: spreads a counter over all 64 bits. The priorities must look random to whoever chooses the ranges, and be
/// the same in every run.
fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range() -> impl Strategy<Value = KeyRange> {
        let key = || proptest::collection::vec(0u8..4, 0..3).prop_map(Bytes::from);
        prop_oneof![
            key().prop_map(KeyRange::Single),
            key().prop_map(|start| KeyRange::From { start }),
            (key(), key()).prop_map(|(start, end)| KeyRange::Interval { start, end }),
        ]
    }

    /// Checks order, heap order and `end_max` below `link`; returns the largest end.
    fn check<I>(link: &Link<I>) -> Option<&End> {
        let node = link.as_ref()?;
        for child in [&node.left, &node.right].into_iter().flatten() {
            assert!(child.priority <= node.priority);
        }
        assert!(!node.ids.is_empty());
        assert!(node.left.as_ref().is_none_or(|left| (&left.start, &left.end) < (&node.start, &node.end)));
        assert!(node.right.as_ref().is_none_or(|right| (&right.start, &right.end) > (&node.start, &node.end)));
        let largest = check(&node.left).max(check(&node.right)).max(Some(&node.end));
        assert!(largest == Some(&node.end_max));
        largest
    }

    fn depth<I>(link: &Link<I>) -> usize {
        link.as_ref().map_or(0, |node| 1 + depth(&node.left).max(depth(&node.right)))
    }

    proptest! {
        #[test]
        fn finds_what_a_list_finds(
            steps in proptest::collection::vec((any::<bool>(), range(), 0u64..6), 1..80),
            keys in proptest::collection::vec(proptest::collection::vec(0u8..4, 0..4), 1..8),
        ) {
            let (mut index, mut list) = (Index::new(), Vec::new());
            for (add, range, id) in steps {
                // As in the hub, a range that cannot match is never added.
                if add && !range.is_empty() && !list.contains(&(range.clone(), id)) {
                    index.insert(&range, id);
                    list.push((range, id));
                } else {
                    index.remove(&range, id);
                    list.retain(|entry| *entry != (range.clone(), id));
                }
                check(&index.intervals);
            }
            for key in keys {
                let mut found = Vec::new();
                index.matches(&key, &mut |id| found.push(id));
                found.sort_unstable();
                let mut expected: Vec<u64> =
                    list.iter().filter(|(range, _)| range.contains(&key)).map(|(_, id)| *id).collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn sorted_insertion_keeps_the_tree_shallow() {
        let mut index = Index::new();
        let interval = |n: u32| KeyRange::Interval {
            start: Bytes::copy_from_slice(&n.to_be_bytes()),
            end: Bytes::copy_from_slice(&(n + 1).to_be_bytes()),
        };
        for n in 0..10_000 {
            index.insert(&interval(n), n);
        }
        assert!(depth(&index.intervals) < 50, "{}", depth(&index.intervals));
        for n in 0..10_000 {
            index.remove(&interval(n), n);
        }
        assert!(index.intervals.is_none());
    }
}
