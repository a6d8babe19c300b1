//! The repository checks itself: what STYLE asks for and no compiler enforces.
//!
//! Each test lists what it found wrong, all of it at once, as `path:line: what is wrong and what would be right`.
//! The files are those that git knows, and those that it would know after `git add`; so a check fails before a
//! commit, and what is ignored does not matter. It stands in `model` because every other crate needs that one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

// ---------------------------------------------------------------------------------------------------------------
// What is allowed. A change here is a change of the project's shape: it needs a reason in the commit.

/// Which of our crates each crate may use.
const EDGES: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("plan", &["model"]),
    ("store", &["model"]),
    ("host", &["model"]),
    ("api", &["model"]),
    ("daemon", &["api", "host", "model", "plan", "store"]),
    ("cli", &["api", "model", "plan"]),
    ("sim", &["api", "daemon", "host", "model", "plan", "store"]),
    ("e2e", &["api", "model"]),
];

/// The crates that stay free of I/O, clocks and randomness do so by what they can reach.
const PURE: &[(&str, &[&str])] = &[
    ("model", &["ipnet", "jiff", "serde", "serde_json", "thiserror", "utoipa", "uuid"]),
    ("plan", &["ipnet", "jiff", "model", "rayon", "serde", "serde_json", "thiserror", "uuid"]),
];

/// What the tests and benchmarks of the pure crates may use on top.
const PURE_DEV: &[&str] = &["insta", "nix", "proptest", "toml"];

const MAX_FILE_LINES: usize = 800;
const MAX_FUNCTION_LINES: usize = 70;
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Longer files, with the length that they may not exceed. A ratchet: a file that got shorter lowers its number
/// here. Each says why in its first lines, in a comment that begins with `Long because`.
const LONG_FILES: &[(&str, usize)] = &[];

/// Longer functions, as path, name and length; otherwise like [`LONG_FILES`].
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];

/// Files past [`MAX_FILE_BYTES`] that belong here all the same.
const LARGE_FILES: &[&str] = &[];

/// Where processes are started. Everything else asks these.
const STARTS_PROCESSES: &[&str] = &[
    "crates/host/src/",
    "crates/store/src/member",
    "crates/cli/src/lab",
    // Tests that send to servers in Python.
    "crates/daemon/src/alerts/tests.rs",
    // Tests that ask promtool.
    "crates/daemon/src/http/metrics/tests.rs",
];

// ---------------------------------------------------------------------------------------------------------------
// The shape of the workspace

#[test]
fn crates_use_only_the_crates_below_them() {
    let ours: BTreeSet<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    let mut wrong = Vec::new();
    for (path, manifest) in manifests() {
        let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == manifest.name) else {
            wrong.push(format!(
                "{path}: crate '{}' has no place in EDGES of tidy.rs; give it one",
                manifest.name
            ));
            continue;
        };
        for used in manifest.all().filter(|used| ours.contains(used.as_str())) {
            if !allowed.contains(&used.as_str()) {
                wrong.push(format!("{path}: '{}' may not use '{used}', only {allowed:?}", manifest.name));
            }
        }
    }
    report(wrong);
}

#[test]
fn pure_crates_cannot_reach_the_world() {
    let mut wrong = Vec::new();
    for (path, manifest) in manifests() {
        let Some((_, allowed)) = PURE.iter().find(|(name, _)| *name == manifest.name) else { continue };
        let extra = manifest.dependencies.iter().filter(|used| !allowed.contains(&used.as_str()));
        wrong
            .extend(extra.map(|used| format!("{path}: a pure crate may not use '{used}', only {allowed:?}")));
        let extra = manifest
            .dev_dependencies
            .iter()
            .filter(|used| !allowed.contains(&used.as_str()) && !PURE_DEV.contains(&used.as_str()));
        wrong.extend(extra.map(|used| format!("{path}: the tests of a pure crate may not use '{used}'")));
    }
    report(wrong);
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let wrong = files()
        .into_iter()
        .filter(|path| path.ends_with("/Cargo.toml"))
        .filter(|path| !read(path).contains("[lints]\nworkspace = true"))
        .map(|path| format!("{path}: has no '[lints]' with 'workspace = true'"));
    report(wrong.collect());
}

#[test]
fn processes_are_started_in_three_places_only() {
    let mut wrong = Vec::new();
    for path in files() {
        let elsewhere = path.starts_with("crates/") && path.contains("/src/") && path.ends_with(".rs");
        if !elsewhere || path.starts_with("crates/e2e/") || allowed_prefix(&path, STARTS_PROCESSES) {
            continue;
        }
        for (number, line) in numbered(&blank_out(&read(&path))) {
            if line.contains("process::") && line.contains("Command") {
                wrong.push(format!("{path}:{number}: starts a process; only {STARTS_PROCESSES:?} do"));
            }
        }
    }
    report(wrong);
}

// ---------------------------------------------------------------------------------------------------------------
// Length

#[test]
fn files_are_short() {
    let mut wrong = Vec::new();
    for path in files().into_iter().filter(|path| is_code(path)) {
        let text = read(&path);
        let lines = text.lines().count();
        let exception = LONG_FILES.iter().find(|(long, _)| *long == path).map(|(_, lines)| *lines);
        wrong.extend(judge_length(&path, &text, lines, MAX_FILE_LINES, exception));
    }
    wrong.extend(gone(LONG_FILES.iter().map(|(path, _)| *path), "LONG_FILES"));
    report(wrong);
}

#[test]
fn functions_are_short() {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for path in files().into_iter().filter(|path| path.ends_with(".rs")) {
        let text = read(&path);
        for function in functions(&text) {
            let listed =
                LONG_FUNCTIONS.iter().find(|(long, name, _)| *long == path && *name == function.name);
            let place = format!("{path}:{}: function '{}'", function.line, function.name);
            wrong.extend(judge_length(
                &place,
                &text,
                function.lines,
                MAX_FUNCTION_LINES,
                listed.map(|l| l.2),
            ));
            seen.insert((path.clone(), function.name));
        }
    }
    for (path, name, _) in LONG_FUNCTIONS {
        if !seen.contains(&((*path).to_owned(), (*name).to_owned())) {
            wrong.push(format!("{path}: has no function '{name}' any more; take it out of LONG_FUNCTIONS"));
        }
    }
    report(wrong);
}

/// What is wrong with a length, given the exception that was made for it.
fn judge_length(
    place: &str,
    text: &str,
    lines: usize,
    limit: usize,
    exception: Option<usize>,
) -> Option<String> {
    match exception {
        None if lines > limit => {
            Some(format!("{place}: {lines} lines, {limit} are the limit; split it by what it holds"))
        }
        Some(most) if lines > most => {
            Some(format!("{place}: {lines} lines, and its exception ends at {most}"))
        }
        Some(most) if lines <= limit => {
            Some(format!("{place}: {lines} lines; it no longer needs its exception of {most}"))
        }
        Some(most) if lines < most => {
            Some(format!("{place}: {lines} lines; lower its exception from {most} to {lines}"))
        }
        Some(_) if !text.lines().take(20).any(|line| line.contains("Long because")) => {
            Some(format!("{place}: the head of the file does not say 'Long because …'"))
        }
        None | Some(_) => None,
    }
}

// ---------------------------------------------------------------------------------------------------------------
// What is in the repository

#[test]
fn no_large_files() {
    let mut wrong = Vec::new();
    for path in files() {
        let size = std::fs::metadata(root().join(&path)).map_or(0, |metadata| metadata.len());
        if size > MAX_FILE_BYTES && !LARGE_FILES.contains(&path.as_str()) {
            wrong.push(format!("{path}: {size} bytes, {MAX_FILE_BYTES} are the limit"));
        }
    }
    wrong.extend(gone(LARGE_FILES.iter().copied(), "LARGE_FILES"));
    report(wrong);
}

#[test]
fn no_paths_of_one_machine() {
    // Put together here, so that this file passes its own check.
    let machine_paths = [["/wo", "rk/"].concat(), ["/ro", "ot/"].concat(), ["/fa", "rm"].concat()];
    let mut wrong = Vec::new();
    for path in files() {
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in numbered(&text) {
            if machine_paths.iter().any(|wanted| holds_path(line, wanted)) {
                wrong.push(format!("{path}:{number}: a path of somebody's machine: {}", line.trim()));
            }
        }
    }
    report(wrong);
}

#[test]
fn scripts_are_bash_that_stops_at_errors() {
    let mut wrong = Vec::new();
    for path in files() {
        let is_script = path.starts_with("scripts/") || path == ".ci/run";
        if !is_script || path.contains('.') && path != ".ci/run" {
            continue;
        }
        let text = read(&path);
        if !text.starts_with("#!/usr/bin/env bash\n") || !text.contains("\nset -euo pipefail\n") {
            wrong.push(format!(
                "{path}: does not begin with '#!/usr/bin/env bash', or lacks 'set -euo pipefail'"
            ));
        }
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(root().join(&path)).map_or(0, |metadata| metadata.permissions().mode());
        if mode & 0o111 == 0 {
            wrong.push(format!("{path}: is not executable; chmod +x"));
        }
    }
    report(wrong);
}

// ---------------------------------------------------------------------------------------------------------------
// Documents

#[test]
fn changelog_keeps_its_form() {
    const SECTIONS: &[&str] = &["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
    let path = "CHANGELOG.md";
    let text = read(path);
    let mut wrong = Vec::new();
    if !text.starts_with("# Changelog\n") {
        wrong.push(format!("{path}: does not begin with '# Changelog'"));
    }
    let headings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    if headings.first() != Some(&"[Unreleased]") {
        wrong.push(format!("{path}: the first release is not '## [Unreleased]'"));
    }
    for heading in headings.iter().skip(1).filter(|heading| !is_release(heading)) {
        wrong.push(format!("{path}: '## {heading}' is not '## [1.2.3] - 2026-12-31'"));
    }
    for (number, line) in numbered(&text) {
        if let Some(section) = line.strip_prefix("### ")
            && !SECTIONS.contains(&section)
        {
            wrong.push(format!("{path}:{number}: '{section}' is none of {SECTIONS:?}"));
        }
    }
    for (heading, body) in sections(&text, "### ") {
        if !body.iter().any(|line| line.starts_with("- ")) {
            wrong.push(format!("{path}: section '{heading}' has no entry that begins with '- '"));
        }
    }
    report(wrong);
}

#[test]
fn decisions_keep_their_form() {
    let mut wrong = Vec::new();
    let mut numbers = BTreeMap::new();
    for path in files().into_iter().filter(|path| path.starts_with("docs/decisions/")) {
        let name = path.trim_start_matches("docs/decisions/");
        let number = decision_number(name);
        let Some(number) = number else {
            wrong.push(format!("{path}: is not named 0001-some-title.md"));
            continue;
        };
        if let Some(other) = numbers.insert(number, path.clone()) {
            wrong.push(format!("{path}: has the number of {other}"));
        }
        let text = read(&path);
        if !text.starts_with(&format!("# {number:04}: ")) {
            wrong.push(format!("{path}: does not begin with '# {number:04}: '"));
        }
        for heading in ["## Status", "## Context", "## Decision", "## Consequences"] {
            if !text.lines().any(|line| line == heading) {
                wrong.push(format!("{path}: has no '{heading}'"));
            }
        }
    }
    for (expected, number) in (1..).zip(numbers.keys()) {
        if expected != *number {
            wrong.push(format!("docs/decisions: number {expected:04} is missing"));
            break;
        }
    }
    report(wrong);
}

#[test]
fn documents_name_targets_that_the_makefile_has() {
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter(|line| !line.starts_with(['\t', '.', '#']) && !line.contains(":="))
        .filter_map(|line| line.split_once(':').map(|(target, _)| target.trim()))
        .collect();
    let mut wrong = Vec::new();
    for path in files().into_iter().filter(|path| path.ends_with(".md") || path == ".ci/run") {
        for (number, line) in numbered(&read(&path)) {
            for target in make_targets(line) {
                if !targets.contains(target) {
                    wrong.push(format!("{path}:{number}: the Makefile has no target '{target}'"));
                }
            }
        }
    }
    report(wrong);
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut wrong = Vec::new();
    for path in files().into_iter().filter(|path| path.ends_with(".md")) {
        let folder = root().join(&path).parent().map(Path::to_path_buf).unwrap_or_default();
        for (number, line) in numbered(&read(&path)) {
            for link in links(line) {
                let file = link.split('#').next().unwrap_or_default();
                if !file.is_empty() && !link.contains("://") && !folder.join(file).exists() {
                    wrong.push(format!("{path}:{number}: '{link}' leads nowhere"));
                }
            }
        }
    }
    report(wrong);
}

// ---------------------------------------------------------------------------------------------------------------
// Reading the repository

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What git tracks or would track, without what has been deleted; relative to the root, sorted.
fn files() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
    let present = names.split('\0').filter(|path| !path.is_empty() && root().join(path).is_file());
    present.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("read {path}: {error}"))
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines())
}

fn report(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

fn allowed_prefix(path: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| path.starts_with(prefix))
}

fn is_code(path: &str) -> bool {
    [".rs", ".ts", ".svelte", ".js", ".css", ".py", ".sh"].iter().any(|ending| path.ends_with(ending))
        || path.starts_with("scripts/")
}

fn gone<'a>(listed: impl Iterator<Item = &'a str>, list: &str) -> Vec<String> {
    listed
        .filter(|path| !root().join(path).is_file())
        .map(|path| format!("{path}: is gone; take it out of {list}"))
        .collect()
}

/// The names in a crate's manifest.
#[derive(Default)]
struct Manifest {
    name: String,
    dependencies: Vec<String>,
    dev_dependencies: Vec<String>,
}

impl Manifest {
    fn all(&self) -> impl Iterator<Item = &String> {
        self.dependencies.iter().chain(&self.dev_dependencies)
    }

    /// Enough of TOML for what our manifests hold: one entry to a line, or `[dependencies.name]`.
    fn parse(text: &str) -> Manifest {
        let mut manifest = Manifest::default();
        let mut section = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(heading) = line.strip_prefix('[') {
                section = heading.trim_matches(['[', ']']).to_owned();
                if let Some((table, name)) = section.split_once("dependencies.") {
                    manifest.list_of(table).push(name.to_owned());
                }
            } else if let Some((key, value)) = line.split_once('=') {
                let key = key.split('.').next().unwrap_or_default().trim();
                if section == "package" && key == "name" {
                    manifest.name = value.trim().trim_matches('"').to_owned();
                } else if let Some(table) = section.strip_suffix("dependencies") {
                    manifest.list_of(table).push(key.to_owned());
                }
            }
        }
        manifest
    }

    /// The list that a table belongs to, by what stands before `dependencies`.
    fn list_of(&mut self, table: &str) -> &mut Vec<String> {
        if table.ends_with("dev-") { &mut self.dev_dependencies } else { &mut self.dependencies }
    }
}

/// Each crate's manifest with its path.
fn manifests() -> Vec<(String, Manifest)> {
    let paths = files().into_iter().filter(|path| path.ends_with("/Cargo.toml"));
    paths.map(|path| (path.clone(), Manifest::parse(&read(&path)))).collect()
}

/// Whether a line holds this path from its beginning: `/srv/x` is not the path `/x`.
fn holds_path(line: &str, wanted: &str) -> bool {
    line.match_indices(wanted).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + wanted.len()..].chars().next();
        let continues = |c: char| c.is_ascii_alphanumeric() || "-_.}/~)".contains(c);
        !before.is_some_and(continues)
            && (wanted.ends_with('/') || !after.is_some_and(|c| c.is_ascii_alphanumeric() || c == '-'))
    })
}

/// Whether a changelog's heading names a release and its day.
fn is_release(heading: &str) -> bool {
    let Some((version, date)) = heading.split_once(" - ") else { return false };
    let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let version = version.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or_default();
    version.split('.').count() == 3
        && version.split('.').all(digits)
        && date.parse::<jiff::civil::Date>().is_ok()
}

/// The number in a decision's file name.
fn decision_number(name: &str) -> Option<u32> {
    let (number, title) = name.strip_suffix(".md")?.split_once('-')?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let well_formed = number.len() == 4 && !title.is_empty() && title.chars().all(plain);
    if well_formed { number.parse().ok() } else { None }
}

/// What stands under each heading of a level.
fn sections<'a>(text: &'a str, level: &str) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut sections: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix(level) {
            sections.push((heading, Vec::new()));
        } else if let Some((_, body)) = sections.last_mut() {
            body.push(line);
        }
    }
    sections
}

/// The targets of `make` in a line of prose or of a shell: after a backtick, or at the beginning.
fn make_targets(line: &str) -> impl Iterator<Item = &str> {
    let starts = line.match_indices("make ").filter(|(at, _)| {
        let before = line[..*at].trim_start().trim_start_matches("$ ");
        before.is_empty() && line.starts_with([' ', '$', 'm']) && !line.trim_start().contains(". ")
            || before.ends_with('`')
            || before.ends_with("&& ")
            || before.ends_with("exec ")
    });
    starts.filter_map(|(at, word)| {
        let rest = &line[at + word.len()..];
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '-' && !c.is_ascii_digit());
        Some(&rest[..end.unwrap_or(rest.len())]).filter(|target| !target.is_empty())
    })
}

/// Where the Markdown links of a line lead.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("](").filter_map(|(at, _)| line[at + 2..].split_once(')').map(|(link, _)| link))
}

// ---------------------------------------------------------------------------------------------------------------
// Reading Rust

#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: String,
    line: usize,
    /// From the line of `fn` to that of the closing brace.
    lines: usize,
}

/// The functions of a file that have a body.
fn functions(text: &str) -> Vec<Function> {
    let code = blank_out(text);
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let before = code[..at].chars().next_back();
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if name.is_empty() || before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let Some(body) = body_of(&code[at..]) else { continue };
        let line = code[..at].matches('\n').count() + 1;
        found.push(Function { name, line, lines: code[at..at + body].matches('\n').count() + 1 });
    }
    found
}

/// How far a function reaches that begins here, up to its closing brace; `None` without a body.
fn body_of(code: &str) -> Option<usize> {
    let mut depth = 0_usize;
    // Brackets of the signature, where a semicolon (`[u8; 4]`) ends nothing.
    let mut brackets = 0_i32;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' if depth == 0 => brackets += 1,
            ')' | ']' if depth == 0 => brackets -= 1,
            ';' if depth == 0 && brackets == 0 => return None,
            '{' => depth += 1,
            '}' if depth <= 1 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The code with its comments, strings and character literals made blank; lines stay where they are.
fn blank_out(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if c == '"' {
            string(rest)
        } else if is_raw_string(rest)
            && !out.ends_with(|before: char| before.is_alphanumeric() || before == '_')
        {
            raw_string(rest)
        } else if c == '\'' {
            character(rest)
        } else {
            0
        };
        if skipped == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            out.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[skipped..];
        }
    }
    out
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest[at..];
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn is_raw_string(rest: &str) -> bool {
    rest.strip_prefix('r').is_some_and(|rest| rest.trim_start_matches('#').starts_with('"'))
}

fn raw_string(rest: &str) -> usize {
    let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
    let begin = 1 + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    rest[begin..].find(&end).map_or(rest.len(), |at| begin + at + end.len())
}

/// The length of a character literal; 0 for a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            chars.next();
            chars.find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1)
        }
        Some((_, c)) if c != '\'' => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        _ => 0,
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The checks check something

#[test]
fn functions_are_found_where_they_end() {
    let text = r##"
fn one(x: [u8; 2]) -> char {
    // } a comment
    let s = "}" ; let r = r#"}"#;
    '}'
}
trait T<'a> { fn declared(&'a self); fn given() {} }
"##;
    let found = functions(text);
    let expected = [("one", 2, 5), ("given", 7, 1)];
    let expected = expected.map(|(name, line, lines)| Function { name: name.to_owned(), line, lines });
    assert_eq!(found, expected);
}

#[test]
fn manifests_are_read() {
    let text = "[package]\nname = \"x\"\n[dependencies]\nmodel.workspace = true\nserde = \"1\"\n\
                [dependencies.tokio]\nversion = \"1\"\n[dev-dependencies]\ninsta = \"1\"\n[[bin]]\nname = \"y\"\n";
    let manifest = Manifest::parse(text);
    assert_eq!(manifest.name, "x");
    assert_eq!(manifest.dependencies, ["model", "serde", "tokio"]);
    assert_eq!(manifest.dev_dependencies, ["insta"]);
}

#[test]
fn paths_and_targets_are_recognised() {
    assert!(holds_path("see /srv/x", "/srv/"));
    assert!(!holds_path("see /var/srv/x or {dir}/srv/x", "/srv/"));
    assert_eq!(make_targets("Type `make demo`, then `make test`.").collect::<Vec<_>>(), ["demo", "test"]);
    assert_eq!(make_targets("    make bench   # figures").collect::<Vec<_>>(), ["bench"]);
    assert_eq!(make_targets("these make sense").count(), 0);
    assert!(is_release("[1.0.0] - 2026-12-31") && !is_release("1.0.0 (yesterday)"));
    assert_eq!(decision_number("0007-names-as-keys.md"), Some(7));
    assert_eq!(decision_number("7-names.md"), None);
}
