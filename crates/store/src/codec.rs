//! Records as JSON, without losing what a newer build wrote.
//!
//! While hosts run different builds, an older one reads records with fields that it does not know. It keeps
//! them beside the record ([`UnknownFields`]) and writes them back, also inside nested objects; only unknown
//! fields of the *elements of lists* are lost when the list is written. A field is unknown when decoding and
//! encoding again does not bring it back, so every field of a record must be written always
//! (no `skip_serializing_if`).

use std::collections::BTreeMap;
use std::fmt;

use model::{
    AccessToken, AddressClaim, AlertState, AlertTarget, Assignment, Cluster, ConfirmedDead, Event, Fence,
    FenceDevices, GroupRestarts, GuestReport, GuestSpec, Host, HostName, HostReport, Image, InSync, Incident,
    JobReport, JobSpec, Losses, NamedPool, Network, ReplicaDrop, Rule, Schema, Session, User,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{LeaseId, keys};

/// A thing that stands in the store under a key of its own.
pub trait Record: Serialize + DeserializeOwned {
    /// Where it stands; follows from what it says.
    fn key(&self) -> String;
}

/// Who runs the cluster-wide loops. The record hangs on the lease of that host's session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    pub host: HostName,
    /// The lease it hangs on: tells a leader's own record from one that its former life left behind.
    #[serde(default)]
    pub lease: i64,
}

impl Leader {
    pub fn new(host: HostName, lease: LeaseId) -> Self {
        Self { host, lease: lease.0 }
    }
}

/// A token as it is stored: by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredToken {
    /// Of the token's text; hexadecimal, lower case.
    pub sha256: String,
    #[serde(flatten)]
    pub token: AccessToken,
}

/// What only the daemon may read. Its text is never printed, and never part of a view.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    pub name: String,
    pub text: String,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}

macro_rules! records {
    ($($type:ty: $record:ident => $key:expr;)*) => {
        $(impl Record for $type {
            fn key(&self) -> String {
                let $record = self;
                $key
            }
        })*
    };
}

records! {
    Schema: _schema => keys::SCHEMA.to_owned();
    Cluster: _cluster => keys::CLUSTER.to_owned();
    Leader: _leader => keys::LEADER.to_owned();
    Host: host => keys::host(&host.name);
    HostReport: report => keys::host_report(&report.host);
    Session: session => keys::session(&session.host);
    GuestSpec: guest => keys::guest(&guest.name);
    Assignment: assignment => keys::assignment(&assignment.guest);
    GuestReport: report => keys::guest_report(&report.guest);
    InSync: set => keys::in_sync(set.volume);
    ReplicaDrop: drop => keys::replica_drop(&drop.host, drop.volume);
    Rule: rule => keys::rule(&rule.name);
    Network: network => keys::network(&network.name);
    AddressClaim: claim => keys::address(&claim.network, claim.address);
    Image: image => keys::image(&image.name);
    NamedPool: pool => keys::pool(&pool.name);
    ConfirmedDead: word => keys::confirmed_dead(&word.host);
    FenceDevices: devices => keys::fence_devices(&devices.host);
    Fence: fence => keys::fence(&fence.host);
    Losses: _losses => keys::LOSSES.to_owned();
    GroupRestarts: restarts => keys::group_restarts(&restarts.guest);
    JobSpec: job => keys::job(job.id);
    JobReport: report => keys::job_report(report.id);
    Event: event => keys::event(event.id);
    Incident: incident => keys::incident(incident.id);
    AlertTarget: target => keys::alert(&target.name);
    AlertState: state => keys::alert_state(&state.name);
    StoredToken: token => keys::token(&token.sha256);
    User: user => keys::user(&user.name);
    Secret: secret => keys::secret(&secret.name);
}

/// Why a value is not the record that its key promises.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("it is not JSON: {0}")]
    NotJson(String),
    #[error("it is not such a record: {0}")]
    NotARecord(String),
    #[error("its content belongs under {0}")]
    Misplaced(String),
    #[error("this build knows no such key")]
    Foreign,
}

/// A record that does not become a JSON object; a mistake in this program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a record cannot be written as a JSON object: {0}")]
pub struct EncodeError(String);

/// The fields of a stored record that this build does not know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnknownFields(BTreeMap<String, Unknown>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Unknown {
    Field(Value),
    /// A known field, an object, that holds unknown ones.
    Inside(UnknownFields),
}

impl UnknownFields {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What `stored` has and `known`, its decoded and encoded self, has not.
    fn between(stored: &Map<String, Value>, known: &Map<String, Value>) -> Self {
        let mut unknown = BTreeMap::new();
        for (name, value) in stored {
            match (known.get(name), value) {
                (None, _) => {
                    unknown.insert(name.clone(), Unknown::Field(value.clone()));
                }
                (Some(Value::Object(known)), Value::Object(stored)) => {
                    let inside = Self::between(stored, known);
                    if !inside.is_empty() {
                        unknown.insert(name.clone(), Unknown::Inside(inside));
                    }
                }
                (Some(_), _) => {}
            }
        }
        Self(unknown)
    }

    /// Puts them back. What stood inside an object that is no longer there goes with it.
    fn add_to(&self, object: &mut Map<String, Value>) {
        for (name, unknown) in &self.0 {
            match (unknown, object.get_mut(name)) {
                (Unknown::Field(value), None) => {
                    object.insert(name.clone(), value.clone());
                }
                (Unknown::Inside(inside), Some(Value::Object(object))) => inside.add_to(object),
                (Unknown::Field(_), Some(_)) | (Unknown::Inside(_), Some(_) | None) => {}
            }
        }
    }
}

/// Reads the record that stands under `key`.
pub fn decode<T: Record>(key: &str, value: &[u8]) -> Result<(T, UnknownFields), DecodeError> {
    let stored: Map<String, Value> =
        serde_json::from_slice(value).map_err(|error| DecodeError::NotJson(error.to_string()))?;
    let object = Value::Object(stored);
    let record = T::deserialize(&object).map_err(|error| DecodeError::NotARecord(error.to_string()))?;
    let belongs = record.key();
    if belongs != key {
        return Err(DecodeError::Misplaced(belongs));
    }
    let known = object_of(&record).map_err(|error| DecodeError::NotARecord(error.to_string()))?;
    let unknown = match object {
        Value::Object(stored) => UnknownFields::between(&stored, &known),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            UnknownFields::default()
        }
    };
    Ok((record, unknown))
}

/// Writes a record, with the fields that the stored one had and this build does not know.
pub fn encode<T: Record>(record: &T, unknown: &UnknownFields) -> Result<Vec<u8>, EncodeError> {
    let mut object = object_of(record)?;
    unknown.add_to(&mut object);
    serde_json::to_vec(&object).map_err(|error| EncodeError(error.to_string()))
}

fn object_of<T: Serialize>(record: &T) -> Result<Map<String, Value>, EncodeError> {
    match serde_json::to_value(record).map_err(|error| EncodeError(error.to_string()))? {
        Value::Object(object) => Ok(object),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            Err(EncodeError(other.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stored: &str, change: impl FnOnce(&mut JobSpec), written: &str) {
        let stored: Value = serde_json::from_str(stored).expect("JSON");
        let key = format!("{}{}", keys::JOBS, stored["id"].as_str().expect("an id"));
        let (mut job, unknown) =
            decode::<JobSpec>(&key, stored.to_string().as_bytes()).expect("decode the record");
        change(&mut job);
        let bytes = encode(&job, &unknown).expect("encode the record");
        let got: Value = serde_json::from_slice(&bytes).expect("JSON");
        let want: Value = serde_json::from_str(written).expect("JSON");
        assert_eq!(got, want);
    }

    const STORED: &str = r#"{
        "id": "0191e0a0-0000-7000-8000-000000000001", "created_at": "2026-11-21T00:00:00Z",
        "kind": {"create-guest": {"guest": "web1", "reason": "new here"}},
        "requested_by": "admin", "runner": null, "cancel": false, "deadline": {"at": 5}}"#;

    #[test]
    fn fields_of_a_newer_build_survive_a_write() {
        let written = STORED.replace("\"cancel\": false", "\"cancel\": true");
        check(STORED, |job| job.cancel = true, &written);
    }

    #[test]
    fn what_stood_inside_an_object_that_is_gone_goes_with_it() {
        let written = STORED.replace(
            r#"{"create-guest": {"guest": "web1", "reason": "new here"}}"#,
            r#"{"stop-guest": {"guest": "web1"}}"#,
        );
        let guest = "web1".parse().expect("a name");
        check(STORED, |job| job.kind = model::JobKind::StopGuest { guest }, &written);
    }

    #[test]
    fn a_record_under_the_wrong_key_is_refused() {
        let wrong = decode::<JobSpec>("/kennel/jobs/other", STORED.as_bytes());
        assert!(matches!(wrong, Err(DecodeError::Misplaced(key)) if key.starts_with(keys::JOBS)));
        assert!(matches!(decode::<JobSpec>("x", b"\xff{"), Err(DecodeError::NotJson(_))));
        assert!(matches!(decode::<JobSpec>("x", b"[1]"), Err(DecodeError::NotJson(_))));
        assert!(matches!(decode::<JobSpec>("x", b"{}"), Err(DecodeError::NotARecord(_))));
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret { name: "ca-key".to_owned(), text: "hidden".to_owned() };
        assert!(!format!("{secret:?}").contains("hidden"));
    }
}
