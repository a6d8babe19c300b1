//! Clusters of our own making.

use std::fmt::Write as _;

/// Two groups; three nodes of 4 GiB and one of 16; all of the optional fields and sections.
pub const TWO_GROUPS: &str = "\
attic|uuid-a|preferred||
cellar|uuid-c|last_resort|dry|net1

oak|4096|256|1792|102400|71680|4|M|uuid-a|4|room:left,hv:new|N|0|0|1.0
elm|4096|256|2816|102400|71680|4|N|uuid-a|4|room:right|N|0|0|2.0
ash|4096|256|3840|102400|102400|4|Y|uuid-a|4||N|0|0|1.0
fir|16384|512|15360|204800|200704|8|N|uuid-c

mail|1024|10240|2|running|Y|oak|elm|drbd|svc:mail|1|-|N
web|1024|20480|1|running|Y|oak|elm|drbd|svc:web|2|-|N
wiki|1024|10240|1|ADMIN_down|N|elm|oak|drbd|svc:web
shop|1024|0|2|running|Y|elm||ext||1|-|N
log|512|4096|1|ERROR_up|Y|fir||plain|

htools:iextags:svc
htools:nlocation:room

|128,1,1024,1,1,1|128,1,1024,1,1,1;32768,8,1048576,16,8,12|drbd,plain,ext|4.0|32.0
attic|128,1,1024,1,1,1|128,1,1024,1,1,1;32768,8,1048576,16,8,12|drbd,plain,ext|3.0|16.0
";

/// Repeatable numbers (SplitMix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// A cluster with everything that the format knows, anywhere: no plan would make it, and every metric has a value.
pub fn wild(seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let (nodes, instances) = (4 + dice.below(6), 10 + dice.below(40));
    wild_of(&mut dice, nodes, instances)
}

/// The same, of a size.
pub fn wild_of(dice: &mut Dice, nodes: usize, instances: usize) -> String {
    let mut text = String::from("front|uuid-0|preferred||\nback|uuid-1|preferred||\n\n");
    for node in 0..nodes {
        let offline = if node > 2 && dice.chance(15) { "Y" } else { "N" };
        let figures = if node > 2 && dice.chance(5) { "16384|512|?|?" } else { "16384|512|9000|512000" };
        let tags = *dice.pick(&["", "rack:a", "rack:b,hv:new", "rack:b,room:x", "hv:old"]);
        let exclusive = if dice.chance(10) { "Y" } else { "N" };
        let _ = writeln!(
            text,
            "n{node}|{figures}|{}|{}|{offline}|uuid-{}|{}|{tags}|{exclusive}|{}|{}|{}.5",
            300_000 + dice.below(90_000),
            4 + dice.below(12),
            node % 2,
            4 + dice.below(20),
            dice.below(4),
            dice.below(3),
            1 + dice.below(2),
        );
    }
    text.push('\n');
    for instance in 0..instances {
        let template = *dice.pick(&["drbd", "drbd", "drbd", "ext", "plain", "rbd", "diskless", "file"]);
        let primary = dice.below(nodes);
        let secondary = (primary + 1 + dice.below(nodes - 1)) % nodes;
        let secondary = if template == "drbd" { format!("n{secondary}") } else { String::new() };
        let status = *dice.pick(&[
            "running",
            "running",
            "running",
            "ADMIN_down",
            "ADMIN_offline",
            "ERROR_up",
            "ERROR_down",
            "ERROR_nodedown",
            "USER_down",
        ]);
        let tags = *dice.pick(&["", "svc:a", "svc:b,rack:a", "rack:b,x", "svc:a,svc:c"]);
        let _ = writeln!(
            text,
            "i{instance}|{}|{}|{}|{status}|{}|n{primary}|{secondary}|{template}|{tags}|{}|-|{}",
            128 * (1 + dice.below(10)),
            1024 * (1 + dice.below(10)),
            1 + dice.below(4),
            dice.pick(&["Y", "Y", "N"]),
            1 + dice.below(3),
            dice.pick(&["N", "N", "N", "Y"]),
        );
    }
    text.push_str(
        "\nhtools:iextags:svc\nhtools:nlocation:rack\nhtools:nlocation:room\nhtools:desiredlocation:rack\n\
         htools:migration:hv\n\n",
    );
    for group in ["", "front", "back"] {
        let _ = writeln!(
            text,
            "{group}|128,1,1024,1,1,1|128,1,1024,1,1,1;32768,8,1048576,16,8,12|drbd,plain|{}.5|{}.0",
            2 + dice.below(4),
            8 + dice.below(24)
        );
    }
    text
}
