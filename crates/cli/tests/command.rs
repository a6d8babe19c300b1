//! The `kennel` binary from outside: what it says and how it ends when something is wrong before, or without,
//! a cluster.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::path::Path;
use std::process::{Command, Stdio};

/// Nobody listens there: the discard port.
const NOBODY: &str = "https://127.0.0.1:9";

/// A certificate authority that nobody holds the key of.
const NOBODYS_CA: &str = "\
-----BEGIN CERTIFICATE-----
MIIBeTCCAR+gAwIBAgIUCnzMV+H5IvZwNoYrGWXPlLNs6AcwCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyMTA3NTUzMFoYDzIxMjYxMDI4MDc1
NTMwWjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAQeTJW4N5WSVu02pdRmA0eUmMVznP3QaiSFzbaaNYjj79z2TABT9mvYi5N2u9uG
wdelOUYs+PUPO31bYSmqWYZPo1MwUTAdBgNVHQ4EFgQUgyxZzz5UiCuU8GQmGjFI
urNkyVAwHwYDVR0jBBgwFoAUgyxZzz5UiCuU8GQmGjFIurNkyVAwDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEA0J9clGGMyUZonnUwzLnCFQHaLg9a
jIM9lYK6OyIKssoCIGFofxpXc9faVJApaAscFhVyww68uFVsbqzyHpSUIE2F
-----END CERTIFICATE-----
";

struct Run {
    status: i32,
    stdout: String,
    stderr: String,
}

fn kennel(config: &Path, arguments: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_kennel"))
        .args(arguments)
        .env("KENNEL_CONFIG", config)
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Run {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// One line on stderr, nothing on stdout, this status.
fn check(config: &Path, line: &str, status: i32, sentence: &str) {
    let arguments: Vec<_> = line.split_whitespace().collect();
    let run = kennel(config, &arguments);
    assert_eq!(run.stderr.trim_end(), sentence, "kennel {line}");
    assert_eq!((run.status, run.stdout.as_str()), (status, ""), "kennel {line}");
}

#[test]
fn a_command_line_that_makes_no_sense_is_told_in_one_sentence() {
    let nowhere = Path::new("/nonexistent/client.toml");
    check(
        nowhere,
        "guest create web1 --memory 10X",
        2,
        "kennel: cannot understand the command line: invalid value '10X' for '--memory <SIZE>': '10X' is not a size: \
         write a whole number with K, M, G or T behind it, as in 512M or 10G; see `kennel guest create --help`",
    );
    check(
        nowhere,
        "guest show Web_1",
        2,
        "kennel: cannot understand the command line: invalid value 'Web_1' for '<GUEST>': 'Web_1' is not a valid guest \
         name: use 1 to 63 characters, lower-case letters, digits and hyphens, starting and ending with a letter or a \
         digit; see `kennel guest show --help`",
    );
    check(
        nowhere,
        "guesst list",
        2,
        "kennel: cannot understand the command line: unrecognized subcommand 'guesst'; a similar subcommand exists: \
         'guest', or see `kennel --help`",
    );
    check(
        nowhere,
        "guest create",
        2,
        "kennel: cannot understand the command line: the following required arguments were not provided: <NAME>; see \
         `kennel guest create --help`",
    );
    check(
        nowhere,
        "capacity --pool raid",
        2,
        "kennel: cannot understand the command line: invalid value 'raid' for '--pool <POOL>': there is no kind of pool \
         'raid': there are local, mirror and shared; see `kennel capacity --help`",
    );
    check(
        nowhere,
        "network create lan --subnet ten",
        2,
        "kennel: cannot understand the command line: invalid value 'ten' for '--subnet <SUBNET>': 'ten' is not a subnet: \
         write an address and a prefix length, as in 10.90.0.0/24; see `kennel network create --help`",
    );
}

#[test]
fn without_a_configuration_it_says_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("client.toml");
    let missing = format!(
        "kennel: cannot find the cluster: there is no client configuration at {}; name one with --config or \
         KENNEL_CONFIG, or make a cluster with `kennel cluster init`",
        path.display()
    );
    check(&path, "guest list", 1, &missing);
    std::fs::write(&path, "cluster = ").unwrap();
    let run = kennel(&path, &["guest", "list"]);
    assert_eq!(run.status, 1);
    assert!(
        run.stderr.starts_with("kennel: cannot find the cluster: the client configuration "),
        "{}",
        run.stderr
    );
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
}

#[test]
fn a_cluster_that_does_not_answer_is_status_3() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("client.toml");
    let config = api::ClientConfig {
        cluster: "home".to_owned(),
        endpoints: vec![NOBODY.to_owned()],
        token: "t".to_owned(),
        ca: NOBODYS_CA.to_owned(),
    };
    config.save(&path).unwrap();
    let lines = [
        "guest list",
        "guest start web1",
        "guest console web1",
        "events",
        "cluster status",
        "guest exec web1 -- true",
    ];
    for line in lines {
        let run = kennel(&path, &line.split_whitespace().collect::<Vec<_>>());
        assert_eq!((run.status, run.stdout.as_str()), (3, ""), "kennel {line}: {}", run.stderr);
        assert!(run.stderr.starts_with("kennel: cannot "), "{}", run.stderr);
        assert!(run.stderr.contains("no host of the cluster 'home' answers"), "{}", run.stderr);
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    }
}

#[test]
fn the_daemon_of_this_machine_may_be_missing() {
    let folder = tempfile::tempdir().unwrap();
    let client_config = folder.path().join("client.toml");
    let run_dir = folder.path().to_str().unwrap();
    let init = ["cluster", "init", "--name", "home", "--run-dir", run_dir];
    let run = kennel(&client_config, &init);
    assert_eq!((run.status, run.stdout.as_str()), (3, ""), "{}", run.stderr);
    assert!(
        run.stderr.starts_with(
            "kennel: cannot make the cluster 'home': the kenneld of this machine does not answer at"
        ),
        "{}",
        run.stderr
    );
    assert!(!client_config.exists());

    std::fs::write(&client_config, "cluster = 'other'").unwrap();
    let run = kennel(&client_config, &init);
    assert_eq!(run.status, 1);
    assert!(run.stderr.contains("exists, and may be the only key to another cluster"), "{}", run.stderr);
    assert_eq!(std::fs::read_to_string(&client_config).unwrap(), "cluster = 'other'");

    check(
        &client_config,
        "cluster join nonsense",
        2,
        "kennel: cannot join the cluster: this is not a join token: one begins with 'kennel-join.'; get one with `kennel \
         cluster invite` where the cluster can be reached, and copy all of it",
    );
}

#[test]
fn files_of_the_caller_are_read_before_anything_is_asked() {
    let nowhere = Path::new("/nonexistent/client.toml");
    check(
        nowhere,
        "guest create web1 --user-data /nonexistent/user-data",
        1,
        "kennel: cannot create the guest 'web1': /nonexistent/user-data cannot be read: No such file or directory (os \
         error 2); name a text file that you may read",
    );
}

#[test]
fn help_and_completions_go_to_stdout() {
    let nowhere = Path::new("/nonexistent/client.toml");
    for line in
        ["--help", "guest --help", "guest create --help", "--version", "completions bash", "completions fish"]
    {
        let run = kennel(nowhere, &line.split_whitespace().collect::<Vec<_>>());
        assert_eq!((run.status, run.stderr.as_str()), (0, ""), "kennel {line}");
        assert!(run.stdout.contains("kennel"), "kennel {line}");
        assert!(!run.stdout.contains('\x1b'), "kennel {line}: colours in a pipe");
    }
    let run = kennel(nowhere, &[]);
    assert_eq!(run.status, 2);
    assert!(run.stderr.contains("Examples:"), "{}", run.stderr);
}
