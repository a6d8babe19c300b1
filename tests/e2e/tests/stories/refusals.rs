//! Bad input: each story asks for what cannot be, on a lab or on a machine that is not fit, and checks that the
//! answer says what was asked, why not and what would work, and that nothing is left half made. Beside them the
//! ordinary life of a guest, as its operator sees it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};

use e2e::lab::{LIMIT, Lab, kennel_binary};
use e2e::wait;
use serde_json::Value;

const HOSTS: u32 = 2;

/// The exit statuses of `kennel`.
const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;

/// The sentence of a command that must end with `code` and say that it cannot do what was `asked`.
fn refusal(output: &Output, code: i32, asked: &str) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let sentence = text.lines().last().unwrap_or_default().to_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(sentence.starts_with(&format!("kennel: cannot {asked}: ")), "not '{asked}': {text}");
    sentence
}

/// `kennel` must refuse: `parts` hold why not, and what would work.
fn check(lab: &Lab, code: i32, words: &[&str], asked: &str, parts: &[&str]) {
    let sentence = refusal(&lab.try_kennel(words).unwrap(), code, asked);
    for part in parts {
        assert!(sentence.contains(part), "'{part}' is missing: {sentence}");
    }
}

/// Everything that a refused request could have changed.
fn inventory(lab: &Lab) -> (Vec<Value>, Vec<PathBuf>) {
    let lists = ["guest", "volume", "network", "image", "job"].map(|noun| lab.json(&[noun, "list"]).unwrap());
    let mut files = Vec::new();
    for host in 1..=HOSTS {
        for folder in ["images", "volumes", "guests"] {
            let entries = std::fs::read_dir(lab.state_of(&format!("host{host}")).join(folder));
            files.extend(entries.into_iter().flatten().map(|entry| entry.unwrap().path()));
        }
    }
    files.sort();
    (lists.to_vec(), files)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let lab = Lab::up("e2e-r1", HOSTS).unwrap();
    let files = tempfile::tempdir().unwrap();
    lab.kennel(&["guest", "create", "web1", "--image", "tiny", "--no-start"]).unwrap();
    let before = inventory(&lab);
    unknown_names(&lab);
    duplicates(&lab);
    sizes_that_do_not_fit(&lab);
    broken_images(&lab, files.path());
    clusters_that_do_not_answer(&lab, files.path());
    assert_eq!(inventory(&lab), before, "something is left half made");

    wait("the self-test to have found an accelerator", LIMIT, || {
        let host = lab.json(&["host", "show", "host1"])?;
        let why = host["report"]["accelerator"]["why"].as_str().unwrap_or_default().to_owned();
        Ok((!why.is_empty() && !why.contains("has not run yet")).then_some(why))
    })
    .map(|why| {
        let shown = lab.kennel(&["host", "show", "host1"]).unwrap();
        assert!(shown.lines().any(|line| line.starts_with("Accelerator:") && line.contains(&why)), "{shown}");
    })
    .unwrap();
    lab.assert_no_errors(HOSTS).unwrap();
}

fn unknown_names(lab: &Lab) {
    let missing = ["there is no guest 'nobody'", "`kennel guest list` shows those that there are"];
    for (words, asked) in [
        (&["show", "nobody"][..], "show the guest 'nobody'"),
        (&["start", "nobody"], "start the guest 'nobody'"),
        (&["stop", "nobody"], "stop the guest 'nobody'"),
        (&["restart", "nobody"], "restart the guest 'nobody'"),
        (&["delete", "nobody", "--yes"], "delete the guest 'nobody'"),
        (&["console", "nobody"], "open the console of the guest 'nobody'"),
        (&["exec", "nobody", "--", "true"], "run a command in the guest 'nobody'"),
    ] {
        check(lab, REFUSED, &[&["guest"], words].concat(), asked, &missing);
    }
    for (noun, verb, yes) in [
        ("host", "show", false),
        ("image", "show", false),
        ("image", "delete", true),
        ("network", "delete", true),
    ] {
        let words = [&[noun, verb, "nobody"][..], if yes { &["--yes"] } else { &[] }].concat();
        let why = [format!("there is no {noun} 'nobody'"), format!("`kennel {noun} list`")];
        check(lab, REFUSED, &words, &format!("{verb} the {noun} 'nobody'"), &[&why[0], &why[1]]);
    }
    let id = "01a1fd31-3caa-7733-906f-d4a3ab79354a";
    for (noun, verb) in [("job", "show"), ("job", "cancel"), ("volume", "show")] {
        let output = lab.try_kennel(&[noun, verb, id]).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(REFUSED), "{said}");
        assert!(said.contains(&format!("there is no {noun} '{id}'; `kennel {noun} list`")), "{said}");
        // A volume goes by its guest's name, too.
        if noun != "volume" {
            let parts = ["'nobody' is not an id: the lists show ids"];
            check(lab, USAGE, &[noun, verb, "nobody"], "understand the command line", &parts);
        }
    }
    let create = |extra: &[&str], parts: &[&str]| {
        let words = [&["guest", "create", "new"], extra].concat();
        check(lab, REFUSED, &words, "create the guest 'new'", parts);
    };
    create(&["--image", "nobody"], &["there is no image 'nobody'", "`kennel image build tiny` makes one"]);
    create(
        &["--image", "tiny", "--network", "nobody"],
        &["there is no network 'nobody'", "`kennel network list`"],
    );
    create(&["--image", "tiny", "--host", "nobody"], &["there is no host 'nobody'", "`kennel host list`"]);
    create(&["--image", "tiny", "--user-data", "/nowhere"], &["/nowhere cannot be read", "name a text file"]);
}

fn duplicates(lab: &Lab) {
    let asked = "create the guest 'web1'";
    let parts = ["a guest of that name exists", "choose another name"];
    check(lab, REFUSED, &["guest", "create", "web1", "--image", "tiny"], asked, &parts);
    let words = ["network", "create", "default", "--subnet", "10.91.0.0/24"];
    let parts = ["a network of that name exists", "choose another name"];
    check(lab, REFUSED, &words, "create the network 'default'", &parts);
    let words = ["guest", "create", "Web 1", "--image", "tiny"];
    check(
        lab,
        USAGE,
        &words,
        "understand the command line",
        &["'Web 1' is not a valid guest name", "lower-case"],
    );
}

fn sizes_that_do_not_fit(lab: &Lab) {
    let room = "make it smaller, free some room, or add a host";
    let check = |extra: &[&str], parts: &[&str]| {
        let words = [&["guest", "create", "big", "--image", "tiny"], extra].concat();
        check(lab, REFUSED, &words, "create the guest 'big'", parts);
    };
    check(&["--disk", "512K"], &["is smaller than the image 'tiny' of 1M", "give it 1M or more"]);
    check(&["--disk", "0"], &["disk 0 has no size", "give it one"]);
    check(&["--disk", "900T"], &["host1: ", "host2: ", "of disk is free, 900T is needed", room]);
    check(&["--disk", "9000000T", "--disk", "9000000T"], &["of disk is free", room]);
    check(&["--disk", "18446744073709551615"], &["make it smaller"]);
    check(&["--memory", "100T"], &["host1: ", "of memory is free, 100.0T is needed", room]);
    check(&["--memory", "18446744073709551615"], &["of memory is free", room]);
    check(&["--memory", "1M"], &["too little memory", "give it 32M or more"]);
    check(&["--vcpus", "0"], &["cannot have 0 CPUs", "between 1 and 255"]);
    check(&["--address", "192.0.2.1"], &["192.0.2.1 is not in 10.90.0.0/24", "choose one that is"]);
}

fn broken_images(lab: &Lab, folder: &Path) {
    let make = |arguments: &[&str]| {
        let made = Command::new("qemu-img").current_dir(folder).args(arguments).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    std::fs::write(folder.join("garbage"), "this is no disk").unwrap();
    std::fs::write(folder.join("empty"), "").unwrap();
    std::fs::write(folder.join("base"), vec![7; 4 << 20]).unwrap();
    std::fs::write(folder.join("base.xz"), b"\xfd7zXZ\0 and so on").unwrap();
    make(&["create", "-f", "qcow2", "-b", "base", "-F", "raw", "backed"]);
    make(&["create", "-f", "vmdk", "vmdk", "8M"]);
    make(&["convert", "-f", "raw", "-O", "qcow2", "base", "whole"]);
    std::fs::copy(folder.join("whole"), folder.join("truncated")).unwrap();
    let truncated = std::fs::File::options().write(true).open(folder.join("truncated")).unwrap();
    truncated.set_len(2 << 20).unwrap();
    let import = |name: &str, file: &str, parts: &[&str]| {
        let words = ["image", "import", name, text(&folder.join(file))].map(str::to_owned);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        check(lab, REFUSED, &words, &format!("import the image '{name}'"), parts);
    };
    import("broken", "garbage", &["it is not qcow2", "a multiple of 512 bytes", "truncate"]);
    import("broken", "empty", &["it is empty; fetch it again"]);
    import("broken", "base.xz", &["it is packed with xz; unpack it first: `xz -d FILE`"]);
    import("broken", "backed", &["a backing file", "`qemu-img convert -O qcow2 FILE FILE.qcow2`"]);
    import("broken", "vmdk", &["it is a VMDK file", "`qemu-img convert -f vmdk -O qcow2"]);
    import("broken", "truncated", &["damaged or cut off", "fetch it again"]);
    import("broken", "nowhere", &["cannot be read", "name a file that you may read"]);
    import("tiny", "base", &["an image of that name exists", "choose another name"]);
}

/// Writes the lab's client configuration with other endpoints.
fn with_endpoint(lab: &Lab, file: &Path, endpoint: &str) {
    let config = std::fs::read_to_string(lab.client_config()).unwrap();
    let changed = config.lines().map(|line| match line.split_once(" = ") {
        Some(("endpoints", _)) => format!("endpoints = [\"{endpoint}\"]\n"),
        Some(_) | None => format!("{line}\n"),
    });
    std::fs::write(file, changed.collect::<String>()).unwrap();
}

fn clusters_that_do_not_answer(lab: &Lab, folder: &Path) {
    let file = folder.join("client.toml");
    let words = ["--config", text(&file), "guest", "list"];
    let nobody = format!("no host of the cluster '{}' answers", lab.name);
    let instead = "check that kenneld runs there and that the network between is up";
    for (endpoint, why) in [
        ("https://nosuch.invalid:7440", "failed to lookup address information"),
        ("https://127.0.0.1:1", "Connection refused"),
    ] {
        with_endpoint(lab, &file, endpoint);
        check(lab, UNREACHABLE, &words, "list the guests", &[&nobody, endpoint, why, instead]);
    }
    std::fs::write(&file, "garbage").unwrap();
    check(lab, REFUSED, &words, "find the cluster", &["cannot be read", "name another with --config"]);
    let words = ["--config", "/nowhere", "guest", "list"];
    check(
        lab,
        REFUSED,
        &words,
        "find the cluster",
        &["no client configuration at /nowhere", "`kennel cluster init`"],
    );
}

#[test]
fn a_guest_lives_and_a_damaged_record_harms_nobody() {
    let lab = Lab::up("e2e-r2", HOSTS).unwrap();
    lab.kennel(&["guest", "create", "web1", "--image", "tiny", "--memory", "128M"]).unwrap();
    lab.wait_for_sync("web1").unwrap();
    programs_run_inside(&lab);
    the_console_takes_a_pipe(&lab);
    power_comes_and_goes(&lab);
    an_image_is_imported(&lab);
    answers_for_programs(&lab);
    damaged_records_are_skipped(&lab);
    deleting_leaves_nothing(&lab);
    for host in 1..=HOSTS {
        let log = lab.log_of(&format!("host{host}"));
        let unexpected = |line: &&str| {
            line.contains("panicked") || line.contains(" ERROR ") && !line.contains("is damaged")
        };
        assert_eq!(log.lines().find(unexpected), None, "kenneld on host{host}");
    }
}

fn programs_run_inside(lab: &Lab) {
    let script = "echo out; echo err >&2; exit 7";
    let output = wait("the guest agent", LIMIT, || {
        let output = lab.try_kennel(&["guest", "exec", "web1", "--", "sh", "-c", script])?;
        Ok((output.status.code() == Some(7)).then_some(output))
    })
    .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");
    let parts =
        ["'nosuch' does not start in it: ", "No such file or directory", "name a program that it has"];
    let words = ["guest", "exec", "web1", "--", "nosuch"];
    check(lab, REFUSED, &words, "run a command in the guest 'web1'", &parts);
}

fn the_console_takes_a_pipe(lab: &Lab) {
    let mut console = lab
        .command()
        .unwrap()
        .args(["guest", "console", "web1", "--seconds", "5"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // What the guest echoes differs from what it prints.
    console.stdin.take().unwrap().write_all(b"echo he\"\"llo\n").unwrap();
    let output = console.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.lines().any(|line| line.trim() == "hello"), "{text}");
}

/// A command whose output is read line by line while it runs.
struct Listening {
    child: Child,
    lines: Receiver<String>,
}

impl Listening {
    fn start(mut command: Command) -> Listening {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Listening { child, lines }
    }

    /// The first line to come that is wanted.
    fn wait_for(&self, what: &str, wanted: impl Fn(&Value) -> bool) {
        loop {
            let line =
                self.lines.recv_timeout(LIMIT).unwrap_or_else(|error| panic!("waited for {what}: {error}"));
            if wanted(&serde_json::from_str(&line).unwrap()) {
                return;
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _already_ended = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How often the guest's secondary was filled, and how often it was started.
fn fills_and_starts(lab: &Lab) -> (usize, usize) {
    let events = lab.json(&["events", "--subject", "guest/web1"]).unwrap();
    let count = |kind: &str| events.as_array().unwrap().iter().filter(|event| event["kind"] == kind).count();
    (count("volume-syncing"), count("guest-started"))
}

/// A clean stop and start need no new fill of the secondary.
fn power_comes_and_goes(lab: &Lab) {
    assert_eq!(fills_and_starts(lab), (1, 1));
    let mut watch = lab.command().unwrap();
    watch.args(["guest", "list", "--watch", "-o", "json"]);
    let watch = Listening::start(watch);
    watch.wait_for("the list as it is", |event| event["items"][0]["phase"] == "running");
    lab.kennel(&["guest", "stop", "web1"]).unwrap();
    watch.wait_for("the guest to have stopped", |event| event["item"]["phase"] == "stopped");
    assert_eq!(lab.guest("web1").unwrap()["volumes"][0]["phase"], "in-sync");

    let instead = "start it with `kennel guest start web1`";
    let parts = ["it is stopped", instead];
    check(lab, REFUSED, &["guest", "restart", "web1"], "restart the guest 'web1'", &parts);
    check(
        lab,
        REFUSED,
        &["guest", "exec", "web1", "--", "true"],
        "run a command in the guest 'web1'",
        &parts,
    );
    check(lab, REFUSED, &["guest", "console", "web1"], "open the console of the guest 'web1'", &parts);
    check(lab, REFUSED, &["guest", "stop", "web1"], "stop the guest 'web1'", &["it is stopped already"]);

    lab.kennel(&["guest", "start", "web1"]).unwrap();
    watch.wait_for("the guest to run", |event| event["item"]["phase"] == "running");
    lab.wait_for_sync("web1").unwrap();
    let parts = ["it is running already", "`kennel guest restart web1`"];
    check(lab, REFUSED, &["guest", "start", "web1"], "start the guest 'web1'", &parts);
    lab.kennel(&["guest", "restart", "web1"]).unwrap();
    lab.wait_for_sync("web1").unwrap();
    assert_eq!(fills_and_starts(lab), (1, 3), "a clean stop and start fill nothing anew");
}

fn an_image_is_imported(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("small.qcow2");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", text(&file), "32M"]).status();
    assert!(made.unwrap().success());
    lab.kennel(&["image", "import", "small", text(&file)]).unwrap();
    let view = lab.json(&["image", "show", "small"]).unwrap();
    assert_eq!(
        (&view["image"]["format"], &view["image"]["virtual_size"]),
        (&"qcow2".into(), &(32 << 20).into())
    );
    wait("the image to be on every host", LIMIT, || {
        let view = lab.json(&["image", "show", "small"])?;
        Ok((view["present_on"] == serde_json::json!(["host1", "host2"])).then_some(()))
    })
    .unwrap();
    // Its disk holds no system, which a guest that does not start shows best.
    lab.kennel(&["guest", "create", "shell", "--image", "small", "--pool", "local", "--no-start"]).unwrap();
    assert_eq!(lab.guest("shell").unwrap()["volumes"][0]["size"], Value::from(10_u64 << 30));
    lab.kennel(&["guest", "delete", "shell", "--yes"]).unwrap();
    lab.kennel(&["image", "delete", "small", "--yes"]).unwrap();
    check(
        lab,
        REFUSED,
        &["image", "delete", "tiny", "--yes"],
        "delete the image 'tiny'",
        &["web1", "delete those first"],
    );
}

fn answers_for_programs(lab: &Lab) {
    let yaml = lab.kennel(&["guest", "show", "web1", "-o", "yaml"]).unwrap();
    assert!(yaml.lines().any(|line| line == "name: web1") && yaml.contains("\nphase: running\n"), "{yaml}");
    let jobs = lab.json(&["job", "list"]).unwrap();
    let job = jobs.as_array().unwrap().iter().find(|job| job["what"] == "create guest web1").unwrap();
    assert_eq!(job["state"], "done", "{job}");
    let shown = lab.kennel(&["job", "show", job["id"].as_str().unwrap()]).unwrap();
    let steps = ["choose hosts", "make volumes", "start", "fill the secondary"];
    assert!(steps.iter().all(|step| shown.contains(&format!("done     {step}\n"))), "{shown}");
    let cancel = ["job", "cancel", job["id"].as_str().unwrap()];
    let asked = format!("cancel the job {}", cancel[2]);
    check(lab, REFUSED, &cancel, &asked, &["it has ended already (done)"]);
}

/// The state store's own command line, on host1: what an operator never needs, and a vandal has.
fn etcdctl(lab: &Lab, words: &[&str]) -> String {
    let pki = lab.state_of("host1").join("pki");
    let hosts = lab.json(&["host", "list"]).unwrap();
    let address = hosts[0]["host"]["address"].as_str().unwrap();
    let (endpoint, ca) =
        (format!("--endpoints=https://{address}:7441"), format!("--cacert={}/ca.pem", pki.display()));
    let (cert, key) =
        (format!("--cert={}/host.pem", pki.display()), format!("--key={}/host.key", pki.display()));
    let start = ["exec", "host1", "--", "env", "ETCDCTL_API=3", "etcdctl", &endpoint, &ca, &cert, &key];
    lab.lab(&[&start, words].concat()).unwrap()
}

fn record(lab: &Lab, key: &str) -> String {
    etcdctl(lab, &["get", "--print-value-only", key]).trim().to_owned()
}

/// Waits until exactly these records are reported as damaged.
fn wait_for_damage(lab: &Lab, keys: &[&str]) {
    wait(&format!("{keys:?} to be reported"), LIMIT, || {
        let status = lab.json(&["cluster", "status"])?;
        let damaged: Vec<&String> = status["damaged"].as_object().unwrap().keys().collect();
        Ok((damaged == keys).then_some(()))
    })
    .unwrap();
}

fn damaged_records_are_skipped(lab: &Lab) {
    let volume = lab.guest("web1").unwrap()["volumes"][0]["id"].as_str().unwrap().to_owned();
    let (in_sync, assignment) = (format!("/kennel/in-sync/{volume}"), "/kennel/assignments/web1");
    let whole = [record(lab, &in_sync), record(lab, assignment)];
    let foreign = [
        (assignment, "{\"guest\":\"web1\"}"),
        ("/kennel/guests/ghost", "{{{"),
        (&in_sync, "garbage"),
        ("/kennel/networks/odd", "{\"name\":\"other\"}"),
        ("/kennel/pets/rex", "{\"colour\":\"brown\"}"),
    ];
    for (key, value) in foreign {
        etcdctl(lab, &["put", key, value]);
    }
    let keys = foreign.map(|(key, _)| key);
    wait_for_damage(lab, &keys);
    let status = lab.kennel(&["cluster", "status"]).unwrap();
    assert!(status.contains("5 damaged records in the state store are skipped"), "{status}");
    assert!(status.contains("/kennel/pets/rex: this build knows no such key"), "{status}");

    // The cluster works, and so does the guest, which nothing can be done to.
    lab.kennel(&["guest", "create", "other", "--image", "tiny", "--memory", "128M"]).unwrap();
    lab.kennel(&["guest", "delete", "other", "--yes"]).unwrap();
    let parts =
        ["/kennel/assignments/web1 is damaged, so the guest is left as it is", "put that record back"];
    check(lab, REFUSED, &["guest", "stop", "web1"], "stop the guest 'web1'", &parts);
    check(lab, REFUSED, &["guest", "delete", "web1", "--yes"], "delete the guest 'web1'", &parts);
    let parts = ["/kennel/guests/ghost is damaged and is not overwritten", "mend or delete that key"];
    check(lab, REFUSED, &["guest", "create", "ghost", "--image", "tiny"], "create the guest 'ghost'", &parts);
    let words = ["network", "create", "odd", "--subnet", "10.91.0.0/24"];
    check(lab, REFUSED, &words, "create the network 'odd'", &["/kennel/networks/odd is damaged", "mend"]);

    etcdctl(lab, &["put", assignment, &whole[1]]);
    wait_for_damage(lab, &keys[1..]);
    let alive = lab.kennel(&["guest", "exec", "web1", "--", "echo", "alive"]).unwrap();
    assert_eq!(alive, "alive\n", "the guest runs on");
    let parts = ["/kennel/in-sync/", "is damaged, so the guest is left as it is"];
    check(lab, REFUSED, &["guest", "restart", "web1"], "restart the guest 'web1'", &parts);
    for (key, value) in &foreign[1..] {
        assert_eq!(&record(lab, key), value, "{key} was written to");
    }

    etcdctl(lab, &["put", &in_sync, &whole[0]]);
    wait_for_damage(lab, &["/kennel/guests/ghost", "/kennel/networks/odd", "/kennel/pets/rex"]);
    lab.wait_for_sync("web1").unwrap();
    assert_eq!(fills_and_starts(lab), (1, 3), "the guest ran all the time");
    lab.kennel(&["guest", "stop", "web1"]).unwrap();
    lab.kennel(&["guest", "start", "web1"]).unwrap();
    lab.wait_for_sync("web1").unwrap();
    assert_eq!(fills_and_starts(lab), (1, 4));
    for (key, value) in foreign.iter().filter(|(key, _)| *key != assignment && **key != *in_sync) {
        assert_eq!(&record(lab, key), value, "{key} was written to");
        etcdctl(lab, &["del", key]);
    }
    wait_for_damage(lab, &[]);
    let status = lab.kennel(&["cluster", "status"]).unwrap();
    assert!(status.contains("all is well"), "{status}");
}

fn deleting_leaves_nothing(lab: &Lab) {
    let parts = ["nobody can be asked", "add --yes if you are sure"];
    check(lab, REFUSED, &["guest", "delete", "web1"], "delete the guest 'web1'", &parts);
    lab.kennel(&["guest", "delete", "web1", "--yes"]).unwrap();
    assert_eq!(lab.json(&["guest", "list"]).unwrap(), serde_json::json!([]));
    assert_eq!(lab.json(&["volume", "list"]).unwrap(), serde_json::json!([]));
    wait("the files of the guest to be gone", LIMIT, || {
        let (_, files) = inventory(lab);
        Ok(files.iter().all(|file| file.parent().unwrap().ends_with("images")).then_some(()))
    })
    .unwrap();
    assert!(etcdctl(lab, &["get", "--prefix", "--keys-only", "/kennel/drops/"]).trim().is_empty());
}

/// A host of its own on the loopback device, with copies of the programs that everybody may run.
struct Machine {
    folder: tempfile::TempDir,
}

/// Nobody else's on this machine, it is hoped.
const ADDRESS: &str = "127.77.40.1";
const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// For a cluster at `https://nosuch.invalid:7440` and `https://127.0.0.1:1`.
const TOKEN_TO_NOWHERE: &str = "kennel-join.eyJlbmRwb2ludHMiOiBbImh0dHBzOi8vbm9zdWNoLmludmFsaWQ6NzQ0MCIsICJodHRwczovLzEyNy4wLjAuMToxIl0sICJjYV9zaGEyNTYiOiAiMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMCIsICJzZWNyZXQiOiAicyJ9";

impl Machine {
    fn new() -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let everybody = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), everybody).unwrap();
        let built = kennel_binary().unwrap();
        for program in ["kennel", "kenneld"] {
            std::fs::copy(built.with_file_name(program), folder.path().join(program)).unwrap();
        }
        Machine { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// kenneld as `words` start it, in a PID namespace, so that all that it starts ends with it.
    fn kenneld(&self, around: &[&str], address: &str) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
            .args(around)
            .arg(self.path("kenneld"));
        command.args(["--name", "alone", "--address", address]);
        command.arg("--state-dir").arg(self.path("state")).arg("--run-dir").arg(self.path("run"));
        command.stdin(Stdio::null());
        command
    }

    /// Starts kenneld; it ends with what is returned.
    fn start(&self, around: &[&str]) -> Started {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let started = Started(self.kenneld(around, ADDRESS).stderr(log).spawn().unwrap());
        wait("kenneld to listen", LIMIT, || Ok(UnixStream::connect(self.path("run/kenneld.sock")).ok()))
            .unwrap();
        started
    }

    fn kennel(&self, words: &[&str]) -> Output {
        let mut command = Command::new(self.path("kennel"));
        command.args(words).arg("--run-dir").arg(self.path("run")).stdin(Stdio::null());
        command.env("KENNEL_CONFIG", self.path("client.toml")).output().unwrap()
    }

    fn init(&self, parts: &[&str]) {
        let output = self.kennel(&["cluster", "init", "--name", "alone"]);
        let sentence = refusal(&output, REFUSED, "make the cluster 'alone'");
        assert!(parts.iter().all(|part| sentence.contains(part)), "{sentence}");
        assert!(!self.path("client.toml").exists());
        let state: Vec<_> = std::fs::read_dir(self.path("state")).unwrap().collect();
        assert!(state.is_empty(), "something is left half made: {state:?}");
    }

    /// A folder with the programs of this machine that are named, and no others.
    fn only(&self, programs: &[&str]) -> PathBuf {
        let folder = self.path("only");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        for program in programs {
            std::os::unix::fs::symlink(format!("/usr/bin/{program}"), folder.join(program)).unwrap();
        }
        folder
    }
}

/// A kenneld that runs.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        // The first process of the namespace takes all others with it; `unshare` ends after the last of them.
        let parent = self.0.id();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        if let Some(first) = children.unwrap_or_default().split_whitespace().next() {
            let _already_ended = Command::new("kill").args(["-KILL", first]).status();
        }
        let _ = self.0.wait();
    }
}

/// kenneld must refuse to start.
fn check_start(mut command: Command, parts: &[&str]) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it started: {said}");
    assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
}

#[test]
fn a_machine_that_is_not_fit_is_told_so() {
    let machine = Machine::new();
    check_start(machine.kenneld(&NOBODY, ADDRESS), &["cannot start kenneld", "takes root", "run it as root"]);
    let lab = machine.path("lab");
    let kennel = machine.path("kennel");
    let words = [text(&kennel), "lab", "up", "--hosts", "2", "--name", "e2e-rx", "--dir", text(&lab)];
    let output = Command::new(NOBODY[0]).args(&NOBODY[1..]).args(words).output().unwrap();
    let sentence = refusal(&output, REFUSED, "run a lab as an ordinary user");
    assert!(sentence.contains("need root; `sudo` gives it"), "{sentence}");
    assert!(!lab.exists());

    let parts = ["'nosuch.invalid' is not an IP address", "`ip address` shows those of this host"];
    check_start(machine.kenneld(&[], "nosuch.invalid"), &parts);

    let path = |folder: &Path| format!("PATH={}", folder.display());
    let parts = ["cannot run qemu-system-x86_64", "install Debian's package qemu-system-x86"];
    check_start(machine.kenneld(&["/usr/bin/env", &path(&machine.only(&[]))], ADDRESS), &parts);

    let old = machine.path("qemu-6.2");
    std::fs::create_dir(&old).unwrap();
    let script = "#!/bin/sh\necho 'QEMU emulator version 6.2.0 (Debian 1:6.2+dfsg-3)'\n";
    std::fs::write(old.join("qemu-system-x86_64"), script).unwrap();
    let everybody = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(old.join("qemu-system-x86_64"), everybody).unwrap();
    let around = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", path(&old));
    let parts = ["is QEMU 6.2.0, and machines need 7.2 or later", "install QEMU from Debian 12 or later"];
    check_start(machine.kenneld(&["env", &around], ADDRESS), &parts);

    let path = path(&machine.only(&["qemu-system-x86_64"]));
    let _kenneld = machine.start(&["/usr/bin/env", &path]);
    machine.init(&["there is no program 'etcd'", "install Debian's package etcd-server"]);
}

#[test]
fn a_port_in_use_is_told_and_nothing_is_left() {
    let machine = Machine::new();
    let kenneld = machine.start(&[]);
    for (port, what) in [(7440, "cannot serve the API"), (7441, "cannot start the state store")] {
        let _in_the_way = TcpListener::bind((ADDRESS, port)).unwrap();
        machine.init(&[
            what,
            &format!("{ADDRESS}:{port} is in use by another program"),
            "`ss -ltnp` shows it",
        ]);
    }
    let parts = ["cannot start kenneld: another one runs", "end it, or give this one another --run-dir"];
    check_start(machine.kenneld(&[], ADDRESS), &parts);

    let output = machine.kennel(&["cluster", "join", TOKEN_TO_NOWHERE]);
    let sentence = refusal(&output, REFUSED, "join a cluster as 'alone'");
    let parts =
        ["nosuch.invalid", "failed to lookup address information", "https://127.0.0.1:1", "try again"];
    assert!(parts.iter().all(|part| sentence.contains(part)), "{sentence}");
    let output = machine.kennel(&["cluster", "join", "garbage"]);
    let sentence = refusal(&output, USAGE, "join the cluster");
    assert!(sentence.contains("`kennel cluster invite`"), "{sentence}");

    // The way is free now; what was refused leaves no trace that would be in the way.
    let output = machine.kennel(&["cluster", "init", "--name", "alone"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let client = machine.path("client.toml");
    let output = machine.kennel(&["cluster", "init", "--name", "alone"]);
    let sentence = refusal(&output, REFUSED, "make the cluster 'alone'");
    assert!(sentence.contains("may be the only key to another cluster"), "{sentence}");
    std::fs::remove_file(&client).unwrap();
    let output = machine.kennel(&["cluster", "init", "--name", "alone"]);
    let sentence = refusal(&output, REFUSED, "make the cluster 'alone'");
    assert!(sentence.contains("belongs to the cluster 'alone' already; use another host"), "{sentence}");
    drop(kenneld);
    let output = machine.kennel(&["cluster", "init", "--name", "alone"]);
    let sentence = refusal(&output, UNREACHABLE, "make the cluster 'alone'");
    assert!(sentence.contains("the kenneld of this machine does not answer"), "{sentence}");
}
