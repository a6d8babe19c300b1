//! Proof that a host runs a guest no more.
//!
//! The disks of a guest in storage that hosts share have no second replica that could say no. So such a guest goes
//! from a host that is not heard of to another one only with a [`FenceProof`], and the transaction that makes the
//! other host the owner compares the very records that the proof rests on, and that the old owner has no session.
//!
//! | proof | why it proves |
//! | --- | --- |
//! | [`FenceProof::Confirmed`] | somebody saw that the host is off, and it has not been heard since: its next session removes the record |
//! | [`FenceProof::SaidStopped`] | its owner said at this epoch that the guest does not run, and an owner writes that it starts a guest before it does |
//!
//! A session that ended is no proof: a host that is cut off may take until its hard deadline to end the guest, and one
//! that is frozen goes on where it was when it thaws.

use jiff::Timestamp;
use model::{Assignment, ClusterView, GuestState};

/// Why a guest of a lost host may be started elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FenceProof {
    /// An operator's word that the host runs nothing any more.
    Confirmed { by: String, at: Timestamp },
    /// The host's own word, before it was lost, that the guest does not run there.
    SaidStopped,
}

impl FenceProof {
    /// What proves that the owner of a guest runs it no more, if it is lost and anything does.
    pub fn find(view: &ClusterView, assignment: &Assignment) -> Option<FenceProof> {
        if view.is_live(&assignment.host) {
            return None;
        }
        if let Some(word) = view.confirmed_dead.get(&assignment.host) {
            return Some(FenceProof::Confirmed { by: word.by.clone(), at: word.at });
        }
        let report = view.guest_reports.get(&assignment.guest)?;
        let stopped = report.guest_id == assignment.guest_id
            && report.host == assignment.host
            && report.epoch == assignment.epoch
            && report.state == GuestState::Stopped;
        stopped.then_some(FenceProof::SaidStopped)
    }
}

impl std::fmt::Display for FenceProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FenceProof::Confirmed { by, .. } => write!(f, "{by} confirmed that it is dead"),
            FenceProof::SaidStopped => f.write_str("it had said that the guest does not run there"),
        }
    }
}
