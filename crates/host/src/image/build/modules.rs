//! Which of a kernel's modules an initial file system needs, and in what order they are loaded.
//!
//! Debian's kernel packages have no `modules.dep`: it is made on the machine that installs them. So each
//! module is asked itself: its `.modinfo` section holds `depends=` with the names of those that come first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::failed;
use crate::HostError;
use crate::program::{program, succeed};

/// A module has some hundred kilobytes.
const UNPACK_LIMIT: Duration = Duration::from_secs(30);

/// Endings of module files; the last two are compressed.
const SUFFIXES: [&str; 3] = [".ko", ".ko.xz", ".ko.zst"];

/// The modules of one kernel.
#[derive(Debug)]
pub(super) struct Modules {
    /// By name, with underscores.
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

/// A module's name and what the kernel loads.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) content: Vec<u8>,
}

impl Modules {
    /// Looks through `<…>/lib/modules/<version>`.
    pub(super) fn find(dir: &Path) -> Result<Self, HostError> {
        let mut files = BTreeMap::new();
        walk(&dir.join("kernel"), &mut files).map_err(|e| failed("list the kernel's modules", dir, &e))?;
        let list = dir.join("modules.builtin");
        let built_in = std::fs::read_to_string(&list)
            .map_err(|e| failed("read what the kernel has built in", &list, &e))?
            .lines()
            .filter_map(|line| module_name(Path::new(line)))
            .collect();
        Ok(Self { files, built_in })
    }

    /// Whether there is a file of that name, with underscores.
    pub(super) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// The wanted modules and those that they need, each after what it needs. What the kernel has built in is
    /// left out.
    pub(super) async fn load_order(&self, wanted: &[&str]) -> Result<Vec<Module>, HostError> {
        let mut ordered: Vec<Module> = Vec::new();
        let mut done = BTreeSet::new();
        // A name is seen twice: first to be read and to push what it needs, then to take its place.
        let mut open: Vec<(String, Option<Module>)> =
            wanted.iter().rev().map(|name| ((*name).to_owned(), None)).collect();
        while let Some((name, read)) = open.pop() {
            if let Some(module) = read {
                if done.insert(name) {
                    ordered.push(module);
                }
                continue;
            }
            if done.contains(&name) || self.built_in.contains(&name) {
                continue;
            }
            let content = self.read(&name).await?;
            let needed = depends(&content);
            open.push((name.clone(), Some(Module { name, content })));
            open.extend(needed.into_iter().map(|needed| (needed, None)));
        }
        Ok(ordered)
    }

    async fn read(&self, name: &str) -> Result<Vec<u8>, HostError> {
        let path = self.files.get(name).ok_or_else(|| {
            HostError::NotFound(format!(
                "cannot build the image: the kernel package has no module '{name}', built in or not"
            ))
        })?;
        let unpack = match path.extension().and_then(|suffix| suffix.to_str()) {
            Some("xz") => "xz",
            Some("zst") => "zstd",
            Some(_) | None => {
                return std::fs::read(path).map_err(|e| failed("read a kernel module", path, &e));
            }
        };
        succeed(program(unpack).args(["-d", "-c", "--"]).arg(path), "unpack a kernel module", UNPACK_LIMIT)
            .await
    }
}

fn walk(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            walk(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The kernel takes hyphens and underscores in a module's name for the same.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let stem = SUFFIXES.iter().find_map(|suffix| file.strip_suffix(suffix))?;
    Some(stem.replace('-', "_"))
}

fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = &module[start + KEY.len()..];
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(modules: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("kernel/fs")).unwrap();
        std::fs::write(dir.path().join("modules.builtin"), "kernel/fs/ext4.ko\n").unwrap();
        for (file, needs) in modules {
            let content = format!("ELF\0license=GPL\0depends={needs}\0name=x\0");
            std::fs::write(dir.path().join("kernel/fs").join(file), content).unwrap();
        }
        dir
    }

    #[tokio::test]
    async fn what_is_needed_comes_first_and_once() {
        let dir = tree(&[("a.ko", "b,c-d"), ("b.ko", "c_d"), ("c-d.ko", ""), ("other.ko", "")]);
        let modules = Modules::find(dir.path()).unwrap();
        let ordered = modules.load_order(&["a", "ext4", "b"]).await.unwrap();
        let names: Vec<_> = ordered.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["c_d", "b", "a"]);
    }

    #[tokio::test]
    async fn a_module_that_is_nowhere_is_named() {
        let dir = tree(&[("a.ko", "gone")]);
        let modules = Modules::find(dir.path()).unwrap();
        let error = modules.load_order(&["a"]).await.unwrap_err().to_string();
        assert!(error.contains("no module 'gone'"), "{error}");
    }
}
