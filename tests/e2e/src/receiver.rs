//! Somebody whom a lab's cluster tells of incidents: a webhook beside the hosts.

use std::fs::File;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::{LIMIT, Lab};
use crate::wait;

/// The switch, as the hosts reach it.
const ADDRESS: &str = "10.77.0.254";

/// Ends with this, or with its lab.
#[derive(Debug)]
pub struct Receiver {
    child: Child,
    told: PathBuf,
    pub url: String,
    /// The file with the key that it knows.
    pub key: String,
}

impl Receiver {
    pub fn start(lab: &Lab) -> Result<Receiver> {
        let program =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/daemon/src/alerts/tests/webhook.py");
        let (told, key) = (lab.folder().join("told"), lab.folder().join("key"));
        std::fs::write(&key, "a key of the story\n").context("write the webhook's key")?;
        let child = lab
            .command()?
            .args(["lab", "exec", "switch", "--", "python3"])
            .arg(program)
            .arg("a key of the story")
            .env("ADDRESS", ADDRESS)
            .stdout(Stdio::from(File::create(&told).context("make the webhook's log")?))
            .spawn()
            .context("start the webhook's receiver")?;
        let mut receiver = Receiver { child, told, url: String::new(), key: key.display().to_string() };
        let port =
            wait("the webhook's receiver to listen", LIMIT, || Ok(receiver.lines()?.first().cloned()))?;
        receiver.url = format!("http://{ADDRESS}:{port}/");
        Ok(receiver)
    }

    fn lines(&self) -> Result<Vec<String>> {
        let file = File::open(&self.told).context("read the webhook's log")?;
        Ok(std::io::BufReader::new(file).lines().map_while(Result::ok).collect())
    }

    /// What it was told of incidents of one kind, each signed with its key.
    pub fn notices(&self, kind: &str) -> Result<Vec<Value>> {
        let lines = self.lines()?;
        let told = lines.iter().skip(1).filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let signed = told.filter(|told| told["signed"] == true).map(|told| told["notice"].clone());
        Ok(signed.filter(|notice| notice["incidents"][0]["incident"]["kind"] == kind).collect())
    }

    /// Waits until it was told of a host's loss in these words. What it weighs depends on whether its guests ran
    /// elsewhere by then.
    pub fn wait_for(&self, kind: &str, words: &str) -> Result<()> {
        wait(&format!("a notice that says '{words}'"), LIMIT, || {
            let notices = self.notices("host-lost")?;
            let found = notices.iter().any(|notice| {
                notice["kind"] == kind && notice["headline"].as_str().is_some_and(|said| said.contains(words))
            });
            Ok(found.then_some(()))
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // The program behind it ends with the lab.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
