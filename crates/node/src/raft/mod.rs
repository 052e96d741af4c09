//! The adapter to openraft: its types, our log store, our state machine, our network. Nothing outside this module names an
//! openraft type; the rest of the crate sees [`RaftGroup`].

mod codec;
mod contact;
mod durable;
mod handle;
mod log_store;
mod network;
mod runtime;
mod state_machine;
#[cfg(test)]
mod tests;
mod types;

pub(crate) use codec::{
    RaftMember, applied_of, check_entry, first_membership, is_joint, last_of, members_of, membership_body, vote_of,
};
pub(crate) use handle::{ProposeError, RaftGroup, RaftOptions, Role, entry_body};
pub(crate) use state_machine::{AppliedBatch, AppliedCommand, ApplyHooks, ApplyTimes};
pub(crate) use types::{MemberNode, StoredMembership};
