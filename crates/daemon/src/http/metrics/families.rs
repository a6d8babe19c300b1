//! What is told: one family of values under each name.

use std::collections::BTreeMap;
use std::time::Duration;

use api::{AlertView, GuestView, HostView, JobView, StoreMemberView, VolumeView};
use host::usage::{Counters, Reading};
use model::{ClusterView, GuestName, HostName, JobKind, VolumeId, Weight};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

type Labels = Vec<(&'static str, String)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    /// Always 1; what it says stands in its labels.
    Info,
}

/// Everything under one name.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    unit: Option<Unit>,
    values: Vec<(Labels, f64)>,
}

/// What is told at one moment.
#[derive(Debug, Default)]
pub struct Families(Vec<Family>);

/// What it is made of.
#[derive(Debug)]
pub struct Facts<'a> {
    pub view: &'a ClusterView,
    pub me: &'a HostName,
    /// Whether the store answers this host.
    pub is_connected: bool,
    /// `None` in the first seconds.
    pub reading: Option<&'a Reading>,
    pub held: &'a BTreeMap<VolumeId, Duration>,
    /// `None`: the store's members did not say in time.
    pub members: Option<Vec<StoreMemberView>>,
}

impl Families {
    fn add(
        &mut self,
        kind: Kind,
        name: &'static str,
        unit: Option<Unit>,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        let values: Vec<_> = values.into_iter().collect();
        // A family of nothing is not told, so that nobody waits for its first value.
        if !values.is_empty() {
            self.0.push(Family { name, help, kind, unit, values });
        }
    }

    fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.add(Kind::Gauge, name, None, help, values);
    }

    fn bytes(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.add(Kind::Gauge, name, Some(Unit::Bytes), help, values);
    }

    /// A counter, told under its name and the unit, as in `host_cpu_seconds_total`.
    fn counter(
        &mut self,
        name: &'static str,
        unit: Unit,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.add(Kind::Counter, name, Some(unit), help, values);
    }

    fn info(&mut self, name: &'static str, help: &'static str, labels: Labels) {
        self.add(Kind::Info, name, None, help, [(labels, 1.0)]);
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for Family { name, help, kind, unit, values } in &self.0 {
            let metric_type = match kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Info => MetricType::Info,
            };
            let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), metric_type)?;
            for (labels, value) in values {
                match (kind, labels.is_empty()) {
                    (Kind::Counter, true) => metric.encode_counter::<NoLabelSet, f64, f64>(value, None)?,
                    (Kind::Counter, false) => {
                        metric.encode_family(labels)?.encode_counter::<NoLabelSet, f64, f64>(value, None)?;
                    }
                    (Kind::Gauge, true) => metric.encode_gauge(value)?,
                    (Kind::Gauge, false) => metric.encode_family(labels)?.encode_gauge(value)?,
                    (Kind::Info, true | false) => metric.encode_info(labels)?,
                }
            }
        }
        Ok(())
    }
}

impl Facts<'_> {
    pub fn families(&self) -> Families {
        let mut families = Families::default();
        self.host(&mut families);
        self.used(&mut families);
        self.guests(&mut families);
        self.volumes(&mut families);
        self.cluster(&mut families);
        self.store(&mut families);
        families
    }

    fn host(&self, families: &mut Families) {
        let Some(host) = HostView::find(self.view, self.me) else { return };
        let mut build = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        let report = host.report.as_ref();
        if let Some(report) = report {
            build.push(("qemu", report.qemu_version.clone()));
            build.push(("kernel", report.kernel_version.clone()));
        }
        families.info("build", "What runs on this host", build);
        let mut about = vec![("host", host.name.to_string()), ("zone", host.host.zone.clone())];
        about.push(("duty", host.host.duty.to_string()));
        about.extend(report.map(|report| ("accelerator", report.accelerator.kind.to_string())));
        families.info("host", "What this host is", about);
        let in_service = f64::from(host.host.duty == model::Duty::Normal);
        families.gauge(
            "host_in_service",
            "1: it takes guests; 0: draining or in maintenance",
            one(in_service),
        );
        families.bytes(
            "host_memory_assigned",
            "Memory that the guests that it runs may use together",
            one(host.memory_assigned.0 as f64),
        );
        if let Some(report) = report {
            families.gauge("host_cpus", "Processors", one(f64::from(report.cpus)));
            families.bytes("host_memory", "All of its memory", one(report.memory.0 as f64));
            families.bytes("host_disk", "The file system that holds the volumes", one(report.disk.0 as f64));
            families.gauge(
                "host_problems",
                "What a person should know of this host",
                one(report.problems.len() as f64),
            );
        }
    }

    /// Counters, of this host and of the guests that run here.
    fn used(&self, families: &mut Families) {
        let Some(reading) = self.reading else { return };
        let total = reading.total();
        families.counter("host_cpu", Unit::Seconds, "Processor time that was used", one(total.cpu_s));
        families.bytes("host_memory_used", "Memory that is not available", one(total.memory as f64));
        families.counter(
            "host_disk_io",
            Unit::Bytes,
            "Read from and written to the disk of the volumes",
            one(total.disk as f64),
        );
        families.counter(
            "host_network",
            Unit::Bytes,
            "Received and sent by the interfaces that carry guests and replicas",
            one(total.network as f64),
        );
        let running: Vec<(&GuestName, Counters)> = self
            .view
            .guests
            .values()
            .filter_map(|guest| Some((&guest.name, reading.of(guest.id)?)))
            .collect();
        let of = |pick: fn(&Counters) -> f64| {
            running.iter().map(move |(name, counters)| (guest(name), pick(counters))).collect::<Vec<_>>()
        };
        families.counter("guest_cpu", Unit::Seconds, "Processor time that a guest used", of(|c| c.cpu_s));
        families.bytes("guest_memory_used", "Memory of a guest that is resident", of(|c| c.memory as f64));
        families.counter("guest_disk_io", Unit::Bytes, "Read and written by a guest", of(|c| c.disk as f64));
        families.counter(
            "guest_network",
            Unit::Bytes,
            "Received and sent by a guest",
            of(|c| c.network as f64),
        );
    }

    /// Those that this host owns.
    fn guests(&self, families: &mut Families) {
        let owned: Vec<GuestView> =
            self.owned().filter_map(|name| GuestView::find(self.view, name)).collect();
        let of = |pick: fn(&GuestView) -> f64| {
            owned.iter().map(|view| (guest(&view.name), pick(view))).collect::<Vec<_>>()
        };
        let phase = |view: &GuestView| {
            let labels = [guest(&view.name), vec![("phase", view.phase.to_string())]].concat();
            (labels, 1.0)
        };
        families.gauge(
            "guest_phase",
            "The phase that a guest of this host is in",
            owned.iter().map(phase).collect::<Vec<_>>(),
        );
        let health = |view: &GuestView| {
            let labels = [guest(&view.name), vec![("health", view.health()?.state.to_string())]].concat();
            Some((labels, 1.0))
        };
        families.gauge(
            "guest_health",
            "How well a guest of this host is",
            owned.iter().filter_map(health).collect::<Vec<_>>(),
        );
        let restarts = |view: &GuestView| Some((guest(&view.name), view.health()?.restarts.len() as f64));
        families.gauge(
            "guest_health_restarts",
            "Restarts of a guest that was not well, within the last hour",
            owned.iter().filter_map(restarts).collect::<Vec<_>>(),
        );
        families.gauge("guest_vcpus", "Virtual processors of a guest", of(|view| f64::from(view.spec.vcpus)));
        families.bytes("guest_memory", "Memory that a guest may use", of(|view| view.spec.memory.0 as f64));
    }

    fn volumes(&self, families: &mut Families) {
        let guests = self.owned().filter_map(|name| self.view.guests.get(name));
        let owned: Vec<VolumeView> =
            guests.flat_map(|guest| VolumeView::of_guest(self.view, guest)).collect();
        let of = |pick: &dyn Fn(&VolumeView) -> Option<f64>| {
            owned.iter().filter_map(|view| Some((volume(view), pick(view)?))).collect::<Vec<_>>()
        };
        let phase = |view: &VolumeView| {
            let about = vec![("pool", view.pool.to_string()), ("phase", view.phase.to_string())];
            ([volume(view), about].concat(), 1.0)
        };
        families.gauge(
            "volume_phase",
            "The phase that a volume is in",
            owned.iter().map(phase).collect::<Vec<_>>(),
        );
        families.bytes("volume_size", "Size of a volume", of(&|view| Some(view.size.0 as f64)));
        families.gauge(
            "volume_replicas_in_sync",
            "Replicas that hold every acknowledged write",
            of(&|view| Some(view.replicas.iter().filter(|replica| replica.in_sync).count() as f64)),
        );
        families.gauge(
            "volume_replicas_wanted",
            "Replicas that the volume's pool has",
            of(&|view| Some(view.pool.replicas() as f64)),
        );
        let held = |view: &VolumeView| self.held.get(&view.id).map(Duration::as_secs_f64);
        families.counter(
            "volume_held",
            Unit::Seconds,
            "How long a guest's writes waited for the secondary, since kenneld started",
            of(&held),
        );
        families.bytes(
            "volume_resync_done",
            "How much of a replica is filled, while it is",
            of(&|view| view.fill.as_ref().map(|fill| fill.done as f64)),
        );
        families.bytes(
            "volume_resync_size",
            "How much of a replica is to be filled, while it is",
            of(&|view| view.fill.as_ref().map(|fill| fill.total as f64)),
        );
    }

    /// What every host tells alike.
    fn cluster(&self, families: &mut Families) {
        let jobs = self.view.jobs.values().map(|job| {
            vec![("kind", kind_of(&job.kind)), ("state", JobView::of(self.view, job).state.to_string())]
        });
        families.gauge("jobs", "Jobs of the cluster that are remembered", counted(jobs));
        let hosts =
            self.view.hosts.keys().map(|host| vec![("phase", self.view.host_phase(host).to_string())]);
        families.gauge("cluster_hosts", "Hosts of the cluster", counted(hosts));
        let live = |host: &HostName| (vec![("host", host.to_string())], f64::from(self.view.is_live(host)));
        families.gauge(
            "cluster_host_online",
            "1: the host's session is live",
            self.view.hosts.keys().map(live).collect::<Vec<_>>(),
        );
        let phases = self.view.guests.values().map(|spec| {
            let (assignment, report) =
                (self.view.assignments.get(&spec.name), self.view.guest_reports.get(&spec.name));
            let assignment = assignment.filter(|assignment| assignment.guest_id == spec.id);
            let report = report.filter(|report| report.guest_id == spec.id);
            vec![("phase", model::GuestPhase::derive(spec, assignment, report, self.view).to_string())]
        });
        families.gauge("cluster_guests", "Guests of the cluster", counted(phases));
        self.incidents(families);
        families.gauge(
            "cluster_damaged_records",
            "Records that no build of Kennel could have written",
            one(self.view.damaged.len() as f64),
        );
        let leads = self.view.leader.as_ref() == Some(self.me);
        families.gauge("leader", "1: this host runs the cluster-wide loops", one(f64::from(leads)));
        families.gauge(
            "cluster_has_leader",
            "1: some host runs the cluster-wide loops",
            one(f64::from(self.view.leader.is_some())),
        );
    }

    /// Told also when there are none, so that an alarm ends.
    fn incidents(&self, families: &mut Families) {
        let open = |weight: Weight| {
            let incidents = self.view.incidents.values();
            incidents.filter(|incident| incident.is_open() && incident.weight == weight).count() as f64
        };
        families.gauge(
            "cluster_incidents",
            "Open incidents, by what they weigh now",
            Weight::ALL.map(|weight| (vec![("weight", weight.to_string())], open(weight))),
        );
        let targets = AlertView::list(self.view);
        let arrives = |target: &AlertView| {
            (vec![("alert", target.name.to_string())], f64::from(target.problem.is_none()))
        };
        families.gauge(
            "cluster_alert_arrives",
            "1: what was sent last to this target of alerts has arrived, or nothing was sent yet",
            targets.iter().map(arrives).collect::<Vec<_>>(),
        );
    }

    fn store(&self, families: &mut Families) {
        families.gauge(
            "store_connected",
            "1: the state store answers this host",
            one(f64::from(self.is_connected)),
        );
        families.gauge(
            "store_revision",
            "Of the state store, as this host has read it",
            one(self.view.revision as f64),
        );
        families.gauge(
            "store_sessions",
            "Hosts whose sessions are live",
            one(self.view.sessions.len() as f64),
        );
        let Some(members) = &self.members else { return };
        let healthy =
            |member: &StoreMemberView| (vec![("member", member.host.to_string())], f64::from(member.healthy));
        families.gauge(
            "store_member_healthy",
            "1: the member of the state store is well",
            members.iter().map(healthy).collect::<Vec<_>>(),
        );
    }

    fn owned(&self) -> impl Iterator<Item = &GuestName> {
        let owned = self.view.assignments.values().filter(|assignment| &assignment.host == self.me);
        owned.map(|assignment| &assignment.guest)
    }
}

fn one(value: f64) -> [(Labels, f64); 1] {
    [(Labels::new(), value)]
}

fn guest(name: &GuestName) -> Labels {
    vec![("guest", name.to_string())]
}

fn volume(view: &VolumeView) -> Labels {
    vec![("guest", view.guest.to_string()), ("disk", view.disk.to_string())]
}

fn counted(all: impl Iterator<Item = Labels>) -> Vec<(Labels, f64)> {
    let mut counts: BTreeMap<Labels, f64> = BTreeMap::new();
    for labels in all {
        *counts.entry(labels).or_default() += 1.0;
    }
    counts.into_iter().collect()
}

/// As in `create-guest`: the word under which its record is written.
fn kind_of(kind: &JobKind) -> String {
    let written = serde_json::to_value(kind).unwrap_or_default();
    match written.as_object().and_then(|fields| fields.keys().next()) {
        Some(word) => word.clone(),
        None => written.as_str().unwrap_or("other").to_owned(),
    }
}
