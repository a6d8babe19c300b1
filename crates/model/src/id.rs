//! Identities. A name is what people type; an id is drawn once and never used again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// A name that breaks the rule for names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{name}' is not a valid {what} name: use 1 to {max} characters, lower-case letters, digits and hyphens, \
     starting and ending with a letter or a digit",
    max = NAME_LENGTH_MAX
)]
pub struct InvalidName {
    what: &'static str,
    name: String,
}

/// A DNS label: names become host names inside guests.
const NAME_LENGTH_MAX: usize = 63;

fn is_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty()
        && name.len() <= NAME_LENGTH_MAX
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String)]
        pub struct $type(String);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(name: &str) -> Result<Self, InvalidName> {
                if is_label(name) {
                    Ok(Self(name.to_owned()))
                } else {
                    Err(InvalidName { what: $what, name: name.to_owned() })
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(name: String) -> Result<Self, InvalidName> {
                name.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name_type!(
    /// The name of a host, unique in its cluster.
    HostName,
    "host"
);
name_type!(
    /// The name of a guest, unique in its cluster; its host name inside, unless user-data says otherwise.
    GuestName,
    "guest"
);
name_type!(
    /// The name of an image in the cluster's catalogue.
    ImageName,
    "image"
);
name_type!(
    /// The name of a network.
    NetworkName,
    "network"
);
name_type!(
    /// The name of a pool.
    PoolName,
    "pool"
);
name_type!(
    /// The name of a placement rule.
    RuleName,
    "rule"
);
name_type!(
    /// The name of a fence device, unique among those of its host.
    DeviceName,
    "fence device"
);
name_type!(
    /// The name that somebody signs in with.
    UserName,
    "user"
);

name_type!(
    /// The name of somebody, or something, that is told of incidents.
    AlertName,
    "alert"
);

/// The names of the kinds are names; a test says so.
impl From<crate::Pool> for PoolName {
    fn from(pool: crate::Pool) -> PoolName {
        PoolName(pool.to_string())
    }
}

/// A text that is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an id: the lists show ids, which look like 01a1fd31-1caa-7733-906f-d4a3ab79354a")]
pub struct InvalidId(String);

macro_rules! id_type {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[schema(value_type = String, format = Uuid)]
        pub struct $type(pub Uuid);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $type {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.parse().map(Self).map_err(|_| InvalidId(text.to_owned()))
            }
        }
    };
}

id_type!(
    /// One guest for its whole life: a guest created anew under an old name has another id.
    GuestId
);
id_type!(
    /// One volume for its whole life; names its files on every host.
    VolumeId
);
id_type!(
    /// A job. Version 7, so that ids sort by creation.
    JobId
);
id_type!(
    /// An event. Version 7, so that ids sort by time.
    EventId
);
id_type!(
    /// One boot of a host: what a replica acknowledged in one boot may be gone in the next.
    BootId
);

impl JobId {
    /// The id of a job that this one starts: the same each time, so that a leader that goes on where another died
    /// finds what that one had started. It sorts right behind this one's.
    #[must_use]
    pub fn child(self, index: u32) -> JobId {
        // The last 62 bits of a version 7 are random; what is before them stays.
        const RANDOM: u128 = (1 << 62) - 1;
        let own = self.0.as_u128();
        let random = (own & RANDOM).wrapping_add(1 + u128::from(index)) & RANDOM;
        JobId(Uuid::from_u128((own & !RANDOM) | random))
    }
}

/// Grows by one at each change of a guest's owner; whoever acts at an older one is refused.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, ToSchema,
)]
#[schema(value_type = u64)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of a guest's first owner.
    pub const FIRST: Epoch = Epoch(1);

    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of an incident: they are counted, so that people can say them.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, ToSchema,
)]
#[schema(value_type = u64)]
pub struct IncidentId(pub u64);

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for IncidentId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| format!("'{text}' is not an incident's number: `kennel incident list` shows them");
        text.parse().map(Self).map_err(wrong)
    }
}

/// A network card's hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// A locally administered unicast address under QEMU's own prefix, from three random bytes.
    pub fn from_random(random: [u8; 3]) -> Self {
        Self([0x52, 0x54, 0x00, random[0], random[1], random[2]])
    }

    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> String {
        mac.to_string()
    }
}

impl TryFrom<String> for MacAddress {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || {
            format!("'{text}' is not a hardware address: use six hexadecimal bytes, as in 52:54:00:12:34:56")
        };
        let bytes: Vec<u8> = text
            .split(':')
            .map(|part| u8::from_str_radix(part, 16).map_err(|_| wrong()))
            .collect::<Result<_, _>>()?;
        <[u8; 6]>::try_from(bytes).map(Self).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["web1", "a", "db-2", "0", &"x".repeat(63)] {
            assert!(good.parse::<GuestName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "Web", "a_b", "a.b", "a/b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<GuestName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_damaged_name_does_not_decode() {
        assert!(serde_json::from_str::<HostName>("\"../etc\"").is_err());
    }

    #[test]
    fn the_jobs_of_a_job_have_ids_of_their_own_behind_it() {
        let parent: JobId = "01a1fd31-1caa-7733-bfff-fffffffffffe".parse().unwrap();
        let ids: Vec<JobId> = (0..3).map(|index| parent.child(index)).collect();
        assert_eq!(ids, (0..3).map(|index| parent.child(index)).collect::<Vec<_>>());
        assert_eq!(ids[0].to_string(), "01a1fd31-1caa-7733-bfff-ffffffffffff");
        assert_eq!(ids[1].to_string(), "01a1fd31-1caa-7733-8000-000000000000", "the time is kept");
        assert!(parent < ids[0]);
        assert!(!ids.contains(&parent) && ids[1] != ids[2]);
    }

    #[test]
    fn hardware_addresses_round_trip() {
        let mac = MacAddress::from_random([1, 2, 255]);
        assert_eq!(mac.to_string(), "52:54:00:01:02:ff");
        assert_eq!(MacAddress::try_from(mac.to_string()), Ok(mac));
        assert!(MacAddress::try_from("52:54".to_owned()).is_err());
    }
}
