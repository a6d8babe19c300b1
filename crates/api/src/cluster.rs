//! The cluster as a whole, and the way into it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use model::{
    Cluster, ClusterView, CpuLevel, GuestPhase, HealthState, Host, HostName, HostPhase, Settings, Storm,
    VolumePhase,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{GuestView, VolumeView};

/// The cluster at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterStatus {
    pub name: String,
    pub id: Uuid,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    pub settings: Settings,
    /// The host that gave this answer.
    pub answered_by: HostName,
    /// The store's revision that the answer speaks of.
    pub revision: i64,
    /// Who runs the cluster-wide loops.
    pub leader: Option<HostName>,
    pub hosts_online: u32,
    pub hosts_total: u32,
    /// Whether the state store answers the host that was asked. When not, the rest of this may be old.
    pub store_answers: bool,
    pub store_members: Vec<StoreMemberView>,
    #[schema(value_type = BTreeMap<String, u32>)]
    pub guests: BTreeMap<GuestPhase, u32>,
    #[schema(value_type = BTreeMap<String, u32>)]
    pub volumes: BTreeMap<VolumePhase, u32>,
    pub jobs_running: u32,
    /// The level that every host's processors reach.
    #[serde(default)]
    pub lowest_cpu_level: Option<CpuLevel>,
    /// Many hosts vanished at once, and recovery goes slowly.
    #[serde(default)]
    pub storm: Option<Storm>,
    /// What a person should know of; one sentence without a full stop each. Empty: all is well.
    pub problems: Vec<String>,
    /// Keys of the store whose values no build of ours could have written, and what is wrong with each.
    pub damaged: BTreeMap<String, String>,
}

/// One member of the state store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoreMemberView {
    pub host: HostName,
    pub healthy: bool,
    /// Whether it leads the store; this is not the cluster's leader.
    pub is_leader: bool,
    /// What is wrong with it.
    pub message: Option<String>,
}

impl ClusterStatus {
    /// `None` while there is no cluster. `planned`: what the planner finds wrong.
    pub fn of(
        view: &ClusterView,
        answered_by: &HostName,
        store_answers: bool,
        store_members: Vec<StoreMemberView>,
        planned: Vec<String>,
    ) -> Option<Self> {
        let Cluster { name, id, created_at, settings, .. } = view.cluster.clone()?;
        let online = |host: &&HostName| view.host_phase(host) == HostPhase::Online;
        let guests = GuestView::list(view);
        let volumes = VolumeView::list(view);
        let mut problems = problems(view, store_answers, &store_members, &guests, &volumes);
        problems.extend(planned);
        let ended = |job: &model::JobId| view.job_reports.get(job).is_some_and(|r| r.state.is_terminal());
        Some(Self {
            name,
            id,
            created_at,
            settings,
            answered_by: answered_by.clone(),
            revision: view.revision,
            leader: view.leader.clone(),
            hosts_online: count(view.hosts.keys().filter(online)),
            hosts_total: count(view.hosts.keys()),
            store_answers,
            guests: tally(guests.iter().map(|guest| guest.phase)),
            volumes: tally(volumes.iter().map(|volume| volume.phase)),
            lowest_cpu_level: view.lowest_cpu_level(),
            jobs_running: count(view.jobs.keys().filter(|job| !ended(job))),
            storm: view.losses.as_ref().and_then(|losses| losses.storm.clone()),
            problems,
            store_members,
            damaged: view.damaged.clone(),
        })
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

fn tally<T: Ord>(phases: impl Iterator<Item = T>) -> BTreeMap<T, u32> {
    phases.fold(BTreeMap::new(), |mut tally, phase| {
        *tally.entry(phase).or_default() += 1;
        tally
    })
}

fn problems(
    view: &ClusterView,
    store_answers: bool,
    store_members: &[StoreMemberView],
    guests: &[GuestView],
    volumes: &[VolumeView],
) -> Vec<String> {
    let mut problems = Vec::new();
    if !store_answers {
        problems.push("the state store does not answer: guests run on, changes are refused".to_owned());
    } else if view.leader.is_none() {
        problems.push("no host leads: nothing is recovered or placed until one does".to_owned());
    }
    if let Some(storm) = view.losses.as_ref().and_then(|losses| losses.storm.as_ref()) {
        problems.push(match &storm.go_on {
            Some(word) => format!("a storm: recovery goes on as usual, by the word of {}", word.by),
            None => format!(
                "a storm: {} of {} hosts vanished at once; look at the network. Recovery goes slowly; \
                 `kennel cluster storm --go-on` if they are lost for good",
                storm.hosts.len(),
                storm.of
            ),
        });
    }
    for member in store_members.iter().filter(|member| !member.healthy) {
        let why = member.message.as_deref().unwrap_or("it does not answer");
        problems.push(format!("the state store's member on {} is not well: {why}", member.host));
    }
    for host in view.hosts.keys() {
        match view.host_phase(host) {
            HostPhase::Online => {}
            HostPhase::Lost => problems.push(format!("host {host} is lost")),
            HostPhase::Joining => {
                problems.push(format!("host {host} has not been heard of since it joined"));
            }
        }
    }
    for report in view.host_reports.values() {
        problems.extend(report.problems.iter().map(|problem| format!("host {}: {problem}", report.host)));
    }
    problems.extend(guests.iter().filter_map(guest_problem));
    problems.extend(volumes.iter().filter_map(volume_problem));
    let verified = view.verified();
    problems.extend(volumes.iter().filter_map(|volume| {
        let found = verified.get(&volume.id).filter(|found| view.still_differs(volume.id, found))?;
        Some(format!(
            "disk {} of guest {}: its replicas differ in {}; `kennel volume resync {}` mends that",
            volume.disk, volume.guest, found.unlike, volume.id
        ))
    }));
    let unheard = view.alert_states.values().filter(|state| view.alerts.contains_key(&state.name));
    problems.extend(unheard.filter_map(|state| {
        Some(format!("alerts to '{}' do not arrive: {}", state.name, state.problem.as_ref()?))
    }));
    if !view.damaged.is_empty() {
        let count = view.damaged.len();
        problems.push(format!("{count} damaged records in the state store are skipped"));
    }
    problems
}

fn guest_problem(guest: &GuestView) -> Option<String> {
    if let Some(health) = guest.health().filter(|health| health.state == HealthState::Unhealthy) {
        let why = health.message.as_deref().unwrap_or("it does not say why");
        return Some(format!("guest {} is not well: {why}", guest.name));
    }
    let what = match guest.phase {
        GuestPhase::Failed => "has failed",
        GuestPhase::Unknown => "was on a host that is lost",
        GuestPhase::Paused => "stands still",
        GuestPhase::Waiting => "waits for a host",
        GuestPhase::Preparing
        | GuestPhase::Starting
        | GuestPhase::Running
        | GuestPhase::Stopping
        | GuestPhase::Stopped
        | GuestPhase::Deleting => return None,
    };
    Some(match &guest.message {
        Some(why) => format!("guest {} {what}: {why}", guest.name),
        None => format!("guest {} {what}", guest.name),
    })
}

fn volume_problem(volume: &VolumeView) -> Option<String> {
    let what = match volume.phase {
        VolumePhase::Held => "its writes wait for the secondary",
        VolumePhase::Degraded => "one replica is missing",
        VolumePhase::Syncing => "one replica is being filled",
        VolumePhase::InSync | VolumePhase::Creating => return None,
    };
    Some(format!("disk {} of guest {}: {what}", volume.disk, volume.guest))
}

/// A way in for one more host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invitation {
    /// A [`JoinToken`], as text.
    pub token: String,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

/// All that a new host needs to find the cluster and to be let in, once. Written
/// `kennel-join.<base64url of JSON>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    pub endpoints: Vec<String>,
    /// SHA-256 of the certificate authority's certificate (DER), hexadecimal: whoever answers must be of
    /// the right cluster.
    pub ca_sha256: String,
    pub secret: String,
}

const JOIN_TOKEN_PREFIX: &str = "kennel-join.";

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        write!(f, "{JOIN_TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }
}

/// What is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a join token: it begins with 'kennel-join.', and `kennel cluster invite` prints one")]
pub struct InvalidJoinToken;

impl FromStr for JoinToken {
    type Err = InvalidJoinToken;
    fn from_str(text: &str) -> Result<Self, InvalidJoinToken> {
        let encoded = text.trim().strip_prefix(JOIN_TOKEN_PREFIX).ok_or(InvalidJoinToken)?;
        let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| InvalidJoinToken)?;
        serde_json::from_slice(&json).map_err(|_| InvalidJoinToken)
    }
}

/// What a new host says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The secret of the join token.
    pub secret: String,
    pub name: HostName,
    #[schema(value_type = String)]
    pub address: IpAddr,
    pub zone: String,
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// A certificate signing request for the host's own key, PEM.
    pub signing_request: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinAnswer {
    pub cluster: Cluster,
    /// The host's certificate, PEM.
    pub certificate: String,
    /// Every host of the cluster, the new one too.
    pub hosts: Vec<Host>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_token_reads_back() {
        let token = JoinToken {
            endpoints: vec!["https://10.77.0.1:7440".to_owned()],
            ca_sha256: "ab".repeat(32),
            secret: "s".to_owned(),
        };
        let text = token.to_string();
        assert!(text.starts_with("kennel-join."), "{text}");
        assert_eq!(format!(" {text}\n").parse(), Ok(token));
        for bad in ["", "kennel-join.", "kennel-join.!!", "join.abc", "kennel-join.e30"] {
            assert_eq!(bad.parse::<JoinToken>(), Err(InvalidJoinToken), "{bad}");
        }
    }
}
