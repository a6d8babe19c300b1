//! The job that carries a plan of the balance out: its moves in their order, each judged again before it begins.
//!
//! ```text
//!   a move:  waiting ──▶ running ──▶ done | failed
//!               └──────▶ skipped    it is not good any more, or the job was cancelled
//! ```
//!
//! A move that fails, or is skipped, stops none of the others: each of those is judged by the cluster as it is
//! then.

use model::{GuestName, GuestPlace, JobReport, JobSpec, JobState, StepState};

use super::moves::{Turn, step, step_name};
use super::{end, go};

pub(super) fn advance(
    turn: &Turn<'_>,
    moves: &[(GuestName, GuestPlace)],
    report: Option<JobReport>,
) -> (JobReport, Option<JobSpec>) {
    let mut report = report.unwrap_or_else(|| JobReport {
        steps: moves.iter().map(|(guest, to)| step(step_name(guest, to, 1))).collect(),
        ..JobReport::new(turn.spec.id, [])
    });
    go(&mut report, JobState::Running);
    turn.follow(&mut report, 0);
    let start = if turn.spec.cancel {
        skip_the_rest(&mut report);
        None
    } else {
        start_one(turn, moves, &mut report)
    };
    let open = |step: &model::JobStep| matches!(step.state, StepState::Waiting | StepState::Running);
    if !report.steps.iter().any(open) {
        finish(turn, &mut report);
    }
    (report, start)
}

fn skip_the_rest(report: &mut JobReport) {
    for step in report.steps.iter_mut().filter(|step| step.state == StepState::Waiting) {
        step.state = StepState::Skipped;
        step.note = Some("the job was cancelled".into());
    }
}

fn start_one(turn: &Turn<'_>, moves: &[(GuestName, GuestPlace)], report: &mut JobReport) -> Option<JobSpec> {
    let waiting = (0..moves.len()).filter(|index| report.steps[*index].state == StepState::Waiting);
    let waiting = waiting.map(|index| (index, moves[index].0.clone(), moves[index].1.clone()));
    let mut settled = Vec::new();
    let next = turn.next(report, waiting.collect::<Vec<_>>(), None, |index, guest, to| {
        let verdict = if !turn.view.guests.contains_key(guest) {
            Err((StepState::Skipped, "the guest was deleted".to_owned()))
        } else if turn.is_there(guest, to) {
            Err((StepState::Done, "it was there already".to_owned()))
        } else {
            turn.planner.still_good(turn.view, guest, to).map_err(|why| (StepState::Skipped, why))
        };
        match verdict {
            Ok(()) => true,
            Err((state, why)) => {
                settled.push((index, state, why));
                false
            }
        }
    });
    for (index, state, why) in settled {
        report.steps[index].state = state;
        report.steps[index].note = Some(why);
    }
    let (index, guest, to) = next?;
    report.steps[index].state = StepState::Running;
    turn.begin(index, guest, to)
}

fn finish(turn: &Turn<'_>, report: &mut JobReport) {
    let all = report.steps.len();
    let count = |state| report.steps.iter().filter(|step| step.state == state).count();
    let (done, failed) = (count(StepState::Done), count(StepState::Failed));
    if turn.spec.cancel && done < all {
        report.error = Some(format!("it was cancelled; {done} of {all} moves were made"));
        go(report, JobState::Undoing);
        return end(report, JobState::Cancelled, turn.now);
    }
    if failed == 0 {
        return end(report, JobState::Done, turn.now);
    }
    let first = report.steps.iter().find(|step| step.state == StepState::Failed);
    let first = first.map(|step| format!("{}: {}", step.name, step.note.as_deref().unwrap_or("it failed")));
    report.error =
        Some(format!("{failed} of {all} moves failed, {done} were made; {}", first.unwrap_or_default()));
    // Nothing is taken back: every move that was made was good by itself.
    go(report, JobState::Undoing);
    end(report, JobState::Failed, turn.now);
}
