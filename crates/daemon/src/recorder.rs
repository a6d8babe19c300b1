//! Keeps what this host measures: hands each sample to the series, and has them written once a minute.
//!
//! Nothing of a guest's life hangs on it. When the file cannot be opened or written, that is logged, and the host
//! goes on without.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use host::series::Series;
use host::usage::Sample;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::state::State;

/// Between two writes. What was measured since the last one is lost when the daemon dies.
const WRITE_EVERY: Duration = Duration::from_secs(60);

/// Between two looks at what is too old.
const TIDY_EVERY: Duration = Duration::from_secs(3_600);

/// When what comes next was done last.
#[derive(Debug, Clone, Copy)]
struct Done {
    written: Instant,
    /// `None`: not since the daemon started.
    tidied: Option<Instant>,
}

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    series: Arc<OnceLock<Arc<Series>>>,
    done: Arc<Mutex<Option<Done>>>,
}

impl Recorder {
    pub fn series(&self) -> Option<Arc<Series>> {
        self.series.get().cloned()
    }

    /// Opens the series in this folder.
    pub async fn open(&self, folder: &Path) {
        let folder = folder.to_owned();
        let opened = tokio::task::spawn_blocking(move || Series::open(&folder)).await;
        match opened {
            Ok(Ok(series)) => drop(self.series.set(Arc::new(series))),
            Ok(Err(error)) => tracing::error!(%error, "what this host measures is not kept"),
            Err(error) => tracing::error!(%error, "what this host measures is not kept"),
        }
    }

    /// Takes one sample in; returns when what was due is written.
    pub async fn take(&self, sample: &Sample, state: &State) {
        let Some(series) = self.series() else { return };
        let now = Timestamp::now();
        series.take(now.as_millisecond() as f64 / 1000.0, sample);
        let Some(tidies) = self.is_due() else { return };
        let now_s = u64::try_from(now.as_second()).unwrap_or_default();
        // Which guests there are is known only while the store answers.
        let known =
            tidies.then(|| state.read()).filter(|cache| cache.is_connected()).map(|cache| cache.snapshot());
        let written = tokio::task::spawn_blocking(move || {
            series.write(now_s)?;
            match known {
                Some(view) => series.tidy(now_s, |id| view.guests.values().any(|guest| guest.id == id)),
                None => Ok(()),
            }
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "what this host measured is not on its disk"),
            Err(error) => tracing::error!(%error, "a write of what this host measured broke off"),
        }
    }

    /// Whether to write now, and then whether to tidy as well.
    fn is_due(&self) -> Option<bool> {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let Done { written, tidied } = *done.get_or_insert(Done { written: now, tidied: None });
        if now - written < WRITE_EVERY {
            return None;
        }
        let tidies = tidied.is_none_or(|at| now - at >= TIDY_EVERY);
        *done = Some(Done { written: now, tidied: if tidies { Some(now) } else { tidied } });
        Some(tidies)
    }
}
