//! By what a secondary's replica is filled: what changed, what differs, or all of it.
//!
//! *What changed* is known from the record that the owner's QEMU keeps, and only believed of the very replica that the
//! record is about: the same file on the same host, in the same boot of it. The same file, because one that was made
//! anew under the same name is empty. The same boot, because what a replica acknowledged may have been in memory only
//! (rule 6 of the design); the record's beginnings are flushed, so that this is caution towards disks that lie.
//!
//! *What differs* can always be found where there is a file of the right size, whatever it holds: everything that
//! differs is copied. It costs reading both replicas, and no network. A file to which nothing was ever written is not
//! worth the look. A resync that somebody asked for is this one: who asks doubts the replica, and a record of what the
//! guest wrote knows nothing of damage.
//!
//! *All of it* is the last resort: for a blank file, when the other ways have failed several times, and when somebody
//! asked for it.

use model::{FillHow, Replica, VolumeId};

use super::{MachineFacts, Peer, Situation, Step};

/// The volumes that are filled first: those among them that are filled in the same way as the first one.
pub(super) fn step(
    s: &Situation,
    machine: &MachineFacts,
    peer: &Peer,
    target: Replica,
    absent: &[VolumeId],
) -> Option<Step> {
    let choose = |volume: VolumeId| choose(s, machine, peer, &target, volume);
    let (how, why) = choose(*absent.first()?);
    let volumes = absent.iter().copied().filter(|volume| choose(*volume).0 == how).collect();
    Some(Step::Attach { volumes, target, how, why })
}

fn choose(
    s: &Situation,
    machine: &MachineFacts,
    peer: &Peer,
    target: &Replica,
    volume: VolumeId,
) -> (FillHow, String) {
    let host = &target.host;
    if s.in_sync.get(&volume).is_some_and(|set| set.refill) {
        return (FillHow::Whole, "somebody asked for all of it".to_owned());
    }
    let theirs = peer.files.get(&volume);
    let doubted = s.in_sync.get(&volume).is_some_and(|set| set.doubted);
    let untrusted = match (machine.records.get(&volume), theirs) {
        _ if doubted => "somebody asked for it".to_owned(),
        (None, _) => "nothing was recorded since it was last in sync".to_owned(),
        (Some(record), _) if record.host != *host => {
            format!("what was recorded is about the replica on {}", record.host)
        }
        (Some(record), _) if record.boot_id != target.boot_id => {
            format!("{host} started anew since it was last in sync")
        }
        (Some(_), None) => format!("{host} does not say which file it serves"),
        (Some(record), Some(theirs)) if record.file != theirs.file => {
            format!("{host} has another file than the one that was in sync")
        }
        (Some(_), Some(_)) if s.filled_in_vain.contains(&FillHow::Changed) => {
            "to send only what changed failed several times".to_owned()
        }
        (Some(_), Some(_)) => {
            return (FillHow::Changed, format!("all writes since {host} was in sync are recorded"));
        }
    };
    if theirs.is_some_and(|theirs| theirs.is_blank) {
        (FillHow::Whole, format!("the file on {host} is new"))
    } else if s.filled_in_vain.contains(&FillHow::Compared) {
        (FillHow::Whole, "comparing the replicas failed several times".to_owned())
    } else {
        (FillHow::Compared, untrusted)
    }
}

#[cfg(test)]
mod tests;
