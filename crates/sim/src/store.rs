//! The state store: records by key with the revision at which each was written, transactions that compare
//! revisions, leases. It keeps `store`'s contract; records stay as they are instead of becoming JSON, which is what
//! makes a million faults a matter of minutes.
//!
//! [`Cache`] and [`Draft`] are to this what `store::Cache` and `store::TxnBuilder` are to etcd: a write compares the
//! revision that its writer has read.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use model::{
    Assignment, ClusterView, ConfirmedDead, Fence, GuestReport, GuestSpec, Host, HostName, HostReport,
    InSync, JobId, JobReport, JobSpec, Losses, ReplicaDrop, Session, VolumeId,
};

use crate::names::{guest_ix, host_ix};
use crate::world::Time;

/// A lease, by number.
pub type Lease = u64;

/// Where a record stands. Hosts and guests by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Leader,
    Host(usize),
    HostReport(usize),
    Session(usize),
    Guest(usize),
    Assignment(usize),
    GuestReport(usize),
    InSync(VolumeId),
    Drop(usize, VolumeId),
    Job(JobId),
    JobReport(JobId),
    Losses,
    Fence(usize),
    ConfirmedDead(usize),
}

#[derive(Debug, Clone)]
pub enum Record {
    Leader(HostName, Lease),
    Host(Host),
    HostReport(HostReport),
    Session(Session),
    Guest(GuestSpec),
    Assignment(Assignment),
    GuestReport(GuestReport),
    InSync(InSync),
    Drop(ReplicaDrop),
    Job(JobSpec),
    JobReport(JobReport),
    Losses(Losses),
    Fence(Fence),
    ConfirmedDead(ConfirmedDead),
}

impl Record {
    pub fn key(&self) -> Key {
        match self {
            Record::Leader(..) => Key::Leader,
            Record::Host(r) => Key::Host(host_ix(&r.name)),
            Record::HostReport(r) => Key::HostReport(host_ix(&r.host)),
            Record::Session(r) => Key::Session(host_ix(&r.host)),
            Record::Guest(r) => Key::Guest(guest_ix(&r.name)),
            Record::Assignment(r) => Key::Assignment(guest_ix(&r.guest)),
            Record::GuestReport(r) => Key::GuestReport(guest_ix(&r.guest)),
            Record::InSync(r) => Key::InSync(r.volume),
            Record::Drop(r) => Key::Drop(host_ix(&r.host), r.volume),
            Record::Job(r) => Key::Job(r.id),
            Record::JobReport(r) => Key::JobReport(r.id),
            Record::Losses(_) => Key::Losses,
            Record::Fence(r) => Key::Fence(host_ix(&r.host)),
            Record::ConfirmedDead(r) => Key::ConfirmedDead(host_ix(&r.host)),
        }
    }
}

#[derive(Debug, Clone)]
pub enum Write {
    Put(Rc<Record>, Option<Lease>),
    Delete(Key),
}

impl Write {
    pub fn key(&self) -> Key {
        match self {
            Write::Put(record, _) => record.key(),
            Write::Delete(key) => *key,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    /// Last written at this revision; 0: not there.
    At(i64),
    Exists,
}

/// All of it happens, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Txn {
    compares: Vec<(Key, Compare)>,
    pub writes: Vec<Write>,
}

/// What a transaction came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Committed(i64),
    Conflict,
    LeaseGone,
}

/// One write as a watch tells it.
#[derive(Debug, Clone)]
pub struct Change {
    pub revision: i64,
    pub write: Write,
}

/// What is known of the store at one revision.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    pub view: ClusterView,
    revisions: BTreeMap<Key, i64>,
    pub leader_lease: Option<Lease>,
    pub revision: i64,
}

impl Cache {
    pub fn revision_of(&self, key: Key) -> i64 {
        self.revisions.get(&key).copied().unwrap_or_default()
    }

    pub fn apply(&mut self, change: &Change) {
        self.revision = change.revision;
        match &change.write {
            Write::Put(record, _) => {
                self.revisions.insert(record.key(), change.revision);
                self.put(record);
            }
            Write::Delete(key) => {
                self.revisions.remove(key);
                self.remove(*key);
            }
        }
    }

    fn put(&mut self, record: &Record) {
        let view = &mut self.view;
        match record.clone() {
            Record::Leader(host, lease) => {
                view.leader = Some(host);
                self.leader_lease = Some(lease);
            }
            Record::Host(r) => drop(view.hosts.insert(r.name.clone(), r)),
            Record::HostReport(r) => drop(view.host_reports.insert(r.host.clone(), r)),
            Record::Session(r) => drop(view.sessions.insert(r.host.clone(), r)),
            Record::Guest(r) => drop(view.guests.insert(r.name.clone(), r)),
            Record::Assignment(r) => drop(view.assignments.insert(r.guest.clone(), r)),
            Record::GuestReport(r) => drop(view.guest_reports.insert(r.guest.clone(), r)),
            Record::InSync(r) => drop(view.in_sync.insert(r.volume, r)),
            Record::Drop(r) => drop(view.drops.insert((r.host.clone(), r.volume), r)),
            Record::Job(r) => drop(view.jobs.insert(r.id, r)),
            Record::JobReport(r) => drop(view.job_reports.insert(r.id, r)),
            Record::Losses(r) => view.losses = Some(r),
            Record::Fence(r) => drop(view.fences.insert(r.host.clone(), r)),
            Record::ConfirmedDead(r) => drop(view.confirmed_dead.insert(r.host.clone(), r)),
        }
    }

    fn remove(&mut self, key: Key) {
        use crate::names::{guest_name, host_name};
        let view = &mut self.view;
        match key {
            Key::Leader => (view.leader, self.leader_lease) = (None, None),
            Key::Host(h) => drop(view.hosts.remove(&host_name(h))),
            Key::HostReport(h) => drop(view.host_reports.remove(&host_name(h))),
            Key::Session(h) => drop(view.sessions.remove(&host_name(h))),
            Key::Guest(g) => drop(view.guests.remove(&guest_name(g))),
            Key::Assignment(g) => drop(view.assignments.remove(&guest_name(g))),
            Key::GuestReport(g) => drop(view.guest_reports.remove(&guest_name(g))),
            Key::InSync(v) => drop(view.in_sync.remove(&v)),
            Key::Drop(h, v) => drop(view.drops.remove(&(host_name(h), v))),
            Key::Job(id) => drop(view.jobs.remove(&id)),
            Key::JobReport(id) => drop(view.job_reports.remove(&id)),
            Key::Losses => view.losses = None,
            Key::Fence(h) => drop(view.fences.remove(&host_name(h))),
            Key::ConfirmedDead(h) => drop(view.confirmed_dead.remove(&host_name(h))),
        }
    }

    pub fn draft(&self) -> Draft<'_> {
        Draft { cache: self, txn: Txn::default() }
    }
}

/// Builds a transaction; every write compares what the cache knows of its key.
#[derive(Debug)]
pub struct Draft<'a> {
    cache: &'a Cache,
    txn: Txn,
}

impl Draft<'_> {
    pub fn put(&mut self, record: Record) -> &mut Self {
        self.put_with(record, None)
    }

    pub fn put_leased(&mut self, record: Record, lease: Lease) -> &mut Self {
        self.put_with(record, Some(lease))
    }

    fn put_with(&mut self, record: Record, lease: Option<Lease>) -> &mut Self {
        self.unchanged(record.key());
        self.txn.writes.push(Write::Put(Rc::new(record), lease));
        self
    }

    pub fn create(&mut self, record: Record, lease: Option<Lease>) -> &mut Self {
        self.at(record.key(), 0);
        self.txn.writes.push(Write::Put(Rc::new(record), lease));
        self
    }

    pub fn delete(&mut self, key: Key) -> &mut Self {
        self.unchanged(key);
        self.txn.writes.push(Write::Delete(key));
        self
    }

    pub fn unchanged(&mut self, key: Key) -> &mut Self {
        self.at(key, self.cache.revision_of(key))
    }

    pub fn at(&mut self, key: Key, revision: i64) -> &mut Self {
        self.txn.compares.push((key, Compare::At(revision)));
        self
    }

    pub fn exists(&mut self, key: Key) -> &mut Self {
        self.txn.compares.push((key, Compare::Exists));
        self
    }

    pub fn absent(&mut self, key: Key) -> &mut Self {
        self.at(key, 0)
    }

    pub fn build(&mut self) -> Txn {
        std::mem::take(&mut self.txn)
    }
}

#[derive(Debug, Clone)]
struct Grant {
    ends_at: Time,
    keys: BTreeSet<Key>,
}

/// What the members of the store agree on.
#[derive(Debug, Default)]
pub struct Store {
    /// The truth.
    pub now: Cache,
    /// Everything that was ever written, for the watches.
    pub log: Vec<Change>,
    leases: BTreeMap<Lease, Grant>,
    last_lease: Lease,
}

impl Store {
    pub fn commit(&mut self, txn: &Txn) -> Outcome {
        let holds = |(key, compare): &(Key, Compare)| match compare {
            Compare::At(revision) => self.now.revision_of(*key) == *revision,
            Compare::Exists => self.now.revision_of(*key) != 0,
        };
        if !txn.compares.iter().all(holds) {
            return Outcome::Conflict;
        }
        let dead = |write: &Write| match write {
            Write::Put(_, Some(lease)) => !self.leases.contains_key(lease),
            Write::Put(_, None) | Write::Delete(_) => false,
        };
        if txn.writes.iter().any(dead) {
            return Outcome::LeaseGone;
        }
        self.write(&txn.writes);
        Outcome::Committed(self.now.revision)
    }

    fn write(&mut self, writes: &[Write]) {
        let revision = self.now.revision + 1;
        for write in writes {
            let key = write.key();
            for grant in self.leases.values_mut() {
                grant.keys.remove(&key);
            }
            if let Write::Put(_, Some(lease)) = write
                && let Some(grant) = self.leases.get_mut(lease)
            {
                grant.keys.insert(key);
            }
            let change = Change { revision, write: write.clone() };
            self.now.apply(&change);
            self.log.push(change);
        }
        self.now.revision = revision;
    }

    pub fn grant(&mut self, ends_at: Time) -> Lease {
        self.last_lease += 1;
        self.leases.insert(self.last_lease, Grant { ends_at, keys: BTreeSet::new() });
        self.last_lease
    }

    /// Whether the lease was there to be renewed.
    pub fn renew(&mut self, lease: Lease, ends_at: Time) -> bool {
        match self.leases.get_mut(&lease) {
            Some(grant) => {
                grant.ends_at = ends_at;
                true
            }
            None => false,
        }
    }

    /// After an election of the store every lease counts from the beginning.
    pub fn renew_all(&mut self, ends_at: Time) {
        self.leases.values_mut().for_each(|grant| grant.ends_at = ends_at);
    }

    pub fn first_lease_end(&self) -> Option<Time> {
        self.leases.values().map(|grant| grant.ends_at).min()
    }

    /// Ends what is due; what hung on it goes. Whether anything did.
    pub fn end_leases(&mut self, now: Time) -> bool {
        let due: Vec<Lease> =
            self.leases.iter().filter(|(_, g)| g.ends_at <= now).map(|(id, _)| *id).collect();
        let mut any = false;
        for lease in due {
            let Some(grant) = self.leases.remove(&lease) else { continue };
            let writes: Vec<Write> = grant.keys.into_iter().map(Write::Delete).collect();
            any |= !writes.is_empty();
            if !writes.is_empty() {
                self.write(&writes);
            }
        }
        any
    }
}
