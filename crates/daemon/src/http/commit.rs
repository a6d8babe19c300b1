//! Changes: one transaction each, drafted from what the cache knows.

use std::time::Duration;

use model::{ClusterView, JobId, JobKind, JobSpec};
use store::{Cache, Outcome, StoreError, Txn, TxnBuilder, TxnError};
use uuid::Uuid;

use super::answer::{Answer, Refused};
use super::auth::Caller;
use super::{Backend, Shared};

/// How often a draft is made anew because somebody else changed the same records.
const TRIES: u32 = 8;

/// How long it may take to find out what became of a change that the store did not confirm.
const UNKNOWN_LIMIT: Duration = Duration::from_secs(3);

/// Drafts and commits until it has happened, or is refused. The draft runs anew after a conflict and must
/// write the same ids each time: `happened` recognises them, also when the store confirmed nothing.
pub async fn change(
    backend: &dyn Backend,
    asked: &str,
    mut draft: impl FnMut(&Cache) -> Answer<Txn> + Send,
    happened: impl Fn(&ClusterView) -> bool + Send + Sync,
) -> Answer<()> {
    let state = backend.state();
    let mut unknown = None;
    for _ in 0..TRIES {
        if !state.read().is_ready() {
            let why = "this host has not read the cluster's state yet";
            return Err(Refused::store_unavailable(asked, why));
        }
        let txn = draft(&state.read())?;
        match state.commit(txn).await {
            Ok(Outcome::Committed { .. }) => return Ok(()),
            Ok(Outcome::Conflict) => {}
            Err(StoreError::Unknown(why)) => unknown = Some(why),
            Err(StoreError::Unavailable(why)) => {
                return Err(match unknown {
                    Some(_) => Refused::outcome_unknown(asked, why),
                    None => Refused::store_unavailable(asked, why),
                });
            }
            Err(error @ (StoreError::Refused(_) | StoreError::LeaseGone)) => {
                return Err(Refused::failed(asked, error));
            }
        }
        // The store as a quorum sees it now: did it happen, and what is in the way if not?
        let fresh = tokio::time::timeout(UNKNOWN_LIMIT, state.refresh()).await;
        if happened(state.read().view()) {
            return Ok(());
        }
        if let (Some(why), Ok(Err(_)) | Err(_)) = (&unknown, fresh) {
            return Err(Refused::outcome_unknown(asked, why));
        }
    }
    Err(Refused::by_state(asked, "others change the same records all the time", "try again"))
}

/// As [`change`], for what enters a job.
pub async fn start_job(
    backend: &Shared,
    asked: &str,
    job: &JobSpec,
    mut draft: impl FnMut(&Cache, &mut TxnBuilder<'_>) -> Answer<()> + Send,
) -> Answer<api::JobView> {
    let draft = |cache: &Cache| {
        let mut txn = cache.txn();
        draft(cache, &mut txn)?;
        txn.create(job);
        built(&mut txn, asked)
    };
    change(&**backend, asked, draft, |view| view.jobs.contains_key(&job.id)).await?;
    Ok(api::JobView::of(backend.state().read().view(), job))
}

/// A job that the leader runs.
pub fn new_job(kind: JobKind, caller: &Caller) -> JobSpec {
    JobSpec {
        id: JobId(Uuid::now_v7()),
        kind,
        created_at: jiff::Timestamp::now(),
        requested_by: caller.name(),
        runner: None,
        cancel: false,
    }
}

/// The transaction, unless it would overwrite what this build cannot read.
pub fn built(txn: &mut TxnBuilder<'_>, asked: &str) -> Answer<Txn> {
    txn.build().map_err(|error| match error {
        TxnError::Damaged { .. } => {
            Refused::by_state(asked, error.to_string(), "mend or delete that key with etcdctl, and try again")
        }
        TxnError::WrittenTwice(_) | TxnError::Encode(_) => Refused::failed(asked, error),
    })
}
