//! What concerns where guests are: rules, hosts' duties, settings, and what the planner says.

use model::{GuestName, HostName, HostUsage, RuleName, Settings};

use super::calls::{Answer, Watch, guest};
use super::{Ask, Client};
use crate::{
    AddHostQuery, AddHostView, ApplyBalance, BalanceView, CapacityView, ChangeDuty, ChangeGuest, ChangeHost,
    ChangeSettings, ClusterDump, CreateRule, DutyAnswer, GuestView, HostView, JobView, LossView, RebootView,
    ReplaceRule, RuleView, ShapeQuery, WhyView,
};

impl Client {
    pub async fn rules(&self) -> Answer<Vec<RuleView>> {
        self.fetch(Ask::get("/v1/rules", "list the rules")).await
    }

    pub async fn rule(&self, name: &RuleName) -> Answer<RuleView> {
        self.fetch(Ask::get(rule(name), format!("show the rule '{name}'"))).await
    }

    pub async fn create_rule(&self, request: &CreateRule) -> Answer<RuleView> {
        let asked = format!("create the rule '{}'", request.name);
        self.fetch(Ask::post("/v1/rules", asked).json(request)?).await
    }

    pub async fn replace_rule(&self, name: &RuleName, request: &ReplaceRule) -> Answer<RuleView> {
        self.fetch(Ask::put(rule(name), format!("change the rule '{name}'")).json(request)?).await
    }

    pub async fn delete_rule(&self, name: &RuleName) -> Answer<()> {
        self.done(Ask::delete(rule(name), format!("delete the rule '{name}'"))).await
    }

    pub fn watch_rules(&self) -> Watch<RuleView> {
        self.watch(Ask::get("/v1/rules", "watch the rules"))
    }

    pub async fn change_host(&self, name: &HostName, request: &ChangeHost) -> Answer<HostView> {
        let ask = Ask::patch(format!("/v1/hosts/{name}"), format!("change the host '{name}'"));
        self.fetch(ask.json(request)?).await
    }

    /// What each host measured; those that do not answer the host that was asked are missing.
    pub async fn usages(&self) -> Answer<Vec<HostUsage>> {
        self.fetch(Ask::get("/v1/usage", "show what is used")).await
    }

    pub async fn host_usage(&self, name: &HostName) -> Answer<HostUsage> {
        let ask = Ask::get(format!("/v1/hosts/{name}/usage"), format!("show what the host '{name}' uses"));
        self.fetch(ask).await
    }

    pub async fn change_duty(&self, name: &HostName, request: &ChangeDuty) -> Answer<DutyAnswer> {
        let asked = format!("change the duty of the host '{name}'");
        self.fetch(Ask::post(format!("/v1/hosts/{name}/duty"), asked).json(request)?).await
    }

    pub async fn change_guest(&self, name: &GuestName, request: &ChangeGuest) -> Answer<GuestView> {
        let ask = Ask::patch(guest(name, ""), format!("change the guest '{name}'"));
        self.fetch(ask.json(request)?).await
    }

    /// Why a guest is where it is, and not elsewhere.
    pub async fn why(&self, name: &GuestName) -> Answer<WhyView> {
        self.fetch(Ask::get(guest(name, "/why"), format!("explain the place of the guest '{name}'"))).await
    }

    /// What balancing would do now.
    pub async fn balance(&self) -> Answer<BalanceView> {
        self.fetch(Ask::get("/v1/balance", "show the balance")).await
    }

    /// Carries out the proposal that was seen.
    pub async fn apply_balance(&self, request: &ApplyBalance) -> Answer<JobView> {
        self.fetch(Ask::post("/v1/balance", "balance the cluster").json(request)?).await
    }

    /// How many more guests of a size fit, and what the cluster survives.
    pub async fn capacity(&self, shape: &ShapeQuery) -> Answer<CapacityView> {
        let mut ask = Ask::get("/v1/capacity", "show the capacity");
        for (name, size) in [("memory", shape.memory), ("disk", shape.disk)] {
            if let Some(size) = size {
                ask = ask.query(name, size.0);
            }
        }
        if let Some(vcpus) = shape.vcpus {
            ask = ask.query("vcpus", vcpus);
        }
        if let Some(pool) = shape.pool {
            ask = ask.query("pool", pool);
        }
        self.fetch(ask).await
    }

    /// What the loss of a host would do.
    pub async fn host_loss(&self, host: &HostName) -> Answer<LossView> {
        let asked = format!("tell what the loss of the host '{host}' would do");
        self.fetch(Ask::get(format!("/v1/what-if/host-loss/{host}"), asked)).await
    }

    /// What one more host would bring.
    pub async fn add_host(&self, host: &AddHostQuery) -> Answer<AddHostView> {
        let mut ask = Ask::get("/v1/what-if/add-host", "tell what another host would bring")
            .query("memory", host.memory.0)
            .query("disk", host.disk.0)
            .query("cores", host.cores);
        if let Some(zone) = &host.zone {
            ask = ask.query("zone", zone);
        }
        self.fetch(ask).await
    }

    /// Which hosts may be rebooted together, in which order.
    pub async fn reboot(&self) -> Answer<RebootView> {
        self.fetch(Ask::get("/v1/plan/reboot", "plan a rolling reboot")).await
    }

    /// Everything that a plan rests on.
    pub async fn dump(&self) -> Answer<ClusterDump> {
        self.fetch(Ask::get("/v1/cluster/dump", "dump the cluster")).await
    }

    /// Starts a guest though the cluster can then no longer survive what it promises to.
    pub async fn force_start_guest(&self, name: &GuestName) -> Answer<JobView> {
        let ask = Ask::post(guest(name, "/start"), format!("start the guest '{name}'"));
        self.fetch(ask.query("force", true)).await
    }

    pub async fn change_settings(&self, request: &ChangeSettings) -> Answer<Settings> {
        self.fetch(Ask::patch("/v1/cluster/settings", "change the settings").json(request)?).await
    }
}

fn rule(name: &RuleName) -> String {
    format!("/v1/rules/{name}")
}
