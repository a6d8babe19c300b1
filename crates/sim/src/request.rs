//! Requests to the store, and calls between daemons: what is sent may be lost on the way there or back, or be late.
//!
//! A request that nobody answered in time is *unknown* to its sender, and may still be carried out after that.

use std::collections::BTreeMap;

use model::{BootId, Epoch, VolumeId};
use plan::converge::PeerFile;

use crate::fencing::At;
use crate::names::host_name;
use crate::store::{Key, Lease, Outcome, Txn};
use crate::world::{Event, MS, Mono, S, Time, World, note};

/// How long a daemon waits for an answer of the store.
const REQUEST_LIMIT: Time = 2 * S;

/// For whom a request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Session,
    Leader,
    Keeper(usize),
    Reporter(usize),
    HostReport,
    Fence(At),
    Drop(VolumeId),
    Operator,
}

#[derive(Debug, Clone)]
pub enum Asked {
    Commit(Txn),
    Grant,
    KeepAlive(Lease),
    /// Does whoever wrote the leader's record at this revision lead, and does this fence stand? By a quorum.
    IsWanted {
        target: usize,
        since: i64,
        id: uuid::Uuid,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    Committed(i64),
    Conflict,
    LeaseGone,
    Granted(Lease),
    Renewed,
    Wanted(bool),
}

/// Why there is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoReply {
    /// It was not done.
    Unavailable,
    /// It may have been done, or may still be.
    Unknown,
}

pub type Replied = Result<Reply, NoReply>;

#[derive(Debug, Clone)]
pub struct Request {
    pub host: usize,
    life: u32,
    pub who: Who,
    /// Taken when it is carried out.
    asked: Option<Asked>,
    reply: Option<Reply>,
    unsent: bool,
    given_up: bool,
}

/// A question of one daemon to another host.
#[derive(Debug, Clone)]
pub struct Call {
    pub id: u64,
    pub from: usize,
    pub life: u32,
    pub guest: usize,
    pub to: usize,
    pub kind: CallKind,
    pub sent_at: Mono,
}

#[derive(Debug, Clone)]
pub enum CallKind {
    /// Does your storage daemon answer, and serve these volumes under that name?
    Serves { epoch: Epoch, boot: BootId, volumes: Vec<VolumeId> },
    /// Will you not take this guest over for a while?
    Promise { epoch: Epoch },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallAnswer {
    /// It serves them all; and the files that it serves them from.
    Serves(bool, BTreeMap<VolumeId, PeerFile>),
    Promised(bool),
}

impl Call {
    /// The storage daemon answers by itself.
    pub fn is_for_daemon(&self) -> bool {
        match self.kind {
            CallKind::Serves { .. } => false,
            CallKind::Promise { .. } => true,
        }
    }
}

impl World {
    /// Where a host's requests go: links of runs without shared storage are slow for other hosts only.
    fn way_to_store(&self, host: usize) -> usize {
        self.door(host).filter(|_| self.schedule.shared).unwrap_or(host)
    }

    /// Sends a request. The answer, or that there is none, comes to the one who asked.
    pub fn request(&mut self, host: usize, who: Who, asked: Asked) -> u64 {
        let Some(life) = self.life(host) else { return 0 };
        let id = self.number();
        let unsent = self.door(host).is_none();
        let request = Request { host, life, who, asked: Some(asked), reply: None, unsent, given_up: false };
        self.requests.insert(id, request);
        if unsent {
            let delay = self.rng.between(MS, 300 * MS);
            self.after_local(host, delay, Event::Expire { request: id });
            return id;
        }
        let stutters = self.stutters_until > self.now;
        let late = if stutters && self.rng.percent(40) { self.rng.between(300 * MS, 6 * S) } else { 0 };
        if !(stutters && self.rng.percent(25)) {
            let to = self.way_to_store(host);
            let delay = self.delay(host, to) + late;
            self.after(delay, Event::Arrive { request: id });
        }
        self.after_local(host, REQUEST_LIMIT, Event::Expire { request: id });
        id
    }

    pub fn request_arrives(&mut self, id: u64) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        let (host, asked) = (request.host, request.asked.take());
        let Some(asked) = asked else { return };
        if self.network.chief.is_none() || self.door(host).is_none() && self.rng.percent(50) {
            // Lost. Whoever sent it does not know.
            return;
        }
        let reply = self.carry_out(host, asked);
        let Some(request) = self.requests.get_mut(&id) else { return };
        request.reply = Some(reply);
        if request.given_up {
            self.requests.remove(&id);
            return;
        }
        let lost = self.stutters_until > self.now && self.rng.percent(25);
        if self.door(host).is_some() && !lost {
            let from = self.way_to_store(host);
            let delay = self.delay(from, host);
            self.after(delay, Event::Answer { request: id });
        }
    }

    fn carry_out(&mut self, host: usize, asked: Asked) -> Reply {
        let ends_at = self.now + plan::limits::SESSION_TTL.as_micros() as Time;
        match asked {
            Asked::Grant => {
                let lease = self.store.grant(ends_at);
                self.lease_alarm();
                Reply::Granted(lease)
            }
            Asked::KeepAlive(lease) => {
                if self.store.renew(lease, ends_at) {
                    Reply::Renewed
                } else {
                    Reply::LeaseGone
                }
            }
            Asked::IsWanted { target, since, id } => {
                let leads = self.store.now.revision_of(Key::Leader) == since;
                let fence = self.store.now.view.fences.get(&host_name(target));
                let wanted = leads && fence.is_some_and(|fence| fence.id == id);
                if wanted {
                    self.books.wanted.insert((host, target), self.now);
                }
                Reply::Wanted(wanted)
            }
            Asked::Commit(txn) => {
                let before = self.before(&txn);
                match self.store.commit(&txn) {
                    Outcome::Committed(revision) => {
                        self.committed(host, &txn, before);
                        self.tell_watches();
                        Reply::Committed(revision)
                    }
                    Outcome::Conflict => Reply::Conflict,
                    Outcome::LeaseGone => Reply::LeaseGone,
                }
            }
        }
    }

    pub fn request_answered(&mut self, id: u64) {
        let Some(request) = self.requests.remove(&id) else { return };
        if let Some(reply) = request.reply {
            self.reply(&request, Ok(reply));
        }
    }

    pub fn request_expires(&mut self, id: u64) {
        let Some(request) = self.requests.get_mut(&id).filter(|request| !request.given_up) else { return };
        request.given_up = true;
        let request = request.clone();
        if request.reply.is_some() || request.asked.is_none() || request.unsent {
            self.requests.remove(&id);
        }
        let why = if request.unsent { NoReply::Unavailable } else { NoReply::Unknown };
        self.books.unknown += u64::from(why == NoReply::Unknown);
        self.reply(&request, Err(why));
    }

    fn reply(&mut self, request: &Request, replied: Replied) {
        let host = request.host;
        if self.life(host) != Some(request.life) {
            return;
        }
        if replied == Err(NoReply::Unknown) {
            note!(self, "host{} does not know what became of a request of {:?}", host + 1, request.who);
        }
        match request.who {
            Who::Session => self.session_replied(host, replied),
            Who::Leader => self.leader_replied(host, replied),
            Who::Keeper(guest) => self.keeper_replied(host, guest, replied),
            Who::Reporter(guest) => self.reporter_replied(host, guest, replied),
            Who::HostReport => self.host_report_replied(host, replied),
            Who::Fence(at) => self.try_replied(host, at, replied),
            Who::Drop(volume) => {
                self.daemon(host).dropping.remove(&volume);
                self.obey_drops(host);
            }
            Who::Operator => {}
        }
    }

    pub fn call(&mut self, call: Call, limit: Time) {
        let (from, to) = (call.from, call.to);
        if self.reaches(from, to) {
            let delay = self.delay(from, to);
            self.after(delay, Event::Called(call.clone()));
        }
        self.after_local(from, limit, Event::CallExpires(call));
    }

    pub fn called(&mut self, call: Call) {
        let (from, to) = (call.from, call.to);
        if !self.reaches(from, to) {
            return;
        }
        let answer = match &call.kind {
            CallKind::Serves { epoch, boot, volumes } => {
                let site = &self.sites[to];
                let serves = |volume: &VolumeId| site.served.get(volume) == Some(&(*epoch, *boot));
                let file = |volume: &VolumeId| {
                    let file = site.files.get(volume).filter(|_| serves(volume))?;
                    Some((*volume, PeerFile { file: file.id.to_string(), is_blank: !file.written }))
                };
                CallAnswer::Serves(volumes.iter().all(serves), volumes.iter().filter_map(file).collect())
            }
            CallKind::Promise { epoch } => {
                if self.sites[to].daemon.is_none() {
                    return;
                }
                CallAnswer::Promised(self.promise(to, from, call.guest, *epoch))
            }
        };
        if self.reaches(to, from) {
            let delay = self.delay(to, from);
            self.after(delay, Event::CallAnswered(call, answer));
        }
    }

    pub fn call_answered(&mut self, call: &Call, answer: Option<CallAnswer>) {
        if self.life(call.from) == Some(call.life) {
            self.keeper_answered(call, answer);
        }
    }
}
