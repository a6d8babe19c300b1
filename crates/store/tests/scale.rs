//! The cache at the size that Kennel is made for: 10,000 guests on 100 hosts, a volume each.

use std::time::{Duration, Instant};

use model::{
    Assignment, BootFrom, BootId, Bytes, Epoch, GuestId, GuestName, GuestSpec, HostName, InSync, PowerWish,
    Replica, Seed, VolumeId,
};
use store::{Cache, Change, Entry, FeedEvent, Listing, Record, UnknownFields, codec};

const GUESTS: u32 = 10_000;
const HOSTS: u32 = 100;

/// Many times what is measured, on a machine that has other things to do.
const RESET_LIMIT: Duration = Duration::from_secs(10);
const COPY_LIMIT: Duration = Duration::from_secs(2);
const CHANGE_LIMIT: Duration = Duration::from_millis(2);

fn entry<T: Record>(record: &T) -> Entry {
    let value = codec::encode(record, &UnknownFields::default()).expect("encode");
    Entry { key: record.key(), value, mod_revision: 1 }
}

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(number: u32) -> T {
    format!("0191e0a0-0000-4000-8000-{number:012}").parse().expect("an id")
}

fn records(number: u32) -> [Entry; 3] {
    let name: GuestName = format!("guest{number}").parse().expect("a name");
    let host = |number: u32| -> HostName { format!("host{}", number % HOSTS).parse().expect("a name") };
    let (guest_id, volume): (GuestId, VolumeId) = (id(number), id(number));
    let spec = GuestSpec {
        name: name.clone(),
        id: guest_id,
        created_at: "2026-11-21T00:00:00Z".parse().expect("a time"),
        vcpus: 1,
        memory: Bytes::gib(1),
        boot: BootFrom::Disk,
        disks: Vec::new(),
        nics: Vec::new(),
        seed: Seed::default(),
        power: PowerWish::Running,
        boot_generation: 1,
        priority: 0,
        stop_timeout_s: 30,
        preferred_host: None,
        deleting: false,
        tags: Default::default(),
        pinned: false,
        start_after: Default::default(),
        restart_with: Default::default(),
        resync: Default::default(),
        health: Default::default(),
    };
    let assignment = Assignment {
        guest: name,
        guest_id,
        host: host(number),
        epoch: Epoch::FIRST,
        secondary: Some(host(number + 1)),
        why: "it had the most room".to_owned(),
        handover: None,
        handed_over_by: None,
    };
    let replica = |number: u32| Replica { host: host(number), boot_id: id::<BootId>(number % HOSTS) };
    let members = [replica(number), replica(number + 1)].into();
    [
        entry(&spec),
        entry(&assignment),
        entry(&InSync {
            volume,
            epoch: Epoch::FIRST,
            members,
            alone_since: None,
            resync: 0,
            refill: false,
            doubted: false,
        }),
    ]
}

#[test]
fn ten_thousand_guests_are_folded_copied_and_changed_in_time() {
    let entries: Vec<Entry> = (0..GUESTS).flat_map(records).collect();
    let mut cache = Cache::new();
    let started = Instant::now();
    cache.apply(FeedEvent::Reset(Listing { entries, revision: 1 }));
    let reset = started.elapsed();
    assert_eq!(cache.view().assignments.len(), GUESTS as usize);

    let change = |number: u32, revision: i64| FeedEvent::Changes {
        changes: records(number).into_iter().map(Change::Put).collect(),
        revision,
    };
    let held = cache.snapshot();
    let started = Instant::now();
    cache.apply(change(7, 2));
    let copy = started.elapsed();
    assert_eq!(held.revision, 1);

    let started = Instant::now();
    for number in 0..1000 {
        cache.apply(change(number, i64::from(number) + 3));
    }
    let each = started.elapsed() / 1000;
    eprintln!("{GUESTS} guests: listed in {reset:?}, copied in {copy:?}, each change of 3 records {each:?}");
    assert!(reset < RESET_LIMIT && copy < COPY_LIMIT && each < CHANGE_LIMIT);
}
