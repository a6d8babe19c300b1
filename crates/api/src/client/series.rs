//! What was measured over time, and metrics.

use model::{GuestId, GuestName, HostName};

use super::calls::{Answer, guest};
use super::{Ask, Client, cause};
use crate::{SeriesQuery, SeriesView};

impl Client {
    /// What a host used; only that host knows.
    pub async fn host_series(&self, name: &HostName, query: &SeriesQuery) -> Answer<SeriesView> {
        let asked = format!("show what the host '{name}' used");
        self.fetch(with(Ask::get(format!("/v1/hosts/{name}/series"), asked), query)).await
    }

    /// What a guest used, on whichever hosts it was.
    pub async fn guest_series(&self, name: &GuestName, query: &SeriesQuery) -> Answer<SeriesView> {
        let asked = format!("show what the guest '{name}' used");
        self.fetch(with(Ask::get(guest(name, "/series"), asked), query)).await
    }

    /// What the host that is asked measured: of a guest, or of itself. For hosts.
    pub async fn own_series(&self, guest: Option<GuestId>, query: &SeriesQuery) -> Answer<SeriesView> {
        let mut ask = Ask::get("/v1/internal/series", "ask a host what was used");
        if let Some(guest) = guest {
            ask = ask.query("guest", guest);
        }
        self.fetch(with(ask, query)).await
    }

    /// The metrics of the host that answers, as Prometheus text.
    pub async fn metrics(&self) -> Answer<String> {
        let ask = Ask::get("/metrics", "read the metrics");
        let response = self.send(&ask).await?;
        response.text().await.map_err(|error| self.interrupted(&ask.asked, cause(&error)))
    }
}

fn with(mut ask: Ask, query: &SeriesQuery) -> Ask {
    for (name, at) in [("from", query.from), ("to", query.to)] {
        if let Some(at) = at {
            ask = ask.query(name, at);
        }
    }
    match query.step_s {
        Some(step_s) => ask.query("step", step_s),
        None => ask,
    }
}
