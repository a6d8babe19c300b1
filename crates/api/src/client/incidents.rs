//! Asking about incidents, and about who is told of them.

use model::{AlertName, IncidentId};

use super::calls::{Answer, Watch};
use super::{Ask, Client};
use crate::{AddAlert, AlertTestView, AlertView, IncidentView};

impl Client {
    /// The newest last.
    pub async fn incidents(&self) -> Answer<Vec<IncidentView>> {
        self.fetch(Ask::get("/v1/incidents", "list the incidents")).await
    }

    pub async fn incident(&self, id: IncidentId) -> Answer<IncidentView> {
        self.fetch(Ask::get(format!("/v1/incidents/{id}"), format!("show the incident {id}"))).await
    }

    pub fn watch_incidents(&self) -> Watch<IncidentView> {
        self.watch(Ask::get("/v1/incidents", "watch the incidents"))
    }

    pub async fn alerts(&self) -> Answer<Vec<AlertView>> {
        self.fetch(Ask::get("/v1/alerts", "list the alerts")).await
    }

    pub async fn add_alert(&self, request: &AddAlert) -> Answer<AlertView> {
        self.fetch(Ask::post("/v1/alerts", "add an alert").json(request)?).await
    }

    pub async fn remove_alert(&self, name: &AlertName) -> Answer<()> {
        self.done(Ask::delete(format!("/v1/alerts/{name}"), format!("remove the alert '{name}'"))).await
    }

    /// Takes as long as the target takes.
    pub async fn test_alert(&self, name: &AlertName) -> Answer<AlertTestView> {
        let asked = format!("test the alert '{name}'");
        self.fetch(Ask::post(format!("/v1/alerts/{name}/test"), asked).endless()).await
    }
}
