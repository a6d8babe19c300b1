//! Who belongs to the store: joining, leaving, health.
//!
//! A member joins as a *learner*: it gets the data without having a vote, so that a host that never comes up
//! takes no quorum away. When it has caught up it is promoted. Every call may be repeated.

use std::time::Duration;

use etcd_client::{Client, MemberAddOptions};
use tokio::time::Instant;

use super::{ATTEMPT_TIMEOUT, EtcdStore, Repeat};
use crate::StoreError;

/// Between two tries to add or to promote.
const TRY_PAUSE: Duration = Duration::from_millis(200);

/// For how long a member is tried to be added: etcd takes none until those before it have been connected
/// for five seconds, which the hosts of a new cluster run into.
const ADD_LIMIT: Duration = Duration::from_secs(20);

/// A member of the store, as its members know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    /// Empty until it has started for the first time.
    pub name: String,
    pub peer_urls: Vec<String>,
    /// Empty until it has started for the first time.
    pub client_urls: Vec<String>,
    /// It has no vote yet.
    pub learner: bool,
}

/// What a new member needs to start.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct JoinTicket {
    pub id: u64,
    /// Name and peer URL of every member, the new one included.
    pub initial_cluster: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promotion {
    /// It has a vote.
    Done,
    /// It has not caught up; ask again.
    NotYet,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberHealth {
    pub id: u64,
    /// The member that leads, as far as this one knows.
    pub leader: Option<u64>,
    pub version: String,
    pub db_bytes: u64,
    pub learner: bool,
    /// Such as an alarm.
    pub problems: Vec<String>,
}

impl Member {
    fn of(member: &etcd_client::Member) -> Self {
        Self {
            id: member.id(),
            name: member.name().to_owned(),
            peer_urls: member.peer_urls().to_vec(),
            client_urls: member.client_urls().to_vec(),
            learner: member.is_learner(),
        }
    }
}

impl JoinTicket {
    /// `None`: no member has this peer URL.
    fn new(name: &str, peer_url: &str, members: &[Member]) -> Result<Option<Self>, StoreError> {
        let is_new = |member: &Member| member.peer_urls.iter().any(|url| url == peer_url);
        let Some(Member { id, name: started_as, .. }) = members.iter().find(|member| is_new(member)) else {
            return Ok(None);
        };
        if !started_as.is_empty() {
            return Err(StoreError::Refused(format!(
                "add the member {name}: {started_as} has already served at {peer_url}; if its data is lost, \
                 remove the member {id:x} first"
            )));
        }
        let mut initial_cluster = Vec::new();
        for member in members {
            // A member that has not started has no name; etcd compares the URLs only.
            let name = match (is_new(member), member.name.is_empty()) {
                (true, _) => name.to_owned(),
                (false, false) => member.name.clone(),
                (false, true) => format!("unstarted-{:x}", member.id),
            };
            initial_cluster.extend(member.peer_urls.iter().map(|url| (name.clone(), url.clone())));
        }
        Ok(Some(Self { id: *id, initial_cluster }))
    }
}

impl EtcdStore {
    pub async fn list_members(&self) -> Result<Vec<Member>, StoreError> {
        let ask = |client: Client| async move { client.cluster_client().member_list().await };
        let answer = self.shared.request(Repeat::Harmless, ATTEMPT_TIMEOUT, ask).await?;
        Ok(answer.members().iter().map(Member::of).collect())
    }

    /// Adds a member that has no data yet, as a learner. One that was added under the same peer URL and has
    /// not started is found again; one that has started is refused, because a member that lost its data
    /// must not come back under its old identity: remove it first. May take some 20 s while others join.
    pub async fn add_member(&self, name: &str, peer_url: &str) -> Result<JoinTicket, StoreError> {
        let deadline = Instant::now() + ADD_LIMIT;
        loop {
            if let Some(ticket) = JoinTicket::new(name, peer_url, &self.list_members().await?)? {
                return Ok(ticket);
            }
            let ask = |client: Client| {
                let options = MemberAddOptions::new().with_is_learner();
                async move { client.cluster_client().member_add([peer_url.to_owned()], Some(options)).await }
            };
            let failed = match self.shared.request(Repeat::Never, ATTEMPT_TIMEOUT, ask).await {
                // It is listed now; or it may be.
                Ok(_) => continue,
                Err(error @ (StoreError::Unavailable(_) | StoreError::Unknown(_))) => error,
                Err(StoreError::Refused(why)) if why.contains("too many learner") => StoreError::Unavailable(
                    "another host is joining it; try again when that is done".to_owned(),
                ),
                Err(error @ (StoreError::LeaseGone | StoreError::Refused(_))) => return Err(error),
            };
            if Instant::now() >= deadline {
                return Err(failed);
            }
            tokio::time::sleep(TRY_PAUSE).await;
        }
    }

    /// Gives a learner its vote, if it has caught up.
    pub async fn promote(&self, id: u64) -> Result<Promotion, StoreError> {
        let ask = |client: Client| async move { client.cluster_client().member_promote(id).await };
        match self.shared.request(Repeat::Harmless, ATTEMPT_TIMEOUT, ask).await {
            Ok(_) => Ok(Promotion::Done),
            Err(StoreError::Refused(why)) if why.contains("in sync with leader") => Ok(Promotion::NotYet),
            Err(StoreError::Refused(why)) if why.contains("only promote a learner") => Ok(Promotion::Done),
            Err(error) => Err(error),
        }
    }

    /// Gives a learner its vote as soon as it has caught up; fails when `limit` is over.
    pub async fn promote_when_ready(&self, id: u64, limit: Duration) -> Result<(), StoreError> {
        let deadline = Instant::now() + limit;
        loop {
            let last = match self.promote(id).await {
                Ok(Promotion::Done) => return Ok(()),
                Ok(Promotion::NotYet) => StoreError::Unavailable(format!(
                    "its new member {id:x} has not caught up within {limit:?}"
                )),
                Err(error @ (StoreError::Unavailable(_) | StoreError::Unknown(_))) => error,
                Err(error @ (StoreError::LeaseGone | StoreError::Refused(_))) => return Err(error),
            };
            if Instant::now() >= deadline {
                return Err(last);
            }
            tokio::time::sleep(TRY_PAUSE).await;
        }
    }

    /// Takes a member out. One that is not there is no error.
    pub async fn remove_member(&self, id: u64) -> Result<(), StoreError> {
        let ask = |client: Client| async move { client.cluster_client().member_remove(id).await.map(drop) };
        match self.shared.request(Repeat::Harmless, ATTEMPT_TIMEOUT, ask).await {
            Err(StoreError::Refused(why)) if why.contains("member not found") => Ok(()),
            other => other,
        }
    }

    /// What each endpoint says of itself, all asked at once.
    pub async fn health(&self) -> Vec<(String, Result<MemberHealth, StoreError>)> {
        let links = self.shared.round();
        let asked = links.iter().map(|link| async move {
            let status = |client: Client| async move { client.maintenance_client().status().await };
            let health = link.ask(ATTEMPT_TIMEOUT, status).await.map(|status| MemberHealth {
                id: status.header().map_or(0, |header| header.member_id()),
                leader: Some(status.leader()).filter(|leader| *leader != 0),
                version: status.version().to_owned(),
                db_bytes: u64::try_from(status.db_size()).unwrap_or(0),
                learner: status.is_learner(),
                problems: status.errors().to_vec(),
            });
            (link.url().to_owned(), health.map_err(|failure| StoreError::Unavailable(failure.why())))
        });
        futures::future::join_all(asked).await
    }
}
