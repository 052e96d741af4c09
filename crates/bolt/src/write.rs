//! The second pass: bytes.

use crate::page::{
    ELEMENT_BYTES, FLAG_BRANCH, FLAG_BUCKET, FLAG_FREELIST, FLAG_LEAF, FLAG_META, HEADER_BYTES, MAGIC, META_BYTES,
    PAGE_BYTES, VERSION, fnv1a, header,
};
use crate::plan::{Plan, Planned};

/// The elements were not those that were planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the elements of a bucket are not those of its plan")]
pub struct PlanBroken;

/// An element of a leaf.
struct Element {
    flags: u32,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// Makes the bytes of a file, in order. Holds the elements of one leaf.
pub struct Writer {
    plan: Plan,
    /// The bucket and the leaf that are being written.
    bucket: usize,
    leaf: usize,
    elements: Vec<Element>,
}

impl Writer {
    /// Begins the file: appends its front to `out`.
    pub fn new(plan: Plan, out: &mut Vec<u8>) -> Self {
        for id in 0..2 {
            put_meta(id, &plan, out);
        }
        out.extend(header(2, FLAG_FREELIST, 0, 0));
        pad(out, HEADER_BYTES);
        Self { plan, bucket: 0, leaf: 0, elements: Vec::new() }
    }

    /// The next element of the current bucket. Appends to `out` what is complete.
    ///
    /// # Errors
    /// [`PlanBroken`]; what was written is then of no use.
    pub fn add(&mut self, key: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<(), PlanBroken> {
        self.elements.push(Element { flags: 0, key: key.to_vec(), value: value.to_vec() });
        let leaf =
            self.plan.buckets.get(self.bucket).and_then(|bucket| bucket.leaves.get(self.leaf)).ok_or(PlanBroken)?;
        if self.elements.len() >= leaf.elements {
            put_leaf(leaf, &self.elements, out)?;
            self.elements.clear();
            self.leaf += 1;
        }
        Ok(())
    }

    /// Ends the current bucket, and begins the next one.
    ///
    /// # Errors
    /// [`PlanBroken`] if elements are missing.
    pub fn end_bucket(&mut self, out: &mut Vec<u8>) -> Result<(), PlanBroken> {
        let bucket = self.plan.buckets.get(self.bucket).ok_or(PlanBroken)?;
        if let ([only], 0) = (bucket.leaves.as_slice(), self.leaf)
            && only.elements == 0
        {
            put_leaf(only, &[], out)?;
            self.leaf = 1;
        }
        if self.leaf != bucket.leaves.len() || !self.elements.is_empty() {
            return Err(PlanBroken);
        }
        let mut below = &bucket.leaves;
        for level in &bucket.branches {
            let mut children = below.iter();
            for branch in level {
                put_branch(branch, children.by_ref().take(branch.elements), out);
            }
            below = level;
        }
        (self.bucket, self.leaf) = (self.bucket + 1, 0);
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// [`PlanBroken`] if buckets are missing.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), PlanBroken> {
        if self.bucket != self.plan.buckets.len() {
            return Err(PlanBroken);
        }
        let bucket = |root: u64| [root.to_le_bytes(), [0; 8]].concat();
        let elements = self.plan.buckets.iter();
        let elements: Vec<_> = elements
            .map(|planned| Element { flags: FLAG_BUCKET, key: planned.name.clone(), value: bucket(planned.root) })
            .collect();
        put_leaf(&self.plan.root(), &elements, out)
    }
}

fn put_meta(id: u64, plan: &Plan, out: &mut Vec<u8>) {
    let mut meta = Vec::with_capacity(META_BYTES);
    for number in [MAGIC, VERSION, PAGE_BYTES as u32, 0] {
        meta.extend(number.to_le_bytes());
    }
    // Root and its sequence, free list, pages, transaction: bbolt's own first two are 0 and 1, and the higher one counts.
    for number in [plan.root().id, 0, 2, plan.pages(), id] {
        meta.extend(number.to_le_bytes());
    }
    meta.extend(fnv1a(&meta).to_le_bytes());
    out.extend(header(id, FLAG_META, 0, 0));
    out.extend_from_slice(&meta);
    pad(out, HEADER_BYTES + META_BYTES);
}

fn put_leaf(leaf: &Planned, elements: &[Element], out: &mut Vec<u8>) -> Result<(), PlanBroken> {
    let content = elements.iter().map(|element| ELEMENT_BYTES + element.key.len() + element.value.len());
    let first = elements.first().map_or(&[][..], |element| &element.key);
    if HEADER_BYTES + content.sum::<usize>() != leaf.bytes || elements.len() != leaf.elements || *first != *leaf.first {
        return Err(PlanBroken);
    }
    put_header(leaf, FLAG_LEAF, out);
    let mut distance = elements.len() * ELEMENT_BYTES;
    for element in elements {
        for number in [element.flags, distance as u32, element.key.len() as u32, element.value.len() as u32] {
            out.extend(number.to_le_bytes());
        }
        distance = distance + element.key.len() + element.value.len() - ELEMENT_BYTES;
    }
    for element in elements {
        out.extend_from_slice(&element.key);
        out.extend_from_slice(&element.value);
    }
    pad(out, leaf.bytes);
    Ok(())
}

fn put_branch<'a>(branch: &Planned, children: impl Iterator<Item = &'a Planned>, out: &mut Vec<u8>) {
    put_header(branch, FLAG_BRANCH, out);
    let mut distance = branch.elements * ELEMENT_BYTES;
    let mut keys = Vec::new();
    for child in children {
        out.extend((distance as u32).to_le_bytes());
        out.extend((child.first.len() as u32).to_le_bytes());
        out.extend(child.id.to_le_bytes());
        keys.extend_from_slice(&child.first);
        distance = distance + child.first.len() - ELEMENT_BYTES;
    }
    out.extend(keys);
    pad(out, branch.bytes);
}

fn put_header(page: &Planned, flags: u16, out: &mut Vec<u8>) {
    // The plan keeps both within their bounds.
    out.extend(header(page.id, flags, page.elements as u16, (page.pages() - 1) as u32));
}

/// Zeros up to the end of a page of which `bytes` were written.
fn pad(out: &mut Vec<u8>, bytes: usize) {
    let rest = bytes.next_multiple_of(PAGE_BYTES as usize) - bytes;
    out.resize(out.len() + rest, 0);
}
