//! Membership of the cluster.

use quorate_proto::etcdserverpb::{
    Member, MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
};

use crate::{Client, Error};

impl Client {
    /// Lists the members, as the leader knows them.
    ///
    /// # Errors
    /// As for [`get`](Client::get).
    pub async fn member_list(&self) -> Result<Vec<Member>, Error> {
        Ok(self.cluster().member_list(MemberListRequest { linearizable: true }).await?.members)
    }

    /// Adds a member that will listen at `peer_urls`, and is to be started next. A learner receives the log and does
    /// not vote until it is promoted: the safe way.
    ///
    /// # Errors
    /// [`Error::Rejected`] if the cluster cannot take the member; else as for [`put`](Client::put).
    pub async fn member_add<S: Into<String>>(
        &self,
        peer_urls: impl IntoIterator<Item = S>,
        is_learner: bool,
    ) -> Result<Member, Error> {
        let peer_urls = peer_urls.into_iter().map(Into::into).collect();
        let answer = self.cluster().member_add(MemberAddRequest { peer_urls, is_learner }).await?;
        Ok(answer.member.unwrap_or_default())
    }

    /// Removes a member. Returns those that are left.
    ///
    /// # Errors
    /// [`Error::Rejected`] if there is no such member or the cluster would lose its quorum; else as for
    /// [`put`](Client::put).
    pub async fn member_remove(&self, id: u64) -> Result<Vec<Member>, Error> {
        Ok(self.cluster().member_remove(MemberRemoveRequest { id }).await?.members)
    }

    /// Changes the peer addresses of a member. Returns all members.
    ///
    /// # Errors
    /// As for [`member_remove`](Client::member_remove).
    pub async fn member_update<S: Into<String>>(
        &self,
        id: u64,
        peer_urls: impl IntoIterator<Item = S>,
    ) -> Result<Vec<Member>, Error> {
        let peer_urls = peer_urls.into_iter().map(Into::into).collect();
        Ok(self.cluster().member_update(MemberUpdateRequest { id, peer_urls }).await?.members)
    }

    /// Makes a learner a voter. Returns all members.
    ///
    /// # Errors
    /// [`Error::Rejected`] if the member is no learner or not yet up to date; else as for [`put`](Client::put).
    pub async fn member_promote(&self, id: u64) -> Result<Vec<Member>, Error> {
        Ok(self.cluster().member_promote(MemberPromoteRequest { id }).await?.members)
    }
}
