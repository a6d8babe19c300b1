//! Waiting for what takes a while, and showing it: a bar on a terminal, one line for each step otherwise.
//!
//! All of it goes to stderr, so that stdout holds the result alone.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use api::{Client, JobView, WatchEvent};
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use model::{JobState, StepState};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Format, note};
use crate::terminal;

/// A bar that stands still looks like a program that hangs.
const TICK: Duration = Duration::from_millis(120);

/// Steps are few and long: the bar's share counts in thousandths of the whole.
const BAR_LENGTH: u64 = 1000;

/// Shows how far a job is.
#[derive(Debug)]
pub enum Display {
    /// On a terminal.
    Bar(ProgressBar),
    /// In a log: each step when its state changes.
    Lines(BTreeMap<String, String>),
    /// For programs.
    Silent,
}

impl Display {
    pub fn new(format: Format) -> Self {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(BAR_LENGTH);
            if let Ok(style) =
                ProgressStyle::with_template("{spinner} {prefix}  {bar:24}  {percent:>3} %  {msg}")
            {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            Display::Bar(bar)
        } else if format == Format::Table {
            Display::Lines(BTreeMap::new())
        } else {
            Display::Silent
        }
    }

    pub fn show(&mut self, job: &JobView) {
        match self {
            Display::Bar(bar) => {
                bar.set_prefix(job.what.clone());
                bar.set_message(job.message.clone().unwrap_or_else(|| job.state.to_string()));
                bar.set_position((job.progress.clamp(0.0, 1.0) * BAR_LENGTH as f64) as u64);
            }
            Display::Lines(said) => new_lines(job, said).iter().for_each(|line| note(line)),
            Display::Silent => {}
        }
    }

    fn say(&self, text: &str) {
        match self {
            Display::Bar(bar) => bar.suspend(|| note(text)),
            Display::Lines(_) | Display::Silent => note(text),
        }
    }

    pub fn clear(self) {
        match self {
            Display::Bar(bar) => bar.finish_and_clear(),
            Display::Lines(_) | Display::Silent => {}
        }
    }
}

/// What is new about a job's steps since `said`, one line each.
fn new_lines(job: &JobView, said: &mut BTreeMap<String, String>) -> Vec<String> {
    let steps = job.report.iter().flat_map(|report| &report.steps);
    steps
        .filter_map(|step| {
            let state = match step.state {
                StepState::Waiting => return None,
                StepState::Running => "…",
                StepState::Done => "done",
                StepState::Failed => "failed",
                StepState::Undone => "undone",
                StepState::Skipped => "skipped",
            };
            let note = step.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
            let line = format!("  {} {state}{note}", step.name);
            let before = said.insert(step.name.clone(), line.clone());
            (before.as_ref() != Some(&line)).then_some(line)
        })
        .collect()
}

/// Waits until a job has ended, and shows how far it is. Ctrl-c ends the waiting, not the job. A job that
/// failed is returned like one that is done.
pub async fn wait(context: &Context, client: &Client, job: JobView) -> Result<JobView, Failure> {
    let mut display = Display::new(context.output.format);
    let result = tokio::select! {
        result = follow(client, job.clone(), &mut display) => result,
        signal = terminal::ended_by_signal() => Err(Failure::Interrupted(format!(
            "{signal}: the job goes on without you; `kennel job watch {}` shows how far it is", job.id
        ))),
    };
    display.clear();
    result
}

async fn follow(client: &Client, mut job: JobView, display: &mut Display) -> Result<JobView, Failure> {
    display.show(&job);
    if job.state.is_terminal() {
        return Ok(job);
    }
    let id = job.id;
    let mut events = client.watch_jobs();
    while let Some(event) = events.next().await {
        let news = match event? {
            WatchEvent::Snapshot(jobs) => match jobs.into_iter().find(|job| job.id == id) {
                Some(job) => Some(job),
                // The host that answers may not have heard of it yet, or it is over and was trimmed.
                None => Some(client.job(id).await?),
            },
            WatchEvent::Changed(job) => (job.id == id).then_some(job),
            WatchEvent::Removed(removed) if removed == id.to_string() => {
                return Err(Failure::refused(
                    format!("follow the job {id}"),
                    "its record was removed before it was seen to end",
                    "look at `kennel events` and at what it was to change",
                ));
            }
            WatchEvent::Removed(_) => None,
            WatchEvent::Interrupted(why) => {
                display.say(&format!("kennel: {why}; asking another host"));
                None
            }
        };
        if let Some(news) = news {
            job = news;
            display.show(&job);
            if job.state.is_terminal() {
                return Ok(job);
            }
        }
    }
    Ok(job)
}

/// How a job that was started here ends for the person who started it.
pub async fn finish(context: &Context, client: &Client, job: JobView, no_wait: bool) -> Result<(), Failure> {
    if no_wait {
        let id = job.id;
        return context.output.result(&job, |_| format!("{id}\n"));
    }
    let job = wait(context, client, job).await?;
    context
        .output
        .result(&job, |_| if job.state == JobState::Done { done_line(&job) } else { String::new() })?;
    verdict(&job)
}

fn done_line(job: &JobView) -> String {
    format!("Done: {}.\n", job.what)
}

/// A job that did not come to its end is a failure of the command.
pub fn verdict(job: &JobView) -> Result<(), Failure> {
    let look = format!("`kennel job show {}` tells how far it came", job.id);
    match job.state {
        JobState::Done => Ok(()),
        JobState::Failed | JobState::Undoing => {
            let why = job.report.as_ref().and_then(|report| report.error.clone());
            Err(Failure::refused(&job.what, why.unwrap_or_else(|| "the job failed".to_owned()), look))
        }
        JobState::Cancelled => Err(Failure::refused(&job.what, "the job was cancelled", look)),
        JobState::Waiting | JobState::Running => {
            Err(Failure::refused(&job.what, "the job was not seen to end", look))
        }
    }
}

/// A bar for bytes: an upload.
#[derive(Debug, Clone)]
pub struct Transfer(ProgressBar);

impl Transfer {
    pub fn new(what: String) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(0);
        let template = "{spinner} {prefix}  {bar:24}  {bytes} of {total_bytes}  {bytes_per_sec}  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    pub fn show(&self, sent: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(sent);
        if sent == total {
            self.0.set_message("the host checks it");
        }
    }

    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// A spinner for what has no measure. Silent where nobody watches.
#[derive(Debug)]
pub struct Waiting(ProgressBar);

impl Waiting {
    pub fn new(what: &'static str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use model::StepState::{Done, Running, Waiting};

    use super::*;
    use crate::commands::job_example;

    #[test]
    fn a_step_is_said_once_for_each_change() {
        let mut said = BTreeMap::new();
        let mut check = |states: [StepState; 2], note: Option<&str>, expected: &[&str]| {
            let job = job_example(JobState::Running, states, note);
            assert_eq!(new_lines(&job, &mut said), expected);
        };
        check([Running, Waiting], None, &["  choose a host …"]);
        check([Running, Waiting], None, &[]);
        check([Done, Running], None, &["  choose a host done", "  wait until it runs …"]);
        check(
            [Done, Running],
            Some("host1 makes its volumes"),
            &["  wait until it runs … (host1 makes its volumes)"],
        );
    }

    #[test]
    fn a_job_that_failed_fails_the_command() {
        let mut job = job_example(JobState::Failed, [Done, StepState::Failed], None);
        if let Some(report) = &mut job.report {
            report.error = Some("no host has room".to_owned());
        }
        let failure = verdict(&job).unwrap_err();
        assert_eq!(failure.exit_code(), 1);
        assert_eq!(
            failure.sentence().unwrap(),
            format!(
                "cannot create guest web1: no host has room; `kennel job show {}` tells how far it came",
                job.id
            )
        );
    }
}
