//! Fence agents: programs that switch a machine's power through a device, run by their common contract.
//!
//! The contract is that of the fence-agents family, which other cluster managers use, too ("Fence Agent API",
//! ClusterLabs): options as `name=value` lines on stdin, so that no password stands in a list of processes; the
//! `action` among them; exit status 0 for done (`status`: the power is on), 2 for `status` of a power that is off,
//! anything else for failed. What an agent says of itself is [`Description`].
//!
//! None of it is believed more than need be. A power counts as off when, after `off` said that it was done, `status`
//! says so as well ([`Agents::take_power`]). An agent that hangs is ended together with all that it has started, and
//! before that it is asked a second time: whichever of the two has seen the power off first counts.

mod description;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::HostError;

pub use description::{Description, is_secret};

/// Where Debian puts them, if the daemon's PATH does not say so.
const FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// An agent that says what it is asks no device.
const DESCRIBE_LIMIT: Duration = Duration::from_secs(20);

/// A device that cannot be reached takes some agents 20 s to give up, and a slow BMC 10 s to answer.
const STATUS_LIMIT: Duration = Duration::from_secs(45);

/// Agents look every second whether the power is off, most for 20 s, and begin and end with a status.
const SWITCH_LIMIT: Duration = Duration::from_secs(90);

/// A device that has not taken the power after so long is asked a second time beside the first: guests wait for it, and
/// one lost packet costs some agents 20 s. A well one needs less than a second.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Of what an agent prints. A description has some 30 KiB.
const OUTPUT_MAX: u64 = 1 << 20;

/// Characters of an agent's complaint that are passed on.
const COMPLAINT_MAX: usize = 200;

/// The longest name of an agent, and the longest value of an option.
const NAME_LENGTH_MAX: usize = 64;

/// Whether there is power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    On,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    On,
    Off,
    Status,
    Metadata,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Action::On => "on",
            Action::Off => "off",
            Action::Status => "status",
            Action::Metadata => "metadata",
        }
    }
}

/// A device as its agent is told of it, secrets included.
#[derive(Clone)]
pub struct Device {
    pub agent: String,
    pub options: BTreeMap<String, String>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("agent", &self.agent).finish_non_exhaustive()
    }
}

/// The agents of this host.
#[derive(Debug, Clone)]
pub struct Agents {
    folders: Vec<PathBuf>,
    status_limit: Duration,
    switch_limit: Duration,
    ask_again_after: Duration,
}

impl Default for Agents {
    /// Those in the daemon's PATH, and where Debian puts them.
    fn default() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
        Self::in_folders(own.chain(FOLDERS.map(PathBuf::from)).collect())
    }
}

impl Agents {
    /// Those in these folders; the first of a name counts.
    pub fn in_folders(folders: Vec<PathBuf>) -> Self {
        Self {
            folders,
            status_limit: STATUS_LIMIT,
            switch_limit: SWITCH_LIMIT,
            ask_again_after: ASK_AGAIN_AFTER,
        }
    }

    /// As these, with other time limits.
    #[must_use]
    pub fn with_limits(self, status: Duration, switch: Duration) -> Self {
        Self { status_limit: status, switch_limit: switch, ..self }
    }

    /// What an agent says of itself.
    ///
    /// # Errors
    /// `NotFound` when there is no such agent; `Failed` when what it says is no description.
    pub async fn describe(&self, agent: &str) -> Result<Description, HostError> {
        let device = Device { agent: agent.to_owned(), options: BTreeMap::new() };
        let answer = self.ask(&device, Action::Metadata, DESCRIBE_LIMIT).await?;
        let failed =
            |why: String| HostError::Failed(format!("'{agent}' does not say which options it knows: {why}"));
        if answer.code != Some(0) {
            return Err(failed(answer.complaint(&device)));
        }
        Description::parse(&answer.output).map_err(failed)
    }

    /// Whether the device says that there is power.
    pub async fn status(&self, device: &Device) -> Result<Power, HostError> {
        let answer = self.ask(device, Action::Status, self.status_limit).await?;
        match answer.code {
            Some(0) => Ok(Power::On),
            Some(2) => Ok(Power::Off),
            Some(_) | None => Err(HostError::Failed(format!(
                "the device does not say whether there is power: {}",
                answer.complaint(device)
            ))),
        }
    }

    /// Returns when the device, asked anew after it said that it had taken the power, says that there is none. One that
    /// takes long is asked a second time meanwhile.
    pub async fn take_power(&self, device: &Device) -> Result<(), HostError> {
        let first = self.try_to_take_power(device);
        let second = async {
            tokio::time::sleep(self.ask_again_after).await;
            self.try_to_take_power(device).await
        };
        let begun = tokio::time::Instant::now();
        tokio::pin!(first, second);
        tokio::select! {
            outcome = &mut first => match outcome {
                Err(_) if begun.elapsed() >= self.ask_again_after => second.await,
                outcome => outcome,
            },
            outcome = &mut second => match outcome {
                Err(_) => first.await,
                Ok(()) => Ok(()),
            },
        }
    }

    async fn try_to_take_power(&self, device: &Device) -> Result<(), HostError> {
        self.switch(device, Action::Off).await?;
        match self.status(device).await? {
            Power::Off => Ok(()),
            Power::On => {
                Err(HostError::Failed("it said that the power is off, and then that it is on".into()))
            }
        }
    }

    /// Returns when the device has given power.
    pub async fn give_power(&self, device: &Device) -> Result<(), HostError> {
        self.switch(device, Action::On).await
    }

    async fn switch(&self, device: &Device, action: Action) -> Result<(), HostError> {
        let answer = self.ask(device, action, self.switch_limit).await?;
        match answer.code {
            Some(0) => Ok(()),
            Some(_) | None => Err(HostError::Failed(format!(
                "'{}' did not switch the power {}: {}",
                device.agent,
                action.as_str(),
                answer.complaint(device)
            ))),
        }
    }

    fn find(&self, agent: &str) -> Result<PathBuf, HostError> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if !agent.starts_with("fence_") || agent.len() > NAME_LENGTH_MAX || !agent.chars().all(plain) {
            let why = format!("'{agent}' is no name of a fence agent: they are called as in fence_ipmilan");
            return Err(HostError::NotFound(why));
        }
        let paths = self.folders.iter().map(|folder| folder.join(agent));
        paths.into_iter().find(|path| is_program(path)).ok_or_else(|| {
            HostError::NotFound(format!(
                "the fence agent '{agent}' is not installed here; Debian's package fence-agents has most of them"
            ))
        })
    }

    async fn ask(&self, device: &Device, action: Action, limit: Duration) -> Result<Answer, HostError> {
        let Device { agent, options } = device;
        let mut input = format!("action={}\n", action.as_str());
        for (name, value) in options {
            if value.contains(char::is_control) {
                return Err(HostError::Failed(format!(
                    "the value of '{name}' has characters that end lines"
                )));
            }
            input += &format!("{name}={value}\n");
        }
        let mut command = Command::new(self.find(agent)?);
        command
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // What it starts is ended with it.
            .process_group(0)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .map_err(|error| HostError::Failed(format!("'{agent}' does not start: {error}")))?;
        let mut running = Running(child);
        match tokio::time::timeout(limit, running.talk(&input)).await {
            Ok(answer) => {
                answer.map_err(|error| HostError::Failed(format!("cannot talk to '{agent}': {error}")))
            }
            Err(_) => Err(HostError::TimedOut(format!(
                "'{agent}' did not answer to '{}' within {} s, and was ended",
                action.as_str(),
                limit.as_secs_f32()
            ))),
        }
    }
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// An agent at work. All processes of its group end with it, also when whoever asked goes away.
struct Running(Child);

impl Running {
    async fn talk(&mut self, input: &str) -> std::io::Result<Answer> {
        let child = &mut self.0;
        let (mut output, mut complaint) = (Vec::new(), Vec::new());
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // One that reads nothing, as for its description, may be gone by now.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            Ok(())
        };
        let read = async {
            match stdout {
                Some(stdout) => stdout.take(OUTPUT_MAX).read_to_end(&mut output).await.map(drop),
                None => Ok(()),
            }
        };
        let listen = async {
            match stderr {
                Some(stderr) => stderr.take(OUTPUT_MAX).read_to_end(&mut complaint).await.map(drop),
                None => Ok(()),
            }
        };
        tokio::try_join!(write, read, listen)?;
        let code = child.wait().await?.code();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Answer { code, output: text(&output), complaint: text(&complaint) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Until it has been waited for, the number is that of its group and of no other. The group may be gone.
        if let Some(pid) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// How an agent ended, and what it said.
struct Answer {
    /// `None`: it was killed.
    code: Option<i32>,
    output: String,
    complaint: String,
}

impl Answer {
    /// The last line of what it complained of, without the values that it was told in confidence.
    fn complaint<'a>(&'a self, device: &Device) -> String {
        let says = |line: &&str| !line.is_empty() && !line.contains("Warning:");
        let last = |text: &'a str| text.lines().map(str::trim).rfind(says);
        let line = last(&self.complaint).or_else(|| last(&self.output)).unwrap_or("it said nothing");
        // As in "2026-11-21 20:00:00,123 ERROR: Connection timed out".
        let mut text = line.split_once("ERROR: ").map_or(line, |(_, text)| text).to_owned();
        for (_, value) in device.options.iter().filter(|(name, value)| is_secret(name) && !value.is_empty()) {
            text = text.replace(value.as_str(), "…");
        }
        let text: String = text.chars().take(COMPLAINT_MAX).collect();
        match self.code {
            Some(code) => format!("{text} (exit status {code})"),
            None => format!("{text} (it was killed)"),
        }
    }
}

#[cfg(test)]
mod tests;
