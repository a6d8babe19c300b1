//! Debian's packages, fetched and unpacked without installing anything.
//!
//! apt does the fetching and checks the signatures, with its caches in the builder's directory, so that the
//! host's own package state stays as it is. The host's package lists serve where they are good; where they
//! are missing or name versions that are gone, fresh ones are fetched into the builder's directory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::failed;
use crate::HostError;
use crate::program::{program, succeed};

/// A resolver run takes a second or two.
const QUERY_LIMIT: Duration = Duration::from_secs(120);

/// For a mirror behind a slow line: some tens of megabytes.
const FETCH_LIMIT: Duration = Duration::from_secs(1800);

const UNPACK_LIMIT: Duration = Duration::from_secs(300);

/// A package manager of the builder's own, on the host's sources.
#[derive(Debug)]
pub(super) struct Packages {
    dir: PathBuf,
    /// Whether the lists in `dir` are used instead of the host's.
    own_lists: bool,
}

impl Packages {
    /// Works under `dir`.
    pub(super) fn new(dir: PathBuf) -> Result<Self, HostError> {
        for part in ["cache/archives/partial", "lists/partial", "fetched"] {
            let path = dir.join(part);
            std::fs::create_dir_all(&path).map_err(|e| failed("make a directory", &path, &e))?;
        }
        let status = dir.join("status");
        std::fs::write(&status, b"").map_err(|e| failed("write a file", &status, &e))?;
        Ok(Self { dir, own_lists: false })
    }

    /// Fetches fresh package lists, and uses them from now on.
    pub(super) async fn refresh(&mut self) -> Result<(), HostError> {
        self.own_lists = true;
        succeed(self.apt("apt-get").arg("update"), "fetch Debian's package lists", FETCH_LIMIT).await?;
        Ok(())
    }

    /// The newest package that a meta-package stands for: the first of its dependencies that begins with
    /// `prefix`.
    pub(super) async fn dependency(&self, package: &str, prefix: &str) -> Result<String, HostError> {
        let mut query = self.apt("apt-cache");
        query.args(["depends", package]);
        let output =
            succeed(&mut query, &format!("look up the Debian package '{package}'"), QUERY_LIMIT).await?;
        let text = String::from_utf8_lossy(&output).into_owned();
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .ok_or_else(|| {
                HostError::NotFound(format!(
                    "the Debian package '{package}' names no package '{prefix}…'; is the Debian archive among apt's \
                     sources?"
                ))
            })
    }

    /// A package and the libraries that it needs, as on a machine where nothing is installed.
    pub(super) async fn with_libraries(&self, package: &str) -> Result<Vec<String>, HostError> {
        let mut query = self.apt("apt-get");
        query.args(["install", "-y", "--no-install-recommends", "--print-uris", package]);
        let output =
            succeed(&mut query, &format!("resolve the Debian package '{package}'"), QUERY_LIMIT).await?;
        // 'http://…/libc6_2.36-9_amd64.deb' libc6_2.36-9_amd64.deb 2759320 SHA256:…
        let text = String::from_utf8_lossy(&output).into_owned();
        Ok(text
            .lines()
            .filter(|line| line.starts_with('\''))
            .filter_map(|line| line.split(' ').nth(1)?.split('_').next())
            .filter(|name| *name == package || (name.starts_with("lib") && !name.contains("perl")))
            .map(str::to_owned)
            .collect())
    }

    /// Fetches packages, and unpacks all of them into `root`.
    pub(super) async fn unpack(&self, packages: &[String], root: &Path) -> Result<(), HostError> {
        let fetched = self.dir.join("fetched");
        let mut fetch = self.apt("apt-get");
        fetch.current_dir(&fetched).arg("download").args(packages);
        succeed(&mut fetch, "fetch Debian's packages", FETCH_LIMIT).await?;
        std::fs::create_dir_all(root).map_err(|e| failed("make a directory", root, &e))?;
        for entry in std::fs::read_dir(&fetched).map_err(|e| failed("list the packages", &fetched, &e))? {
            let path = entry.map_err(|e| failed("list the packages", &fetched, &e))?.path();
            let mut unpack = program("dpkg-deb");
            unpack.arg("-x").arg(&path).arg(root);
            succeed(&mut unpack, "unpack a Debian package", UNPACK_LIMIT).await?;
            std::fs::remove_file(&path).map_err(|e| failed("remove an unpacked package", &path, &e))?;
        }
        Ok(())
    }

    fn apt(&self, name: &str) -> Command {
        let mut command = program(name);
        // The directory may be readable by root alone, and apt's own user then cannot write there.
        command.args(["-q", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=true"]);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        let mut set = |option: &str, path: &Path| {
            let mut value = OsString::from(option);
            value.push("=");
            value.push(path);
            command.arg("-o").arg(value);
        };
        set("Dir::Cache", &self.dir.join("cache"));
        set("Dir::State::status", &self.dir.join("status"));
        if self.own_lists {
            set("Dir::State::lists", &self.dir.join("lists"));
        }
        command
    }
}
