//! An objective's terms, packed for speed: what does not change while a plan is made.
//!
//! Columns become lanes of small arrays of a fixed width `K`, so that the compiler turns loops over them into vector
//! instructions. Columns that say the same up to a factor (as Ganeti's loads do when nothing is measured) become one
//! lane with the sum of their weights. Lane 0 is the spread of the reserve.

use crate::objective::{Column, Reserve, Terms};
use crate::snapshot::Storage;

/// How many limits there may be.
pub(super) const LIMITS: usize = 8;
/// No host: a guest that is nowhere, or has no secondary.
pub(super) const NOWHERE: u32 = u32::MAX;

pub(super) struct Packed<const K: usize> {
    pub hosts: Vec<PackedHost<K>>,
    pub guests: Vec<PackedGuest<K>>,
    pub weights: [f64; K],
    /// Knees by lane; a lane without one has weight 0.
    pub knee_at: [f64; K],
    pub knee_weight: [f64; K],
    pub has_knees: bool,
    /// 1 / the number of counted hosts; 0 when there is none.
    pub over_counted: f64,
    /// Hosts that take guests, in order.
    pub targets: Vec<u32>,
    pub units: usize,
    pub terms: Terms,
}

pub(super) struct PackedHost<const K: usize> {
    pub scale: [f64; K],
    /// Lanes without any guest, scaled.
    pub base: [f64; K],
    pub most: [f64; LIMITS],
    /// 1 for hosts that count, else 0.
    pub counted: bool,
    pub takes: bool,
    pub forces: bool,
    pub unit: u32,
    pub reserve_most: f64,
    pub reserve_most_scored: f64,
    pub reserve_scale: f64,
}

pub(super) struct PackedGuest<const K: usize> {
    pub primary: [f64; K],
    pub secondary: [f64; K],
    pub limit_primary: [f64; LIMITS],
    pub limit_secondary: [f64; LIMITS],
    /// What must fit, held to all limits and held to hard ones only.
    pub ask_primary: [[f64; LIMITS]; 2],
    pub ask_secondary: [[f64; LIMITS]; 2],
    pub uses: f64,
    pub needs: f64,
    pub count: f64,
    pub storage: Storage,
    pub movable: bool,
    pub allowed: bool,
    pub grouped: bool,
    pub wishes: bool,
}

/// How many lanes the terms need: the columns that differ, and the reserve.
pub(super) fn lanes(terms: &Terms) -> usize {
    merged(terms).len() + 1
}

impl<const K: usize> Packed<K> {
    pub fn new(terms: Terms) -> Self {
        let lanes = merged(&terms);
        let mut packed = Packed {
            hosts: (0..terms.hosts.len()).map(|host| pack_host(&terms, &lanes, host)).collect(),
            guests: (0..terms.guests.len()).map(|guest| pack_guest(&terms, &lanes, guest)).collect(),
            weights: [0.0; K],
            knee_at: [f64::MAX; K],
            knee_weight: [0.0; K],
            has_knees: false,
            over_counted: 0.0,
            targets: Vec::new(),
            units: 0,
            terms,
        };
        for (lane, merged) in (1..).zip(&lanes) {
            packed.weights[lane] = merged.weight;
            if let Some(knee) = merged.column(&packed.terms).knee {
                packed.knee_at[lane] = knee.at;
                packed.knee_weight[lane] = knee.weight;
                packed.has_knees = true;
            }
        }
        if let Some(reserve) = &packed.terms.reserve {
            packed.weights[0] = reserve.spread_weight;
            // Where nobody needs anything, nothing is to be counted.
            if reserve.needs.iter().any(|needs| *needs > 0.0) {
                packed.units = reserve.unit.iter().max().map_or(0, |unit| *unit as usize + 1);
            }
        }
        let counted = packed.hosts.iter().filter(|host| host.counted).count();
        packed.over_counted = if counted == 0 { 0.0 } else { 1.0 / counted as f64 };
        packed.targets = (0..).zip(&packed.hosts).filter(|(_, host)| host.takes).map(|(at, _)| at).collect();
        packed
    }

    pub fn reserve(&self) -> Option<&Reserve> {
        self.terms.reserve.as_ref()
    }
}

/// A lane: the first of the columns that say the same, and the weight of all of them.
struct Lane {
    column: usize,
    weight: f64,
}

impl Lane {
    fn column<'t>(&self, terms: &'t Terms) -> &'t Column {
        &terms.columns[self.column]
    }
}

fn merged(terms: &Terms) -> Vec<Lane> {
    let mut lanes: Vec<Lane> = Vec::new();
    for (at, column) in terms.columns.iter().enumerate() {
        let adds = column.primary.iter().chain(&column.secondary).any(|add| *add != 0.0);
        let spreads = counted(terms, &column.base).windows(2).any(|pair| pair[0] != pair[1]);
        if column.weight == 0.0 && column.knee.is_none() || !adds && !spreads && column.knee.is_none() {
            continue;
        }
        let same = lanes.iter_mut().find_map(|lane| {
            let factor = same_up_to_factor(terms, &terms.columns[lane.column], column)?;
            Some((lane, factor))
        });
        match same {
            Some((lane, factor)) => lane.weight += column.weight * factor,
            None => lanes.push(Lane { column: at, weight: column.weight }),
        }
    }
    lanes
}

fn counted(terms: &Terms, values: &[f64]) -> Vec<f64> {
    terms.hosts.iter().zip(values).filter(|(host, _)| host.counted).map(|(_, value)| *value).collect()
}

/// By what factor the spread of `other` is that of `column`, when it is so wherever the guests are.
fn same_up_to_factor(terms: &Terms, column: &Column, other: &Column) -> Option<f64> {
    if column.knee.is_some() || other.knee.is_some() {
        return None;
    }
    let guests =
        factor(column.primary.iter().chain(&column.secondary), other.primary.iter().chain(&other.secondary))?;
    let (scale, other_scale) = (counted(terms, &column.scale), counted(terms, &other.scale));
    let hosts = factor(scale.iter(), other_scale.iter())?;
    let by = guests * hosts;
    let base = counted(terms, &column.base);
    let other_base = counted(terms, &other.base);
    let shift = other_base.first()? - by * base.first()?;
    let tolerance = 1e-12 * (1.0 + shift.abs());
    let fits = base.iter().zip(&other_base).all(|(a, b)| (b - by * a - shift).abs() <= tolerance);
    fits.then_some(by.abs())
}

/// `b / a`, when it is the same for all; zeros must meet zeros.
fn factor<'v>(a: impl Iterator<Item = &'v f64>, b: impl Iterator<Item = &'v f64>) -> Option<f64> {
    let mut found = None;
    for (a, b) in a.zip(b) {
        if (*a == 0.0) != (*b == 0.0) {
            return None;
        }
        if *a == 0.0 {
            continue;
        }
        let ratio = b / a;
        let first: f64 = *found.get_or_insert(ratio);
        if (first - ratio).abs() > 1e-12 * first.abs() {
            return None;
        }
    }
    found
}

fn pack_host<const K: usize>(terms: &Terms, lanes: &[Lane], host: usize) -> PackedHost<K> {
    let mut packed = PackedHost {
        scale: [0.0; K],
        base: [0.0; K],
        most: [f64::MAX; LIMITS],
        counted: terms.hosts[host].counted,
        takes: terms.hosts[host].takes,
        forces: terms.hosts[host].forces,
        unit: 0,
        reserve_most: 0.0,
        reserve_most_scored: 0.0,
        reserve_scale: 0.0,
    };
    for (lane, merged) in (1..).zip(lanes) {
        packed.scale[lane] = merged.column(terms).scale[host];
        packed.base[lane] = merged.column(terms).base[host];
    }
    for (at, limit) in terms.limits.iter().enumerate().take(LIMITS) {
        packed.most[at] = limit.most[host];
    }
    if let Some(reserve) = &terms.reserve {
        packed.unit = reserve.unit[host];
        packed.reserve_most = reserve.most[host];
        packed.reserve_most_scored = reserve.most_scored[host];
        packed.reserve_scale = reserve.scale[host];
    }
    packed
}

fn pack_guest<const K: usize>(terms: &Terms, lanes: &[Lane], guest: usize) -> PackedGuest<K> {
    let fact = &terms.guests[guest];
    let not_asked = [[crate::objective::NOT_ASKED; LIMITS]; 2];
    let mut packed = PackedGuest {
        primary: [0.0; K],
        secondary: [0.0; K],
        limit_primary: [0.0; LIMITS],
        limit_secondary: [0.0; LIMITS],
        ask_primary: not_asked,
        ask_secondary: not_asked,
        uses: terms.reserve.as_ref().map_or(0.0, |reserve| reserve.uses[guest]),
        needs: terms.reserve.as_ref().map_or(0.0, |reserve| reserve.needs[guest]),
        count: fact.count,
        storage: fact.storage,
        movable: fact.movable,
        allowed: fact.allowed.is_some(),
        grouped: !fact.groups.is_empty(),
        wishes: !fact.wishes.is_empty(),
    };
    for (lane, merged) in (1..).zip(lanes) {
        packed.primary[lane] = merged.column(terms).primary[guest];
        packed.secondary[lane] = merged.column(terms).secondary[guest];
    }
    for (at, limit) in terms.limits.iter().enumerate().take(LIMITS) {
        packed.limit_primary[at] = limit.primary[guest];
        packed.limit_secondary[at] = limit.secondary[guest];
        packed.ask_primary[0][at] = limit.ask_primary[guest];
        packed.ask_secondary[0][at] = limit.ask_secondary[guest];
        if !limit.soft {
            packed.ask_primary[1][at] = limit.ask_primary[guest];
            packed.ask_secondary[1][at] = limit.ask_secondary[guest];
        }
    }
    packed
}
