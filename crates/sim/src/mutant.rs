//! Deliberate faults in the protocol, to see whether the simulation finds them. Nothing but the simulation has these
//! switches: each is a place in this crate where an executor does something wrong, or where the code that decides is
//! shown something that is not so.

use std::fmt;
use std::str::FromStr;

macro_rules! mutants {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, $invariant:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant { $($(#[doc = $doc])* $name,)* }

        impl Mutant {
            pub const ALL: &[Mutant] = &[$(Mutant::$name,)*];

            /// What it does wrong, in a sentence.
            pub fn story(self) -> &'static str {
                match self { $(Mutant::$name => concat!($($doc,)*).trim_ascii(),)* }
            }

            /// The invariant that it is aimed at.
            pub fn against(self) -> &'static str {
                match self { $(Mutant::$name => $invariant,)* }
            }
        }

        impl fmt::Display for Mutant {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Mutant::$name => $text,)* })
            }
        }

        impl FromStr for Mutant {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Mutant::$name),)*
                    other => Err(format!(
                        "there is no mutant '{other}': there are {}",
                        [$($text,)*].join(", ")
                    )),
                }
            }
        }
    };
}

mutants! {
    /// A secondary is promoted whatever boot it is in.
    PromoteAnyBoot = "promote-any-boot", "nothing acknowledged is lost";
    /// A promotion does not compare the in-sync sets.
    PromoteBlindly = "promote-blindly", "nothing acknowledged is lost";
    /// The mirror is let go of before the record says so.
    LetGoFirst = "let-go-first", "nothing acknowledged is lost";
    /// A replica is admitted while it is still being filled.
    AdmitEarly = "admit-early", "nothing acknowledged is lost";
    /// An admission whose outcome is unknown is taken for one that failed.
    UnknownIsFailed = "unknown-is-failed", "nothing acknowledged is lost";
    /// A record whose outcome is unknown is taken for one that was written.
    UnknownIsDone = "unknown-is-done", "nothing acknowledged is lost";
    /// A promoted replica is not flushed.
    NoFlush = "no-flush", "nothing acknowledged is lost";
    /// A write whose secondary does not answer for a second is acknowledged on one copy.
    NoHold = "no-hold", "nothing acknowledged is lost";
    /// A secondary is served under one name in all its boots.
    OneNameForAllBoots = "one-name-for-all-boots", "nothing acknowledged is lost";
    /// Any end of a run counts as one that left both replicas the same.
    AlwaysClean = "always-clean", "nothing acknowledged is lost";
    /// A record of what changes is begun while writes are under way that it has missed.
    RecordTooEarly = "record-too-early", "nothing acknowledged is lost";
    /// A record of what changed is believed of another file of the same name.
    RecordOfAnyFile = "record-of-any-file", "nothing acknowledged is lost";
    /// Replicas are compared before writes go to both.
    CompareFirst = "compare-first", "nothing acknowledged is lost";
    /// Connections from before are not ended when a replica is filled.
    KeepConnections = "keep-connections", "nothing acknowledged is lost";
    /// A promoted replica stays served, so that the old owner's writes still reach it.
    NoWithdraw = "no-withdraw", "one writer";
    /// A guest that was handed over keeps its disks on the old host.
    NoVoid = "no-void", "one writer";
    /// A guest is started although the host's session is over.
    StartWithoutSession = "start-without-session", "starts by right";
    /// A promotion does not begin a new epoch.
    SameEpoch = "same-epoch", "one owner per epoch";
    /// The leader counts no guest's memory.
    NoMemoryCount = "no-memory-count", "rules and room";
    /// The leader knows no rules.
    NoRules = "no-rules", "rules and room";
    /// A restarted guest's machine is marked with the generation before the one that was asked for.
    RestartAgain = "restart-again", "a job's effects happen once";
    /// A guest that was let go of by its secondary is never filled again.
    NoResync = "no-resync", "everything comes back";
    /// A job that ended its wait is never looked at again.
    ForgetJobs = "forget-jobs", "everything comes back";
    /// An owner whose session is over does not ask its secondary.
    NoConfirmation = "no-confirmation", "the store's loss stops nobody";
    /// The leader takes every lost host for one that has long been lost.
    NoStormGuard = "no-storm-guard", "no storm";
    /// A guest that died is started again at once, for ever.
    NoPause = "no-pause", "no storm";
    /// A fence agent's yes is taken for a proof: nobody asks the device how its switch stands.
    TrustTheAgent = "trust-the-agent", "one writer";
    /// A guest in shared storage is started elsewhere as soon as its host is lost.
    StartWithoutProof = "start-without-proof", "one writer";
    /// One of two power supplies without power is enough.
    OneSupplyIsEnough = "one-supply-is-enough", "one writer";
    /// A host that is heard again leaves what was said of its death.
    KeepTheWord = "keep-the-word", "one writer";
    /// A watchdog that stands still with its host is taken for one that resets it.
    SoftWatchdog = "soft-watchdog", "one writer";
    /// A hardware watchdog is given a quarter of its time.
    ResetTooEarly = "reset-too-early", "one writer";
    /// The disks of a guest in shared storage are taken away from it after another host owns it.
    WithholdLate = "withhold-late", "one writer";
    /// A leader that does not know whether it leads any more has power taken.
    FenceUnasked = "fence-unasked", "fences by right";
    /// Power is taken while many hosts have just vanished.
    FenceInAStorm = "fence-in-a-storm", "no storm";
    /// Power that could not be taken is tried again at once, for ever.
    FenceWithoutPause = "fence-without-pause", "no storm";
    /// Mirrored guests wait until the power of their hosts is taken.
    WaitForTheFence = "wait-for-the-fence", "mirrored guests wait for no fence";
}
