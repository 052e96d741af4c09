//! A whole server over real sockets: what clients see of one port.

mod auth;
mod fuzz;
mod gateway;
mod harness;
mod hostile;
mod http;
mod kv;
mod limits;
mod observe;
mod recipes;
mod streams;
