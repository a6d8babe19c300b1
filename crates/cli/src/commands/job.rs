//! `kennel job`: operations that are under way, or were.

use api::JobView;
use clap::Subcommand;
use jiff::Timestamp;
use model::{JobId, JobState, StepState};

use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{self, Listed};
use crate::output::{Block, Cell, Tone};
use crate::{progress, times};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// All jobs
    #[command(after_help = "Examples:
  kennel job list
  kennel job list --watch")]
    List {
        /// Go on, and show every change
        #[arg(long)]
        watch: bool,
    },
    /// One job with its steps
    #[command(after_help = "Example:
  kennel job show 0199f0a2-7c1e-7d60-8b37-0c8f6a1d2e3f")]
    Show { job: JobId },
    /// Wait for a job's end; fails when the job fails
    #[command(after_help = "Example:
  id=$(kennel guest stop web1 --no-wait) && kennel job watch $id")]
    Watch { job: JobId },
    /// Ask a job to stop and to take back what it did
    #[command(after_help = "Example:
  kennel job cancel 0199f0a2-7c1e-7d60-8b37-0c8f6a1d2e3f")]
    Cancel {
        job: JobId,
        /// Do not wait until it has ended
        #[arg(long)]
        no_wait: bool,
    },
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        Command::List { watch: true } => listing::watch::<JobView>(context, client.watch_jobs()).await,
        Command::List { watch: false } => listing::print(context, &client.jobs().await?),
        Command::Show { job } => {
            let view = client.job(job).await?;
            context.output.result(&view, |coloured| show(&view, Timestamp::now()).render(coloured))
        }
        Command::Watch { job } => {
            let view = client.job(job).await?;
            progress::finish(context, &client, view, false).await
        }
        Command::Cancel { job, no_wait } => {
            let view = client.cancel_job(job).await?;
            if no_wait {
                return context.output.result(&view, |_| format!("{}\n", view.id));
            }
            let view = progress::wait(context, &client, view).await?;
            context.output.result(&view, |_| format!("The job to {} is {}.\n", view.what, view.state))?;
            if view.state == JobState::Cancelled {
                return Ok(());
            }
            Err(Failure::refused(
                format!("cancel the job to {}", view.what),
                format!("it ended before ({})", view.state),
                "undo what it did by hand, if you do not want it",
            ))
        }
    }
}

fn state(state: JobState) -> Cell {
    let tone = match state {
        JobState::Done => Tone::Good,
        JobState::Waiting | JobState::Running | JobState::Undoing => Tone::Busy,
        JobState::Failed => Tone::Bad,
        JobState::Cancelled => Tone::Plain,
    };
    Cell::new(state, tone)
}

fn percent(progress: f64) -> String {
    format!("{:.0} %", progress.clamp(0.0, 1.0) * 100.0)
}

impl Listed for JobView {
    const HEAD: &'static [&'static str] = &["ID", "WHAT", "STATE", "PROGRESS", "STARTED"];
    const NOTHING: &'static str = "There is no job.";

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            Cell::from(self.id),
            Cell::from(&self.what),
            state(self.state),
            Cell::from(percent(self.progress)),
            Cell::from(times::ago(self.spec.created_at, now)),
        ]
    }
}

fn show(view: &JobView, now: Timestamp) -> Block {
    let report = view.report.as_ref();
    let runner = view.spec.runner.as_ref().map_or_else(|| "the leader".to_owned(), ToString::to_string);
    Block::new()
        .line("Job", view.id)
        .line("What", &view.what)
        .line("State", state(view.state))
        .line("Progress", percent(view.progress))
        .line("Asked by", &view.spec.requested_by)
        .line("Run by", runner)
        .line("Started", times::at_and_ago(view.spec.created_at, now))
        .maybe("Ended", report.and_then(|r| r.ended_at).map(|ended| times::at_and_ago(ended, now)))
        .maybe("Cancel", view.spec.cancel.then_some("asked for"))
        .maybe("Error", report.and_then(|r| r.error.clone()))
        .each(
            "Steps",
            report.iter().flat_map(|r| &r.steps).map(|step| {
                let state = match step.state {
                    StepState::Waiting => "waiting",
                    StepState::Running => "running",
                    StepState::Done => "done",
                    StepState::Failed => "failed",
                    StepState::Undone => "undone",
                    StepState::Skipped => "skipped",
                };
                let note = step.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
                format!("{state:8} {}{note}", step.name)
            }),
        )
}

#[cfg(test)]
pub mod tests {
    use model::{JobKind, JobReport, JobSpec};

    use super::*;

    /// A job that creates the guest `web1`, with the second step's note.
    pub fn example(state: JobState, steps: [StepState; 2], note: Option<&str>) -> JobView {
        let id = JobId(uuid::Uuid::nil());
        let kind = JobKind::CreateGuest { guest: "web1".parse().unwrap() };
        let mut report = JobReport::new(id, ["choose a host", "wait until it runs"]);
        report.state = state;
        for (step, state) in report.steps.iter_mut().zip(steps) {
            step.state = state;
        }
        report.steps[1].note = note.map(str::to_owned);
        JobView {
            id,
            what: kind.to_string(),
            state,
            progress: report.progress(),
            message: None,
            warnings: Vec::new(),
            spec: JobSpec {
                id,
                kind,
                created_at: Timestamp::UNIX_EPOCH,
                requested_by: "admin".to_owned(),
                runner: None,
                cancel: false,
            },
            report: Some(report),
        }
    }

    #[test]
    fn jobs_show_how_far_they_are() {
        let job = example(JobState::Running, [StepState::Done, StepState::Running], Some("host1 boots it"));
        let now = Timestamp::from_second(30).unwrap();
        assert_eq!(
            listing::render(std::slice::from_ref(&job), now, false),
            "ID                                    WHAT               STATE    PROGRESS  STARTED\n\
             00000000-0000-0000-0000-000000000000  create guest web1  running  50 %      30 s ago\n"
        );
        let text = show(&job, now).render(false);
        assert!(text.contains("Steps:    done     choose a host\n"), "{text}");
        assert!(text.contains("running  wait until it runs: host1 boots it\n"), "{text}");
    }
}
