//! What was measured over time, as steps of equal length.

use jiff::Timestamp;
use model::{HostName, Usage};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a guest or a host used, step by step. The four lists have one entry for each step, `null` where nothing was
/// measured: a guest that did not run, a daemon that was away.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SeriesView {
    /// When the first step begins: a multiple of the step since 1970.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// Seconds.
    pub step_s: u32,
    /// Cores, as means over the steps.
    pub cpu: Vec<Option<f64>>,
    /// Bytes that were resident.
    pub memory: Vec<Option<f64>>,
    /// Bytes a second, read and written.
    pub disk: Vec<Option<f64>>,
    /// Bytes a second, in and out.
    pub network: Vec<Option<f64>>,
    /// Hosts that did not answer: what they measured of it, if anything, is missing.
    #[schema(value_type = Vec<String>)]
    pub silent: Vec<HostName>,
}

/// Which stretch of time, in which steps. What is left out is the last hour, in at most 360 steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeriesQuery {
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    /// A multiple of 10 s.
    pub step_s: Option<u32>,
}

impl SeriesView {
    /// Numbers are rounded to what a reader can see: a ten-thousandth of a core, whole bytes.
    pub fn new(from: Timestamp, step_s: u32, steps: &[Option<Usage>]) -> Self {
        let list = |pick: fn(&Usage) -> f64, parts: f64| {
            let rounded = |usage: &Usage| (pick(usage) * parts).round() / parts;
            steps.iter().map(|step| step.as_ref().map(rounded)).collect()
        };
        Self {
            from,
            step_s,
            cpu: list(|usage| usage.cpu, 10_000.0),
            memory: list(|usage| usage.memory, 1.0),
            disk: list(|usage| usage.disk, 1.0),
            network: list(|usage| usage.network, 1.0),
            silent: Vec::new(),
        }
    }

    /// Takes in what another host measured in the same steps. Where both did (a guest that moved within a step), the
    /// mean of the two counts.
    pub fn join(&mut self, other: &SeriesView) {
        let pairs = [
            (&mut self.cpu, &other.cpu),
            (&mut self.memory, &other.memory),
            (&mut self.disk, &other.disk),
            (&mut self.network, &other.network),
        ];
        for (own, others) in pairs {
            for (own, other) in own.iter_mut().zip(others) {
                *own = match (*own, *other) {
                    (Some(own), Some(other)) => Some(own.midpoint(other)),
                    (own, other) => own.or(other),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(steps: &[Option<f64>]) -> SeriesView {
        let usage = |cpu| Usage { cpu, ..Usage::default() };
        let steps: Vec<_> = steps.iter().map(|step| step.map(usage)).collect();
        SeriesView::new(Timestamp::UNIX_EPOCH, 10, &steps)
    }

    #[test]
    fn a_guest_that_moved_is_one_line_and_where_nobody_measured_is_a_gap() {
        let mut joined = cores(&[Some(1.0), Some(1.0), None, None]);
        joined.join(&cores(&[None, Some(0.5), None, Some(0.333_333)]));
        assert_eq!(joined.cpu, [Some(1.0), Some(0.75), None, Some(0.3333)]);
        assert_eq!(joined.memory, [Some(0.0), Some(0.0), None, Some(0.0)]);
    }
}
