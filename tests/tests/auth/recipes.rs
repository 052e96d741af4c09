//! Calls about locks and elections.

use quorate_proto::v3electionpb::*;
use quorate_proto::v3lockpb::*;

use crate::calls::{Call, first_of_stream, unary};

pub fn lock(name: &'static str, lease: i64) -> Call {
    let request = LockRequest { name: name.into(), lease };
    unary::<_, LockResponse>(format!("lock {name:?} {lease:x}"), "/v3lockpb.Lock/Lock", request)
}

pub fn unlock(key: &'static str) -> Call {
    let request = UnlockRequest { key: key.into() };
    unary::<_, UnlockResponse>(format!("unlock {key:?}"), "/v3lockpb.Lock/Unlock", request)
}

pub fn campaign(name: &'static str, lease: i64) -> Call {
    let request = CampaignRequest { name: name.into(), lease, value: "one".into() };
    unary::<_, CampaignResponse>(format!("campaign {name:?} {lease:x}"), "/v3electionpb.Election/Campaign", request)
}

/// A leader's key by hand, as whoever did not win would forge it.
pub fn leader_key(name: &'static str, key: &'static str, rev: i64, lease: i64) -> LeaderKey {
    LeaderKey { name: name.into(), key: key.into(), rev, lease }
}

pub fn proclaim(leader: Option<LeaderKey>) -> Call {
    let shown = format!("proclaim {leader:?}");
    let request = ProclaimRequest { leader, value: "two".into() };
    unary::<_, ProclaimResponse>(shown, "/v3electionpb.Election/Proclaim", request)
}

pub fn resign(leader: Option<LeaderKey>) -> Call {
    let shown = format!("resign {leader:?}");
    unary::<_, ResignResponse>(shown, "/v3electionpb.Election/Resign", ResignRequest { leader })
}

pub fn leader(name: &'static str) -> Call {
    let request = LeaderRequest { name: name.into() };
    unary::<_, LeaderResponse>(format!("leader {name:?}"), "/v3electionpb.Election/Leader", request)
}

pub fn observe(name: &'static str) -> Call {
    let request = LeaderRequest { name: name.into() };
    first_of_stream::<_, LeaderResponse>(format!("observe {name:?}"), "/v3electionpb.Election/Observe", request)
}
