//! Who runs the cluster-wide loops: whoever created the leader record.
//!
//! The record hangs on the lease of its host's session, so a leader whose session ends leads no more, and
//! the next may campaign. Being leader is a belief until a transaction proves it: whatever a leader writes
//! compares the revision that [`campaign`] returned, with [`TxnBuilder::at`](crate::TxnBuilder::at), so that
//! one who was replaced without knowing writes nothing.

use model::HostName;

use crate::{
    Compare, Leader, LeaseId, Outcome, Record, Store, StoreError, Txn, UnknownFields, Write, codec, keys,
};

/// Tries once to become leader. `Some`: this host leads on this lease, and the leader record was written at
/// that revision. `None`: another leads (or this host's former session still does). Safe to repeat,
/// also after [`StoreError::Unknown`]: a record that is there already is recognised by its lease.
pub async fn campaign(store: &dyn Store, host: &HostName, lease: LeaseId) -> Result<Option<i64>, StoreError> {
    let leader = Leader::new(host.clone(), lease);
    let value = codec::encode(&leader, &UnknownFields::default())
        .map_err(|error| StoreError::Refused(error.to_string()))?;
    let key = leader.key();
    let txn = Txn {
        compares: vec![Compare::Revision { key: key.clone(), mod_revision: 0 }],
        writes: vec![Write::Put { key, value, lease: Some(lease) }],
    };
    match store.commit(txn).await {
        Ok(Outcome::Committed { revision }) => Ok(Some(revision)),
        Ok(Outcome::Conflict) | Err(StoreError::Unknown(_)) => led_since(store, &leader).await,
        Err(error @ (StoreError::Unavailable(_) | StoreError::LeaseGone | StoreError::Refused(_))) => {
            Err(error)
        }
    }
}

/// The revision at which this very leader's record was written, if it stands.
async fn led_since(store: &dyn Store, leader: &Leader) -> Result<Option<i64>, StoreError> {
    let listing = store.list(keys::LEADER).await?;
    let entry = listing.entries.into_iter().find(|entry| entry.key == keys::LEADER);
    Ok(entry.and_then(|entry| {
        // A leader record that cannot be read is not ours.
        let (found, _) = codec::decode::<Leader>(&entry.key, &entry.value).ok()?;
        (found == *leader).then_some(entry.mod_revision)
    }))
}

/// Leads no more, if this host still does: the leader record was written at `since`.
pub async fn resign(store: &dyn Store, since: i64) -> Result<(), StoreError> {
    let key = keys::LEADER.to_owned();
    let txn = Txn {
        compares: vec![Compare::Revision { key: key.clone(), mod_revision: since }],
        writes: vec![Write::Delete { key }],
    };
    match store.commit(txn).await? {
        Outcome::Committed { .. } | Outcome::Conflict => Ok(()),
    }
}
