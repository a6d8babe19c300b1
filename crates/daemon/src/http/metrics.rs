//! `/metrics`: what this host measures and knows, for Prometheus.
//!
//! Everything is computed when it is asked for: [`families`] makes values of the records and the counters, and
//! `prometheus-client` writes them. Each host speaks of itself, of the guests and volumes that it owns, and of what
//! the whole cluster agrees on (jobs, hosts, leader, store), so that any one host is enough to raise an alarm.
//!
//! Labels are names of guests, hosts and disks of this cluster and words of closed lists: their number is bounded by
//! what there is on one host, and by the number of hosts.
//!
//! Whoever asks for OpenMetrics gets it; everybody else Prometheus' own text format, in which a counter's type is
//! said under its full name (docs/decisions/0025).

mod families;
#[cfg(test)]
mod tests;

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use super::Shared;
use super::answer::{Answer, Refused};
use families::{Facts, Families};

const ASKED: &str = "tell the metrics";

/// How long the store's members may take to say how they are. Without it they are left out.
const MEMBERS_LIMIT: Duration = Duration::from_secs(1);

/// Before each name.
const PREFIX: &str = "kennel";

const OPEN_METRICS: &str = "application/openmetrics-text";

pub async fn of_this_host(State(backend): State<Shared>, headers: HeaderMap) -> Answer<Response> {
    let open = headers.get_all(header::ACCEPT).iter().any(|accept| {
        accept
            .to_str()
            .is_ok_and(|accept| accept.split(',').any(|kind| kind.trim().starts_with(OPEN_METRICS)))
    });
    let members = tokio::time::timeout(MEMBERS_LIMIT, backend.store_members()).await.ok();
    let (view, is_connected) = {
        let cache = backend.state().read();
        (cache.snapshot(), cache.is_connected())
    };
    let (me, reading, held) = (backend.me().clone(), backend.reading(), backend.held());
    let written = tokio::task::spawn_blocking(move || {
        let facts =
            Facts { view: &view, me: &me, is_connected, reading: reading.as_ref(), held: &held, members };
        write(facts.families(), open)
    });
    let text = written.await.map_err(|error| Refused::failed(ASKED, error))?;
    let text = text.map_err(|error| Refused::failed(ASKED, error))?;
    let kind = if open {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// As OpenMetrics, or as Prometheus' own text.
fn write(families: Families, open: bool) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(families));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(if open { text } else { as_prometheus(&text) })
}

/// OpenMetrics names a counter without its `_total`, and an info without its `_info`; Prometheus' text format does
/// not, and knows neither units nor infos.
fn as_prometheus(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help = "";
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest;
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                other => ("", other),
            };
            let help = help.strip_prefix(name).unwrap_or_default();
            text.push_str(&format!("# HELP {name}{suffix}{help}\n# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with("# ") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}
