//! A file that is written back.

use plan::htools::{Cluster, Seat};

use crate::sample::{TWO_GROUPS, wild};

#[test]
fn nothing_moved_is_the_same_file() {
    for text in [TWO_GROUPS.to_owned(), wild(1), wild(2)] {
        let cluster = Cluster::parse(&text).unwrap();
        assert_eq!(cluster.write(&cluster.seats()), text);
    }
}

#[test]
fn a_move_takes_memory_and_disk_along() {
    let cluster = Cluster::parse(TWO_GROUPS).unwrap();
    let mut seats = cluster.seats();
    // mail: its primary goes to where its secondary was, and the secondary to ash.
    seats[0] = Seat { primary: 1, secondary: Some(2) };
    // wiki does not run: it takes disk along, and no memory.
    seats[2] = Seat { primary: 2, secondary: Some(0) };
    let changed = cluster.write(&seats);
    let lines: Vec<&str> = changed.lines().collect();
    assert_eq!(lines[3], "oak|4096|256|2816|102400|81920|4|M|uuid-a|4|room:left,hv:new|N|0|0|1.0");
    assert_eq!(lines[4], "elm|4096|256|1792|102400|81920|4|N|uuid-a|4|room:right|N|0|0|2.0");
    assert_eq!(lines[5], "ash|4096|256|3840|102400|81920|4|Y|uuid-a|4||N|0|0|1.0");
    assert_eq!(lines[8], "mail|1024|10240|2|running|Y|elm|ash|drbd|svc:mail|1|-|N");
    assert_eq!(lines[10], "wiki|1024|10240|1|ADMIN_down|N|ash|oak|drbd|svc:web");
    assert_eq!(changed.lines().count(), TWO_GROUPS.lines().count());
    // The score of the new file is the score that was expected of it.
    let again = Cluster::parse(&changed).unwrap();
    assert_eq!(again.metrics(&again.seats(), None), cluster.metrics(&seats, None));
}
