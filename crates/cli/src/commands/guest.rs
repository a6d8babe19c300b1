//! `kennel guest`: the pets.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use api::{Blob, Client, ClientError, CreateDisk, CreateGuest, ExecRequest, GuestView, MigrateGuest};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use model::{Bytes, GuestName, HostName, ImageName, MoveOptions, NetworkName, PoolName};

use super::guest_health::{self, HealthArguments};
use super::guest_power::{self, ForceGuests, Guests};
use super::guest_set;
use super::guest_show::{show, table, why};
use super::host;
use crate::console;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Format, note, write_stdout};
use crate::{listing, progress, terminal};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a guest, and start it
    #[command(after_help = "Examples:
  kennel guest create web1 --image debian --memory 1G --vcpus 2 --disk 20G --ssh-key ~/.ssh/id_ed25519.pub
  kennel guest create db1 --image debian --disk 20G --disk 100G --address 10.90.0.11 --priority 10
  kennel guest create try --image tiny --pool local --no-start")]
    Create(Box<CreateArguments>),
    /// All guests
    #[command(after_help = "Examples:
  kennel guest list
  kennel guest list --watch        see them move when a host dies")]
    List {
        /// Go on, and show every change
        #[arg(long)]
        watch: bool,
    },
    /// Everything about one guest
    #[command(after_help = "Examples:
  kennel guest show web1
  kennel guest show web1 -o json | jq -r .phase")]
    Show { guest: GuestName },
    /// Why a guest is where it is, and not elsewhere
    #[command(after_help = "Examples:
  kennel guest why web1
  kennel guest why web1 -o json | jq .others")]
    Why { guest: GuestName },
    /// Change what is said of a guest
    #[command(after_help = "Examples:
  kennel guest set web1 --priority 10 --tag web --pin
  kennel guest set web1 --after db1 --after cache1
  kennel guest set web1 --restart-with db1
  kennel guest set web1 --health tcp:22 --restart-limit 3
  kennel guest set web1 --memory 2G --vcpus 2      while it is stopped")]
    Set(Box<guest_set::SetArguments>),
    /// What a guest showed and said last before it was reset because it was not well, or died
    #[command(after_help = "Examples:
  kennel guest last-moments web1
  kennel guest last-moments web1 --save .     also writes the pictures of its screen here")]
    LastMoments {
        guest: GuestName,
        /// Write the pictures of its screen into this folder
        #[arg(long, value_name = "FOLDER")]
        save: Option<PathBuf>,
    },
    /// Start guests that are stopped; of several, first those that others start after
    #[command(after_help = "Examples:
  kennel guest start web1
  kennel guest start web1 app1 db1")]
    Start(ForceGuests),
    /// Ask guests to shut down; end those that do not in their time. Of several, those that start last stop first
    #[command(after_help = "Examples:
  kennel guest stop web1
  kennel guest stop db1 app1 web1")]
    Stop(Guests),
    /// Stop a guest and start it again
    #[command(after_help = "Example:
  kennel guest restart web1")]
    Restart(OneGuest),
    /// Move a guest to another host, or its secondary
    #[command(after_help = "Examples:
  kennel guest migrate web1                     wherever it is best off
  kennel guest migrate web1 --to host2          host2 runs it from then on
  kennel guest migrate web1 --secondary host3   it stays, and host3 holds its second copy
  kennel guest migrate web1 --to host2 --bandwidth 50M --auto-converge

A guest that runs goes on running, and stands still for some tenths of a second at the end.
To the host of its secondary only memory is sent: the two change roles. Any other host gets a copy first.
`kennel job cancel` stops it until the guest changes its host.")]
    Migrate {
        #[command(flatten)]
        guest: OneGuest,
        /// The host that shall run it [default: the best one, or where it is when --secondary is given]
        #[arg(long, value_name = "HOST")]
        to: Option<HostName>,
        /// The host that shall hold its second copy [default: what costs the least copying]
        #[arg(long, value_name = "HOST")]
        secondary: Option<HostName>,
        /// Though the cluster could no longer survive what it promises to
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        how: How,
    },
    /// End a guest and destroy its disks
    #[command(after_help = "Examples:
  kennel guest delete web1         says what goes, and asks
  kennel guest delete web1 --yes   does not ask")]
    Delete {
        #[command(flatten)]
        guest: OneGuest,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// A guest's serial console in this terminal; ctrl-] detaches
    #[command(after_help = "Examples:
  kennel guest console web1
  echo poweroff | kennel guest console web1 --seconds 10

When stdin is not a terminal it is sent to the guest, and what the guest prints is shown until the
console ends or the time is over. A guest that moves to another host is followed there.")]
    Console {
        guest: GuestName,
        /// Detach after so many seconds; those after the end of the input when that is not a terminal
        #[arg(long, value_name = "N")]
        seconds: Option<u32>,
    },
    /// Run a program inside a guest, through its guest agent
    #[command(after_help = "Examples:
  kennel guest exec web1 -- uptime
  kennel guest exec web1 -- sh -c 'df -h | tail -1'
  kennel guest exec web1 --stdin -- tee /etc/motd < motd

Ends with the program's exit status.")]
    Exec {
        guest: GuestName,
        /// Give the program what stdin holds
        #[arg(long)]
        stdin: bool,
        /// The program and its arguments; no shell is involved
        #[arg(required = true, last = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
}

/// How a running guest gets to another host.
#[derive(Debug, Args)]
pub struct How {
    /// Shut it down here and start it there instead
    #[arg(long, conflicts_with_all = ["bandwidth", "max_downtime", "auto_converge", "post_copy"])]
    restart: bool,
    /// Send its memory with so many bytes per second at most, as in 50M [default: as fast as it goes]
    #[arg(long, value_name = "SIZE")]
    bandwidth: Option<Bytes>,
    /// Let it stand still for so many milliseconds at most [default: 500]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    max_downtime: Option<u32>,
    /// Slow it down for as long as its memory changes faster than it is sent
    #[arg(long)]
    auto_converge: bool,
    /// Let it run there before all of its memory is there, if need be; until it is, the loss of either host ends its run
    #[arg(long)]
    post_copy: bool,
}

impl How {
    fn options(&self) -> MoveOptions {
        MoveOptions {
            restart: self.restart,
            bandwidth: self.bandwidth.map(|bytes| bytes.0),
            max_downtime_ms: self.max_downtime,
            auto_converge: self.auto_converge,
            post_copy: self.post_copy,
        }
    }
}

/// A guest that something is done to.
#[derive(Debug, Args)]
pub struct OneGuest {
    guest: GuestName,
    /// Do not wait; print the job's id
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, Args)]
pub struct CreateArguments {
    name: GuestName,
    /// What its first disk is made from; an empty disk without it
    #[arg(long)]
    image: Option<ImageName>,
    /// As in 512M or 2G [default: 512M, or 128M for an image with its own kernel]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,
    /// Processors
    #[arg(long, value_name = "N", default_value_t = 1)]
    vcpus: u32,
    /// A disk's size, once for each disk [default: one, as large as the image needs]. With `,thin` it takes room on its
    /// hosts as it is written; the guest stands still when there is none
    #[arg(long = "disk", value_name = "SIZE[,thin]")]
    disks: Vec<Disk>,
    /// `mirror` keeps a second copy on another host, `local` does not [default: mirror, when there are two hosts]
    #[arg(long)]
    pool: Option<PoolName>,
    /// What it attaches to [default: the network called default, if there is one]
    #[arg(long)]
    network: Option<NetworkName>,
    /// Its address on that network
    #[arg(long)]
    address: Option<IpAddr>,
    /// cloud-init's user-data, or a script that begins with #!
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// A public key that may log in; can be given again
    #[arg(long = "ssh-key", value_name = "FILE")]
    ssh_keys: Vec<PathBuf>,
    /// Where it should run, if that host can take it
    #[arg(long)]
    host: Option<HostName>,
    /// Who comes back first when a host is lost: higher before lower
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// A tag, for rules; can be given again
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Do not move it, unless somebody says `guest migrate`
    #[arg(long)]
    pin: bool,
    /// Start it only when this guest runs; can be given again
    #[arg(long = "after", value_name = "GUEST")]
    after: Vec<GuestName>,
    /// Restart it when this guest was restarted after a failure, and the other way round; can be given again
    #[arg(long = "restart-with", value_name = "GUEST")]
    restart_with: Vec<GuestName>,
    #[command(flatten)]
    health: HealthArguments,
    /// Make it though the cluster could no longer survive what it promises to
    #[arg(long)]
    force: bool,
    /// Make it, and leave it off
    #[arg(long)]
    no_start: bool,
    /// Do not wait; print the job's id
    #[arg(long)]
    no_wait: bool,
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(arguments) => create(context, *arguments).await,
        Command::List { watch: true } => {
            listing::watch::<GuestView>(context, context.client()?.watch_guests()).await
        }
        Command::List { watch: false } => list(context).await,
        Command::Show { guest } => {
            let view = context.client()?.guest(&guest).await?;
            context.output.result(&view, |coloured| show(&view, Timestamp::now(), coloured))
        }
        Command::Why { guest } => {
            let view = context.client()?.why(&guest).await?;
            context.output.result(&view, |coloured| why(&view, coloured))
        }
        Command::Set(arguments) => guest_set::set(context, *arguments).await,
        Command::LastMoments { guest, save } => guest_health::last_moments(context, &guest, save).await,
        Command::Start(arguments) => guest_power::start(context, arguments).await,
        Command::Stop(arguments) => guest_power::stop(context, arguments).await,
        Command::Restart(OneGuest { guest, no_wait }) => {
            let client = context.client()?;
            let job = client.restart_guest(&guest).await?;
            finish(context, &client, job, &guest, no_wait).await
        }
        Command::Migrate { guest: OneGuest { guest, no_wait }, to, secondary, force, how } => {
            let client = context.client()?;
            let request = MigrateGuest { to, secondary, force, options: how.options() };
            let job = client.migrate_guest(&guest, &request).await?;
            finish(context, &client, job, &guest, no_wait).await
        }
        Command::Delete { guest: OneGuest { guest, no_wait }, yes } => {
            let client = context.client()?;
            let asked = format!("delete the guest '{guest}'");
            let view = client.guest(&guest).await.map_err(|error| instead_of_show(&asked, error))?;
            terminal::confirm(&asked, &what_goes(&view), yes)?;
            let job = client.delete_guest(&guest).await?;
            progress::finish(context, &client, job, no_wait).await
        }
        Command::Console { guest, seconds } => console::attach(&context.client()?, &guest, seconds).await,
        Command::Exec { guest, stdin, command } => exec(context, &guest, stdin, command).await,
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let client = context.client()?;
    let guests = client.guests().await?;
    let usages = host::usages(context, &client).await;
    context.output.result(&guests, |coloured| table(&guests, &usages, coloured))
}

/// Waits for a job, and says where the guest is after it.
pub(super) async fn finish(
    context: &Context,
    client: &Client,
    job: api::JobView,
    guest: &GuestName,
    no_wait: bool,
) -> Result<(), Failure> {
    job.warnings.iter().for_each(|line| note(&format!("kennel: {line}")));
    if no_wait || context.output.format != Format::Table {
        return progress::finish(context, client, job, no_wait).await;
    }
    let job = progress::wait(context, client, job).await?;
    progress::verdict(&job)?;
    // The job has ended well whatever this says: a host that goes silent now does not undo it.
    let line = match client.guest(guest).await {
        Ok(view) => whereabouts(&view),
        Err(_) => format!("Done: {}.", job.what),
    };
    crate::output::say(&format!("{line}\n"))
}

fn whereabouts(view: &GuestView) -> String {
    let address = address_of(view).map(|address| format!(", its address is {address}")).unwrap_or_default();
    match (&view.host, &view.secondary) {
        (Some(host), Some(secondary)) => {
            format!("{} is {} on {host}, mirrored to {secondary}{address}.", view.name, view.phase)
        }
        (Some(host), None) => format!("{} is {} on {host}{address}.", view.name, view.phase),
        (None, _) => format!("{} is {}.", view.name, view.phase),
    }
}

/// The first address that a guest was given.
pub fn address_of(view: &GuestView) -> Option<IpAddr> {
    view.spec.nics.iter().find_map(|nic| nic.address).map(|net| net.addr())
}

async fn create(context: &Context, arguments: CreateArguments) -> Result<(), Failure> {
    let no_wait = arguments.no_wait;
    let request = request(arguments)?;
    let client = context.client()?;
    let job = client.create_guest(&request).await?;
    finish(context, &client, job, &request.name, no_wait).await
}

/// A disk as it is asked for: its size, and perhaps `,thin` behind it.
#[derive(Debug, Clone, Copy)]
struct Disk {
    size: Bytes,
    thin: bool,
}

impl std::str::FromStr for Disk {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (size, thin) = match text.split_once(',') {
            Some((size, "thin")) => (size, true),
            Some((_, other)) => return Err(format!("'{other}' is nothing that a disk can be: only thin is")),
            None => (text, false),
        };
        Ok(Disk { size: size.parse().map_err(|error: model::InvalidSize| error.to_string())?, thin })
    }
}

impl Disk {
    fn asked(self, pool: Option<model::PoolName>) -> CreateDisk {
        CreateDisk { size: Some(self.size), pool, thin: self.thin }
    }
}

/// What the arguments ask for, the files read.
fn request(arguments: CreateArguments) -> Result<CreateGuest, Failure> {
    let asked = format!("create the guest '{}'", arguments.name);
    let user_data = arguments.user_data.as_deref().map(|path| read_text(&asked, path)).transpose()?;
    let mut ssh_keys = Vec::new();
    for path in &arguments.ssh_keys {
        let text = read_text(&asked, path)?;
        ssh_keys.extend(public_keys(&asked, path, &text)?);
    }
    let mut disks: Vec<_> = arguments.disks.iter().map(|disk| disk.asked(arguments.pool.clone())).collect();
    if disks.is_empty() && arguments.pool.is_some() {
        disks.push(CreateDisk { pool: arguments.pool.clone(), ..CreateDisk::default() });
    }
    Ok(CreateGuest {
        image: arguments.image,
        memory: arguments.memory,
        vcpus: arguments.vcpus,
        disks,
        network: arguments.network,
        address: arguments.address,
        user_data,
        ssh_keys,
        host: arguments.host,
        priority: arguments.priority,
        start: !arguments.no_start,
        tags: arguments.tags.into_iter().collect(),
        pinned: arguments.pin,
        start_after: arguments.after.into_iter().collect(),
        restart_with: arguments.restart_with.into_iter().collect(),
        health: arguments.health.change(&asked)?,
        force: arguments.force,
        ..CreateGuest::new(arguments.name)
    })
}

fn read_text(asked: &str, path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::refused(
            asked,
            format!("{} cannot be read: {error}", path.display()),
            "name a text file that you may read",
        )
    })
}

/// The keys in a file such as `id_ed25519.pub` or `authorized_keys`.
fn public_keys(asked: &str, path: &Path, text: &str) -> Result<Vec<String>, Failure> {
    if text.contains("PRIVATE KEY") {
        return Err(Failure::refused(
            asked,
            format!("{} holds a private key, which nobody else may see", path.display()),
            format!("give the public one, as in {}.pub", path.display()),
        ));
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<_> = lines.map(str::to_owned).collect();
    let is_key = |line: &String| line.contains("ssh-") || line.contains("ecdsa-") || line.contains("sk-");
    if keys.is_empty() || !keys.iter().all(is_key) {
        return Err(Failure::refused(
            asked,
            format!("{} holds no SSH public key", path.display()),
            "give a file such as ~/.ssh/id_ed25519.pub",
        ));
    }
    Ok(keys)
}

/// The guest was looked up for something else, which is what the sentence must speak of.
fn instead_of_show(asked: &str, error: ClientError) -> Failure {
    match error {
        ClientError::Refused(problem) => Failure::refused(asked, problem.why, problem.instead),
        other @ (ClientError::Unreachable { .. }
        | ClientError::Interrupted { .. }
        | ClientError::Protocol(_)
        | ClientError::Local(_)) => other.into(),
    }
}

/// What is lost when a guest is deleted.
fn what_goes(view: &GuestView) -> Vec<String> {
    let place = view.host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
    let mut lines = vec![format!(
        "The guest {} ({}{place}) will be ended at once, and these disks of it destroyed for good:",
        view.name, view.phase
    )];
    lines.extend(view.volumes.iter().map(|volume| {
        let hosts: Vec<_> = volume.replicas.iter().map(|replica| replica.host.to_string()).collect();
        let hosts = if hosts.is_empty() { "not placed yet".to_owned() } else { hosts.join(" and ") };
        format!("  disk {}: {}, pool {}, on {hosts}", volume.disk, volume.size, volume.pool_shown())
    }));
    lines
}

async fn exec(
    context: &Context,
    guest: &GuestName,
    stdin: bool,
    command: Vec<String>,
) -> Result<(), Failure> {
    let asked = format!("run {} in the guest '{guest}'", command.first().map_or("a program", String::as_str));
    let mut input = Vec::new();
    if stdin {
        let read = std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut input);
        read.map_err(|error| {
            Failure::refused(&asked, format!("stdin cannot be read: {error}"), "leave --stdin out")
        })?;
    }
    let waiting = progress::Waiting::new("waiting for the program");
    let answer = context.client()?.exec(guest, &ExecRequest { command, input: Blob(input) }).await;
    waiting.clear();
    let answer = answer?;
    match context.output.format {
        Format::Table => {
            // Its stderr first goes out whole; the two were never one stream.
            std::io::Write::write_all(&mut std::io::stderr().lock(), &answer.stderr.0)
                .unwrap_or_else(|error| note(&format!("kennel: stderr cannot be written: {error}")));
            write_stdout(&answer.stdout.0)?;
        }
        Format::Json | Format::Yaml => context.output.result(&answer, |_| String::new())?,
    }
    match u8::try_from(answer.exit_status) {
        Ok(0) => Ok(()),
        Ok(status) => Err(Failure::Status(status)),
        // As shells count a program that a signal ended.
        Err(_) => Err(Failure::Status(u8::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<usize, &str>) {
        let keys = public_keys("create the guest 'web1'", Path::new("key"), text);
        match (keys, expected) {
            (Ok(keys), Ok(count)) => assert_eq!(keys.len(), count, "{text}"),
            (Err(failure), Err(part)) => {
                let sentence = failure.sentence().unwrap();
                assert!(sentence.contains(part), "{sentence}");
            }
            (keys, expected) => panic!("{keys:?} for {text:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn keys_are_public_ones() {
        check("ssh-ed25519 AAAA me\n", Ok(1));
        check("# mine\nssh-ed25519 AAAA me\n\necdsa-sha2-nistp256 AAAA you\n", Ok(2));
        check("-----BEGIN OPENSSH PRIVATE KEY-----\n", Err("holds a private key"));
        check("hello\n", Err("holds no SSH public key"));
        check("", Err("holds no SSH public key"));
    }
}
