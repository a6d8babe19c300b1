//! The records of a made-up cluster: hosts in zones, guests with a mirrored disk each, networks, an image, rules.
//!
//! They are put together as JSON, because the daemon's own reading of it fills what later builds add.

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use model::{
    AddressClaim, Assignment, BootId, Bytes, Cluster, GuestId, GuestName, GuestReport, GuestSpec, Host,
    HostName, HostReport, Image, InSync, Network, Replica, Rule, Schema, Session, Settings, VolumeId,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sim::rng::Rng;
use store::{Cache, Leader, LeaseId, MemoryStore, Outcome, Record, Store, StoredToken, Txn};
use uuid::Uuid;

/// A rack's worth.
const HOSTS_PER_ZONE: usize = 40;

/// Of which so many are filled at a time: a transaction takes no more than 128 writes.
const WRITES_PER_TXN: usize = 100;

/// What guests are there for; it is the first half of their names, and a tag.
const ROLES: [&str; 8] = ["web", "db", "mail", "build", "cache", "files", "shop", "dns"];

/// One guest in so many is on a local disk.
const LOCAL_ONE_IN: u64 = 10;

/// What a record of ours says; only a mistake in this file makes it no record.
fn record<T: DeserializeOwned>(value: Value) -> anyhow::Result<T> {
    serde_json::from_value(value).context("make up a record")
}

/// Who is where at first.
#[derive(Debug, Clone)]
pub struct Guest {
    pub name: GuestName,
    pub id: GuestId,
    pub volume: VolumeId,
    role: &'static str,
    number: usize,
    host: usize,
    /// None: its disk is local.
    secondary: Option<usize>,
    memory: Bytes,
    vcpus: u64,
}

/// A made-up cluster.
#[derive(Debug, Clone)]
pub struct Plan {
    pub hosts: Vec<(HostName, BootId)>,
    pub guests: Vec<Guest>,
    born: Timestamp,
}

fn id(rng: &mut Rng) -> Uuid {
    Uuid::from_u128(u128::from(rng.draw()) << 64 | u128::from(rng.draw()))
}

/// Names that the planner's rules for names allow.
fn name<T: std::str::FromStr>(text: &str) -> T {
    match text.parse() {
        Ok(name) => name,
        Err(_) => unreachable!("'{text}' is a name"),
    }
}

impl Plan {
    /// `here`: so many of the guests are on the first host.
    pub fn new(hosts: usize, guests: usize, here: usize, seed: u64) -> Plan {
        let mut rng = Rng::new(seed);
        let hosts: Vec<_> =
            (1..=hosts).map(|number| (name(&format!("host{number}")), BootId(id(&mut rng)))).collect();
        let count = hosts.len();
        let away = if count > HOSTS_PER_ZONE { HOSTS_PER_ZONE } else { 1 };
        let guest = |number: usize| {
            let role = ROLES[number % ROLES.len()];
            // Neighbours by name are on different hosts.
            let host = if number < here { 0 } else { number % count };
            let mirrored = count > 1 && rng.below(LOCAL_ONE_IN) > 0;
            let hops = 1 + rng.index(count / HOSTS_PER_ZONE);
            Guest {
                name: name(&format!("{role}-{}", number / ROLES.len() + 1)),
                id: GuestId(id(&mut rng)),
                volume: VolumeId(id(&mut rng)),
                role,
                number,
                host,
                secondary: mirrored
                    .then(|| (host + away * hops) % count)
                    .map(|other| if other == host { (host + 1) % count } else { other }),
                memory: Bytes::gib(1 + rng.below(4)),
                vcpus: 1 + rng.below(4),
            }
        };
        let guests = (0..guests).map(guest).collect();
        Plan { hosts, guests, born: Timestamp::now() - SignedDuration::from_hours(24) }
    }

    /// The host that answers; it also leads.
    pub fn me(&self) -> &HostName {
        &self.hosts[0].0
    }

    /// Writes all of it.
    pub async fn fill(
        &self,
        to: &mut Filler<'_>,
        cluster: &str,
        ca: &str,
        token: &StoredToken,
    ) -> anyhow::Result<()> {
        to.add(&Schema::CURRENT).await?;
        let record = Cluster {
            name: cluster.to_owned(),
            id: id(&mut Rng::new(self.guests.len() as u64)),
            created_at: self.born,
            ca_certificate: ca.to_owned(),
            settings: Settings::default(),
        };
        to.add(&record).await?;
        to.add(token).await?;
        to.add(&Leader::new(self.me().clone(), LeaseId(0))).await?;
        to.add(&self.image()?).await?;
        for role in ROLES {
            to.add(&self.rule(role)?).await?;
        }
        for index in 0..self.hosts.len() {
            let (host, session, report) = self.host(index)?;
            to.add(&host).await?;
            to.add(&session).await?;
            to.add(&report).await?;
        }
        for zone in 0..self.hosts.len().div_ceil(HOSTS_PER_ZONE) {
            to.add(&self.network(zone)?).await?;
        }
        for guest in &self.guests {
            to.add(&self.spec(guest)?).await?;
            to.add(&self.claim(guest)?).await?;
            to.add(&self.assignment(guest)?).await?;
            to.add(&self.report(guest)?).await?;
            to.add(&self.in_sync(guest)).await?;
        }
        to.end().await
    }

    fn image(&self) -> anyhow::Result<Image> {
        record(json!({ "name": "debian-13", "description": "Debian 13", "format": "qcow2",
            "disk": { "sha256": "ab".repeat(32), "size": 400 << 20 }, "virtual_size": Bytes::gib(2), "kernel": null,
            "initrd": null, "kernel_command_line": null, "imported_at": self.born, "imported_on": self.me() }))
    }

    /// The first five of each role are on different hosts.
    fn rule(&self, role: &str) -> anyhow::Result<Rule> {
        let names: Vec<_> = self.guests.iter().filter(|guest| guest.role == role).take(5).collect();
        let names: Vec<_> = names.iter().map(|guest| &guest.name).collect();
        record(json!({ "name": format!("{role}-apart"), "kind": "apart", "strength": "must", "priority": 0,
            "guests": { "names": names, "tags": [] }, "created_at": self.born }))
    }

    fn host(&self, index: usize) -> anyhow::Result<(Host, Session, HostReport)> {
        let (host, boot_id) = &self.hosts[index];
        let address = format!("10.255.{}.{}", index / 250, index % 250 + 1);
        let zone = format!("rack{}", index / HOSTS_PER_ZONE + 1);
        let record_of_it = record(json!({ "name": host, "address": address, "zone": zone, "tags": ["ssd"],
            "joined_at": self.born, "store_member": index < 3 }))?;
        let session = Session { host: host.clone(), boot_id: *boot_id, started_at: self.born };
        let report = record(json!({ "host": host, "boot_id": boot_id, "kennel_version": "0.1.0",
            "qemu_version": "10.0.2", "kernel_version": "6.12.48+deb13-amd64", "cpus": 32, "memory": Bytes::gib(128),
            "disk": Bytes::gib(4000), "accelerator": { "kind": "kvm", "why": "the self-test's guest booted" },
            "images": ["debian-13"], "problems": [], "uplinks": { "rack1": "eno1" },
            "compatibility": { "machine_types": ["pc-q35-10.0", "pc-q35-9.2", "pc-q35-7.2"],
                "cpu_level": "x86-64-v3", "cpu_vendor": "GenuineIntel" } }))?;
        Ok((record_of_it, session, report))
    }

    fn network(&self, zone: usize) -> anyhow::Result<Network> {
        record(json!({ "name": format!("rack{}", zone + 1), "subnet": format!("10.{zone}.0.0/16"),
            "gateway": format!("10.{zone}.255.254"), "mtu": 1500 }))
    }

    /// Network and address.
    fn address(&self, guest: &Guest) -> (String, String) {
        let zone = guest.host / HOSTS_PER_ZONE;
        let (high, low) = (guest.number / 250, guest.number % 250 + 1);
        (format!("rack{}", zone + 1), format!("10.{zone}.{high}.{low}"))
    }

    fn claim(&self, guest: &Guest) -> anyhow::Result<AddressClaim> {
        let (network, address) = self.address(guest);
        record(json!({ "network": network, "address": address, "guest": guest.name }))
    }

    fn spec(&self, guest: &Guest) -> anyhow::Result<GuestSpec> {
        let (network, address) = self.address(guest);
        let pool = if guest.secondary.is_some() { "mirror" } else { "local" };
        let disk =
            json!({ "volume": guest.volume, "pool": pool, "size": Bytes::gib(20), "image": "debian-13" });
        let [_, _, _, high, middle, low] = (guest.number as u64 % (1 << 24)).to_be_bytes()[2..] else {
            unreachable!("six of eight bytes are left");
        };
        let mac = format!("52:54:00:{high:02x}:{middle:02x}:{low:02x}");
        let nic = json!({ "network": network, "mac": mac, "address": format!("{address}/16") });
        record(json!({ "name": guest.name, "id": guest.id, "created_at": self.born, "vcpus": guest.vcpus,
            "memory": guest.memory, "boot": "disk", "disks": [disk], "nics": [nic],
            "seed": { "user_data": null, "ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA ada@example"] },
            "power": "running", "boot_generation": 1, "priority": 0, "stop_timeout_s": 60, "preferred_host": null,
            "deleting": false, "tags": [guest.role] }))
    }

    fn assignment(&self, guest: &Guest) -> anyhow::Result<Assignment> {
        let secondary = guest.secondary.map(|index| &self.hosts[index].0);
        record(
            json!({ "guest": guest.name, "guest_id": guest.id, "host": self.hosts[guest.host].0, "epoch": 1,
            "secondary": secondary, "why": "it had the most room when the guest was made" }),
        )
    }

    fn report(&self, guest: &Guest) -> anyhow::Result<GuestReport> {
        let (host, boot_id) = &self.hosts[guest.host];
        let state = if guest.secondary.is_some() { "mirroring" } else { "alone" };
        record(
            json!({ "guest": guest.name, "guest_id": guest.id, "host": host, "boot_id": boot_id, "epoch": 1,
            "state": "running", "boot_generation": 1, "since": self.born, "accelerator": "kvm", "exit": null,
            "volumes": [{ "volume": guest.volume, "state": state }], "message": null,
            "machine_type": "pc-q35-10.0", "cpu": "host" }),
        )
    }

    fn in_sync(&self, guest: &Guest) -> InSync {
        let replica = |index: usize| {
            let (host, boot_id) = self.hosts[index].clone();
            Replica { host, boot_id }
        };
        let members = [guest.host].into_iter().chain(guest.secondary).map(replica).collect();
        InSync { alone_since: None, ..InSync::first(guest.volume, model::Epoch::FIRST, members, self.born) }
    }
}

/// Writes many new records, so many to a transaction.
#[derive(Debug)]
pub struct Filler<'a> {
    store: &'a MemoryStore,
    nothing: Cache,
    txn: Txn,
}

impl<'a> Filler<'a> {
    pub fn new(store: &'a MemoryStore) -> Filler<'a> {
        Filler { store, nothing: Cache::new(), txn: Txn::default() }
    }

    pub async fn add<T: Record>(&mut self, record: &T) -> anyhow::Result<()> {
        let one = self.nothing.txn().create(record).build()?;
        self.txn.compares.extend(one.compares);
        self.txn.writes.extend(one.writes);
        if self.txn.writes.len() >= WRITES_PER_TXN { self.end().await } else { Ok(()) }
    }

    /// Writes what is left.
    pub async fn end(&mut self) -> anyhow::Result<()> {
        match self.store.commit(std::mem::take(&mut self.txn)).await? {
            Outcome::Committed { .. } => Ok(()),
            Outcome::Conflict => anyhow::bail!("two records of the made-up cluster have one key"),
        }
    }
}
