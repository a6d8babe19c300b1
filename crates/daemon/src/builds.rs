//! Image builds: jobs that work on this host's files, so this host runs them.
//!
//! A build that was broken off by a restart begins anew: its steps may all be repeated, and its folder is
//! made empty first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use host::HostError;
use host::image::build::{BuiltImage, build_debian, build_tiny};
use host::image::inspect::inspect;
use jiff::Timestamp;
use model::{
    Bytes, Image, ImageFile, ImageName, JobId, JobKind, JobReport, JobSpec, JobState, Recipe, StepState,
};
use store::{Outcome, keys};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::images::Images;
use crate::state::State;

/// The disk of the Debian image; a guest's own disk may be larger.
const DEBIAN_DISK: Bytes = Bytes::gib(2);

const STEPS: [&str; 2] = ["build", "import"];

/// Between two tries to write a report.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct Builds {
    config: Config,
    state: State,
    images: Images,
}

impl Builds {
    pub fn new(config: Config, state: State, images: Images) -> Builds {
        Builds { config, state, images }
    }

    /// Runs this host's builds, for ever.
    pub async fn keep(self) {
        let mut running: BTreeMap<JobId, JoinHandle<()>> = BTreeMap::new();
        let mut changes = self.state.changes();
        loop {
            changes.borrow_and_update();
            running.retain(|_, build| !build.is_finished());
            for (job, cancelled) in self.open_jobs() {
                match running.get(&job.id) {
                    Some(build) if cancelled => build.abort(),
                    Some(_) => {}
                    None if cancelled => self.end(&job, JobState::Cancelled, "it was cancelled").await,
                    None => {
                        let this = self.clone();
                        running.insert(job.id, tokio::spawn(async move { this.run(&job).await }));
                    }
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn open_jobs(&self) -> Vec<(JobSpec, bool)> {
        let cache = self.state.read();
        let view = cache.view();
        let ended = |id: &JobId| view.job_reports.get(id).is_some_and(|r| r.state.is_terminal());
        let mine = view.jobs.values().filter(|job| job.runner.as_ref() == Some(&self.config.name));
        let builds = |job: &&JobSpec| matches!(job.kind, JobKind::BuildImage { .. });
        mine.filter(builds).filter(|job| !ended(&job.id)).map(|job| (job.clone(), job.cancel)).collect()
    }

    async fn run(&self, job: &JobSpec) {
        let JobKind::BuildImage { image, recipe } = &job.kind else { return };
        match self.build(job, image, *recipe).await {
            Ok(()) => self.end(job, JobState::Done, "").await,
            Err(error) => self.end(job, JobState::Failed, &error.to_string()).await,
        }
    }

    async fn build(&self, job: &JobSpec, name: &ImageName, recipe: Recipe) -> Result<(), HostError> {
        let folder = self.config.state_dir.join("builds").join(job.id.to_string());
        let failed = |error: std::io::Error| {
            HostError::Failed(format!("cannot make the folder {}: {error}", folder.display()))
        };
        // What an earlier try left is worth nothing.
        let _ = tokio::fs::remove_dir_all(&folder).await;
        tokio::fs::create_dir_all(&folder).await.map_err(failed)?;
        let built = self.build_in(&folder, job, name, recipe).await;
        let _ = tokio::fs::remove_dir_all(&folder).await;
        built
    }

    async fn build_in(
        &self,
        folder: &std::path::Path,
        job: &JobSpec,
        name: &ImageName,
        recipe: Recipe,
    ) -> Result<(), HostError> {
        let (notes, mut heard) = watch::channel(String::from("it begins"));
        let notes = Arc::new(notes);
        let this = self.clone();
        let told = job.clone();
        let teller = tokio::spawn(async move {
            loop {
                let note = heard.borrow_and_update().clone();
                this.step(&told, 0, Some(note)).await;
                if heard.changed().await.is_err() {
                    return;
                }
            }
        });
        let say = {
            let notes = notes.clone();
            move |note: &str| drop(notes.send_replace(note.to_owned()))
        };
        let built = match recipe {
            Recipe::Tiny => build_tiny(folder, &say).await,
            Recipe::Debian => build_debian(folder, DEBIAN_DISK, &say).await,
        };
        teller.abort();
        let built = built?;
        self.step(job, 1, None).await;
        self.import(name, &built).await
    }

    async fn import(&self, name: &ImageName, built: &BuiltImage) -> Result<(), HostError> {
        let inspection = inspect(&built.disk).await.map_err(|error| HostError::Failed(error.to_string()))?;
        let files = self.images.files();
        let optional = async |path: &Option<std::path::PathBuf>| -> Result<Option<ImageFile>, HostError> {
            match path {
                Some(path) => files.put_file(path).await.map(Some),
                None => Ok(None),
            }
        };
        let image = Image {
            name: name.clone(),
            description: built.description.clone(),
            disk: files.put_file(&built.disk).await?,
            format: inspection.format,
            virtual_size: inspection.virtual_size,
            kernel: optional(&built.kernel).await?,
            initrd: optional(&built.initrd).await?,
            kernel_command_line: built.kernel_command_line.clone(),
            imported_at: Timestamp::now(),
            imported_on: self.config.name.clone(),
        };
        let outcome = self
            .state
            .write(|txn| {
                txn.create(&image);
            })
            .await;
        match outcome {
            Ok(Outcome::Committed { .. }) => {
                self.images.note_arrival();
                Ok(())
            }
            Ok(Outcome::Conflict) => {
                Err(HostError::Conflict(format!("an image '{name}' was imported meanwhile; delete it first")))
            }
            Err(error) => Err(HostError::Failed(error.to_string())),
        }
    }

    /// Records that a step has begun, and what it is at.
    async fn step(&self, job: &JobSpec, index: usize, note: Option<String>) {
        self.report(job, |report| {
            report.state = JobState::Running;
            for (at, step) in report.steps.iter_mut().enumerate() {
                step.state = match at.cmp(&index) {
                    std::cmp::Ordering::Less => StepState::Done,
                    std::cmp::Ordering::Equal => StepState::Running,
                    std::cmp::Ordering::Greater => StepState::Waiting,
                };
                step.note = note.clone().filter(|_| at == index);
            }
        })
        .await;
    }

    async fn end(&self, job: &JobSpec, state: JobState, why: &str) {
        self.report(job, |report| {
            report.state = state;
            report.error = (!why.is_empty()).then(|| why.to_owned());
            report.ended_at = Some(Timestamp::now());
            for step in &mut report.steps {
                step.note = None;
                step.state = match (state, step.state) {
                    (JobState::Done, _) => StepState::Done,
                    (_, StepState::Running) => StepState::Failed,
                    (_, other) => other,
                };
            }
        })
        .await;
    }

    /// Changes this host's own record of the job, until the store takes it.
    async fn report(&self, job: &JobSpec, change: impl Fn(&mut JobReport)) {
        loop {
            let outcome = self.state.change(|view, txn| {
                let old = view.job_reports.get(&job.id).cloned();
                let mut report = old.unwrap_or_else(|| JobReport::new(job.id, STEPS));
                change(&mut report);
                txn.exists(&keys::job(job.id)).put(&report);
                view.jobs.contains_key(&job.id)
            });
            match outcome.await {
                Ok(Outcome::Committed { .. }) => return,
                Ok(Outcome::Conflict) if !self.state.read().view().jobs.contains_key(&job.id) => return,
                Ok(Outcome::Conflict) | Err(_) => tokio::time::sleep(RETRY_AFTER).await,
            }
        }
    }
}
