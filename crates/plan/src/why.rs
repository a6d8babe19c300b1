//! Why a guest is where it is, and not elsewhere.

use std::collections::BTreeMap;
use std::fmt;

use model::{GuestName, GuestPlace, GuestSpec, HostName, Rule, RuleKind, RuleStrength};
use serde::{Deserialize, Serialize};

use crate::inventory::{Inventory, StayCause};
use crate::scene::{Scene, with_scene};
use crate::snapshot::{GuestIx, HostDuty, HostIx, Place, Storage};

/// An answer to "why is this guest here?". All texts are phrases without a full stop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Why {
    pub guest: GuestName,
    /// `None`: it is nowhere yet.
    pub here: Option<GuestPlace>,
    pub because: Vec<String>,
    /// By host: by how much it would be worse there, or what stands in the way.
    pub others: BTreeMap<HostName, String>,
    /// Every rule that selects the guest, and whether it is kept.
    pub rules: Vec<String>,
    /// Why it may not be moved now.
    pub cannot_move: Option<String>,
}

/// Why a guest is where it is. `None`: there is no such guest.
pub fn why(inventory: &Inventory, guest: &GuestName) -> Option<Why> {
    let inventory = &*inventory.for_moves();
    let index = inventory.guest_ix(guest)?;
    Some(with_scene(&inventory.snapshot, |scene| explain(inventory, scene, guest, index)))
}

fn explain(inventory: &Inventory, scene: &mut Scene<'_, '_>, guest: &GuestName, index: GuestIx) -> Why {
    let assignment = inventory.view().assignments.get(guest);
    let here = assignment.map(|a| GuestPlace { host: a.host.clone(), secondary: a.secondary.clone() });
    let mut because: Vec<String> = assignment.map(|assignment| assignment.why.clone()).into_iter().collect();
    let mut others = BTreeMap::new();
    if let Some(place) = scene.place(index) {
        let lost = inventory.snapshot.host(place.host).duty.is_lost();
        because.extend(about_here(inventory, place));
        let mut best: Option<(Elsewhere, HostIx)> = None;
        for host in inventory.snapshot.host_indices().filter(|host| *host != place.host) {
            let text = match elsewhere(inventory, scene, (index, place), host) {
                _ if lost && place.secondary != Some(host) => "it has no replica there".to_owned(),
                Ok(_) if lost => inventory.snapshot.guest(index).unready.clone().unwrap_or_else(|| {
                    "its replica is there, and so is room for it: recovery may start it".to_owned()
                }),
                Ok(way) => {
                    if best.is_none_or(|(best, _)| way.worse < best.worse) {
                        best = Some((way, host));
                    }
                    way.to_string()
                }
                Err(obstacle) => obstacle,
            };
            others.insert(inventory.host_name(host).clone(), text);
        }
        because.extend(against_moving(inventory, index, best));
    }
    Why {
        guest: guest.clone(),
        here,
        because,
        others,
        rules: rules_of(inventory, scene, index),
        cannot_move: inventory.stay(index).map(|stay| stay.why.clone()),
    }
}

/// Differences below this are none.
const SAME: f64 = 0.0005;

/// Another host, compared with where the guest is.
#[derive(Debug, Clone, Copy)]
struct Elsewhere {
    worse: f64,
    /// Of going there.
    price: f64,
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.worse > SAME {
            write!(f, "the score would be worse by {:.3}", self.worse)
        } else if self.worse < -SAME {
            write!(
                f,
                "the score would be better by {:.3}, and going there costs {:.3}",
                -self.worse, self.price
            )
        } else {
            f.write_str("as good as here")
        }
    }
}

fn about_here(inventory: &Inventory, place: Place) -> Vec<String> {
    let mut lines = Vec::new();
    let room = inventory.snapshot.host(place.host);
    match &room.duty {
        HostDuty::Takes | HostDuty::Keeps(_) => {}
        HostDuty::Lost(why) => lines.push(format!("{}: {why}; recovery says where it comes back", room.name)),
        HostDuty::GuestsLeave(why) | HostDuty::Leaves(why) => {
            lines.push(format!("{}: {why}, and the guest has not left yet", room.name));
        }
    }
    if let Some(secondary) = place.secondary {
        let domains = &inventory.snapshot.host(secondary).domains;
        let shared = room.domains.iter().find(|domain| domains.contains(domain));
        lines.push(match shared {
            Some(zone) => format!(
                "its secondary on {} is in the same zone, {}",
                inventory.host_name(secondary),
                inventory.snapshot.domains[zone.at()]
            ),
            None => format!("its secondary on {} is in another zone", inventory.host_name(secondary)),
        });
    }
    lines
}

fn against_moving(
    inventory: &Inventory,
    guest: GuestIx,
    best: Option<(Elsewhere, HostIx)>,
) -> Option<String> {
    let (way, host) = best?;
    let host = inventory.host_name(host);
    let stay = inventory.stay(guest);
    if stay.is_some_and(|stay| stay.cause == StayCause::NoHost) {
        return None;
    }
    Some(if way.worse > SAME {
        format!("everywhere else the score would be worse, on {host} the least")
    } else if way.worse >= -SAME {
        format!("on {host} it would be as good, which is no reason to move it")
    } else if -way.worse <= way.price {
        format!("on {host} it would be better, but not by as much as moving it costs")
    } else if let Some(stay) = stay {
        format!("on {host} it would be better, but {stay}")
    } else {
        format!(
            "on {host} it would be better by more than moving it costs; `kennel balance show` has the plan"
        )
    })
}

/// By how much the score would be worse with the guest on that host, in the best way to be there.
fn elsewhere(
    inventory: &Inventory,
    scene: &mut Scene<'_, '_>,
    (guest, place): (GuestIx, Place),
    host: HostIx,
) -> Result<Elsewhere, String> {
    let ways: Vec<Place> = match (inventory.snapshot.guest(guest).storage, place.secondary) {
        (Storage::Mirrored, secondary) => {
            let kept = std::iter::once(place.host).chain(secondary.filter(|secondary| *secondary != host));
            kept.map(|secondary| Place { host, secondary: Some(secondary) }).collect()
        }
        (Storage::Shared | Storage::Local, _) => vec![Place { host, secondary: None }],
    };
    let mut best: Option<Elsewhere> = None;
    let mut first = None;
    for way in ways {
        match scene.obstacle_on_the_way(guest, way) {
            Some((_, obstacle)) => {
                let at = obstacle.host().filter(|at| *at != host);
                let at = at.map(|at| format!("{}: ", inventory.host_name(at))).unwrap_or_default();
                first.get_or_insert(format!("{at}{}", inventory.explain(guest, &obstacle)));
            }
            None => {
                let way = Elsewhere {
                    worse: scene.score_after(guest, way) - scene.score(),
                    price: scene.price(guest, way),
                };
                if best.is_none_or(|best| way.worse < best.worse) {
                    best = Some(way);
                }
            }
        }
    }
    best.ok_or_else(|| first.unwrap_or_else(|| "it cannot go there".to_owned()))
}

/// Each rule that selects the guest, in words.
fn rules_of(inventory: &Inventory, scene: &Scene<'_, '_>, guest: GuestIx) -> Vec<String> {
    let view = inventory.view();
    let Some(spec) = view.guests.get(inventory.guest_name(guest)) else { return vec![] };
    let rules = view.rules.values().filter(|rule| rule.guests.selects(spec));
    let line = |rule: &Rule| {
        format!(
            "{} ({}, {}): {}",
            rule.name,
            rule.kind,
            rule.strength,
            state_of(inventory, scene, (guest, spec), rule)
        )
    };
    rules.map(line).collect()
}

fn state_of(
    inventory: &Inventory,
    scene: &Scene<'_, '_>,
    (guest, spec): (GuestIx, &GuestSpec),
    rule: &Rule,
) -> String {
    if let Some(idle) = inventory.rules.idle.get(&rule.name) {
        return format!("binds nothing: {idle}");
    }
    if let Some(out) = inventory.rules.out_for(&spec.name, &rule.name) {
        return format!("out of force for it: {}", out.why);
    }
    let Some(place) = scene.place(guest) else { return "in force".to_owned() };
    let broken = match &rule.kind {
        RuleKind::On(_) | RuleKind::Off(_) if rule.strength == RuleStrength::Must => {
            inventory.rules.against(guest, place.host).contains(&&rule.name)
        }
        RuleKind::On(_) | RuleKind::Off(_) => {
            let wishes = &inventory.snapshot.guest(guest).wishes;
            let mut mine = wishes.iter().filter(|wish| wish.rule == rule.name.as_str());
            mine.any(|wish| wish.hosts.binary_search(&place.host).is_err())
        }
        RuleKind::Apart | RuleKind::Together | RuleKind::SpreadZones | RuleKind::AtMost { .. } => {
            let groups = inventory.snapshot.guest(guest).groups.iter();
            let mut mine =
                groups.filter(|group| inventory.snapshot.groups[group.at()].rule == rule.name.as_str());
            mine.any(|group| scene.layout().group_excess(*group) > 0)
        }
    };
    if broken { "not kept".to_owned() } else { "kept".to_owned() }
}
