//! What QEMU tells of a guest from outside: what its disks do, and what its screen shows.

use std::path::Path;

use serde_json::{Value, json};

use super::qmp::{Qmp, QmpError};
use crate::{HostError, Picture, blocking};

/// The requests of all devices, of an answer to `query-blockstats`.
pub(super) fn disk_requests(answer: &Value) -> u64 {
    let count = |stats: &Value| {
        let of = |name: &str| stats[name].as_u64().unwrap_or(0);
        of("rd_operations") + of("wr_operations") + of("flush_operations")
    };
    answer.as_array().into_iter().flatten().map(|device| count(&device["stats"])).sum()
}

/// QEMU writes it into the machine's own folder, which is the only one that it may write to.
pub(super) async fn picture(qmp: &Qmp, run_dir: &Path, doing: &str) -> Result<Picture, HostError> {
    let failed = |error: QmpError| error.into_host(doing);
    let path = |format: &str| run_dir.join(format!("screen.{format}"));
    let png = json!({ "filename": path("png"), "format": "png" });
    let format = match qmp.execute("screendump", png).await {
        Ok(_) => "png",
        // Built without libpng.
        Err(QmpError::Refused { .. }) => {
            qmp.execute("screendump", json!({ "filename": path("ppm") })).await.map_err(failed)?;
            "ppm"
        }
        Err(error) => return Err(failed(error)),
    };
    let (path, doing) = (path(format), doing.to_owned());
    let bytes = blocking(move || {
        let bytes = std::fs::read(&path);
        // It is made anew each time.
        let _ = std::fs::remove_file(&path);
        bytes.map_err(|error| HostError::Failed(format!("cannot {doing}: {error}")))
    });
    Ok(Picture { format: format.to_owned(), bytes: bytes.await? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_over_all_disks() {
        let stats = |reads: u64| json!({ "stats": { "rd_operations": reads, "wr_operations": 2, "flush_operations": 1 } });
        assert_eq!(disk_requests(&json!([stats(1), stats(5)])), 12);
        assert_eq!(disk_requests(&json!([])), 0);
    }
}
