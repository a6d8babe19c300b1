//! Where each record stands.
//!
//! ```text
//! /kennel/schema  cluster  leader  losses          one record each
//! /kennel/hosts/<host>                             host-reports/, sessions/ (on a lease)
//! /kennel/guests/<guest>                           assignments/, guest-reports/
//! /kennel/in-sync/<volume>                         drops/<host>/<volume>
//! /kennel/rules/<rule>
//! /kennel/networks/<network>                       addresses/<network>/<ip>
//! /kennel/images/<image>                           pools/<pool>, confirmed-dead/<host>
//! /kennel/fence-devices/<host>                     fences/<host>
//! /kennel/group-restarts/<guest>
//! /kennel/jobs/<job>                               job-reports/<job>, events/<event>
//! /kennel/tokens/<sha256, hexadecimal>             secrets/<name>
//! /kennel/users/<user>                             incidents/<number>
//! /kennel/alerts/<alert>                           alert-states/<alert>
//! ```
//!
//! A key follows from its record ([`Record::key`](crate::Record::key)); a record that stands elsewhere is
//! damaged. No prefix is the beginning of another, so that listing one never shows the other's records.

use std::net::IpAddr;

use model::{
    AlertName, EventId, GuestName, HostName, ImageName, IncidentId, JobId, NetworkName, PoolName, RuleName,
    UserName, VolumeId,
};

pub const SCHEMA: &str = "/kennel/schema";
pub const CLUSTER: &str = "/kennel/cluster";
/// Who runs the cluster-wide loops; hangs on the lease of that host's session.
pub const LEADER: &str = "/kennel/leader";

pub const LOSSES: &str = "/kennel/losses";

pub const HOSTS: &str = "/kennel/hosts/";
pub const HOST_REPORTS: &str = "/kennel/host-reports/";
pub const SESSIONS: &str = "/kennel/sessions/";
pub const GUESTS: &str = "/kennel/guests/";
pub const ASSIGNMENTS: &str = "/kennel/assignments/";
pub const GUEST_REPORTS: &str = "/kennel/guest-reports/";
pub const IN_SYNC: &str = "/kennel/in-sync/";
pub const DROPS: &str = "/kennel/drops/";
pub const RULES: &str = "/kennel/rules/";
pub const NETWORKS: &str = "/kennel/networks/";
pub const ADDRESSES: &str = "/kennel/addresses/";
pub const IMAGES: &str = "/kennel/images/";
pub const POOLS: &str = "/kennel/pools/";
pub const CONFIRMED_DEAD: &str = "/kennel/confirmed-dead/";
pub const FENCE_DEVICES: &str = "/kennel/fence-devices/";
pub const FENCES: &str = "/kennel/fences/";
pub const GROUP_RESTARTS: &str = "/kennel/group-restarts/";
pub const JOBS: &str = "/kennel/jobs/";
pub const JOB_REPORTS: &str = "/kennel/job-reports/";
pub const EVENTS: &str = "/kennel/events/";
pub const INCIDENTS: &str = "/kennel/incidents/";
pub const ALERTS: &str = "/kennel/alerts/";
pub const ALERT_STATES: &str = "/kennel/alert-states/";
pub const TOKENS: &str = "/kennel/tokens/";
pub const USERS: &str = "/kennel/users/";
/// What only the daemon may read, such as the authority's private key; never decoded into a view.
pub const SECRETS: &str = "/kennel/secrets/";

pub fn host(name: &HostName) -> String {
    format!("{HOSTS}{name}")
}

pub fn host_report(name: &HostName) -> String {
    format!("{HOST_REPORTS}{name}")
}

pub fn session(host: &HostName) -> String {
    format!("{SESSIONS}{host}")
}

pub fn guest(name: &GuestName) -> String {
    format!("{GUESTS}{name}")
}

pub fn assignment(guest: &GuestName) -> String {
    format!("{ASSIGNMENTS}{guest}")
}

pub fn guest_report(guest: &GuestName) -> String {
    format!("{GUEST_REPORTS}{guest}")
}

pub fn in_sync(volume: VolumeId) -> String {
    format!("{IN_SYNC}{volume}")
}

pub fn replica_drop(host: &HostName, volume: VolumeId) -> String {
    format!("{DROPS}{host}/{volume}")
}

pub fn rule(name: &RuleName) -> String {
    format!("{RULES}{name}")
}

pub fn network(name: &NetworkName) -> String {
    format!("{NETWORKS}{name}")
}

pub fn address(network: &NetworkName, address: IpAddr) -> String {
    format!("{ADDRESSES}{network}/{address}")
}

pub fn image(name: &ImageName) -> String {
    format!("{IMAGES}{name}")
}

pub fn pool(name: &PoolName) -> String {
    format!("{POOLS}{name}")
}

pub fn confirmed_dead(host: &HostName) -> String {
    format!("{CONFIRMED_DEAD}{host}")
}

pub fn fence_devices(host: &HostName) -> String {
    format!("{FENCE_DEVICES}{host}")
}

pub fn fence(host: &HostName) -> String {
    format!("{FENCES}{host}")
}

pub fn group_restarts(guest: &GuestName) -> String {
    format!("{GROUP_RESTARTS}{guest}")
}

pub fn job(id: JobId) -> String {
    format!("{JOBS}{id}")
}

pub fn job_report(id: JobId) -> String {
    format!("{JOB_REPORTS}{id}")
}

pub fn event(id: EventId) -> String {
    format!("{EVENTS}{id}")
}

pub fn incident(id: IncidentId) -> String {
    format!("{INCIDENTS}{id}")
}

pub fn alert(name: &AlertName) -> String {
    format!("{ALERTS}{name}")
}

pub fn alert_state(name: &AlertName) -> String {
    format!("{ALERT_STATES}{name}")
}

/// `sha256`: of the token's text, hexadecimal, lower case.
pub fn token(sha256: &str) -> String {
    format!("{TOKENS}{sha256}")
}

pub fn user(name: &UserName) -> String {
    format!("{USERS}{name}")
}

pub fn secret(name: &str) -> String {
    format!("{SECRETS}{name}")
}

/// What kind of record stands under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Schema,
    Cluster,
    Leader,
    Losses,
    Host,
    HostReport,
    Session,
    Guest,
    Assignment,
    GuestReport,
    InSync,
    Drop,
    Rule,
    Network,
    Address,
    Image,
    Pool,
    ConfirmedDead,
    FenceDevices,
    Fence,
    GroupRestarts,
    Job,
    JobReport,
    Event,
    Incident,
    Alert,
    AlertState,
    Token,
    User,
    Secret,
}

const SINGLES: [(&str, Kind); 4] =
    [(SCHEMA, Kind::Schema), (CLUSTER, Kind::Cluster), (LEADER, Kind::Leader), (LOSSES, Kind::Losses)];

const PREFIXES: [(&str, Kind); 26] = [
    (HOSTS, Kind::Host),
    (HOST_REPORTS, Kind::HostReport),
    (SESSIONS, Kind::Session),
    (GUESTS, Kind::Guest),
    (ASSIGNMENTS, Kind::Assignment),
    (GUEST_REPORTS, Kind::GuestReport),
    (IN_SYNC, Kind::InSync),
    (DROPS, Kind::Drop),
    (RULES, Kind::Rule),
    (NETWORKS, Kind::Network),
    (ADDRESSES, Kind::Address),
    (IMAGES, Kind::Image),
    (POOLS, Kind::Pool),
    (CONFIRMED_DEAD, Kind::ConfirmedDead),
    (FENCE_DEVICES, Kind::FenceDevices),
    (FENCES, Kind::Fence),
    (GROUP_RESTARTS, Kind::GroupRestarts),
    (JOBS, Kind::Job),
    (JOB_REPORTS, Kind::JobReport),
    (EVENTS, Kind::Event),
    (INCIDENTS, Kind::Incident),
    (ALERTS, Kind::Alert),
    (ALERT_STATES, Kind::AlertState),
    (TOKENS, Kind::Token),
    (USERS, Kind::User),
    (SECRETS, Kind::Secret),
];

impl Kind {
    /// The kind of record that stands under `key`, and what follows its prefix (nothing for the records of
    /// which there is one). `None`: this build knows no such key.
    pub fn of(key: &str) -> Option<(Kind, &str)> {
        if let Some((_, kind)) = SINGLES.iter().find(|(single, _)| *single == key) {
            return Some((*kind, ""));
        }
        let found = PREFIXES.iter().find_map(|(prefix, kind)| Some((*kind, key.strip_prefix(prefix)?)));
        found.filter(|(_, rest)| !rest.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_kind() {
        assert_eq!(Kind::of("/kennel/schema"), Some((Kind::Schema, "")));
        assert_eq!(Kind::of("/kennel/guests/web1"), Some((Kind::Guest, "web1")));
        assert_eq!(Kind::of("/kennel/drops/host1/x"), Some((Kind::Drop, "host1/x")));
        for foreign in ["/kennel/guests/", "/kennel/guests", "/kennel/schema/x", "/kennel/pets/a", "/other"] {
            assert_eq!(Kind::of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn no_prefix_begins_another() {
        for (a, _) in PREFIXES {
            assert!(a.starts_with(crate::PREFIX));
            for (b, _) in PREFIXES {
                assert!(a == b || !a.starts_with(b), "{a} {b}");
            }
        }
    }
}
