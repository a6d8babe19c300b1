use jiff::{SignedDuration, Timestamp};
use model::{Handover, HandoverKind, JobId, MoveOptions, Pool};
use uuid::Uuid;

use super::*;
use crate::fixture::{self, cluster, power_off, put, usage};

fn guest(name: &str) -> GuestName {
    name.parse().unwrap()
}

fn usages(all: &[HostUsage]) -> BTreeMap<HostName, HostUsage> {
    all.iter().map(|usage| (usage.host.clone(), usage.clone())).collect()
}

fn need<'i>(inventory: &'i Inventory, name: &str) -> &'i GuestNeed {
    inventory.snapshot.guest(inventory.guest_ix(&guest(name)).unwrap())
}

fn stay(inventory: &Inventory, name: &str) -> String {
    let guest = inventory.guest_ix(&guest(name)).unwrap();
    inventory.stay(guest).map(|stay| format!("{:?}: {stay}", stay.cause)).unwrap_or_default()
}

fn move_job(view: &mut ClusterView, name: &str, to: GuestPlace) {
    let job = JobSpec {
        id: JobId(Uuid::from_u128(7)),
        kind: JobKind::MoveGuest { guest: guest(name), to, options: MoveOptions::default(), heals: None },
        created_at: Timestamp::UNIX_EPOCH,
        requested_by: "a test".into(),
        runner: None,
        cancel: false,
    };
    view.jobs.insert(job.id, job);
}

#[test]
fn room_is_what_the_host_does_not_keep_times_the_over_commit_ratio() {
    let mut view = cluster(2);
    let settings = &mut view.hosts.get_mut(&fixture::host("host1")).unwrap().settings;
    settings.reserved_disk = Bytes::gib(10);
    settings.reserved_millicores = 500;
    settings.memory_percent = Some(200);
    settings.vcpus_percent = Some(300);
    settings.speed_percent = 150;
    let inventory = Inventory::new(&view, &BTreeMap::new());
    let [one, two] = inventory.snapshot.hosts.as_slice() else { panic!("two hosts") };
    assert_eq!(Bytes(one.memory), Bytes::gib(15));
    assert_eq!(Bytes(one.disk), Bytes::gib(90));
    assert_eq!((one.cores, one.speed, one.vcpus_max), (3.5, 1.5, 12.0));
    assert_eq!(Bytes(two.memory), Bytes::mib(7680));
    assert_eq!((two.cores, two.speed, two.vcpus_max), (4.0, 1.0, 32.0));
}

#[test]
fn a_duty_becomes_what_the_planner_does_with_the_host() {
    let mut view = cluster(5);
    view.hosts.get_mut(&fixture::host("host2")).unwrap().duty = Duty::Draining;
    view.hosts.get_mut(&fixture::host("host3")).unwrap().duty = Duty::Maintenance;
    power_off(&mut view, "host4");
    view.host_reports.remove(&fixture::host("host5"));
    let inventory = Inventory::new(&view, &BTreeMap::new());
    let duties: Vec<&HostDuty> = inventory.snapshot.hosts.iter().map(|host| &host.duty).collect();
    assert_eq!(
        duties,
        [
            &HostDuty::Takes,
            &HostDuty::Leaves("it is being drained".into()),
            &HostDuty::GuestsLeave("it is in maintenance".into()),
            &HostDuty::Lost("it is lost".into()),
            &HostDuty::Keeps("it has not reported its size yet".into()),
        ]
    );
}

#[test]
fn a_guest_takes_its_memory_and_what_qemu_needs() {
    let mut view = cluster(2);
    put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
    put(&mut view, "b", Pool::Local, "host2", None);
    view.guests.get_mut(&guest("b")).unwrap().power = PowerWish::Stopped;
    let inventory = Inventory::new(&view, &BTreeMap::new());
    let (a, b) = (need(&inventory, "a"), need(&inventory, "b"));
    assert_eq!((Bytes(a.memory), Bytes(a.disk), a.runs), (Bytes::mib(1088), Bytes::gib(10), true));
    assert_eq!((a.storage, b.storage, b.runs), (Storage::Mirrored, Storage::Local, false));
    assert_eq!(b.load, Load::default());
    let to = GuestPlace { host: fixture::host("host1"), secondary: Some(fixture::host("host2")) };
    assert_eq!(a.place.map(|place| inventory.place_of(place)), Some(to.clone()));
    assert_eq!(inventory.place_ix(&to), a.place);
    assert_eq!(inventory.place_ix(&GuestPlace { host: fixture::host("host9"), secondary: None }), None);
}

#[test]
fn what_was_measured_for_a_window_counts_and_nothing_else() {
    let mut view = cluster(3);
    for (name, host) in [("a", "host1"), ("new", "host1"), ("b", "host2"), ("c", "host3")] {
        put(&mut view, name, Pool::Mirror, host, Some(if host == "host1" { "host2" } else { "host1" }));
        view.guests.get_mut(&guest(name)).unwrap().vcpus = 4;
    }
    let mut one = usage("host1", "a=2.5 new=3");
    one.guests.get_mut(&guest("new")).unwrap().measured_s = 40;
    let mut two = usage("host2", "b=1");
    two.measured_s = 100;
    let inventory = Inventory::new(&view, &usages(&[one.clone(), two.clone()]));
    assert!((inventory.snapshot.hosts[0].own_load.cpu - 0.5).abs() < 1e-9, "what its guests do not use");
    assert_eq!(need(&inventory, "a").load.cpu, 2.5);
    assert_eq!(need(&inventory, "new").load.cpu, 3.0, "so far it is more than the estimate");
    assert_eq!(need(&inventory, "b").load.cpu, 0.4, "a tenth of four virtual CPUs");
    assert_eq!(need(&inventory, "c").load.cpu, 0.4);
    assert_eq!(stay(&inventory, "a"), "");
    assert_eq!(stay(&inventory, "new"), "Young: it was measured for 40 s of 300 s here");
    assert_eq!(stay(&inventory, "b"), "", "where nobody measures, reservations must do");
    let unmeasured: Vec<String> =
        inventory.unmeasured().iter().map(|(host, why)| format!("{host}: {why}")).collect();
    assert_eq!(
        unmeasured,
        ["host2: it has measured for 100 s of 300 s", "host3: it does not tell what it measures"]
    );

    two.measured_s = 3600;
    one.at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(61);
    let inventory = Inventory::new(&view, &usages(&[one, two]));
    assert_eq!(
        inventory.unmeasured()[&fixture::host("host2")],
        "its last measurement is 61 s older than the newest"
    );
    assert_eq!(need(&inventory, "b").load.cpu, 0.4);
}

#[test]
fn guests_that_something_is_under_way_with_may_not_move() {
    let mut view = cluster(3);
    let names =
        ["dead", "failed", "fills", "handed", "here", "local", "moves", "pinned", "starts", "stopped"];
    for name in names {
        put(&mut view, name, Pool::Mirror, "host1", Some("host2"));
    }
    put(&mut view, "lost", Pool::Mirror, "host3", Some("host2"));
    power_off(&mut view, "host3");
    view.guests.get_mut(&guest("dead")).unwrap().deleting = true;
    view.guest_reports.get_mut(&guest("failed")).unwrap().state = model::GuestState::Failed;
    view.in_sync.get_mut(&fixture::volume("fills")).unwrap().members.pop_last();
    view.guests.get_mut(&guest("local")).unwrap().disks[0].pool = Pool::Local;
    view.guests.get_mut(&guest("pinned")).unwrap().pinned = true;
    view.guest_reports.get_mut(&guest("starts")).unwrap().state = model::GuestState::Starting;
    view.guests.get_mut(&guest("stopped")).unwrap().power = PowerWish::Stopped;
    view.assignments.get_mut(&guest("handed")).unwrap().handover = Some(Handover {
        to: fixture::host("host2"),
        how: HandoverKind::Live,
        job: JobId(Uuid::nil()),
        options: MoveOptions::default(),
    });
    let to = GuestPlace { host: fixture::host("host2"), secondary: Some(fixture::host("host1")) };
    move_job(&mut view, "moves", to);
    let mut new = fixture::guest("new", Pool::Mirror);
    new.memory = Bytes::gib(1);
    view.guests.insert(new.name.clone(), new);
    let inventory = Inventory::new(&view, &BTreeMap::new());
    let filled = if stay(&inventory, "fills").is_empty() { "host1" } else { "host2" };
    let unready = format!("the replica on {filled} is being filled");
    assert_eq!(need(&inventory, "fills").unready, Some(unready));
    assert_eq!(need(&inventory, "pinned").unready, None);
    let stays: Vec<String> =
        view.guests.keys().map(|name| format!("{name} {}", stay(&inventory, name.as_str()))).collect();
    assert_eq!(
        stays,
        [
            "dead Busy: it is being deleted".to_owned(),
            "failed Failed: it failed on host1, `kennel guest show` says why".to_owned(),
            format!("fills Busy: its replica on {filled} is being filled"),
            "handed Busy: it is being handed over to host2".to_owned(),
            "here ".to_owned(),
            "local Local: its disks are on host1 alone".to_owned(),
            "lost NoHost: its host host3 is lost".to_owned(),
            "moves Busy: the job 'move guest moves to host2 + host1' is under way".to_owned(),
            "new NoHost: it has no host yet".to_owned(),
            "pinned Pinned: its operator does not want it moved".to_owned(),
            "starts Busy: it is starting".to_owned(),
            "stopped Stopped: it is stopped".to_owned(),
        ]
    );
    let moves = need(&inventory, "moves").place.map(|place| inventory.place_of(place));
    assert_eq!(moves.unwrap().host, fixture::host("host2"), "it counts where it goes to");
}

#[test]
fn the_order_of_records_and_what_no_plan_needs_change_nothing() {
    let mut view = cluster(3);
    for name in ["c", "a", "b"] {
        put(&mut view, name, Pool::Mirror, "host1", Some("host2"));
    }
    let inventory = Inventory::new(&view, &BTreeMap::new());
    let names: Vec<&str> = inventory.snapshot.guests.iter().map(|guest| guest.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    view.guests.get_mut(&guest("a")).unwrap().seed.user_data = Some("a password".into());
    let again = Inventory::new(&view, &BTreeMap::new());
    assert_eq!(again.snapshot, inventory.snapshot);
    assert_eq!(again.view().guests[&guest("a")].seed, model::Seed::default());
}
