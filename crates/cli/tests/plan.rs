//! `kennel plan` from outside: files go in, plans come out, and no cluster is needed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Two hosts; all four guests run on one of them, two of them mirrored.
const LOPSIDED: &str = "\
home|uuid-home|preferred||

east|8192|0|4096|102400|81920|8|N|uuid-home|4||N|0|0|1.0
west|8192|0|8192|102400|81920|8|N|uuid-home|4||N|0|0|1.0

db|1024|10240|1|running|Y|east|west|drbd||1|-|N
log|1024|10240|1|running|Y|east|west|drbd||1|-|N
app|1024|0|1|running|Y|east||ext|svc:a|1|-|N
web|1024|0|1|running|Y|east||ext|svc:a|1|-|N


|128,1,1024,1,1,1|128,1,1024,1,1,1;32768,8,1048576,16,8,12|drbd,ext|4.0|32.0
home|128,1,1024,1,1,1|128,1,1024,1,1,1;32768,8,1048576,16,8,12|drbd,ext|4.0|32.0
";

struct Run {
    status: i32,
    stdout: String,
    stderr: String,
}

/// `FILE` in the line stands for the cluster's file, `DIR` for its folder.
fn plan(folder: &Path, text: &str, line: &str) -> Run {
    std::fs::write(folder.join("cluster.data"), text).unwrap();
    let dir = folder.to_str().unwrap();
    let words = line.split_whitespace();
    let words = words.map(|w| w.replace("FILE", &format!("{dir}/cluster.data")).replace("DIR", dir));
    let output = Command::new(env!("CARGO_BIN_EXE_kennel"))
        .arg("plan")
        .args(words)
        .env("KENNEL_CONFIG", "/nonexistent/client.toml")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Run {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn works(text: &str, line: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let run = plan(folder.path(), text, line);
    assert_eq!((run.status, run.stderr.as_str()), (0, ""), "kennel plan {line}");
    run.stdout
}

fn json(text: &str, line: &str) -> Value {
    serde_json::from_str(&works(text, &format!("{line} -o json"))).unwrap()
}

/// One sentence on stderr, nothing on stdout.
fn refuse(text: &str, line: &str, status: i32, sentence: &str) {
    let folder = tempfile::tempdir().unwrap();
    let run = plan(folder.path(), text, line);
    let dir = folder.path().to_str().unwrap();
    assert_eq!(run.stderr.trim_end().replace(dir, "DIR"), sentence, "kennel plan {line}");
    assert_eq!((run.status, run.stdout.as_str()), (status, ""), "kennel plan {line}");
}

#[test]
fn ganetis_objective_answers_in_the_form_that_the_referee_reads() {
    let answer = json(LOPSIDED, "balance --from FILE --objective ganeti");
    let keys: BTreeSet<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, BTreeSet::from(["score", "moves", "placement"]));
    assert!(answer["score"].is_number());
    let placement = answer["placement"].as_object().unwrap();
    assert_eq!(placement.keys().collect::<Vec<_>>(), ["app", "db", "log", "web"]);
    for (guest, place) in placement {
        let keys: Vec<&String> = place.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["primary", "secondary"], "{guest}");
        assert!(["east", "west"].contains(&place["primary"].as_str().unwrap()), "{guest}");
        let mirrored = ["db", "log"].contains(&guest.as_str());
        assert_eq!(place["secondary"].is_string(), mirrored, "{guest}");
        assert_eq!(place["secondary"].is_null(), !mirrored, "{guest}");
    }
}

#[test]
fn half_of_the_guests_go_to_the_other_host() {
    let answer = json(LOPSIDED, "balance --from FILE --objective ganeti");
    let places = answer["placement"].as_object().unwrap().values();
    assert_eq!(places.filter(|place| place["primary"] == "west").count(), 2);
    let moves = answer["moves"].as_array().unwrap();
    assert_eq!(moves.len(), 2, "{answer:#}");
    assert!(moves.iter().all(|step| step["disk"] == 0 && step["memory"] == 1u64 << 30), "{answer:#}");
    assert_eq!(moves[1]["score"].as_f64().unwrap(), answer["score"].as_f64().unwrap());
    let shown = works(LOPSIDED, "balance --from FILE --objective ganeti");
    assert!(shown.starts_with("STEP  GUEST  FROM"), "{shown}");
    assert!(shown.contains("after 2 moves: 2G of memory to send, 0 of disk to copy.\n"), "{shown}");
}

#[test]
fn options_bound_the_plan() {
    let count = |options: &str| {
        let answer = json(LOPSIDED, &format!("balance --from FILE --objective ganeti {options}"));
        answer["moves"].as_array().unwrap().len()
    };
    assert_eq!(count("--max-steps 1"), 1);
    assert_eq!(count("--max-steps 0"), 0);
    assert_eq!(count("--no-instance-moves"), 0, "there is no third host for a secondary");
    assert_eq!(count("--evac-mode"), 0, "no host is offline");
    let gone = json(LOPSIDED, "balance --from FILE --objective ganeti --offline east --evac-mode");
    let places = gone["placement"].as_object().unwrap();
    assert!(places.values().all(|place| place["primary"] == "west"), "{gone:#}");
    let apart = json(LOPSIDED, "balance --from FILE --objective ganeti --exclusion-tags svc");
    assert_ne!(apart["placement"]["app"]["primary"], apart["placement"]["web"]["primary"], "{apart:#}");
}

#[test]
fn what_is_saved_is_the_cluster_after_the_moves() {
    let folder = tempfile::tempdir().unwrap();
    let balance = "balance --from FILE --objective ganeti -o json";
    let first = plan(folder.path(), LOPSIDED, &format!("{balance} --save DIR/new.data"));
    let first: Value = serde_json::from_str(&first.stdout).unwrap();
    let saved = std::fs::read_to_string(folder.path().join("new.data")).unwrap();
    let again = plan(folder.path(), &saved, &format!("{balance} --metrics"));
    let again: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(again["score"], first["score"]);
    assert_eq!(again["moves"], Value::Array(Vec::new()), "a plan that was carried out leaves nothing to do");
    let metrics = again["metrics"].as_array().unwrap();
    assert_eq!(metrics.len(), 20);
    let sum: f64 = metrics.iter().map(|m| m["weight"].as_f64().unwrap() * m["after"].as_f64().unwrap()).sum();
    assert!((sum - again["score"].as_f64().unwrap()).abs() < 1e-9);
}

#[test]
fn loads_are_read_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("loads"),
        "db 9 1 1 1\nlog 9 1 1 1\napp 0 1 1 1\nweb 0 1 1 1\nghost 1 1 1 1\n",
    )
    .unwrap();
    let run = plan(folder.path(), LOPSIDED, "balance --from FILE --objective ganeti -o json -U DIR/loads");
    assert!(
        run.stderr.contains("loads: 1 of its names are not in the cluster, the first is ghost"),
        "{}",
        run.stderr
    );
    let answer: Value = serde_json::from_str(&run.stdout).unwrap();
    let host = |guest: &str| answer["placement"][guest]["primary"].clone();
    assert_ne!(host("db"), host("log"), "{answer:#}");
}

#[test]
fn kennels_own_objective_is_the_default() {
    let answer = json(LOPSIDED, "balance --from FILE");
    for key in ["score_before", "score", "moves", "placement", "wrong"] {
        assert!(answer.get(key).is_some(), "{key}: {answer:#}");
    }
}

#[test]
fn capacity_and_losses_are_told() {
    let capacity = json(LOPSIDED, "capacity --from FILE --memory 1G --vcpus 1 --disk 1G --pool mirror");
    assert!(capacity["fits"].as_u64().unwrap() > 0, "{capacity:#}");
    assert_eq!(capacity["hosts"].as_array().unwrap().len(), 2);
    let loss = json(LOPSIDED, "what-if host-loss east --from FILE");
    assert_eq!(loss["come_back"].as_object().unwrap().len(), 4, "{loss:#}");
    assert_eq!(loss["come_back"]["db"], "west");
    assert!(loss["survived"].as_bool().unwrap());
    let more = json(LOPSIDED, "what-if add-host --memory 8G --disk 100G --cores 8 --from FILE");
    assert_eq!((&more["before"]["hosts"], &more["after"]["hosts"]), (&Value::from(2), &Value::from(3)));
    assert!(more["after"]["fits"].as_u64() > more["before"]["fits"].as_u64(), "{more:#}");
    for line in ["capacity --from FILE", "what-if host-loss east --from FILE"] {
        assert!(works(LOPSIDED, line).contains("west"), "{line}");
    }
}

#[test]
fn damage_is_told_with_its_place() {
    refuse(
        &LOPSIDED.replace("db|1024|", "db|-1|"),
        "balance --from FILE",
        1,
        "kennel: cannot plan a balance: DIR/cluster.data: line 6 (instances), field 2 (memory): -1 is negative; whole \
         MiB are expected, as in 4096; mend the file, or let hscan or `kennel cluster dump` write it anew",
    );
    refuse(
        LOPSIDED,
        "balance --from DIR/nothing",
        1,
        "kennel: cannot plan a balance: DIR/nothing cannot be read: No such file or directory (os error 2); name a file \
         that you may read",
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("raw"), [b'g', 0xff]).unwrap();
    let run = plan(folder.path(), LOPSIDED, "capacity --from DIR/raw");
    assert!(run.stderr.contains("raw is not text: byte 2"), "{}", run.stderr);
}

#[test]
fn a_dump_of_kennels_own_is_recognised() {
    let empty = r#"{"format": "kennel-dump", "version": 1, "hosts": [], "guests": []}"#;
    let answer = json(empty, "balance --from FILE");
    assert_eq!((&answer["moves"], &answer["score"]), (&Value::Array(Vec::new()), &Value::from(0.0)));
    let folder = tempfile::tempdir().unwrap();
    let run = plan(folder.path(), &empty.replace("\"version\": 1", "\"version\": 9"), "capacity --from FILE");
    assert_eq!(run.status, 1);
    assert!(run.stderr.contains("cluster.data: version: it is 9"), "{}", run.stderr);
    let run = plan(folder.path(), empty, "balance --from FILE --objective ganeti");
    assert!(run.stderr.contains("is a dump of Kennel's, and Ganeti's score needs facts"), "{}", run.stderr);
    let run = plan(folder.path(), empty, "capacity --from FILE --offline host1");
    assert_eq!(run.status, 2);
    assert!(run.stderr.contains("--offline is for Ganeti's format"), "{}", run.stderr);
}

#[test]
fn names_that_the_file_does_not_have_are_refused() {
    refuse(
        LOPSIDED,
        "what-if host-loss north --from FILE",
        1,
        "kennel: cannot look at the loss of 'north': there is no host 'north' in DIR/cluster.data; name one of its \
         hosts, in full",
    );
    refuse(
        LOPSIDED,
        "balance --objective ganeti --offline north --from FILE",
        1,
        "kennel: cannot plan a balance: there is no host 'north' in DIR/cluster.data; name one of its hosts, in full",
    );
    refuse(
        LOPSIDED,
        "balance --objective ganeti --group rack9 --from FILE",
        1,
        "kennel: cannot plan a balance: there is no group 'rack9' in DIR/cluster.data; name one of home",
    );
}

#[test]
fn options_that_would_do_nothing_are_refused() {
    refuse(
        LOPSIDED,
        "balance --from FILE --evac-mode",
        2,
        "kennel: cannot plan a balance: --evac-mode says something about Ganeti's score, and Kennel's own is asked for; \
         add --objective ganeti, or leave it out",
    );
}

#[test]
fn warnings_go_to_stderr_and_the_plan_to_stdout() {
    let folder = tempfile::tempdir().unwrap();
    let run = plan(
        folder.path(),
        &LOPSIDED.replace("west|8192|0|8192|", "west|8192|0|2000|"),
        "balance --from FILE --objective ganeti -o json",
    );
    assert_eq!(run.status, 0);
    assert!(run.stderr.contains("the host west is missing 6192 MiB of memory"), "{}", run.stderr);
    assert!(serde_json::from_str::<Value>(&run.stdout).is_ok(), "{}", run.stdout);
}
