//! What most stories share: a lab of three hosts with one recorder that is mirrored and in sync, and their end.

use e2e::lab::Lab;
use e2e::owners::OwnerWatch;
use e2e::recorder::Recorder;

pub const HOSTS: u32 = 3;

pub struct Story {
    pub lab: Lab,
}

impl Story {
    pub fn begin(name: &str) -> Story {
        Story { lab: Lab::up(name, HOSTS).unwrap() }
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
}
