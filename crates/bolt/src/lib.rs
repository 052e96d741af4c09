//! bbolt database files: the format that etcd keeps its state in, and that its snapshots have. Writes one from front to back
//! without holding it, and reads one without trusting it. Knows pages, buckets and elements; does not know what they mean, and
//! opens no file.
//!
//! A file is a sequence of pages. Two of them, at the front, name the root: a leaf whose elements are the buckets. A bucket is
//! a tree of branches and leaves in the order of its keys; a page may span several of the file's. The front must name what
//! comes last, so that a file is written in two passes over its elements: [`BucketPlan`] takes the lengths, [`Plan`] gives each page
//! its place, [`Writer`] takes the elements again and makes the bytes. Memory is that of the first key of each leaf.
//!
//! What is read may be anything: every page is checked before it is used, trees are of bounded depth, and keys must ascend, so
//! that no page is walked over twice. A page that is not what it should be is [`ReadError::Damaged`], with its offset.

#![forbid(unsafe_code)]

mod page;
mod plan;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use page::PAGE_BYTES;
pub use plan::{BucketPlan, Plan};
pub use read::{Bucket, Cursor, Database, Leaf, ReadError, Source};
pub use write::{PlanBroken, Writer};
