//! Placeholder until the tiny image is built.

use std::path::Path;

use model::{Accelerator, AcceleratorKind};

pub async fn detect(_qemu: &Path, _tiny: Option<(&Path, &Path)>) -> Accelerator {
    Accelerator { kind: AcceleratorKind::Tcg, why: "not tested".into() }
}
