//! Scenarios: a cluster in a file, what is asked of it, and what the planner answers.
//!
//! Each folder in `../scenarios/` with a `cluster.toml` has a `story.md` (two lines), a `cluster.toml` and an `expected.txt`, which
//! `BLESS=1 cargo test -p plan --test live` writes anew. The keys of `cluster.toml` are the fields of
//! [`build::Scenario`]; what can be asked stands at [`ask::answer`].
//!
//! Whatever a scenario asks, the moves that are answered are made one step after the other, and each step must be
//! legal: for the planner itself, and for a second, plainer opinion ([`wrongs`]). After a balance the planner is asked again, and must have nothing more to propose.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod ask;
mod build;
mod random;
mod wrongs;

use std::path::{Path, PathBuf};

#[test]
fn scenarios() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for folder in folders() {
        let Ok(text) = std::fs::read_to_string(folder.join("cluster.toml")) else { continue };
        count += 1;
        let scenario: build::Scenario =
            toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let story = std::fs::read_to_string(folder.join("story.md")).unwrap_or_default();
        assert_eq!(story.trim().lines().count(), 2, "{}: a story has two lines", folder.display());
        let answers = ask::all(&scenario);
        let path = folder.join("expected.txt");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &answers).unwrap();
        } else if std::fs::read_to_string(&path).unwrap_or_default() != answers {
            wrong.push(format!("{}: the answer is now\n{answers}", name(&folder)));
        }
    }
    assert!(count >= 15, "only {count} scenarios were found");
    assert!(wrong.is_empty(), "{}\n(BLESS=1 takes these for right)", wrong.join("\n"));
}

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
