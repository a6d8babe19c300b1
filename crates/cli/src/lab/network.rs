//! The lab's network: one switch with two segments, in a network namespace of its own.
//!
//! ```text
//!   host1: eth0 10.77.0.1   eth1 (no address; guests' uplink)
//!            │                │
//!   mgmt-host1           guests-host1            ports of the switch; mgmt-host2, guests-host2, …
//!            │                │
//!        bridge mgmt      bridge guests
//!        10.77.0.254      10.90.0.254
//!        10.77.0.101 …    (the BMC of host1, …)
//! ```
//!
//! A cut is a rule at the switch that drops frames between ports: both ends keep their link and hear nothing,
//! which is the nastier way for a network to fail. Rules go by the ports' names, so a host that is powered off
//! and on finds its cable cut as before.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::{Context, Result};

use super::process::ProcessRef;
use super::space;
use super::state::{Cut, Host, SWITCH_ADDRESS, SWITCH_GUEST_ADDRESS};

/// Builds the segments, in the calling process's network.
pub fn build_switch(hosts: &[Host]) -> Result<()> {
    let mut lines = String::from("link set lo up\n");
    for (kind, segment, address) in [(0, "mgmt", SWITCH_ADDRESS), (1, "guests", SWITCH_GUEST_ADDRESS)] {
        // Snooping would keep multicast, and with it IPv6, from hosts that it has not heard of yet. Without an address of
        // its own a bridge has that of its lowest port, and nobody finds the BMCs for nine seconds when that one goes.
        lines += &format!(
            "link add {segment} address 02:4b:4e:4c:{kind:02x}:fe type bridge mcast_snooping 0\n\
             address add {address}/24 dev {segment}\n\
             link set {segment} up\n"
        );
    }
    for host in hosts {
        lines += &format!("address add {}/24 dev mgmt\n", host.bmc_address());
    }
    space::ip_batch(&lines).context("build the switch")
}

/// Connects a host's first process to the switch. The cables have the same hardware addresses each time, as
/// a machine keeps its cards when its power fails.
pub fn plug_in(switch: ProcessRef, host: &Host, first: ProcessRef) -> Result<()> {
    let Host { name, number, .. } = host;
    let mut lines = String::new();
    for (segment, device, kind) in [("mgmt", "eth0", 0), ("guests", "eth1", 1)] {
        lines += &format!(
            "link add {segment}-{name} type veth \
             peer name {device} address 02:4b:4e:4c:{kind:02x}:{number:02x} netns {}\n\
             link set {segment}-{name} master {segment} up\n",
            first.pid
        );
    }
    space::in_network_of(switch, || space::ip_batch(&lines))
        .with_context(|| format!("connect {name} to the switch"))
}

/// Sets up the host's own ends; called inside.
pub fn configure_host(host: &Host) -> Result<()> {
    space::ip_batch(&format!(
        "link set lo up\naddress add {}/24 dev eth0\nlink set eth0 up\nlink set eth1 up\n",
        host.address()
    ))
    .context("configure the host's network")
}

/// Silences a host's links, so that its end is not announced: a machine without power sends no farewell, but
/// the kernel would close a killed process's connections properly.
pub fn silence(switch: ProcessRef, host: &Host) -> Result<()> {
    let name = &host.name;
    space::in_network_of(switch, || {
        space::ip_batch(&format!("link set mgmt-{name} down\nlink set guests-{name} down\n"))
    })
    .with_context(|| format!("silence the links of {name}"))
}

/// Takes the cables away. They may be gone with the host's namespace already.
pub fn unplug(switch: ProcessRef, host: &Host) -> Result<()> {
    space::in_network_of(switch, || {
        for segment in ["mgmt", "guests"] {
            // The kernel clears away a dead namespace in its own time: either of us may be first.
            let _ = space::ip_batch(&format!("link delete {segment}-{}\n", host.name));
        }
        Ok(())
    })
}

/// Makes the switch drop what the cuts say, and nothing else.
pub fn apply_cuts(switch: ProcessRef, cuts: &BTreeSet<Cut>) -> Result<()> {
    let rules = rules(cuts);
    space::in_network_of(switch, || space::load_rules(&rules)).context("change the switch's rules")
}

/// The whole rule set; it replaces the one before it in one step.
fn rules(cuts: &BTreeSet<Cut>) -> String {
    let (mut forward, mut input, mut output) = (String::new(), String::new(), String::new());
    for cut in cuts {
        match cut {
            Cut::Whole { host, api_too } => {
                for segment in ["mgmt", "guests"] {
                    let _ = writeln!(forward, "    iifname \"{segment}-{host}\" drop");
                    let _ = writeln!(forward, "    oifname \"{segment}-{host}\" drop");
                }
                // What the switch itself answers to: BMCs, guests' tests, and the way to the API.
                let (to_others, from_others) = if *api_too {
                    (String::new(), String::new())
                } else {
                    (format!("ip daddr != {SWITCH_ADDRESS} "), format!("ip saddr != {SWITCH_ADDRESS} "))
                };
                let _ = writeln!(input, "    iifname \"mgmt-{host}\" {to_others}drop");
                let _ = writeln!(output, "    oifname \"mgmt-{host}\" {from_others}drop");
                let _ = writeln!(input, "    iifname \"guests-{host}\" drop");
                let _ = writeln!(output, "    oifname \"guests-{host}\" drop");
            }
            Cut::Between { one, other } => {
                for segment in ["mgmt", "guests"] {
                    for (from, to) in [(one, other), (other, one)] {
                        let _ = writeln!(
                            forward,
                            "    iifname \"{segment}-{from}\" oifname \"{segment}-{to}\" drop"
                        );
                    }
                }
            }
        }
    }
    format!(
        "table bridge cuts\n\
         delete table bridge cuts\n\
         table bridge cuts {{\n\
         \x20 chain forward {{\n    type filter hook forward priority 0;\n{forward}  }}\n\
         \x20 chain input {{\n    type filter hook input priority 0;\n{input}  }}\n\
         \x20 chain output {{\n    type filter hook output priority 0;\n{output}  }}\n\
         }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cuts: &[Cut], present: &[&str], absent: &[&str]) {
        let rules = rules(&cuts.iter().cloned().collect());
        for line in present {
            assert!(rules.contains(line), "{line} is missing in\n{rules}");
        }
        for line in absent {
            assert!(!rules.contains(line), "{line} is in\n{rules}");
        }
    }

    #[test]
    fn a_cut_between_two_hosts_drops_both_ways_and_nothing_else() {
        let cut = Cut::Between { one: "host1".to_owned(), other: "host2".to_owned() };
        check(
            &[cut],
            &[
                "iifname \"mgmt-host1\" oifname \"mgmt-host2\" drop",
                "iifname \"mgmt-host2\" oifname \"mgmt-host1\" drop",
                "iifname \"guests-host1\" oifname \"guests-host2\" drop",
            ],
            &["host3", "iifname \"mgmt-host1\" drop"],
        );
    }

    #[test]
    fn a_cut_off_host_keeps_the_way_to_its_api_unless_told_otherwise() {
        let whole = |api_too| Cut::Whole { host: "host1".to_owned(), api_too };
        let kept = "iifname \"mgmt-host1\" ip daddr != 10.77.0.254 drop";
        check(&[whole(false)], &[kept, "iifname \"guests-host1\" drop"], &[]);
        check(
            &[whole(true)],
            &["chain input {\n    type filter hook input priority 0;\n    iifname \"mgmt-host1\" drop"],
            &[kept],
        );
    }

    #[test]
    fn no_cuts_no_rules() {
        check(&[], &["chain forward"], &["drop"]);
    }
}
