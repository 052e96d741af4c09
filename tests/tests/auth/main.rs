//! Users, roles and tokens: what etcd 3.5.1 answers, this project answers, field by field.

mod calls;
mod common_name;
mod deviations;
mod gateway;
mod other;
mod pair;
mod recipes;
mod script;
mod streams;
mod users;
