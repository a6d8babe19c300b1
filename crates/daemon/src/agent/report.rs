//! What this host says of a guest. The newest wish to report wins; the store is written when it differs.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use model::{GuestReport, GuestState};
use store::{Outcome, StoreError, keys};
use tokio::sync::watch;

use super::Agent;

const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Reports in the background, so that a store that does not answer delays nobody.
#[derive(Debug)]
pub struct Reporter {
    wish: watch::Sender<Option<GuestReport>>,
}

impl Reporter {
    pub fn start(agent: Arc<Agent>) -> Reporter {
        let (wish, mut wishes) = watch::channel::<Option<GuestReport>>(None);
        tokio::spawn(async move {
            while wishes.changed().await.is_ok() {
                loop {
                    let wish = wishes.borrow_and_update().clone();
                    let Some(report) = wish else { break };
                    match write(&agent, &report).await {
                        Ok(()) => break,
                        Err(error) => tracing::debug!(guest = %report.guest, %error, "a report waits"),
                    }
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        });
        Reporter { wish }
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
        write(agent, &report).await?;
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

/// Writes a report if it is news and this host owns the guest at the report's epoch. A report from a host
/// that no longer owns the guest is dropped: it is not its to write.
async fn write(agent: &Agent, report: &GuestReport) -> Result<(), StoreError> {
    let starting = report.state == GuestState::Starting;
    let mut nothing_to_say = false;
    let outcome = agent
        .state
        .change(|view, txn| {
            let owns = view.assignments.get(&report.guest).is_some_and(|a| {
                a.guest_id == report.guest_id && a.host == agent.me && a.epoch == report.epoch
            });
            let told = view.guest_reports.get(&report.guest).is_some_and(|old| same(old, report));
            nothing_to_say = !starting && (!owns || told);
            txn.unchanged(&keys::assignment(&report.guest)).put(report);
            owns && !nothing_to_say
        })
        .await?;
    if nothing_to_say {
        return Ok(());
    }
    match outcome {
        Outcome::Committed { .. } => Ok(()),
        Outcome::Conflict => Err(StoreError::Unavailable("the guest's records changed meanwhile".into())),
    }
}
