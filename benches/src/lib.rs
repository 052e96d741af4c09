//! Load tests that put the same load on two systems side by side and compare them.
//!
//! Both systems are three processes on loopback that speak etcd's API; this crate starts them, drives them over the
//! wire, and reads their CPU time and memory from `/proc`. It links none of the code that it measures.
//!
//! Absolute figures of one machine say little: they move by a factor of two from hour to hour. So the systems take turns
//! within one run ([`rounds`]), and what is reported is the ratio of one to the other ([`report`]). Nothing here fails
//! because something was slow.

pub mod chart;
pub mod cluster;
pub mod connection;
pub mod costs;
pub mod load;
pub mod report;
pub mod rounds;
pub mod streams;
pub mod workload;
