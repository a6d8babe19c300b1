//! Makes the table of the web page's files that `http/page.rs` embeds.
//!
//! The page is built before (`make web`, which `make build` does). Without it the table is empty, and kenneld says
//! so at `/`: everything else can be built and tested without node.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let dist = here.join("../../web/dist");
    // The folder is part of the repository, empty, so that cargo can see when it fills.
    println!("cargo::rerun-if-changed={}", dist.display());
    println!("cargo::rerun-if-changed=build.rs");
    let mut files = Vec::new();
    if dist.join("index.html").is_file() {
        collect(&dist, "", &mut files);
    }
    files.sort();
    let mut table = String::from("static FILES: &[File] = &[\n");
    for path in &files {
        let Some(kind) = kind_of(path) else { continue };
        let full = dist.join(path);
        let compressed = dist.join(format!("{path}.br"));
        let brotli = match compressed.is_file() {
            true => format!("Some(include_bytes!({compressed:?}))"),
            false => "None".to_owned(),
        };
        let entry = format!(
            "    File {{ path: {path:?}, kind: {kind:?}, plain: include_bytes!({full:?}), brotli: {brotli} }},"
        );
        writeln!(table, "{entry}").expect("a string takes everything");
    }
    table.push_str("];\n");
    std::fs::write(Path::new(&variable("OUT_DIR")).join("page_files.rs"), table).expect("write the table");
}

fn variable(name: &str) -> String {
    std::env::var(name).expect("cargo sets it")
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<String>) {
    let entries = std::fs::read_dir(folder).expect("read the page's folder");
    for entry in entries.flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{name}/"), files);
        } else {
            files.push(name);
        }
    }
}

/// What is no file of the page has none.
fn kind_of(path: &str) -> Option<&'static str> {
    match path.rsplit_once('.')?.1 {
        "html" => Some("text/html; charset=utf-8"),
        "js" => Some("text/javascript; charset=utf-8"),
        "css" => Some("text/css; charset=utf-8"),
        "svg" => Some("image/svg+xml"),
        "woff2" => Some("font/woff2"),
        _ => None,
    }
}
