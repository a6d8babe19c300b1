//! Proof that a host runs a guest no more, and when a host's power is taken to get one.
//!
//! The disks of a guest in storage that hosts share have no second replica that could say no. So such a guest goes
//! from a host that is not heard of to another one only with a [`FenceProof`], and the transaction that makes the
//! other host the owner compares the very records that the proof rests on, and that the old owner has no session.
//!
//! | proof | why it proves |
//! | --- | --- |
//! | [`FenceProof::Confirmed`] | somebody saw that the host is off, and it has not been heard since: its next session removes the record |
//! | [`FenceProof::PowerOff`] | its fence devices said that its power is off while it had no session, and it has not been heard since: as above |
//! | [`FenceProof::Reset`] | its hardware watchdog, which nobody could feed past the end of its session, has had time to reset it twice over |
//! | [`FenceProof::SaidStopped`] | its owner said at this epoch that the guest does not run, and an owner writes that it starts a guest before it does |
//!
//! A session that ended is no proof: a host that is cut off may take until its hard deadline to end the guest, and one
//! that is frozen goes on where it was when it thaws. Nor is it one that its watchdog should have ended the guest, for
//! that process freezes with its host. Only hardware that goes on ticking is: see [`resets_within`], and
//! docs/decisions/0033.
//!
//! # Taking the power
//!
//! [`fences`] says what the leader does about it: it looks at everything each time, as [`crate::decide`] does. By
//! itself it takes the power of a lost host only while a guest that shall run waits for nothing else than the proof:
//! a host that is cut off may have guests that go on well (rule 7 of the design), and their users would notice. The
//! proofs are gathered side by side: when the operator's word comes first, the fence is dropped.
//!
//! In a storm ([`crate::storm`]) it begins nothing for a while, and then takes the power of one host at a time. A try that
//! is under way is not broken off. What an operator asks for is done at once.
//!
//! The record of a fence says how often it was begun, before anything is done to a device, so that a leader that dies
//! in the middle leaves no doubt: the next one begins again, and to take power that is off changes nothing.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use model::{Assignment, BootId, ClusterView, Fence, GuestName, GuestState, HostName, PowerWish};

use crate::limits::{RESET_MARGIN, RESET_TIMEOUTS, RETRY_FIRST, RETRY_MAX};
use crate::storm;

/// How many guests a reason names.
const NAMES_MAX: usize = 3;

/// Why a guest of a lost host may be started elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FenceProof {
    /// An operator's word that the host runs nothing any more.
    Confirmed { by: String, at: Timestamp },
    /// Its power was seen to be off.
    PowerOff { devices: String, at: Timestamp },
    /// Its hardware watchdog has reset it.
    Reset { device: String, at: Timestamp },
    /// The host's own word, before it was lost, that the guest does not run there.
    SaidStopped,
}

impl FenceProof {
    /// What proves that the owner of a guest runs it no more, if it is lost and anything does.
    pub fn find(view: &ClusterView, assignment: &Assignment) -> Option<FenceProof> {
        let host = &assignment.host;
        if view.is_live(host) {
            return None;
        }
        // A word may be written down late, when the host has been heard again meanwhile.
        if let Some(word) = view.confirmed_dead.get(host).filter(|w| last_boot(view, host) == Some(w.boot_id))
        {
            return Some(FenceProof::Confirmed { by: word.by.clone(), at: word.at });
        }
        // A host of an older build does not remove the record; but it tells of a boot of its own.
        let ended = view.fences.get(host).filter(|fence| last_boot(view, host) == Some(fence.boot_id));
        if let Some(off) = ended.and_then(|fence| fence.off.as_ref()) {
            let devices: Vec<&str> = off.devices.iter().map(model::DeviceName::as_str).collect();
            return Some(FenceProof::PowerOff { devices: devices.join(", "), at: off.at });
        }
        if let Some(reset) = ended.and_then(|fence| fence.reset.as_ref()) {
            return Some(FenceProof::Reset { device: reset.device.clone(), at: reset.at });
        }
        let report = view.guest_reports.get(&assignment.guest)?;
        let stopped = report.guest_id == assignment.guest_id
            && report.host == *host
            && report.epoch == assignment.epoch
            && report.state == GuestState::Stopped;
        stopped.then_some(FenceProof::SaidStopped)
    }
}

impl std::fmt::Display for FenceProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FenceProof::Confirmed { by, .. } => write!(f, "{by} confirmed that it is dead"),
            FenceProof::PowerOff { devices, .. } => write!(f, "its power was seen to be off ({devices})"),
            FenceProof::Reset { device, .. } => write!(f, "its watchdog must have reset it ({device})"),
            FenceProof::SaidStopped => f.write_str("it had said that the guest does not run there"),
        }
    }
}

/// What the leader does now about the power of hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "an unread plan is not carried out"]
pub struct FencePlan {
    /// Fences to be asked for. The transaction compares that the host has no session.
    pub ask: Vec<Ask>,
    /// Hosts whose fence is to be under way: begun now, or before by this leader or one that died.
    pub attempt: Vec<HostName>,
    /// Hosts that reset themselves, with how long after the leader first saw their fence that is proven. Their fence says
    /// so then, unless it went away meanwhile, as it does when the host is heard.
    pub await_reset: Vec<(HostName, Duration)>,
    /// Hosts whose fence nobody needs any more.
    pub drop: Vec<HostName>,
    /// When to look again although nothing happened.
    pub wake_at: Option<Timestamp>,
}

/// A fence that is to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub host: HostName,
    pub boot_id: BootId,
    /// One sentence without a full stop.
    pub why: String,
}

/// Plans. Before `recover_from` no host counts as lost, as in [`crate::decide::decide`].
pub fn fences(view: &ClusterView, now: Timestamp, recover_from: Timestamp) -> FencePlan {
    let mut plan = FencePlan::default();
    let wait = |plan: &mut FencePlan, at: Timestamp| {
        plan.wake_at = Some(plan.wake_at.map_or(at, |before| before.min(at)));
    };
    for host in view.hosts.keys() {
        let waiting = waiting_for_proof(view, host);
        let Some(fence) = view.fences.get(host).filter(|fence| !is_old(view, fence)) else {
            if let (Some(boot_id), false) = (last_boot(view, host), waiting.is_empty()) {
                if now < recover_from {
                    wait(&mut plan, recover_from);
                } else if can_be_proven(view, host) {
                    plan.ask.push(Ask { host: host.clone(), boot_id, why: needed_for(&waiting) });
                }
            }
            continue;
        };
        if fence.is_over() {
            continue;
        }
        if !fence.by_hand && (waiting.is_empty() || !can_be_proven(view, host)) {
            plan.drop.push(host.clone());
            continue;
        }
        // One that an operator asked for may have been made while the host had a session.
        if let (false, Some(within)) = (fence.by_hand, resets_within(view, host)) {
            plan.await_reset.push((host.clone(), within));
        }
        if !has_devices(view, host) {
            continue;
        }
        let next = next_try(fence, now);
        if now < next {
            wait(&mut plan, next);
        } else {
            plan.attempt.push(host.clone());
        }
    }
    slow_down(&mut plan, view, now);
    plan
}

/// How many hosts' power is taken at once in a storm.
const STORM_FENCES: usize = 1;

/// Takes out of the plan what a storm forbids for now.
fn slow_down(plan: &mut FencePlan, view: &ClusterView, now: Timestamp) {
    let Some(pace) = storm::pace(view, &storm::look(view, now)) else { return };
    let fence = |host: &HostName| view.fences.get(host);
    let by_hand = |host: &HostName| fence(host).is_some_and(|fence| fence.by_hand);
    let is_under_way = |host: &HostName| {
        fence(host).is_some_and(|fence| fence.tried_at.is_some() && fence.problem.is_none())
    };
    let (mut attempt, tried): (Vec<HostName>, Vec<HostName>) =
        plan.attempt.drain(..).partition(|host| by_hand(host) || is_under_way(host));
    let room = STORM_FENCES.saturating_sub(attempt.iter().filter(|host| !by_hand(host)).count());
    if pace.holds(now) {
        if !tried.is_empty() || !plan.ask.is_empty() {
            plan.wake_at = plan.wake_at.into_iter().chain([pace.hold_until]).min();
        }
        plan.ask.clear();
    } else {
        let tried = tried.into_iter().take(room);
        attempt.extend(tried);
        let begun = attempt.iter().filter(|host| !by_hand(host)).count();
        plan.ask.truncate(STORM_FENCES.saturating_sub(begun));
    }
    attempt.sort();
    plan.attempt = attempt;
}

/// Whether a fence says nothing about what is to be known now: it is about another boot, or an operator's failed and
/// the leader needs one.
fn is_old(view: &ClusterView, fence: &Fence) -> bool {
    let failed = fence.is_over() && !fence.is_proven();
    last_boot(view, &fence.host) != Some(fence.boot_id)
        || failed && !waiting_for_proof(view, &fence.host).is_empty()
}

/// When a fence is to be tried, at once or after what the last try came to. Whoever asked or tried may have had a clock
/// that is ahead of this leader's: nobody waits for that.
fn next_try(fence: &Fence, now: Timestamp) -> Timestamp {
    let tried_at = fence.tried_at.filter(|at| *at <= now);
    let (Some(tried_at), Some(_)) = (tried_at, &fence.problem) else { return now };
    let doublings = fence.tries.saturating_sub(1).min(16);
    let pause: Duration = RETRY_FIRST.saturating_mul(1 << doublings).min(RETRY_MAX);
    tried_at + SignedDuration::try_from(pause).unwrap_or(SignedDuration::from_secs(60))
}

fn has_devices(view: &ClusterView, host: &HostName) -> bool {
    view.fence_devices.get(host).is_some_and(|devices| !devices.devices.is_empty())
}

fn can_be_proven(view: &ClusterView, host: &HostName) -> bool {
    has_devices(view, host) || resets_within(view, host).is_some()
}

/// How long after a host had no session its hardware watchdog has surely reset it, if it has one that proves that.
///
/// Its watchdog feeds the device only after a look that found nothing overdue, and from the end of the session on, which
/// the host counts from an earlier moment than the store, whatever runs there for the session is overdue until it is
/// gone. So the last food that was given in error is that of a watchdog which stood still between its look and the food.
/// It cannot have stood still for longer than the time-out, or the device would have acted; and after the food there is
/// one more time-out.
pub fn resets_within(view: &ClusterView, host: &HostName) -> Option<Duration> {
    let watchdog =
        view.host_reports.get(host)?.hardware_watchdog.as_ref().filter(|watchdog| watchdog.proves)?;
    let timeout = Duration::from_secs(u64::from(watchdog.timeout_s));
    Some(timeout.saturating_mul(RESET_TIMEOUTS).saturating_add(RESET_MARGIN))
}

fn last_boot(view: &ClusterView, host: &HostName) -> Option<BootId> {
    view.host_reports.get(host).map(|report| report.boot_id)
}

/// Guests that shall run, whose owner is this lost host, and that nothing keeps from starting elsewhere but that it
/// may still run them.
fn waiting_for_proof<'v>(view: &'v ClusterView, host: &HostName) -> Vec<&'v GuestName> {
    if view.is_live(host) {
        return Vec::new();
    }
    let owned = view.assignments.values().filter(|assignment| assignment.host == *host);
    let waits = |assignment: &&Assignment| {
        let spec = view.guests.get(&assignment.guest);
        spec.is_some_and(|spec| !spec.deleting && spec.power == PowerWish::Running && spec.is_shared())
            && FenceProof::find(view, assignment).is_none()
    };
    owned.filter(waits).map(|assignment| &assignment.guest).collect()
}

/// Why somebody takes a host's power who does not say why: as far as the records tell.
pub fn unsaid(view: &ClusterView, host: &HostName) -> String {
    let waiting = waiting_for_proof(view, host);
    if !waiting.is_empty() {
        needed_for(&waiting)
    } else if view.is_live(host) {
        "it was online, and no reason was given".to_owned()
    } else {
        "it is lost".to_owned()
    }
}

fn needed_for(guests: &[&GuestName]) -> String {
    let names: Vec<&str> = guests.iter().take(NAMES_MAX).map(|guest| guest.as_str()).collect();
    let more = guests.len().saturating_sub(NAMES_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "it is lost, and may still run {}{more}, whose disks are in storage that hosts share",
        names.join(", ")
    )
}

/// What a guest waits for whose lost host may still run it, and what a person can do.
pub fn not_proven(view: &ClusterView, host: &HostName) -> String {
    let word = format!("see that {host} is off, then say `kennel host confirm-dead {host}`");
    let what = match view.fences.get(host).filter(|fence| !fence.is_proven()) {
        _ if !can_be_proven(view, host) => word,
        _ if !has_devices(view, host) => format!("its watchdog resets it in a moment; or {word}"),
        Some(Fence { problem: Some(problem), .. }) => {
            format!("its fence devices have not proven that ({problem}); {word}")
        }
        Some(_) | None => format!("the fence devices of {host} are taking its power"),
    };
    format!(
        "{host} is lost, and may still run it: its disks are in storage that hosts share, so it is started elsewhere \
         only when {host} surely runs it no more; {what}"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use model::{FenceDevice, FenceDevices, Pool, PowerOff};

    use super::*;
    use crate::fixture::{self, cluster, power_off, power_on};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn after(seconds: i64) -> Timestamp {
        NOW + SignedDuration::from_secs(seconds)
    }

    fn give_device(view: &mut ClusterView, host: &str) {
        let device = FenceDevice {
            id: uuid::Uuid::nil(),
            agent: "fence_ipmilan".into(),
            options: BTreeMap::new(),
            secrets: BTreeSet::new(),
            level: 1,
            delay_s: 0,
        };
        let devices = BTreeMap::from([("bmc".parse().unwrap(), device)]);
        let host = fixture::host(host);
        view.fence_devices.insert(host.clone(), FenceDevices { host, devices });
    }

    /// Four hosts with devices; `a` runs in shared storage on host1, which is lost.
    fn lost() -> ClusterView {
        let mut view = cluster(4);
        for host in ["host1", "host2", "host3", "host4"] {
            give_device(&mut view, host);
        }
        fixture::put(&mut view, "a", Pool::Shared, "host1", None);
        fixture::put(&mut view, "m", Pool::Mirror, "host2", Some("host3"));
        power_off(&mut view, "host1");
        view
    }

    fn fence(by_hand: bool) -> Fence {
        Fence {
            host: fixture::host("host1"),
            id: uuid::Uuid::nil(),
            boot_id: fixture::boot("host1", 1),
            asked_by: "somebody".into(),
            by_hand,
            why: "a test".into(),
            since: NOW,
            tries: 0,
            tried_at: None,
            problem: None,
            off: None,
            reset: None,
        }
    }

    fn put(view: &mut ClusterView, fence: Fence) {
        view.fences.insert(fence.host.clone(), fence);
    }

    fn off(fence: Fence) -> Fence {
        let devices = BTreeSet::from(["bmc".parse().unwrap()]);
        Fence { off: Some(PowerOff { at: NOW, devices, seen_by: fixture::host("host2") }), ..fence }
    }

    fn failed(fence: Fence, tries: u32) -> Fence {
        Fence { tries, tried_at: Some(NOW), problem: Some("bmc: it hangs".into()), ..fence }
    }

    /// What is planned, as `ask host1: why`, `attempt host1`, `drop host1`, `again in 4`.
    fn check_at(view: &ClusterView, now: Timestamp, expected: &[&str]) {
        let plan = fences(view, now, NOW);
        let mut lines: Vec<String> =
            plan.ask.iter().map(|ask| format!("ask {}: {}", ask.host, ask.why)).collect();
        lines.extend(plan.attempt.iter().map(|host| format!("attempt {host}")));
        lines.extend(plan.drop.iter().map(|host| format!("drop {host}")));
        lines.extend(plan.wake_at.map(|at| format!("again in {}", at.duration_since(now).as_secs())));
        assert_eq!(lines, expected);
    }

    fn check(view: &ClusterView, expected: &[&str]) {
        check_at(view, NOW, expected);
    }

    fn give_watchdog(view: &mut ClusterView, host: &str, proves: bool) {
        let watchdog = model::HardwareWatchdog { name: "iTCO_wdt".into(), timeout_s: 10, proves };
        view.host_reports.get_mut(&fixture::host(host)).unwrap().hardware_watchdog = Some(watchdog);
    }

    const ASK: &str =
        "ask host1: it is lost, and may still run a, whose disks are in storage that hosts share";

    #[test]
    fn a_lost_host_loses_its_power_when_a_guest_waits_for_the_proof() {
        let mut view = lost();
        check(&view, &[ASK]);
        put(&mut view, fence(false));
        check(&view, &["attempt host1"]);
        // The try has begun, and its leader has died: whoever leads now begins again.
        put(&mut view, Fence { tries: 1, tried_at: Some(NOW), ..fence(false) });
        check_at(&view, after(30), &["attempt host1"]);
        put(&mut view, off(fence(false)));
        check(&view, &[]);
        let proof = FenceProof::find(&view, &view.assignments[&"a".parse().unwrap()]).unwrap();
        assert_eq!(proof.to_string(), "its power was seen to be off (bmc)");
    }

    #[test]
    fn nobodys_power_is_taken_for_guests_that_need_no_proof() {
        let mut view = lost();
        power_off(&mut view, "host2");
        power_on(&mut view, "host1", 1);
        check(&view, &[]);
        // Stopped by its host's own word, or wanted by nobody.
        let mut view = lost();
        let assignment = view.assignments[&"a".parse().unwrap()].clone();
        let stopped = fixture::report(&assignment, GuestState::Stopped);
        view.guest_reports.insert(stopped.guest.clone(), stopped);
        check(&view, &[]);
        let mut view = lost();
        view.guests.get_mut(&"a".parse().unwrap()).unwrap().power = PowerWish::Stopped;
        check(&view, &[]);
        let mut view = lost();
        view.guests.get_mut(&"a".parse().unwrap()).unwrap().deleting = true;
        check(&view, &[]);
    }

    #[test]
    fn a_host_that_resets_itself_needs_no_device() {
        let mut view = lost();
        view.fence_devices.clear();
        give_watchdog(&mut view, "host1", true);
        check(&view, &[ASK]);
        put(&mut view, fence(false));
        let plan = fences(&view, NOW, NOW);
        assert_eq!(plan.await_reset, [(fixture::host("host1"), Duration::from_secs(2 * 10 + 5))]);
        assert!(plan.attempt.is_empty() && plan.drop.is_empty());
        let said = not_proven(&view, &fixture::host("host1"));
        assert!(said.contains("its watchdog resets it in a moment"), "{said}");

        let reset = model::Reset {
            at: NOW,
            device: "iTCO_wdt".into(),
            timeout_s: 10,
            counted_by: fixture::host("host2"),
        };
        put(&mut view, Fence { reset: Some(reset.clone()), ..fence(false) });
        assert_eq!(fences(&view, NOW, NOW), FencePlan::default());
        let assignment = view.assignments[&"a".parse().unwrap()].clone();
        let proof = FenceProof::find(&view, &assignment).unwrap();
        assert_eq!(proof.to_string(), "its watchdog must have reset it (iTCO_wdt)");
        // It has booted, and is lost again: that was another boot.
        let other = fixture::boot("host1", 0);
        put(&mut view, Fence { reset: Some(reset), boot_id: other, ..fence(false) });
        assert_eq!(FenceProof::find(&view, &assignment), None);
    }

    #[test]
    fn both_ways_to_a_proof_are_gone_side_by_side() {
        let mut view = lost();
        give_watchdog(&mut view, "host1", true);
        put(&mut view, fence(false));
        let plan = fences(&view, NOW, NOW);
        assert_eq!((plan.attempt.len(), plan.await_reset.len()), (1, 1));
        // While the host is heard, nobody counts.
        put(&mut view, fence(true));
        assert!(fences(&view, NOW, NOW).await_reset.is_empty());
    }

    #[test]
    fn a_watchdog_that_stands_still_with_its_host_proves_nothing() {
        let mut view = lost();
        view.fence_devices.clear();
        give_watchdog(&mut view, "host1", false);
        check(&view, &[]);
        assert!(not_proven(&view, &fixture::host("host1")).contains("confirm-dead host1"));
    }

    #[test]
    fn without_devices_people_are_asked() {
        let mut view = lost();
        view.fence_devices.clear();
        check(&view, &[]);
        assert!(not_proven(&view, &fixture::host("host1")).ends_with("`kennel host confirm-dead host1`"));
        give_device(&mut view, "host1");
        assert!(not_proven(&view, &fixture::host("host1")).ends_with("of host1 are taking its power"));
        put(&mut view, failed(fence(false), 1));
        let said = not_proven(&view, &fixture::host("host1"));
        assert!(said.contains("have not proven that (bmc: it hangs); see that host1 is off"), "{said}");
        // Somebody removes the devices while it is tried.
        view.fence_devices.clear();
        check_at(&view, after(100), &["drop host1"]);
    }

    #[test]
    fn a_leader_that_was_cut_off_itself_waits() {
        let view = lost();
        let plan = fences(&view, NOW, after(5));
        assert_eq!(plan, FencePlan { wake_at: Some(after(5)), ..FencePlan::default() });
    }

    #[test]
    fn what_proves_nothing_is_tried_again_less_and_less_often() {
        let mut view = lost();
        for (tries, pause) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (1000, 60)] {
            put(&mut view, failed(fence(false), tries));
            check(&view, &[&format!("again in {pause}")]);
            check_at(&view, after(pause), &["attempt host1"]);
        }
    }

    #[test]
    fn the_first_proof_wins() {
        let mut view = lost();
        put(&mut view, Fence { tries: 1, tried_at: Some(NOW), ..fence(false) });
        let host = fixture::host("host1");
        let boot_id = fixture::boot("host1", 1);
        let word = model::ConfirmedDead { host: host.clone(), boot_id, by: "admin".into(), at: NOW };
        view.confirmed_dead.insert(host, word);
        check(&view, &["drop host1"]);
    }

    #[test]
    fn a_fence_of_another_boot_proves_nothing() {
        let mut view = lost();
        put(&mut view, off(Fence { boot_id: fixture::boot("host1", 0), ..fence(false) }));
        assert_eq!(FenceProof::find(&view, &view.assignments[&"a".parse().unwrap()]), None);
        check(&view, &[ASK]);
    }

    #[test]
    fn a_word_about_another_boot_proves_nothing() {
        let mut view = lost();
        for (boot, proves) in [(0, false), (1, true)] {
            let (host, boot_id) = (fixture::host("host1"), fixture::boot("host1", boot));
            let word = model::ConfirmedDead { host: host.clone(), boot_id, by: "admin".into(), at: NOW };
            view.confirmed_dead.insert(host, word);
            let found = FenceProof::find(&view, &view.assignments[&"a".parse().unwrap()]);
            assert_eq!(found.is_some(), proves, "boot {boot}");
        }
    }

    #[test]
    fn what_is_heard_is_not_off_whatever_a_device_said() {
        let mut view = lost();
        put(&mut view, off(fence(true)));
        power_on(&mut view, "host1", 1);
        assert_eq!(FenceProof::find(&view, &view.assignments[&"a".parse().unwrap()]), None);
        check(&view, &[]);
    }

    #[test]
    fn an_operators_fence_is_tried_once_also_on_a_host_that_is_heard() {
        let mut view = lost();
        power_on(&mut view, "host1", 1);
        put(&mut view, fence(true));
        check(&view, &["attempt host1"]);
        put(&mut view, failed(fence(true), 1));
        check_at(&view, after(1000), &[]);
        // Later the host is lost, and the leader needs a proof.
        power_off(&mut view, "host1");
        check_at(&view, after(1000), &[ASK]);
    }

    #[test]
    fn planning_again_changes_nothing() {
        let mut view = lost();
        assert_eq!(fences(&view, NOW, NOW), fences(&view, NOW, NOW));
        put(&mut view, off(fence(false)));
        check_at(&view, after(10_000), &[]);
    }
}
