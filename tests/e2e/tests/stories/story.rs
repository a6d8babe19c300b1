//! What most stories share: a lab of three hosts with one recorder that is mirrored and in sync, and their end.

use e2e::lab::{LIMIT, Lab};
use e2e::owners::OwnerWatch;
use e2e::recorder::Recorder;
use e2e::wait;

pub const HOSTS: u32 = 3;

pub struct Story {
    pub lab: Lab,
}

impl Story {
    pub fn begin(name: &str) -> Story {
        Story { lab: Lab::up(name, HOSTS).unwrap() }
    }

    /// With `extra` words for `kennel lab up`.
    pub fn begin_with(name: &str, extra: &[&str]) -> Story {
        Story { lab: Lab::up_with(name, HOSTS, extra).unwrap() }
    }

    /// The recorder `web1`, created with `extra` words for `kennel guest create`.
    pub fn recorder(&self, extra: &[&str]) -> Recorder<'_> {
        let recorder = Recorder::start(&self.lab, "web1", extra).unwrap();
        self.lab.wait_for_sync("web1").unwrap();
        recorder
    }

    /// All hosts are online, and the guest is in sync.
    pub fn settle(&self) {
        self.lab.wait_for_hosts_online(HOSTS as usize).unwrap();
        self.lab.wait_for_sync("web1").unwrap();
    }

    /// No record is missing, and afterwards the guest is in sync again.
    pub fn verify(&self, recorder: &Recorder<'_>) {
        recorder.verify().unwrap();
        self.lab.wait_for_sync("web1").unwrap();
    }

    /// No guest had two machines at one epoch, and no daemon has said that a person must look.
    pub fn end(&self, watch: OwnerWatch) {
        watch.verify().unwrap();
        self.lab.assert_no_errors(HOSTS).unwrap();
    }

    /// Where the guest is, and the host that has no part in it.
    pub fn places(&self) -> (String, String, String) {
        let (owner, secondary) = self.lab.places("web1").unwrap();
        let hosts = (1..=HOSTS).map(|n| format!("host{n}"));
        let third = hosts.into_iter().find(|host| *host != owner && *host != secondary).unwrap();
        (owner, secondary, third)
    }

    /// The end of every story: all hosts are online, the guest is in sync where it should be, nothing is missing,
    /// and only the hosts that mirror it have its disk.
    pub fn end_at(&self, recorder: &Recorder<'_>, watch: OwnerWatch, (owner, secondary): (&str, &str)) {
        self.settle();
        assert_eq!(self.lab.places("web1").unwrap(), (owner.to_owned(), secondary.to_owned()));
        self.verify(recorder);
        wait("old replicas to be gone", LIMIT, || {
            let mut holders = self.lab.holders("web1")?;
            holders.sort();
            let mut expected = vec![owner.to_owned(), secondary.to_owned()];
            expected.sort();
            Ok((holders == expected).then_some(()))
        })
        .unwrap();
        self.end(watch);
    }
}
