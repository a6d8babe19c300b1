//! Whether a guest that runs on one host can go on running on another.
//!
//! A machine is continued by the same kind of machine only: the same accelerator, the same versioned machine type, and
//! a processor that can do all that the guest has seen. A guest that is started anew there needs none of it, which is
//! why this binds moves and not recovery.

use std::collections::BTreeMap;

use model::{
    AcceleratorKind, ClusterView, Compatibility, CpuLevel, CpuModel, GuestReport, GuestState, HostName,
};

/// What runs a guest, as far as another host must be able to continue it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    accelerator: Option<AcceleratorKind>,
    machine_type: Option<String>,
    cpu: CpuModel,
    vendor: Option<String>,
    level: Option<CpuLevel>,
}

impl Run {
    /// What runs a guest now, by the word of its host. `None`: it does not run.
    pub fn of(view: &ClusterView, report: &GuestReport) -> Option<Run> {
        let runs = report.state == GuestState::Running && view.is_live(&report.host);
        let host = view.host_reports.get(&report.host).filter(|_| runs)?;
        let Compatibility { cpu_vendor, cpu_level, .. } = host.compatibility.clone();
        Some(Run {
            accelerator: report.accelerator,
            machine_type: report.machine_type.clone(),
            cpu: report.cpu.unwrap_or_default(),
            vendor: cpu_vendor,
            level: cpu_level,
        })
    }

    /// Why it cannot go on there; a phrase without a full stop. What is unknown is not held against a host.
    pub fn obstacle(&self, view: &ClusterView, to: &HostName) -> Option<String> {
        let there = view.host_reports.get(to)?;
        let Compatibility { machine_types, cpu_level, cpu_vendor } = &there.compatibility;
        let accelerator = self.accelerator?;
        if there.accelerator.kind != accelerator {
            return Some(format!(
                "it runs under {accelerator}, and {to} runs guests under {}",
                there.accelerator.kind
            ));
        }
        if let Some(machine) = self.machine_type.as_ref().filter(|name| !machine_types.contains(*name))
            && !machine_types.is_empty()
        {
            return Some(format!(
                "its machine is a {machine}, which QEMU {} does not have",
                there.qemu_version
            ));
        }
        if accelerator == AcceleratorKind::Tcg {
            return None;
        }
        if let (Some(here), Some(other)) = (&self.vendor, cpu_vendor)
            && here != other
        {
            return Some(format!("it runs on a processor of {here}, and this one is of {other}"));
        }
        let needed = match self.cpu {
            CpuModel::Level(level) => Some(level),
            CpuModel::Tcg | CpuModel::Host => self.level,
        };
        match (needed, cpu_level) {
            (Some(needed), Some(level)) if *level < needed => {
                Some(format!("it was started with an {needed} processor, and this one is {level}"))
            }
            (Some(_) | None, Some(_) | None) => None,
        }
    }
}

/// The highest level that a host gives its guests. None: it does not tell.
pub fn cpu_limit(view: &ClusterView, host: &HostName) -> Option<CpuLevel> {
    let report = view.host_reports.get(host)?;
    match report.accelerator.kind {
        // Its emulation reaches the third level, whatever the host's own processors.
        AcceleratorKind::Tcg => Some(CpuLevel::V3),
        AcceleratorKind::Kvm => report.compatibility.cpu_level,
    }
}

/// Why guests are not started on a host, if its processors lack what was pinned for all guests.
pub fn below_the_pin(view: &ClusterView, host: &HostName) -> Option<String> {
    let pinned = view.cluster.as_ref()?.settings.cpu_baseline?;
    let limit = cpu_limit(view, host).filter(|limit| *limit < pinned)?;
    Some(format!("its guests' processors reach {limit}, and {pinned} is the cluster's baseline"))
}

/// For each kind of run the hosts that cannot continue it, and why: what many guests share is looked at once.
#[derive(Debug, Default)]
pub struct Verdicts(BTreeMap<Run, BTreeMap<HostName, String>>);

impl Verdicts {
    pub fn of(&mut self, view: &ClusterView, run: Run) -> &BTreeMap<HostName, String> {
        self.0.entry(run).or_insert_with_key(|run| {
            let hosts = view.hosts.keys();
            hosts.filter_map(|host| Some((host.clone(), run.obstacle(view, host)?))).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, cluster, host};
    use model::Pool;

    /// A guest on host1, and what its host and host2 are.
    fn check(change: impl FnOnce(&mut ClusterView), expected: Option<&str>) {
        let mut view = cluster(2);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        for report in view.host_reports.values_mut() {
            report.accelerator.kind = AcceleratorKind::Kvm;
            report.compatibility = Compatibility {
                machine_types: ["pc-q35-7.2".to_owned(), "pc-q35-10.0".to_owned()].into(),
                cpu_level: Some(CpuLevel::V3),
                cpu_vendor: Some("GenuineIntel".into()),
            };
        }
        let guest = view.guest_reports.get_mut(&"a".parse().unwrap()).unwrap();
        (guest.accelerator, guest.machine_type) = (Some(AcceleratorKind::Kvm), Some("pc-q35-10.0".into()));
        guest.cpu = Some(CpuModel::Level(CpuLevel::V2));
        change(&mut view);
        let run = Run::of(&view, &view.guest_reports[&"a".parse().unwrap()]).unwrap();
        assert_eq!(run.obstacle(&view, &host("host2")).as_deref(), expected);
        assert_eq!(run.obstacle(&view, &host("host1")), None, "where it runs it can run");
    }

    fn there(view: &mut ClusterView) -> &mut Compatibility {
        &mut view.host_reports.get_mut(&host("host2")).unwrap().compatibility
    }

    #[test]
    fn a_guest_goes_on_where_everything_that_it_has_seen_is() {
        check(|_| {}, None);
        check(|view| there(view).cpu_level = Some(CpuLevel::V2), None);
        let why = "it was started with an x86-64-v2 processor, and this one is x86-64-v1";
        check(|view| there(view).cpu_level = Some(CpuLevel::V1), Some(why));
        check(|view| there(view).cpu_level = None, None);
        let why = "it runs on a processor of GenuineIntel, and this one is of AuthenticAMD";
        check(|view| there(view).cpu_vendor = Some("AuthenticAMD".into()), Some(why));
        let why = "its machine is a pc-q35-10.0, which QEMU 10.0 does not have";
        let older = |view: &mut ClusterView| {
            there(view).machine_types.remove("pc-q35-10.0");
        };
        check(older, Some(why));
        let kind = |view: &mut ClusterView| {
            view.host_reports.get_mut(&host("host2")).unwrap().accelerator.kind = AcceleratorKind::Tcg;
        };
        check(kind, Some("it runs under kvm, and host2 runs guests under tcg"));
    }

    #[test]
    fn a_guest_that_sees_all_of_its_host_needs_another_like_it() {
        let all = |view: &mut ClusterView| {
            view.guest_reports.get_mut(&"a".parse().unwrap()).unwrap().cpu = Some(CpuModel::Host);
            there(view).cpu_level = Some(CpuLevel::V2);
        };
        check(all, Some("it was started with an x86-64-v3 processor, and this one is x86-64-v2"));
    }

    #[test]
    fn guests_are_started_with_what_every_host_gives_or_what_was_pinned() {
        let mut view = cluster(2);
        let (kvm, tcg) = (AcceleratorKind::Kvm, AcceleratorKind::Tcg);
        assert_eq!(CpuModel::at_start(&view, kvm), CpuModel::Host, "no host tells");
        for (name, level) in [("host1", CpuLevel::V4), ("host2", CpuLevel::V2)] {
            view.host_reports.get_mut(&host(name)).unwrap().compatibility.cpu_level = Some(level);
        }
        assert_eq!(view.lowest_cpu_level(), Some(CpuLevel::V2));
        assert_eq!(CpuModel::at_start(&view, kvm), CpuModel::Level(CpuLevel::V2));
        assert_eq!(CpuModel::at_start(&view, tcg), CpuModel::Tcg);
    }
}
