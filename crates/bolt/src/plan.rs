//! The first pass: how large everything is, and so where it comes to stand.

use crate::page::{ELEMENT_BYTES, HEADER_BYTES, PAGE_BYTES};

/// A leaf or a branch is closed before it gets larger, unless a single element is. Larger than bbolt's own: there is less to
/// remember of each of them, and bbolt splits a page when it writes to it.
const FILL_BYTES: usize = 64 << 10;
/// A page counts its elements in 16 bits, and bbolt gives the highest number a meaning of its own.
const ELEMENTS_MAX: usize = 0xfff0;
/// Two meta pages and the free list.
pub(crate) const FIRST_PAGE: u64 = 3;

/// A page that is going to be written.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub id: u64,
    /// The first key in it, or below it.
    pub first: Box<[u8]>,
    pub elements: usize,
    /// Header, elements, keys and values.
    pub bytes: usize,
}

impl Planned {
    fn new() -> Self {
        Self { id: 0, first: Box::default(), elements: 0, bytes: HEADER_BYTES }
    }

    fn takes(&self, bytes: usize) -> bool {
        self.elements == 0 || self.elements < ELEMENTS_MAX && self.bytes + bytes <= FILL_BYTES
    }

    pub fn pages(&self) -> u64 {
        (self.bytes as u64).div_ceil(PAGE_BYTES)
    }

    fn add(&mut self, key: &[u8], value_bytes: usize) {
        if self.elements == 0 {
            self.first = key.into();
        }
        self.elements += 1;
        self.bytes += ELEMENT_BYTES + key.len() + value_bytes;
    }
}

/// The lengths of a bucket's elements.
#[derive(Clone, Debug)]
pub struct BucketPlan {
    leaves: Vec<Planned>,
}

impl Default for BucketPlan {
    /// Without elements.
    fn default() -> Self {
        Self { leaves: vec![Planned::new()] }
    }
}

impl BucketPlan {
    /// The next element. Keys must ascend.
    pub fn add(&mut self, key: &[u8], value_bytes: usize) {
        if self.leaves.last().is_none_or(|leaf| !leaf.takes(ELEMENT_BYTES + key.len() + value_bytes)) {
            self.leaves.push(Planned::new());
        }
        if let Some(leaf) = self.leaves.last_mut() {
            leaf.add(key, value_bytes);
        }
    }
}

/// Pages of one level of a bucket's tree, those next to the leaves first.
pub(crate) struct PlannedBucket {
    pub name: Vec<u8>,
    pub leaves: Vec<Planned>,
    pub branches: Vec<Vec<Planned>>,
    pub root: u64,
}

/// Where everything is going to stand.
pub struct Plan {
    pub(crate) buckets: Vec<PlannedBucket>,
    /// Pages before the leaf that has the buckets, which is the last page.
    pages: u64,
}

impl Default for Plan {
    /// Without buckets.
    fn default() -> Self {
        Self { buckets: Vec::new(), pages: FIRST_PAGE }
    }
}

impl Plan {
    /// Gives the pages of a bucket their places. Names must ascend.
    pub fn add(&mut self, name: &[u8], bucket: BucketPlan) {
        let bucket = place(name.to_vec(), bucket, &mut self.pages);
        self.buckets.push(bucket);
    }

    /// Where the next bucket is going to begin, in bytes.
    pub fn next_offset(&self) -> u64 {
        self.pages * PAGE_BYTES
    }

    /// How many bytes the file has.
    pub fn file_bytes(&self) -> u64 {
        self.pages() * PAGE_BYTES
    }

    /// How many pages the file has.
    pub(crate) fn pages(&self) -> u64 {
        self.pages + self.root().pages()
    }

    /// The leaf that has the buckets.
    pub(crate) fn root(&self) -> Planned {
        let mut root = Planned::new();
        for bucket in &self.buckets {
            root.add(&bucket.name, ELEMENT_BYTES);
        }
        root.id = self.pages;
        root
    }
}

fn place(name: Vec<u8>, plan: BucketPlan, pages: &mut u64) -> PlannedBucket {
    let mut leaves = plan.leaves;
    place_level(&mut leaves, pages);
    let mut branches: Vec<Vec<Planned>> = Vec::new();
    loop {
        let below = branches.last().unwrap_or(&leaves);
        if let [root] = below.as_slice() {
            let root = root.id;
            return PlannedBucket { name, leaves, branches, root };
        }
        let mut level = vec![Planned::new()];
        for child in below {
            if level.last().is_none_or(|branch| !branch.takes(ELEMENT_BYTES + child.first.len())) {
                level.push(Planned::new());
            }
            if let Some(branch) = level.last_mut() {
                branch.add(&child.first, 0);
            }
        }
        place_level(&mut level, pages);
        branches.push(level);
    }
}

fn place_level(level: &mut [Planned], pages: &mut u64) {
    for page in level {
        page.id = *pages;
        *pages += page.pages();
    }
}
