//! Jobs as people see them.

use model::{ClusterView, JobId, JobReport, JobSpec, JobState, StepState};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Watched;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    pub id: JobId,
    /// What it does, as in `create guest web1`.
    pub what: String,
    pub state: JobState,
    /// Between 0 and 1.
    pub progress: f64,
    /// What it does now, or waits for; why it failed, when it did.
    pub message: Option<String>,
    /// What whoever asked for it should know; told once, in the answer that the job began with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    pub spec: JobSpec,
    /// How far it is; nothing until somebody has taken it up.
    pub report: Option<JobReport>,
}

impl JobView {
    pub fn of(view: &ClusterView, spec: &JobSpec) -> Self {
        let report = view.job_reports.get(&spec.id);
        Self {
            id: spec.id,
            what: spec.kind.to_string(),
            state: report.map_or(JobState::Waiting, |r| r.state),
            progress: report.map_or(0.0, JobReport::progress),
            message: report.and_then(message),
            warnings: Vec::new(),
            spec: spec.clone(),
            report: report.cloned(),
        }
    }

    pub fn list(view: &ClusterView) -> Vec<Self> {
        view.jobs.values().map(|job| Self::of(view, job)).collect()
    }

    pub fn find(view: &ClusterView, id: JobId) -> Option<Self> {
        view.jobs.get(&id).map(|job| Self::of(view, job))
    }
}

fn message(report: &JobReport) -> Option<String> {
    let running = || {
        let step = report.steps.iter().find(|step| step.state == StepState::Running)?;
        Some(match &step.note {
            Some(note) => format!("{}: {note}", step.name),
            None => step.name.clone(),
        })
    };
    report.error.clone().or_else(running)
}

impl Watched for JobView {
    fn watch_id(&self) -> String {
        self.id.to_string()
    }
}
