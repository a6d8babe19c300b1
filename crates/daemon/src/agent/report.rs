//! What this host says of a guest. The newest wish to report wins; the store is written when it differs.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use model::{GuestReport, GuestState};
use store::{Outcome, StoreError, keys};
use tokio::sync::watch;

use super::Agent;

const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The change that caused a conflict is on its way here.
const AFTER_CONFLICT: Duration = Duration::from_millis(20);

const CONFLICTS_MAX: u32 = 10;

/// Reports in the background, so that a store that does not answer delays nobody.
#[derive(Debug)]
pub struct Reporter {
    wish: watch::Sender<Option<GuestReport>>,
    /// Held while the newest wish is read and written: an older report never comes after a newer one. That a guest is
    /// stopped is a proof (`plan::fence`), which must not be written once its start was announced.
    writing: Arc<tokio::sync::Mutex<()>>,
}

impl Reporter {
    pub fn start(agent: Arc<Agent>) -> Reporter {
        let (wish, mut wishes) = watch::channel::<Option<GuestReport>>(None);
        let writing = Arc::new(tokio::sync::Mutex::new(()));
        let gate = writing.clone();
        tokio::spawn(async move {
            while wishes.changed().await.is_ok() {
                loop {
                    let alone = gate.lock().await;
                    let wish = wishes.borrow_and_update().clone();
                    let Some(report) = wish else { break };
                    let written = write(&agent, &report).await;
                    drop(alone);
                    match written {
                        Ok(Written::Yes | Written::NotOurs) => break,
                        Ok(Written::Conflict) => tokio::time::sleep(AFTER_CONFLICT).await,
                        Err(error) => {
                            tracing::debug!(guest = %report.guest, %error, "a report waits");
                            tokio::time::sleep(RETRY_AFTER).await;
                        }
                    }
                }
            }
        });
        Reporter { wish, writing }
    }

    /// Says it soon, unless something newer is to be said.
    pub fn say(&self, report: GuestReport) {
        self.wish.send_if_modified(|wish| {
            let news = wish.as_ref().is_none_or(|old| !same(old, &report));
            if news {
                *wish = Some(report);
            }
            news
        });
    }

    /// What was said last.
    pub fn last(&self) -> Option<GuestReport> {
        self.wish.borrow().clone()
    }

    /// Says it, and returns when the store has it and this host still owns the guest.
    pub async fn say_now(&self, agent: &Agent, report: GuestReport) -> Result<(), StoreError> {
        let mut tries = CONFLICTS_MAX;
        let _alone = self.writing.lock().await;
        loop {
            match write(agent, &report).await? {
                Written::Yes => break,
                Written::NotOurs => {
                    return Err(StoreError::Refused("another host owns the guest".into()));
                }
                // The background report was quicker.
                Written::Conflict if tries > 0 => tries -= 1,
                Written::Conflict => {
                    return Err(StoreError::Unavailable("the guest's records changed meanwhile".into()));
                }
            }
            tokio::time::sleep(AFTER_CONFLICT).await;
        }
        self.wish.send_if_modified(|wish| {
            *wish = Some(report);
            false
        });
        Ok(())
    }
}

/// Whether two reports say the same, but for when.
fn same(a: &GuestReport, b: &GuestReport) -> bool {
    let at = |report: &GuestReport| GuestReport { since: Timestamp::UNIX_EPOCH, ..report.clone() };
    at(a) == at(b)
}

/// What became of a report.
enum Written {
    Yes,
    /// This host does not own the guest at the report's epoch: it is not its to write.
    NotOurs,
    /// The records changed between the look and the commit.
    Conflict,
}

/// Writes a report if it is news. That a guest is being started is always written: it is the proof, as of
/// now, that the store names this host as the owner.
async fn write(agent: &Agent, report: &GuestReport) -> Result<Written, StoreError> {
    let starting = report.state == GuestState::Starting;
    let (mut owns, mut told) = (false, false);
    let outcome = agent
        .state
        .change(|view, txn| {
            owns = view.assignments.get(&report.guest).is_some_and(|a| {
                a.guest_id == report.guest_id && a.host == agent.me && a.epoch == report.epoch
            });
            told = !starting && view.guest_reports.get(&report.guest).is_some_and(|old| same(old, report));
            txn.unchanged(&keys::assignment(&report.guest)).put(report);
            owns && !told
        })
        .await?;
    Ok(match outcome {
        Outcome::Committed { .. } => Written::Yes,
        Outcome::Conflict if !owns => Written::NotOurs,
        Outcome::Conflict if told => Written::Yes,
        Outcome::Conflict => Written::Conflict,
    })
}
