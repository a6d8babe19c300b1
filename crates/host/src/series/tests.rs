//! Real files, in folders that the tests made.

use std::time::Duration;

use super::*;

/// A moment at the beginning of an hour.
const BEGIN: u64 = 1_700_000_000 - 1_700_000_000 % 3600;
const DAY: u64 = 86_400;

fn guest(n: u128) -> GuestId {
    GuestId(uuid::Uuid::from_u128(n))
}

fn sample(span_s: u64, guests: &[(u128, f64)]) -> Sample {
    let cores = |cpu| Usage { cpu, memory: 1e9, disk: 1e6, network: 0.0 };
    Sample {
        span: Duration::from_secs(span_s),
        total: cores(2.0),
        guests: guests.iter().map(|(n, cpu)| (guest(*n), cores(*cpu))).collect(),
    }
}

/// Measures every 5 s, and writes every minute.
fn measure(series: &Series, from_s: u64, to_s: u64, guests: &[(u128, f64)]) {
    for now in (from_s..to_s).step_by(5).map(|begin| begin + 5) {
        series.take(now as f64, &sample(5, guests));
        if now.is_multiple_of(60) {
            series.write(now).unwrap();
        }
    }
}

fn cpu(series: &Series, subject: impl Into<Subject>, range: Range) -> Vec<Option<f64>> {
    let steps = series.read(subject.into(), range).unwrap();
    steps.into_iter().map(|step| step.map(|usage| (usage.cpu * 1000.0).round() / 1000.0)).collect()
}

#[test]
fn what_was_measured_is_there_after_a_restart_and_a_gap_stays_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let series = Series::open(folder.path()).unwrap();
    measure(&series, BEGIN, BEGIN + 60, &[(1, 0.5)]);
    // The daemon was away for a minute.
    drop(series);
    let series = Series::open(folder.path()).unwrap();
    measure(&series, BEGIN + 120, BEGIN + 180, &[(1, 1.5), (2, 0.1)]);
    let range = Range::covering(BEGIN, BEGIN + 180, 30);
    assert_eq!(cpu(&series, guest(1), range), [Some(0.5), Some(0.5), None, None, Some(1.5), Some(1.5)]);
    assert_eq!(cpu(&series, guest(2), range), [None, None, None, None, Some(0.1), Some(0.1)]);
    assert_eq!(cpu(&series, Subject::HOST, range)[0], Some(2.0));
    assert_eq!(cpu(&series, guest(3), range), [None; 6]);
    let usage = series.read(guest(1).into(), range).unwrap()[0].unwrap();
    assert!((usage.memory - 1e9).abs() < 100.0 && (usage.disk - 1e6).abs() < 1.0, "{usage:?}");
}

#[test]
fn what_is_not_written_yet_is_answered_too_and_a_sample_is_shared_between_its_slots() {
    let folder = tempfile::tempdir().unwrap();
    let series = Series::open(folder.path()).unwrap();
    series.take((BEGIN + 10) as f64, &sample(10, &[(1, 1.0)]));
    // Five seconds in each of two slots.
    series.take((BEGIN + 25) as f64, &sample(10, &[(1, 3.0)]));
    series.take((BEGIN + 30) as f64, &sample(5, &[(1, 1.0)]));
    let range = Range::covering(BEGIN, BEGIN + 30, 10);
    assert_eq!(cpu(&series, guest(1), range), [Some(1.0), Some(3.0), Some(2.0)]);
    // A write takes what is over, and the slot that is not goes on.
    series.write(BEGIN + 25).unwrap();
    assert_eq!(cpu(&series, guest(1), range), [Some(1.0), Some(3.0), Some(2.0)]);
}

#[test]
fn five_minutes_are_kept_for_a_month_and_ten_seconds_for_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let series = Series::open(folder.path()).unwrap();
    measure(&series, BEGIN, BEGIN + 150, &[(1, 1.0)]);
    measure(&series, BEGIN + 150, BEGIN + 300, &[(1, 2.0)]);
    series.tidy(BEGIN + 2 * DAY, |_| true).unwrap();
    assert_eq!(cpu(&series, guest(1), Range::covering(BEGIN, BEGIN + 600, 300)), [Some(1.5), None]);
    // The fine steps are gone, all of them at once, and what is left says it for all of them.
    assert_eq!(cpu(&series, guest(1), Range::covering(BEGIN, BEGIN + 20, 10)), [Some(1.5), Some(1.5)]);
    series.tidy(BEGIN + 33 * DAY, |_| true).unwrap();
    assert_eq!(cpu(&series, guest(1), Range::covering(BEGIN, BEGIN + 600, 300)), [None, None]);
}

#[test]
fn a_restart_in_the_middle_of_five_minutes_loses_none_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let series = Series::open(folder.path()).unwrap();
    measure(&series, BEGIN, BEGIN + 120, &[(1, 1.0)]);
    drop(series);
    let series = Series::open(folder.path()).unwrap();
    measure(&series, BEGIN + 120, BEGIN + 240, &[(1, 3.0)]);
    series.tidy(BEGIN + 2 * DAY, |_| true).unwrap();
    assert_eq!(cpu(&series, guest(1), Range::covering(BEGIN, BEGIN + 300, 300)), [Some(2.0)]);
}

#[test]
fn deleted_guests_are_dropped_after_a_day_and_the_longest_gone_when_there_are_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let series = Series::open(folder.path()).unwrap();
    measure(&series, BEGIN, BEGIN + 60, &[(1, 1.0), (2, 1.0)]);
    let range = Range::covering(BEGIN, BEGIN + 300, 300);
    let known = |id: GuestId| id != guest(1);
    series.tidy(BEGIN + DAY / 2, known).unwrap();
    assert_eq!(cpu(&series, guest(1), range), [Some(1.0)], "its last hours can still be looked at");
    series.tidy(BEGIN + 2 * DAY, known).unwrap();
    assert_eq!(cpu(&series, guest(1), range), [None]);
    assert_eq!(cpu(&series, guest(2), range), [Some(1.0)]);
    measure(&series, BEGIN + DAY, BEGIN + DAY + 60, &[(3, 1.0)]);
    series.change(|transaction| drop_old(transaction, BEGIN + DAY + 60, |_| true, 1)).unwrap();
    assert_eq!(cpu(&series, guest(2), range), [None]);
    assert_eq!(cpu(&series, guest(3), Range::covering(BEGIN + DAY, BEGIN + DAY + 300, 300)), [Some(1.0)]);
    assert_eq!(cpu(&series, Subject::HOST, range), [Some(2.0)], "the host itself is never dropped");
}

/// As after a power loss: what is on the disk in the middle of its life, under another daemon.
#[test]
fn a_copy_of_the_open_file_has_every_minute_that_was_written() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let series = Series::open(folder.path()).unwrap();
    for minute in 0..20 {
        measure(&series, BEGIN + minute * 60, BEGIN + minute * 60 + 60, &[(1, 1.0), (2, 2.0)]);
        std::fs::copy(folder.path().join(FILE), other.path().join(FILE)).unwrap();
        let after = Series::open(other.path()).unwrap();
        let range = Range::covering(BEGIN, BEGIN + minute * 60 + 60, 60);
        let expected = vec![Some(2.0); usize::try_from(minute).unwrap() + 1];
        assert_eq!(cpu(&after, guest(2), range), expected);
    }
}

/// Torn anywhere: it opens and is what was written, or it is put aside and begun anew.
#[test]
fn a_torn_file_never_keeps_the_daemon_from_measuring() {
    let folder = tempfile::tempdir().unwrap();
    let series = Series::open(folder.path()).unwrap();
    measure(&series, BEGIN, BEGIN + 600, &[(1, 1.0), (2, 2.0)]);
    let whole = std::fs::read(folder.path().join(FILE)).unwrap();
    for (index, kept) in
        [1, 100, 4096, whole.len() / 2, whole.len() - 4096, whole.len() - 1].into_iter().enumerate()
    {
        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join(FILE), &whole[..kept]).unwrap();
        let after =
            Series::open(other.path()).unwrap_or_else(|error| panic!("{index}: {kept} bytes: {error}"));
        measure(&after, BEGIN + 600, BEGIN + 660, &[(1, 1.0)]);
        assert_eq!(cpu(&after, guest(1), Range::covering(BEGIN + 600, BEGIN + 660, 60)), [Some(1.0)]);
    }
    let noise = tempfile::tempdir().unwrap();
    std::fs::write(noise.path().join(FILE), vec![7; 100_000]).unwrap();
    Series::open(noise.path()).unwrap();
    assert!(noise.path().join(DAMAGED).is_file());
}

/// A file system of its own, gone with this.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` when this is not root.
    fn new() -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), folder.path(), Some("tmpfs"), flags, Some("size=8m")).ok()?;
        Some(SmallDisk(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_loses_nothing_of_the_last_hour_once_there_is_room_again() {
    let Some(disk) = SmallDisk::new() else { return eprintln!("only root can make a disk that is full") };
    let folder = disk.0.path();
    let series = Series::open(folder).unwrap();
    let guests: Vec<(u128, f64)> = (1..=50).map(|n| (n, 0.5)).collect();
    measure(&series, BEGIN, BEGIN + 60, &guests);
    let filler = folder.join("filler");
    while std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&filler)
        .and_then(|mut file| std::io::Write::write_all(&mut file, &[7; 4096]))
        .is_ok()
    {}
    let mut refused = 0;
    for minute in 1..30 {
        for slot in 1..=6 {
            series.take((BEGIN + minute * 60 + slot * 10) as f64, &sample(10, &guests));
        }
        refused += u32::from(series.write(BEGIN + minute * 60 + 60).is_err());
    }
    assert!(refused > 0, "the disk was not full");
    std::fs::remove_file(&filler).unwrap();
    series.write(BEGIN + 1800).unwrap();
    drop(series);
    let series = Series::open(folder).unwrap();
    let whole = cpu(&series, guest(50), Range::covering(BEGIN, BEGIN + 1800, 60));
    assert_eq!(whole, [Some(0.5); 30]);
}

#[test]
fn a_second_daemon_is_refused_and_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let series = Series::open(folder.path()).unwrap();
    assert!(Series::open(folder.path()).is_err());
    measure(&series, BEGIN, BEGIN + 60, &[(1, 1.0)]);
    assert!(!folder.path().join(DAMAGED).exists());
}

/// The module's head states what a guest takes; a hundred of them for two hours of writing stay within it.
#[test]
fn the_file_stays_as_small_as_it_is_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let series = Series::open(folder.path()).unwrap();
    let guests: Vec<(u128, f64)> = (1..=100).map(|n| (n, 0.5)).collect();
    for minute in 0..120 {
        let begin = BEGIN + minute * 60;
        for slot in 1..=6 {
            series.take((begin + slot * 10) as f64, &sample(10, &guests));
        }
        series.write(begin + 60).unwrap();
    }
    let bytes = std::fs::metadata(folder.path().join(FILE)).unwrap().len();
    // 101 × (120 × 120 + 2 × 216) bytes are 1.5 MB; a store of pages needs some more.
    assert!(bytes < 8 << 20, "{bytes} bytes");
}
