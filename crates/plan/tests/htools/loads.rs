//! Files of dynamic load.

use plan::htools::{Cluster, Loads, Utilisation};

use crate::sample::TWO_GROUPS;

fn refuse(text: &str, expected: &str) {
    assert_eq!(Loads::parse(text).unwrap_err().to_string(), expected);
}

#[test]
fn named_guests_get_their_load_and_strangers_are_told() {
    let mut cluster = Cluster::parse(TWO_GROUPS).unwrap();
    let strangers = cluster.set_loads(&Loads::parse("web 0.5 0.25 2 3\nghost 1 1 1 1\n").unwrap());
    assert_eq!(strangers, ["ghost"]);
    assert_eq!(cluster.instances[1].load, Utilisation { cpu: 0.5, memory: 0.25, disk: 2.0, network: 3.0 });
    assert_eq!(cluster.instances[0].load, Utilisation::ONES);
    cluster.ignore_loads();
    assert_eq!(cluster.instances[1].load, Utilisation::ZEROS);
}

#[test]
fn damaged_lines_are_named() {
    let form =
        "a name and four numbers (CPU, memory, disk, network) are expected, with one blank between two";
    refuse("web 1 1 1\n", &format!("line 1: it has 4 parts; {form}"));
    refuse("web 1 1 1 1\n\n", &format!("line 2: it has 0 parts; {form}"));
    refuse("web 1 1 x 1\n", &format!("line 1: 'x' is not a number; {form}"));
    refuse("web 1 -1 1 1\n", &format!("line 1: -1 is negative; {form}"));
    refuse("web 1 inf 1 1\n", &format!("line 1: 'inf' is not a number; {form}"));
}
