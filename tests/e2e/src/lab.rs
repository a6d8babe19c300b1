//! A lab, driven as its user would: through the `kennel` command.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{BROKEN, wait};

/// How long anything may take that a lab does on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A lab that is taken down when it is dropped, unless `KENNEL_KEEP_LAB` is set.
#[derive(Debug)]
pub struct Lab {
    pub name: String,
    folder: PathBuf,
    keep: bool,
}

/// The `kennel` that was built with this program.
pub fn kennel_binary() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let near = own.ancestors().skip(1).take(3).map(|folder| folder.join("kennel"));
    near.into_iter()
        .find(|path| path.is_file())
        .context("find `kennel` beside this program: `make build` makes it")
}

/// Where the tiny image is kept that this build's kenneld made.
fn tiny_cache() -> Result<PathBuf> {
    let kennel = kennel_binary()?;
    let folder = kennel.parent().context("a program stands in a folder")?;
    let kenneld = std::fs::metadata(folder.join("kenneld")).context("find `kenneld` beside `kennel`")?;
    let built = kenneld.modified()?.duration_since(std::time::UNIX_EPOCH)?;
    Ok(folder.join("e2e").join(format!("tiny-{}", built.as_secs())))
}

impl Lab {
    /// Builds a lab of its own, with the tiny image in its catalogue.
    pub fn up(name: &str, hosts: u32) -> Result<Lab> {
        Self::up_with(name, hosts, &[])
    }

    /// As [`Lab::up`], with `extra` words for `kennel lab up`.
    pub fn up_with(name: &str, hosts: u32, extra: &[&str]) -> Result<Lab> {
        let base = std::env::temp_dir().join("kennel-e2e");
        let lab = Lab {
            name: name.to_owned(),
            folder: base.clone(),
            keep: std::env::var_os("KENNEL_KEEP_LAB").is_some(),
        };
        lab.lab(&["down"]).ok();
        lab.lab(&[&["up", "--hosts", &hosts.to_string()], extra].concat())?;
        lab.import_tiny()?;
        Ok(lab)
    }

    /// A lab that somebody else brought up, and that stays.
    pub fn existing(name: &str, folder: PathBuf) -> Lab {
        Lab { name: name.to_owned(), folder, keep: true }
    }

    /// The folder of this lab.
    pub fn folder(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    pub fn client_config(&self) -> PathBuf {
        self.folder().join("client.toml")
    }

    /// What a host keeps in its state directory.
    pub fn state_of(&self, host: &str) -> PathBuf {
        self.folder().join("hosts").join(host).join("state")
    }

    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(kennel_binary()?);
        command
            .env("KENNEL_CONFIG", self.client_config())
            .env("KENNEL_LAB_NAME", &self.name)
            .env("KENNEL_LAB_DIR", &self.folder)
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs `kennel` and answers whatever it says.
    pub fn try_kennel(&self, words: &[&str]) -> Result<Output> {
        self.command()?.args(words).output().context("run kennel")
    }

    /// Runs `kennel`, which must succeed.
    pub fn kennel(&self, words: &[&str]) -> Result<String> {
        let output = self.try_kennel(words)?;
        if !output.status.success() {
            bail!("`kennel {}` failed: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `kennel`, which must refuse with exit status 1 and a sentence; answers the sentence.
    pub fn refused(&self, words: &[&str]) -> Result<String> {
        let output = self.try_kennel(words)?;
        let sentence = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ensure!(
            output.status.code() == Some(1),
            "`kennel {}`: {:?}: {sentence}",
            words.join(" "),
            output.status
        );
        ensure!(sentence.starts_with("kennel: "), "`kennel {}` said: {sentence}", words.join(" "));
        Ok(sentence)
    }

    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let text = self.kennel(&[words, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("understand `kennel {}`", words.join(" ")))
    }

    pub fn lab(&self, words: &[&str]) -> Result<String> {
        self.kennel(&[&["lab"], words].concat())
    }

    /// The tiny image: built once by this very kenneld, imported from then on. Labs that begin together wait for the
    /// one that builds it.
    fn import_tiny(&self) -> Result<()> {
        let cache = tiny_cache()?;
        let folder = cache.parent().context("the cache stands in a folder")?;
        std::fs::create_dir_all(folder)?;
        let turn = File::create(folder.join("lock")).context("open the lock of the images' cache")?;
        turn.lock().context("wait for another lab that builds the tiny image")?;
        if cache.is_dir() {
            self.import_from(&cache)?;
        } else {
            for older in std::fs::read_dir(folder)?.filter_map(Result::ok).map(|entry| entry.path()) {
                if older.is_dir() {
                    std::fs::remove_dir_all(older)?;
                }
            }
            self.build_into(&cache)?;
        }
        drop(turn);
        self.wait_for_image("tiny")
    }

    fn import_from(&self, cache: &Path) -> Result<()> {
        let path = |part: &str| cache.join(part).display().to_string();
        let command_line =
            std::fs::read_to_string(path("command-line")).context("read the image's command line")?;
        let words = [
            "image",
            "import",
            "tiny",
            &path("disk"),
            "--kernel",
            &path("kernel"),
            "--initrd",
            &path("initrd"),
        ];
        self.kennel(&[&words[..], &["--command-line", &command_line]].concat())?;
        Ok(())
    }

    /// Builds the image here, and keeps a copy of it, which is there whole or not at all.
    fn build_into(&self, cache: &Path) -> Result<()> {
        self.kennel(&["image", "build", "tiny"])?;
        let view = self.json(&["image", "show", "tiny"])?;
        let image = &view["image"];
        let origin = image["imported_on"].as_str().context("the image's origin")?;
        let part_done = cache.with_extension("part");
        std::fs::create_dir(&part_done)?;
        for part in ["disk", "kernel", "initrd"] {
            let sha256 = image[part]["sha256"].as_str().context("the file's hash")?;
            std::fs::copy(self.state_of(origin).join("images").join(sha256), part_done.join(part))?;
        }
        let command_line = image["kernel_command_line"].as_str().unwrap_or_default();
        std::fs::write(part_done.join("command-line"), command_line)?;
        std::fs::rename(&part_done, cache).context("keep the tiny image")
    }

    /// Every host has the image's bytes.
    fn wait_for_image(&self, image: &str) -> Result<()> {
        wait("the image to be on every host", LIMIT, || {
            let hosts = self.json(&["host", "list"])?;
            let hosts = hosts.as_array().context("a list")?;
            let has = |host: &Value| {
                let images = host["report"]["images"].as_array();
                images.is_some_and(|images| images.iter().any(|name| name == image))
            };
            Ok(hosts.iter().all(has).then_some(()))
        })
    }

    pub fn guest(&self, name: &str) -> Result<Value> {
        self.json(&["guest", "show", name])
    }

    /// Waits until a guest is in a phase, on whatever host; answers its view.
    pub fn wait_for_phase(&self, name: &str, phase: &str) -> Result<Value> {
        wait(&format!("the guest {name} to be {phase}"), LIMIT, || {
            let guest = self.guest(name)?;
            Ok((guest["phase"] == phase).then_some(guest))
        })
    }

    /// Waits until all volumes of a guest are in sync on two hosts, and it runs.
    pub fn wait_for_sync(&self, name: &str) -> Result<Value> {
        wait(&format!("the guest {name} to run with both replicas in sync"), LIMIT, || {
            let guest = self.guest(name)?;
            let volumes = guest["volumes"].as_array().context("volumes")?;
            let in_sync = volumes.iter().all(|volume| volume["phase"] == "in-sync");
            Ok((in_sync && guest["phase"] == "running").then_some(guest))
        })
    }

    pub fn wait_for_hosts_online(&self, count: usize) -> Result<()> {
        wait(&format!("{count} hosts to be online"), LIMIT, || {
            let hosts = self.json(&["host", "list"])?;
            let online = hosts.as_array().context("a list")?.iter().filter(|host| host["phase"] == "online");
            Ok((online.count() == count).then_some(()))
        })
    }

    /// The host of a guest's primary and of its secondary.
    pub fn places(&self, name: &str) -> Result<(String, String)> {
        let guest = self.guest(name)?;
        let of = |key: &str| guest[key].as_str().map(str::to_owned);
        Ok((of("host").context("the guest's host")?, of("secondary").context("the secondary's host")?))
    }

    /// What was told of one kind about one thing, oldest first.
    pub fn events(&self, kind: &str, subject: &str) -> Result<Vec<String>> {
        let events = self.json(&["events", "--subject", subject, "--limit", "1000"])?;
        let told = events.as_array().context("a list")?.iter().filter(|event| event["kind"] == kind);
        Ok(told.filter_map(|event| event["message"].as_str().map(str::to_owned)).collect())
    }

    /// The id of a guest's first volume.
    fn volume(&self, name: &str) -> Result<String> {
        let guest = self.guest(name)?;
        Ok(guest["volumes"][0]["id"].as_str().context("the guest's volume")?.to_owned())
    }

    /// The hosts that have a file of a guest's first disk.
    pub fn holders(&self, name: &str) -> Result<Vec<String>> {
        let file = format!("{}.raw", self.volume(name)?);
        let hosts = std::fs::read_dir(self.folder().join("hosts"))?.flatten();
        let hosts = hosts.map(|entry| entry.file_name().to_string_lossy().into_owned());
        Ok(hosts.filter(|host| self.state_of(host).join("volumes").join(&file).is_file()).collect())
    }

    /// Where a host keeps its replica of a guest's first disk.
    pub fn replica(&self, host: &str, name: &str) -> Result<PathBuf> {
        Ok(self.state_of(host).join("volumes").join(format!("{}.raw", self.volume(name)?)))
    }

    /// The sizes of the files of a guest's first disk, bytes, by host.
    pub fn file_sizes(&self, name: &str) -> Result<Vec<u64>> {
        let file = format!("{}.raw", self.volume(name)?);
        let size = |host: String| Ok(self.state_of(&host).join("volumes").join(&file).metadata()?.len());
        self.holders(name)?.into_iter().map(size).collect()
    }

    /// The hosts that the record of a guest's first disk counts on.
    pub fn in_sync_hosts(&self, name: &str) -> Result<Vec<String>> {
        let guest = self.guest(name)?;
        let replicas = guest["volumes"][0]["replicas"].as_array().context("the replicas")?.iter();
        let good = replicas.filter(|replica| replica["in_sync"] == true);
        Ok(good.filter_map(|replica| replica["host"].as_str().map(str::to_owned)).collect())
    }

    /// Stops a guest, sees that the copies of its first disk on both hosts are the same, and starts it again.
    pub fn check_copies(&self, name: &str) -> Result<()> {
        let (primary, secondary) = self.places(name)?;
        let file = format!("{}.raw", self.volume(name)?);
        self.kennel(&["guest", "stop", name])?;
        self.wait_for_phase(name, "stopped")?;
        let open = |host: &str| {
            let path = self.state_of(host).join("volumes").join(&file);
            File::open(&path).with_context(|| format!("open {}", path.display()))
        };
        let (ours, theirs) = (open(&primary)?, open(&secondary)?);
        let size = ours.metadata()?.len();
        ensure!(size == theirs.metadata()?.len(), "{name}: the copies have different sizes");
        let (mut one, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let mut unlike = Vec::new();
        for at in (0..size).step_by(1 << 20) {
            let length = usize::try_from((size - at).min(1 << 20))?;
            ours.read_exact_at(&mut one[..length], at)?;
            theirs.read_exact_at(&mut other[..length], at)?;
            if one[..length] != other[..length] {
                unlike.push(at >> 20);
            }
        }
        ensure!(
            unlike.is_empty(),
            "{name}: the copies on {primary} and {secondary} differ at MiB {unlike:?}"
        );
        self.kennel(&["guest", "start", name])?;
        self.wait_for_phase(name, "running").map(drop)
    }

    /// Writes so many MiB that no program can compress to the end of a guest's disk, behind all records.
    pub fn write_noise(&self, name: &str, mib: u32) -> Result<()> {
        let script = format!(
            "blocks=$(cat /sys/class/block/vda/size); \
             dd if=/dev/urandom of=/dev/vda bs=1M count={mib} seek=$((blocks / 2048 - {mib})) conv=notrunc,fsync"
        );
        self.kennel(&["guest", "exec", name, "--", "sh", "-c", &script]).map(drop)
    }

    /// Lets a host send no faster than this, in the words of tc, as in `40mbit`.
    pub fn slow_down(&self, host: &str, rate: &str) -> Result<()> {
        let words = ["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate];
        self.lab(&[&["exec", host, "--"], &words[..], &["burst", "256k", "latency", "50ms"]].concat())
            .map(drop)
    }

    pub fn full_speed(&self, host: &str) -> Result<()> {
        self.lab(&["exec", host, "--", "tc", "qdisc", "del", "dev", "eth0", "root"]).map(drop)
    }

    pub fn leader(&self) -> Result<String> {
        wait("a leader", LIMIT, || {
            let status = self.json(&["cluster", "status"])?;
            Ok(status["leader"].as_str().map(str::to_owned))
        })
    }

    /// Runs a program of this build beside the guests, in the network that they are reached from.
    pub fn beside_guests(&self, program: &str, words: &[&str]) -> Result<std::process::Child> {
        let path = kennel_binary()?.with_file_name(program).display().to_string();
        let mut command = self.command()?;
        command.args(["lab", "exec", "switch", "--", &path]).args(words);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("run {program}"))
    }

    /// Waits until kenneld on a host has said these words, after the first `skip` bytes of its log. Looks all the
    /// time: what follows is to happen at this very moment.
    pub fn wait_for_words(&self, host: &str, skip: usize, words: &str, limit: Duration) -> Result<bool> {
        let begin = std::time::Instant::now();
        while begin.elapsed() < limit {
            if self.log_of(host).get(skip..).is_some_and(|news| news.contains(words)) {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(false)
    }

    /// What kenneld says on a host.
    pub fn log_of(&self, host: &str) -> String {
        let path = self.folder().join("hosts").join(host).join("kenneld.log");
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// No daemon has said that a person must look.
    pub fn assert_no_errors(&self, hosts: u32) -> Result<()> {
        for n in 1..=hosts {
            let log = self.log_of(&format!("host{n}"));
            if let Some(line) =
                log.lines().find(|line| line.contains(" ERROR ") || line.contains("panicked at "))
            {
                bail!("{BROKEN}: kenneld on host{n} says: {line}");
            }
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for n in 1..=3 {
                let log = self.log_of(&format!("host{n}"));
                let tail: Vec<&str> = log.lines().rev().take(40).collect();
                eprintln!("--- kenneld on host{n}, its last lines");
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
        if !self.keep
            && let Err(error) = self.lab(&["down"])
        {
            eprintln!("the lab {} is left behind: {error:#}", self.name);
        }
    }
}
