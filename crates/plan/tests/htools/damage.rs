//! What is wrong is told with its line and its field, and nothing that is damaged breaks the reader.

use plan::htools::Cluster;

use crate::sample::{Dice, TWO_GROUPS, wild};

/// The file with `from` replaced by `to`, once, is refused with this sentence.
fn check(from: &str, to: &str, expected: &str) {
    assert_eq!(TWO_GROUPS.matches(from).count(), 1, "'{from}' stands once");
    refuse(&TWO_GROUPS.replace(from, to), expected);
}

fn refuse(text: &str, expected: &str) {
    match Cluster::parse(text) {
        Ok(_) => panic!("this was read: {text}"),
        Err(damage) => assert_eq!(damage.to_string(), expected),
    }
}

#[test]
fn sizes_are_whole_and_not_negative() {
    check(
        "mail|1024|",
        "mail|-1024|",
        "line 9 (instances), field 2 (memory): -1024 is negative; whole MiB are expected, as in 4096",
    );
    check(
        "oak|4096|",
        "oak|-1|",
        "line 4 (nodes), field 2 (total memory): -1 is negative; MiB are expected, as in 4096",
    );
    check(
        "|1792|",
        "|1.5|",
        "line 4 (nodes), field 4 (free memory): '1.5' is not a whole number; whole MiB are expected, as in 4096",
    );
    check(
        "mail|1024|10240|",
        "mail|1024||",
        "line 9 (instances), field 3 (disk size): it is empty; whole MiB are expected, as in 4096",
    );
    check(
        "mail|1024|10240|2|",
        "mail|1024|10240|two|",
        "line 9 (instances), field 4 (vCPUs): 'two' is not a whole number; a whole number is expected, as in 4",
    );
    check(
        "|0|0|2.0\n",
        "|0|0|nan\n",
        "line 5 (nodes), field 15 (CPU speed): 'nan' is not a number; a number is expected, as in 4 or 1.5",
    );
}

#[test]
fn numbers_are_those_of_a_real_cluster() {
    check(
        "mail|1024|",
        "mail|99999999999999999999999999|",
        "line 9 (instances), field 2 (memory): 99999999999999999999999999 is too large: 1099511627776 is the most; whole MiB are \
         expected, as in 4096",
    );
    check(
        "mail|1024|10240|2|",
        "mail|1024|10240|4294967296|",
        "line 9 (instances), field 4 (vCPUs): 4294967296 is too large: 1000000 is the most; a whole number is expected, as in 4",
    );
    check(
        "oak|4096|",
        "oak|1e300|",
        "line 4 (nodes), field 2 (total memory): '1e300' is not a number; MiB are expected, as in 4096",
    );
    let mut huge = String::from("g|u|preferred||\n\nn|1|0|1|1|1|1|N|u\n\n");
    for instance in 0..9 {
        huge.push_str(&format!("i{instance}|1099511627776|1|1|running|Y|n||plain|\n"));
    }
    refuse(
        &(huge + "\n\n"),
        "line 8 (instances): with it, memory and disk come to more than 4398046511104 MiB in all; figures of a real cluster are \
         expected",
    );
}

#[test]
fn a_node_that_is_online_has_something_to_give() {
    check(
        "oak|4096|",
        "oak|0|",
        "line 4 (nodes), field 2 (total memory): it is 0; a node that is online has some; if it is not to be used, Y in field \
         8 says so",
    );
    let offline = TWO_GROUPS.replace("ash|4096|256|3840|102400|102400|4|", "ash|0|0|0|0|0|0|");
    assert!(Cluster::parse(&offline).is_ok(), "an offline one need not");
}

#[test]
fn names_are_known_and_stand_once() {
    check(
        "|oak|elm|drbd|svc:mail",
        "|birch|elm|drbd|svc:mail",
        "line 9 (instances), field 7 (primary node): there is no node 'birch'; the name of a node of the second section is \
         expected",
    );
    check(
        "|oak|elm|drbd|svc:mail",
        "|oak|birch|drbd|svc:mail",
        "line 9 (instances), field 8 (secondary node): there is no node 'birch'; the name of a node of the second section is \
         expected",
    );
    check(
        "|N|uuid-c\n",
        "|N|cellar\n",
        "line 7 (nodes), field 9 (group): there is no node group with the uuid 'cellar'; a uuid (not a name) from the first \
         section is expected",
    );
    check(
        "\nattic|128,",
        "\nroof|128,",
        "line 19 (policies), field 1 (owner): there is no node group 'roof'; a group's name (not its uuid) or nothing, for the \
         cluster, is expected",
    );
    check(
        "\nelm|",
        "\noak|",
        "line 5 (nodes), field 1 (name): 'oak' stands in line 4 already; each is expected once",
    );
    check(
        "\nweb|",
        "\nmail|",
        "line 10 (instances), field 1 (name): 'mail' stands in line 9 already; each is expected once",
    );
    check(
        "cellar|uuid-c|",
        "cellar|uuid-a|",
        "line 2 (node groups), field 2 (uuid): 'uuid-a' stands in line 1 already; each is expected once",
    );
    check("\nlog|", "\n|", "line 13 (instances), field 1 (name): it is empty; a name is expected");
}

#[test]
fn a_secondary_belongs_to_drbd_and_is_elsewhere() {
    check(
        "|oak|elm|drbd|svc:mail",
        "|oak|oak|drbd|svc:mail",
        "line 9 (instances), field 8 (secondary node): 'oak' is the primary node, too; another node is expected",
    );
    check(
        "|oak|elm|drbd|svc:mail",
        "|oak||drbd|svc:mail",
        "line 9 (instances), field 8 (secondary node): it is empty; a drbd instance has a secondary node: its name is expected",
    );
    check(
        "|elm||ext|",
        "|elm|oak|ext|",
        "line 12 (instances), field 8 (secondary node): 'oak' stands there, and the disk template is 'ext'; nothing is expected: \
         only drbd instances have a secondary",
    );
}

#[test]
fn words_are_those_of_the_format() {
    check(
        "|running|Y|oak|elm|drbd|svc:mail",
        "|running|yes|oak|elm|drbd|svc:mail",
        "line 9 (instances), field 6 (auto balance): 'yes' stands there; Y or N is expected",
    );
    check(
        "|running|Y|oak|elm|drbd|svc:mail",
        "|asleep|Y|oak|elm|drbd|svc:mail",
        "line 9 (instances), field 5 (status): 'asleep' is not known; one of running, ADMIN_down, ADMIN_offline, ERROR_up, \
         ERROR_down, ERROR_nodedown, ERROR_nodeoffline, ERROR_wrongnode, USER_down is expected",
    );
    check(
        "|elm||ext|",
        "|elm||raid|",
        "line 12 (instances), field 9 (disk template): 'raid' is not known; one of diskless, file, sharedfile, plain, blockdev, \
         drbd, rbd, ext, gluster is expected",
    );
    check(
        "|4|M|uuid-a|",
        "|4|X|uuid-a|",
        "line 4 (nodes), field 8 (role): 'X' is not a role; Y (offline), N (online) or M (online, and the master) is expected",
    );
    check(
        "|last_resort|",
        "|never|",
        "line 2 (node groups), field 3 (allocation policy): 'never' is not an allocation policy; 'preferred', 'last_resort' or \
         'unallocable' is expected",
    );
}

#[test]
fn policies_have_sizes_in_pairs() {
    check(
        "\nattic|128,1,1024,1,1,1|",
        "\nattic|128,1,1024|",
        "line 19 (policies), field 2 (standard spec): '128,1,1024' is not the size of an instance; memory, vCPUs, disk, disks, \
         network cards and spindle use are expected, as in 128,1,1024,1,1,1",
    );
    let odd = "|drbd,plain,ext|3.0|16.0";
    let text = TWO_GROUPS.replace(odd, &format!(";1,1,1,1,1,1{odd}"));
    refuse(
        &text,
        "line 19 (policies), field 3 (ranges): there are 3 specs; pairs of a least and a most are expected, with ';' between them",
    );
    check(
        "\nattic|128,",
        "\n|128,",
        "line 19 (policies), field 1 (owner): line 18 has a policy for '' already; one policy for each owner is expected",
    );
}

#[test]
fn sections_are_all_there() {
    let nothing = "line 1: there is nothing; a cluster in Ganeti's text format is expected";
    refuse("", nothing);
    refuse("\n\n\n\n\n", nothing);
    refuse(
        "g|u|preferred||\n\nn|1|0|1|1|1|1|N|u\n",
        "line 3: the file ends in section 2 (nodes); node groups, nodes, instances and cluster tags are expected, with \
         one empty line between two of them and another where one is empty",
    );
    // An empty line too many: instances are read where nodes end.
    refuse(
        &TWO_GROUPS.replacen("\n\n", "\n\n\n", 1),
        "line 5 (instances), field 9 (disk template): 'uuid-a' is not known; one of diskless, file, sharedfile, plain, \
         blockdev, drbd, rbd, ext, gluster is expected",
    );
}

#[test]
fn text_from_elsewhere_is_recognised() {
    refuse(
        &TWO_GROUPS.replace('\n', "\r\n"),
        "line 1: it ends with a carriage return; lines end with a line feed alone: try dos2unix",
    );
    refuse("g|u|preferred||\n\0\n", "line 2: there is a control character; plain text is expected");
    refuse(
        "# a comment\n\n\n\n",
        "line 1 (node groups): it has 1 field; a node group has 4 at the least, with '|' between two of them; is an empty line too \
         many or too few above?",
    );
}

/// Whatever is done to a file, the reader answers; and what it still reads can be scored and written.
#[test]
fn random_damage_never_breaks_the_reader() {
    let scraps: [&[u8]; 14] = [
        b"|",
        b"\n",
        b"\n\n",
        b"-",
        b"?",
        b",",
        b"0",
        b"9999999999999999999",
        b"Y",
        b"nan",
        b"\xff",
        b"\xc3\xa9",
        b".",
        b";",
    ];
    let (mut read, mut refused) = (0, 0);
    for seed in 0..4000 {
        let mut dice = Dice::new(seed);
        let mut bytes = if dice.chance(50) { TWO_GROUPS.to_owned() } else { wild(seed % 7) }.into_bytes();
        for _ in 0..=dice.below(3) {
            if bytes.is_empty() {
                break;
            }
            let at = dice.below(bytes.len());
            let end = (at + dice.below(12)).min(bytes.len());
            let scrap = *dice.pick(&scraps);
            match dice.below(4) {
                0 => drop(bytes.splice(at..at, scrap.iter().copied())),
                1 => drop(bytes.drain(at..end)),
                2 => drop(bytes.splice(at..end, scrap.iter().copied())),
                _ => bytes.truncate(at.max(1)),
            }
        }
        match Cluster::parse(&String::from_utf8_lossy(&bytes)) {
            Ok(cluster) => {
                read += 1;
                let seats = cluster.seats();
                assert!(cluster.metrics(&seats, None).score().is_finite(), "seed {seed}");
                assert!(Cluster::parse(&cluster.write(&seats)).is_ok(), "seed {seed}");
            }
            Err(damage) => {
                refused += 1;
                assert!(damage.line >= 1 && !damage.found.is_empty(), "seed {seed}: {damage}");
            }
        }
    }
    assert!(read > 200 && refused > 1000, "{read} were read, {refused} refused");
}
