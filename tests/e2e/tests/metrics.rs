//! A real Prometheus reads a lab, with the alert rules and the dashboard of docs/monitoring. `make test-metrics` runs
//! it, after scripts/setup-prometheus; it is no part of `make test`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::lab::{LIMIT, Lab, kennel_binary};
use e2e::wait;
use serde_json::Value;

fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/monitoring")
}

/// Ended when it is dropped.
struct Prometheus {
    process: Child,
    port: u16,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    /// Reads the hosts of a lab, as docs/operating.md says, and looks at the rules every second.
    fn start(lab: &Lab, folder: &Path) -> Result<Prometheus> {
        let client: toml::Table = std::fs::read_to_string(lab.client_config())?.parse()?;
        let text = |name: &str| client[name].as_str().with_context(|| format!("the client's {name}"));
        std::fs::write(folder.join("token"), text("token")?)?;
        std::fs::write(folder.join("ca.pem"), text("ca")?)?;
        std::fs::copy(monitoring().join("alerts.yml"), folder.join("alerts.yml"))?;
        let endpoints = client["endpoints"].as_array().context("the endpoints")?;
        let targets: Vec<String> = endpoints
            .iter()
            .filter_map(|endpoint| Some(format!("{:?}", endpoint.as_str()?.strip_prefix("https://")?)))
            .collect();
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
             rule_files: [alerts.yml]\n\
             scrape_configs:\n- job_name: kennel\n  scheme: https\n  authorization: {{ credentials_file: token }}\n  \
             tls_config: {{ ca_file: ca.pem }}\n  static_configs: [{{ targets: [{}] }}]\n",
            targets.join(", ")
        );
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, config)?;
        said_nothing(&Command::new("promtool").arg("check").arg("config").arg(&file).output()?)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log"))?)
            .spawn()
            .context("start prometheus; scripts/setup-prometheus installs it")?;
        Ok(Prometheus { process, port })
    }

    fn get(&self, path: &str, fields: &[(&str, &str)]) -> Result<Value> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "10", "--get"]);
        for (name, value) in fields {
            curl.arg("--data-urlencode").arg(format!("{name}={value}"));
        }
        let output = curl.arg(format!("http://127.0.0.1:{}/api/v1/{path}", self.port)).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        ensure!(answer["status"] == "success", "{answer}");
        Ok(answer["data"].clone())
    }

    /// The values of an expression.
    fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let answer = self.get("query", &[("query", expression)])?;
        Ok(answer["result"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until an expression has a value.
    fn wait_for(&self, expression: &str) -> Result<Vec<Value>> {
        wait(&format!("Prometheus to know {expression}"), LIMIT, || {
            Ok(Some(self.query(expression)?).filter(|found| !found.is_empty()))
        })
    }
}

fn said_nothing(output: &Output) -> Result<()> {
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    Ok(())
}

/// Every expression of the dashboard, for all hosts.
fn expressions() -> Result<Vec<String>> {
    let text = std::fs::read_to_string(monitoring().join("dashboard.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let panels = dashboard["panels"].as_array().context("the panels")?.iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    Ok(targets.filter_map(|target| Some(target["expr"].as_str()?.replace("$host", ".*"))).collect())
}

/// In a terminal of its own, which `script` makes: a signal ends it, and the terminal is as it was.
fn top_gives_the_terminal_back(lab: &Lab) -> Result<()> {
    let run = format!(
        "stty cols 100 rows 30; timeout --foreground --signal TERM 5 {} top; stty -a",
        kennel_binary()?.display()
    );
    let output = Command::new("script")
        .args(["--quiet", "--flush", "--command", &run, "/dev/null"])
        .env("KENNEL_CONFIG", lab.client_config())
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .context("make a terminal with `script`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (shown, after) =
        text.split_once("\x1b[?1049l").with_context(|| format!("the screen is kept: {text}"))?;
    ensure!(shown.contains("\x1b[?1049h") && shown.contains("web1"), "nothing was shown: {shown}");
    ensure!(after.contains(" icanon") && after.contains(" echo "), "the terminal stays raw: {after}");
    Ok(())
}

#[test]
#[ignore = "needs Debian's Prometheus: make test-metrics"]
fn prometheus_reads_a_lab_the_rules_hold_and_the_dashboard_shows_something() {
    let folder = tempfile::tempdir().unwrap();
    let (rules, tests) = (monitoring().join("alerts.yml"), monitoring().join("tests.yml"));
    said_nothing(&Command::new("promtool").args(["check", "rules"]).arg(rules).output().unwrap()).unwrap();
    said_nothing(&Command::new("promtool").args(["test", "rules"]).arg(tests).output().unwrap()).unwrap();

    let lab = Lab::up("e-metrics", 1).unwrap();
    lab.kennel(&["guest", "create", "web1", "--image", "tiny", "--memory", "128M"]).unwrap();
    let prometheus = Prometheus::start(&lab, folder.path()).unwrap();
    prometheus.wait_for("kennel_guest_cpu_seconds_total{guest=\"web1\"} > 0").unwrap();
    prometheus.wait_for("kennel_guest_phase{guest=\"web1\", phase=\"running\"} == 1").unwrap();
    prometheus.wait_for("kennel_volume_replicas_in_sync{guest=\"web1\"} == 1").unwrap();
    prometheus.wait_for("kennel_leader == 1 and kennel_store_connected == 1").unwrap();
    // Two readings make a rate.
    prometheus.wait_for("rate(kennel_host_cpu_seconds_total[1m]) > 0").unwrap();
    for expression in expressions().unwrap() {
        let found = prometheus.query(&expression).unwrap();
        // What is told only while it happens.
        let seldom = ["resync", "kennel_jobs"].iter().any(|what| expression.contains(what));
        assert!(seldom || !found.is_empty(), "the dashboard's {expression} shows nothing");
    }
    let alerts = prometheus.get("alerts", &[]).unwrap();
    assert_eq!(alerts["alerts"].as_array().map(Vec::len), Some(0), "all is well: {alerts}");

    top_gives_the_terminal_back(&lab).unwrap();
    let top = lab.kennel(&["top", "--once"]).unwrap();
    assert!(top.contains("1 of 1 hosts online") && top.contains("\nweb1 "), "{top}");
    lab.kennel(&["guest", "stop", "web1"]).unwrap();
    prometheus.wait_for("kennel_guest_phase{guest=\"web1\", phase=\"stopped\"} == 1").unwrap();
}
