//! Guests that are not well: one that panics is running again in seconds, and one whose service hangs is restarted, and
//! then left alone with an alarm that says what to do.

use std::time::{Duration, Instant};

use e2e::lab::{LIMIT, Lab};
use e2e::owners::OwnerWatch;
use e2e::wait;
use serde_json::Value;

use crate::story::Story;

/// From the panic to the restart, on a machine that is busy with other stories.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

/// Answers on port 7 for as long as its disk does not say otherwise.
const SERVICE: &str = "#!/bin/sh\n\
    while [ \"$(head -c 4 /dev/vda)\" != dead ]; do nc -l -p 7 -e cat; done\n";

fn health(lab: &Lab) -> Value {
    lab.guest("web1").unwrap()["report"]["health"].clone()
}

fn wait_for_health(lab: &Lab, state: &str) -> Value {
    wait(&format!("the guest to be {state}"), LIMIT, || {
        let health = health(lab);
        Ok((health["state"] == state).then_some(health))
    })
    .unwrap()
}

/// In the background, so that the guest agent can still answer.
fn in_guest(lab: &Lab, script: &str) {
    let script = format!("({script}) >/dev/null 2>&1 </dev/null &");
    lab.kennel(&["guest", "exec", "web1", "--", "sh", "-c", &script]).unwrap();
}

#[test]
fn a_guest_that_panics_is_running_again_within_seconds() {
    let story = Story::begin("e2e-panic");
    let (lab, recorder) = (&story.lab, story.recorder(&[]));
    let watch = OwnerWatch::start(&[recorder.id()]);
    wait_for_health(lab, "healthy");
    let before = lab.places("web1").unwrap();
    let panicked = Instant::now();
    in_guest(lab, "sleep 1; echo c >/proc/sysrq-trigger");
    wait("its restart to be told", LIMIT, || {
        Ok((!lab.events("guest-restarted", "guest/web1")?.is_empty()).then_some(()))
    })
    .unwrap();
    let noticed = panicked.elapsed();
    recorder.wait_for_more(5).unwrap();
    eprintln!("restarted after {noticed:?}, and it records again after {:?}", panicked.elapsed());
    assert!(noticed < NOTICED_WITHIN, "restarted only after {noticed:?}");

    // In the same place, and its second replica has missed nothing: the machine is the same, and so are its mirrors.
    let guest = lab.guest("web1").unwrap();
    assert_eq!((lab.places("web1").unwrap(), &guest["assignment"]["epoch"]), (before, &Value::from(1)));
    assert!(lab.events("volume-alone", "guest/web1").unwrap().is_empty());
    assert_eq!(guest["report"]["health"]["restarts"][0]["how"], "in-place", "{guest}");
    assert_eq!(guest["report"]["health"]["restarts"][0]["why"], "it panicked", "{guest}");

    // What it said and showed last is kept.
    let kept = lab.json(&["guest", "last-moments", "web1"]).unwrap();
    let moment = &kept["last_moments"][0];
    assert_eq!(moment["why"], "it panicked", "{kept}");
    assert!(!moment["picture"]["bytes"].as_str().unwrap_or_default().is_empty(), "no picture is kept");
    let shown = lab.kennel(&["guest", "last-moments", "web1"]).unwrap();
    assert!(shown.contains("Kernel panic") || shown.contains("RIP: "), "{shown}");
    story.verify(&recorder);
    story.end(watch);
}

/// A guest with a service whose check is quick to fail.
fn create(lab: &Lab, extra: &[&str]) {
    let program = lab.folder().join("service.sh");
    std::fs::write(&program, SERVICE).unwrap();
    let program = program.display().to_string();
    let words = ["guest", "create", "web1", "--image", "tiny", "--user-data", &program, "--health", "tcp:7"];
    let quick = ["--health-interval", "1", "--health-failures", "2", "--health-grace", "15"];
    lab.kennel(&[&words[..], &quick, extra].concat()).unwrap();
}

/// Gives a host a way to the guests. Their bridge is there once one of them has been started.
fn open_way(lab: &Lab, host: &str, address: &str) {
    wait("the bridge to be there", LIMIT, || {
        let added = lab.lab(&["exec", host, "--", "ip", "address", "add", address, "dev", "kbr-default"]);
        Ok(added.is_ok().then_some(()))
    })
    .unwrap();
}

/// The service hangs, also after restarts.
fn hang(lab: &Lab) {
    in_guest(lab, "printf dead | dd of=/dev/vda conv=notrunc,fsync");
}

#[test]
#[ignore = "two minutes: make test-health"]
fn a_guest_that_restarts_do_not_help_is_started_on_its_secondarys_host() {
    let lab = &Lab::up("e2e-elsewhere", 2).unwrap();
    create(lab, &["--pool", "mirror", "--restart-limit", "4"]);
    lab.wait_for_sync("web1").unwrap();
    let (owner, secondary) = lab.places("web1").unwrap();
    open_way(lab, &owner, "10.90.0.201/24");
    wait_for_health(lab, "healthy");
    hang(lab);
    wait("it to change its host", LIMIT, || {
        Ok((lab.places("web1")? == (secondary.clone(), owner.clone())).then_some(()))
    })
    .unwrap();
    open_way(lab, &secondary, "10.90.0.202/24");
    let given_up = wait_for_health(lab, "unhealthy");
    let restarts = given_up["restarts"].as_array().unwrap();
    let told: Vec<(&str, &str)> =
        restarts.iter().map(|r| (r["host"].as_str().unwrap(), r["how"].as_str().unwrap())).collect();
    let (owner, secondary) = (owner.as_str(), secondary.as_str());
    let expected = [(owner, "in-place"), (owner, "in-place"), (owner, "elsewhere"), (secondary, "in-place")];
    assert_eq!(told, expected, "{given_up}");
    let kept = lab.json(&["guest", "last-moments", "web1"]).unwrap();
    let hosts = kept["last_moments"].as_array().unwrap().iter().map(|one| one["host"].as_str().unwrap());
    assert_eq!(hosts.collect::<Vec<_>>(), [owner, owner, owner, secondary]);
    lab.wait_for_sync("web1").unwrap();
}

/// What the guest of the story below runs: a web server, and a port that it passes on to a server for HTTPS beside it.
const SERVICES: &str = "#!/bin/sh\n\
    mkdir /srv; echo all is well >/srv/ok; httpd -p 80 -h /srv\n\
    while [ ! -e /closed ]; do nc -l -p 443 -e nc 10.90.0.201 4443; done\n";

/// OpenSSL's own server for HTTPS on a host, at its address on the guests' network, with a certificate that it has
/// signed itself. Ends with its lab.
struct SecureServer(std::process::Child);

impl SecureServer {
    fn start(lab: &Lab, host: &str) -> SecureServer {
        let (certificate, key) = (lab.folder().join("certificate"), lab.folder().join("key"));
        let made = std::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=web1"])
            .arg("-out")
            .arg(&certificate)
            .arg("-keyout")
            .arg(&key)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut server = lab.command().unwrap();
        server.args(["lab", "exec", host, "--", "openssl", "s_server", "-quiet", "-www"]);
        server.args(["-accept", "10.90.0.201:4443", "-cert"]).arg(&certificate).arg("-key").arg(&key);
        SecureServer(server.stdout(std::process::Stdio::null()).spawn().unwrap())
    }
}

impl Drop for SecureServer {
    fn drop(&mut self) {
        // The program behind it ends with the lab.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks at the guest in another way, and waits until it is so.
fn watch(lab: &Lab, words: &[&str], state: &str) -> Value {
    let set = ["guest", "set", "web1", "--health"];
    lab.kennel(&[&set[..], words].concat()).unwrap();
    let check = |health: &Value| health["spec"] == lab.guest("web1").unwrap()["spec"]["health"];
    wait(&format!("the guest to be {state} by {}", words.join(" ")), LIMIT, || {
        let health = health(lab);
        Ok((health["state"] == state && check(&health)).then_some(health))
    })
    .unwrap()
}

#[test]
#[ignore = "a minute and a half: make test-health"]
fn each_kind_of_check_tells_a_good_service_from_a_bad_one() {
    let lab = &Lab::up("e2e-checks", 1).unwrap();
    let program = lab.folder().join("services.sh");
    std::fs::write(&program, SERVICES).unwrap();
    let program = program.display().to_string();
    let words = ["guest", "create", "web1", "--image", "tiny", "--user-data", &program, "--pool", "local"];
    let quick = ["--health-interval", "1", "--health-failures", "2", "--health-grace", "0"];
    lab.kennel(&[&words[..], &quick, &["--on-unhealthy", "alarm"]].concat()).unwrap();
    open_way(lab, "host1", "10.90.0.201/24");
    lab.wait_for_phase("web1", "running").unwrap();
    let run = |script: &str| lab.kennel(&["guest", "exec", "web1", "--", "sh", "-c", script]).unwrap();

    watch(lab, &["http:80/ok", "--health-status", "200", "--health-text", "is well"], "healthy");
    run("mv /srv/ok /srv/other");
    let bad = wait_for_health(lab, "unhealthy");
    assert!(bad["message"].as_str().unwrap().contains("the answer is status 404"), "{bad}");
    // The other answer may be what is asked for.
    watch(lab, &["http:80/ok", "--health-status", "404"], "healthy");
    run("mv /srv/other /srv/ok");
    let bad = wait_for_health(lab, "unhealthy");
    assert!(bad["message"].as_str().unwrap().contains("the answer is status 200"), "{bad}");

    // A certificate that nobody vouches for is good only if somebody says so; meanwhile nothing is held against the guest.
    let _server = SecureServer::start(lab, "host1");
    let unknown = watch(lab, &["https:443/"], "unknown");
    let why = unknown["message"].as_str().unwrap();
    assert!(why.contains("certificate") && why.contains("--health-any-certificate"), "{why}");
    watch(lab, &["https:443/", "--health-any-certificate"], "healthy");
    run("touch /closed; killall nc");
    wait_for_health(lab, "unhealthy");

    watch(lab, &["command:test -e /srv/ok"], "healthy");
    run("rm /srv/ok");
    let bad = wait_for_health(lab, "unhealthy");
    assert!(bad["message"].as_str().unwrap().contains("it ended with status 1"), "{bad}");

    watch(lab, &["agent"], "healthy");
    in_guest(lab, "sleep 1; killall -STOP qemu-ga; sleep 15; killall -CONT qemu-ga");
    wait_for_health(lab, "unhealthy");
    wait_for_health(lab, "healthy");

    in_guest(
        lab,
        "while [ ! -e /quiet ]; do dd if=/dev/zero of=/dev/vda bs=512 count=1 conv=fsync; usleep 200000; done",
    );
    watch(lab, &["disk"], "healthy");
    run("touch /quiet");
    let bad = wait_for_health(lab, "unhealthy");
    assert!(bad["message"].as_str().unwrap().contains("it neither read nor wrote"), "{bad}");

    // Nothing was restarted in all that time, and what happened is told as a story.
    assert!(health(lab)["restarts"].as_array().unwrap().is_empty(), "{}", health(lab));
    let incidents = lab.json(&["incident", "list"]).unwrap();
    assert_eq!(incidents[0]["incident"]["kind"], "guest-unwell", "{incidents}");

    // What could never succeed is refused.
    for (words, why) in [
        (&["http:80/#login"][..], "its health check's path is none"),
        (&["http:80/ok", "--health-status", "100"], "no answer has the status 100"),
        (&["http:80/ok", "--health-any-certificate"], "a service that is asked by http has no certificate"),
        (&["https:443/", "--health-name", "10.90.0.1"], "'10.90.0.1' is no name of a server"),
    ] {
        let set = ["guest", "set", "web1", "--health"];
        let refused = lab.refused(&[&set[..], words].concat()).unwrap();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn a_guest_whose_service_hangs_is_restarted_and_then_left_alone() {
    let lab = &Lab::up("e2e-hangs", 1).unwrap();
    create(lab, &["--pool", "local", "--restart-limit", "1"]);

    // While this host has no way to the guest, nothing is held against it.
    wait_for_health(lab, "unknown");
    assert!(health(lab)["message"].as_str().unwrap().contains("has no way to"), "{}", health(lab));
    open_way(lab, "host1", "10.90.0.201/24");
    wait_for_health(lab, "healthy");
    assert!(health(lab)["restarts"].as_array().unwrap().is_empty(), "{}", health(lab));

    // It hangs, also after its restart: once is all that it may have.
    hang(lab);
    let given_up = wait_for_health(lab, "unhealthy");
    assert_eq!(given_up["restarts"].as_array().unwrap().len(), 1, "{given_up}");
    let message = given_up["message"].as_str().unwrap();
    assert!(message.contains("the check tcp:7 failed 2 times in a row"), "{message}");
    assert!(message.contains("a restart has not helped, so it is left alone"), "{message}");
    let told = lab.events("guest-unhealthy", "guest/web1").unwrap();
    assert!(told.iter().any(|event| event.contains("then `kennel guest restart web1`")), "{told:?}");
    let problems = lab.json(&["cluster", "status"]).unwrap()["problems"].to_string();
    assert!(problems.contains("guest web1 is not well"), "{problems}");
    assert_eq!(lab.guest("web1").unwrap()["phase"], "running", "it is left as it is");

    // Somebody mends it, as soon as it listens: on a busy machine it has only just booted.
    let mend = ["guest", "exec", "web1", "--", "dd", "if=/dev/zero", "of=/dev/vda", "bs=512", "count=1"];
    wait("the guest to be mended", LIMIT, || Ok(lab.try_kennel(&mend)?.status.success().then_some(())))
        .unwrap();
    lab.kennel(&["guest", "restart", "web1"]).unwrap();
    let well = wait_for_health(lab, "healthy");
    assert!(well["restarts"].as_array().unwrap().is_empty(), "{well}");

    // What could never succeed is refused.
    let refused = lab.refused(&["guest", "set", "web1", "--health-interval", "0"]).unwrap();
    assert!(refused.contains("cannot have an interval of 0 s; give it 1 to 3600 s"), "{refused}");
}
