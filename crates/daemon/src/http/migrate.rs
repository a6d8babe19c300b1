//! Moves that somebody asks for: one guest, or its secondary, to another host.
//!
//! The place is chosen and checked by the planner, and the job that makes the move is entered. The job looks again
//! at what its own safety rests on before each step.

use api::{JobView, MigrateGuest};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use model::{Assignment, ClusterView, GuestName, JobKind, JobSpec, MoveOptions, Pool};
use store::keys;

use super::answer::{Answer, Body, Refused, named};
use super::auth::Caller;
use super::{Shared, commit, guests, planner};

/// The least bandwidth that a guest may be sent with, bytes per second.
const BANDWIDTH_MIN: u64 = 1 << 20;

pub async fn migrate(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Body(request): Body<MigrateGuest>,
) -> Answer<(StatusCode, Json<JobView>)> {
    let guest: GuestName = named(&name, "guest")?;
    let asked = format!("migrate the guest '{guest}'");
    let seen = may_move(&backend.state().view(), &guest, &asked)?.clone();
    let options = request.options;
    must_make_sense(&options, &asked)?;
    let to = {
        let (guest, why) = (guest.clone(), asked.clone());
        let choose = move |inventory| planner::destination(&inventory, &guest, &request, &why);
        planner::think(&backend, &asked, choose).await?
    };
    let job = commit::new_job(JobKind::MoveGuest { guest: guest.clone(), to, options, heals: None }, &caller);
    let view = commit::start_job(&backend, &asked, &job, |cache, txn| {
        // If somebody else has moved it since, the place that was chosen need not be the right one.
        if *may_move(cache.view(), &guest, &asked)? != seen {
            let instead = "look where it is now, and ask again";
            return Err(Refused::by_state(&asked, "the guest has just been moved", instead));
        }
        txn.unchanged(&keys::assignment(&guest));
        Ok(())
    })
    .await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}

fn must_make_sense(options: &MoveOptions, asked: &str) -> Answer<()> {
    let slow = options.bandwidth.is_some_and(|bandwidth| bandwidth < BANDWIDTH_MIN);
    if slow {
        let why = "so little bandwidth would never get it across";
        return Err(Refused::invalid(asked, why, "allow 1M or more, or leave it out"));
    }
    if options.max_downtime_ms == Some(0) {
        let instead = "allow a millisecond or more, or leave it out";
        return Err(Refused::invalid(asked, "a guest stands still for a moment when it moves", instead));
    }
    Ok(())
}

/// Where a guest is that may be moved at all.
pub fn may_move<'a>(view: &'a ClusterView, guest: &GuestName, asked: &str) -> Answer<&'a Assignment> {
    let spec = view.guests.get(guest);
    if spec.is_some_and(|spec| spec.is_mirrored() && spec.disks.iter().any(|disk| disk.pool == Pool::Local)) {
        let why = "some of its disks are local, and some are mirrored";
        let instead = format!("`kennel volume convert {guest} --pool mirror` puts all of them into one pool");
        return Err(Refused::by_state(asked, why, instead));
    }
    is_free(view, guest, asked)
}

/// Where a guest is that nothing is being done to, in whatever pools its disks are.
pub fn is_free<'a>(view: &'a ClusterView, guest: &GuestName, asked: &str) -> Answer<&'a Assignment> {
    guests::must_be_whole(view, guest, asked)?;
    let spec = view.guests.get(guest).ok_or_else(|| Refused::not_found(asked, "guest", guest))?;
    if spec.deleting {
        return Err(Refused::by_state(asked, "it is being deleted", "there is nothing left to move"));
    }
    let assignment = view.assignments.get(guest).filter(|a| a.guest_id == spec.id).ok_or_else(|| {
        Refused::by_state(asked, "it has no host yet", format!("`kennel guest show {guest}` says why"))
    })?;
    if !view.is_live(&assignment.host) {
        let why = format!("its host {} is lost", assignment.host);
        return Err(Refused::by_state(asked, why, "it is recovered by itself, if that can be done"));
    }
    match open_job(view, guest) {
        None => Ok(assignment),
        Some(job) => {
            let why = format!("the job '{}' is under way", job.kind);
            let instead = format!("wait for its end, or stop it with `kennel job cancel {}`", job.id);
            Err(Refused::by_state(asked, why, instead))
        }
    }
}

/// What is being done to a guest.
fn open_job<'a>(view: &'a ClusterView, guest: &GuestName) -> Option<&'a JobSpec> {
    let ended = |job: &JobSpec| view.job_reports.get(&job.id).is_some_and(|r| r.state.is_terminal());
    view.jobs.values().filter(|job| !ended(job)).find(|job| match &job.kind {
        JobKind::MoveGuest { guest: other, .. }
        | JobKind::CreateGuest { guest: other }
        | JobKind::DeleteGuest { guest: other }
        | JobKind::StartGuest { guest: other }
        | JobKind::StopGuest { guest: other }
        | JobKind::RestartGuest { guest: other } => other == guest,
        JobKind::BuildImage { .. }
        | JobKind::VerifyVolume { .. }
        | JobKind::DrainHost { .. }
        | JobKind::Balance { .. } => false,
    })
}
