//! A file as the planner sees it.

use plan::htools::{Cluster, Loads, Order};
use plan::layout::Layout;
use plan::snapshot::{GuestNeed, HostRoom, Snapshot, Storage, Strength};

use crate::sample::{TWO_GROUPS, wild};

const MIB: u64 = 1 << 20;

fn snapshot(text: &str) -> Snapshot {
    let cluster = Cluster::parse(text).unwrap();
    cluster.snapshot(&Order::new(&cluster))
}

fn guest<'a>(snapshot: &'a Snapshot, name: &str) -> &'a GuestNeed {
    snapshot.guest(snapshot.find_guest(name).unwrap())
}

fn host<'a>(snapshot: &'a Snapshot, name: &str) -> &'a HostRoom {
    snapshot.host(snapshot.find_host(name).unwrap())
}

fn names(snapshot: &Snapshot, guest: &GuestNeed) -> Option<Vec<String>> {
    let allowed = guest.allowed.as_ref()?;
    Some(allowed.iter().map(|host| snapshot.host(*host).name.clone()).collect())
}

#[test]
fn hosts_give_what_is_free_and_what_their_guests_take() {
    let snapshot = snapshot(TWO_GROUPS);
    let order: Vec<&str> = snapshot.hosts.iter().map(|host| host.name.as_str()).collect();
    assert_eq!(order, ["ash", "elm", "fir", "oak"]);
    let oak = host(&snapshot, "oak");
    // 1792 MiB free, mail and web; wiki's disk is here as a secondary.
    assert_eq!((oak.memory, oak.memory_total), ((1792 + 2048) * MIB, 4096 * MIB));
    assert_eq!(oak.disk, (71_680 + 10_240 + 20_480 + 10_240) * MIB);
    assert_eq!((oak.cores, oak.vcpus_max), (4.0, 12.0));
    assert_eq!(host(&snapshot, "fir").vcpus_max, 31.0, "four to a core, less the one in use");
    assert!(host(&snapshot, "ash").duty.leaves());
    assert_eq!(snapshot.domains, ["room:left", "room:right"]);
    let elm = snapshot.find_host("elm").unwrap();
    assert_eq!(Layout::new(&snapshot).memory_free(elm), 2816 * MIB);
}

#[test]
fn guests_need_what_the_file_says() {
    let snapshot = snapshot(TWO_GROUPS);
    let mail = guest(&snapshot, "mail");
    assert_eq!((mail.memory, mail.disk, mail.vcpus), (1024 * MIB, 10_240 * MIB, 2));
    assert_eq!((mail.storage, mail.runs, mail.may_move), (Storage::Mirrored, true, true));
    assert_eq!(names(&snapshot, mail).unwrap(), ["ash", "elm", "oak"], "the hosts of its group");
    let wiki = guest(&snapshot, "wiki");
    assert_eq!((wiki.runs, wiki.may_move), (false, false));
    assert_eq!(guest(&snapshot, "shop").storage, Storage::Shared);
    let log = guest(&snapshot, "log");
    assert_eq!((log.storage, log.may_move), (Storage::Local, false));
    // web and wiki share a tag; mail's is its own.
    let rules: Vec<_> =
        snapshot.groups.iter().map(|group| (group.rule.as_str(), group.members.len())).collect();
    assert_eq!(rules, [("svc:web", 2), ("svc:web", 2)]);
    assert_eq!(snapshot.groups[0].strength, Strength::Must);
    assert_eq!(guest(&snapshot, "web").groups.len(), 2);
}

#[test]
fn loads_count_once_they_are_measured() {
    let mut cluster = Cluster::parse(TWO_GROUPS).unwrap();
    let order = Order::new(&cluster);
    assert_eq!(guest(&cluster.snapshot(&order), "mail").load.cpu, 0.2, "a tenth of two, as an estimate");
    cluster.set_loads(&Loads::parse("mail 0.5 0.25 0 0\n").unwrap());
    let snapshot = cluster.snapshot(&order);
    let mail = guest(&snapshot, "mail");
    assert_eq!((mail.load.cpu, mail.load.memory), (1.0, (256 * MIB) as f64));
}

#[test]
fn places_go_there_and_back() {
    for seed in 0..20 {
        let cluster = Cluster::parse(&wild(seed)).unwrap();
        let order = Order::new(&cluster);
        let snapshot = cluster.snapshot(&order);
        let places: Vec<_> = snapshot.guests.iter().map(|guest| guest.place).collect();
        assert_eq!(order.seats(&cluster, &places), cluster.seats());
        assert!(Layout::new(&snapshot).broken().len() < 1000);
    }
}

#[test]
fn what_is_odd_is_told() {
    let odd = TWO_GROUPS
        .replace("|1792|102400|71680|", "|1000|102400|20000|")
        .replace("htools:nlocation:room\n\n|", "htools:nlocation:room\n|")
        .replace("|oak|elm|drbd|svc:mail", "|oak|fir|drbd|svc:mail");
    let warnings = Cluster::parse(&odd).unwrap().warnings();
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
    assert!(warnings[0].starts_with("the host oak is missing 792 MiB of memory and"), "{warnings:#?}");
    assert!(warnings[1].starts_with("the cluster tag '|128,"), "{warnings:#?}");
    assert!(warnings[2].starts_with("mail: primary and secondary are in two groups"), "{warnings:#?}");
}
