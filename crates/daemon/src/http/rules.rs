//! Placement rules come, change and go.
//!
//! A rule that contradicts another one is accepted: which of them is in force is computed, and told with each answer.
//! A rule that names what does not exist is refused; one whose tags nobody carries yet is not.

use api::{CreateRule, ListQuery, ReplaceRule, RuleView};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use model::{ClusterView, GuestSelector, HostSelector, Rule, RuleKind, RuleName};
use store::{Cache, keys};

use super::answer::{Answer, Body, Refused, named};
use super::{Shared, checks, commit, planner, watch};

/// Each rule is looked at for each plan.
const RULES_MAX: usize = 1000;

pub async fn list(State(backend): State<Shared>, Query(query): Query<ListQuery>) -> Response {
    watch::list(&backend, query.watch, planner::rule_views).await
}

pub async fn show(State(backend): State<Shared>, Path(name): Path<String>) -> Answer<Json<RuleView>> {
    let name: RuleName = named(&name, "rule")?;
    view_of(&backend.state().view(), &name, &format!("show the rule '{name}'"))
}

fn view_of(view: &ClusterView, name: &RuleName, asked: &str) -> Answer<Json<RuleView>> {
    let found = planner::rule_views(view).into_iter().find(|rule| &rule.name == name);
    found.map(Json).ok_or_else(|| Refused::not_found(asked, "rule", name))
}

pub async fn create(
    State(backend): State<Shared>,
    Body(request): Body<CreateRule>,
) -> Answer<(StatusCode, Json<RuleView>)> {
    let asked = format!("create the rule '{}'", request.name);
    let CreateRule { name, kind, guests, strength, priority } = request;
    let rule = Rule { name, kind, guests, strength, priority, created_at: Timestamp::now() };
    let draft = |cache: &Cache| {
        let view = cache.view();
        if view.rules.contains_key(&rule.name) {
            let instead = format!("choose another name, or see `kennel rule show {}`", rule.name);
            return Err(Refused::by_state(&asked, "a rule of that name exists", instead));
        }
        if view.rules.len() >= RULES_MAX {
            let why = format!("there are {RULES_MAX} rules already");
            return Err(Refused::by_state(&asked, why, "name guests by tags, so that one rule binds many"));
        }
        check(view, &rule, &asked)?;
        let mut txn = cache.txn();
        txn.create(&rule);
        commit::built(&mut txn, &asked)
    };
    let there = |view: &ClusterView| view.rules.get(&rule.name) == Some(&rule);
    commit::change(&*backend, &asked, draft, there).await?;
    Ok((StatusCode::CREATED, view_of(&backend.state().view(), &rule.name, &asked)?))
}

pub async fn replace(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    Body(request): Body<ReplaceRule>,
) -> Answer<Json<RuleView>> {
    let name: RuleName = named(&name, "rule")?;
    let asked = format!("change the rule '{name}'");
    let changed = |old: &Rule| {
        let ReplaceRule { kind, guests, strength, priority } = request.clone();
        Rule { name: name.clone(), kind, guests, strength, priority, created_at: old.created_at }
    };
    let draft = |cache: &Cache| {
        let missing = || Refused::not_found(&asked, "rule", &name);
        let rule = changed(cache.view().rules.get(&name).ok_or_else(missing)?);
        check(cache.view(), &rule, &asked)?;
        let mut txn = cache.txn();
        txn.put(&rule);
        commit::built(&mut txn, &asked)
    };
    let there = |view: &ClusterView| view.rules.get(&name).is_some_and(|rule| *rule == changed(rule));
    commit::change(&*backend, &asked, draft, there).await?;
    view_of(&backend.state().view(), &name, &asked)
}

pub async fn delete(
    State(backend): State<Shared>,
    Path(name): Path<String>,
) -> Answer<Json<serde_json::Value>> {
    let name: RuleName = named(&name, "rule")?;
    let asked = format!("delete the rule '{name}'");
    let draft = |cache: &Cache| {
        if !cache.view().rules.contains_key(&name) {
            return Err(Refused::not_found(&asked, "rule", &name));
        }
        let mut txn = cache.txn();
        txn.delete(&keys::rule(&name));
        commit::built(&mut txn, &asked)
    };
    commit::change(&*backend, &asked, draft, |view| !view.rules.contains_key(&name)).await?;
    Ok(Json(serde_json::json!({})))
}

fn check(view: &ClusterView, rule: &Rule, asked: &str) -> Answer<()> {
    check_guests(view, rule, asked)?;
    match &rule.kind {
        RuleKind::On(hosts) | RuleKind::Off(hosts) => check_hosts(view, hosts, asked),
        RuleKind::AtMost { count: 0, .. } => {
            let instead = "allow 1 or more, or keep the guests off hosts with a rule of the kind 'off'";
            Err(Refused::invalid(asked, "with at most 0 no guest could run anywhere", instead))
        }
        RuleKind::AtMost { .. } | RuleKind::Apart | RuleKind::Together | RuleKind::SpreadZones => Ok(()),
    }
}

fn check_guests(view: &ClusterView, rule: &Rule, asked: &str) -> Answer<()> {
    let GuestSelector { names, tags } = &rule.guests;
    checks::tags(tags, asked)?;
    if let Some(unknown) = names.iter().find(|name| !view.guests.contains_key(*name)) {
        let instead = "`kennel guest list` shows those that there are; name guests of the future by a tag";
        return Err(Refused::by_state(asked, format!("there is no guest '{unknown}'"), instead));
    }
    if !tags.is_empty() {
        return Ok(());
    }
    let needs = match rule.kind {
        RuleKind::Apart | RuleKind::Together | RuleKind::SpreadZones => 2,
        RuleKind::On(_) | RuleKind::Off(_) | RuleKind::AtMost { .. } => 1,
    };
    match names.len() {
        0 => Err(Refused::invalid(asked, "it names no guest", "name guests, or a tag, as in tag:web")),
        count if count < needs => {
            let why = format!("a rule of the kind '{}' says nothing about one guest", rule.kind);
            Err(Refused::invalid(asked, why, "name two guests or more, or a tag, as in tag:web"))
        }
        _ => Ok(()),
    }
}

fn check_hosts(view: &ClusterView, hosts: &HostSelector, asked: &str) -> Answer<()> {
    checks::tags(&hosts.tags, asked)?;
    if hosts.names.is_empty() && hosts.tags.is_empty() {
        return Err(Refused::invalid(asked, "it names no host", "name hosts, or a tag, as in tag:ssd"));
    }
    match hosts.names.iter().find(|name| !view.hosts.contains_key(*name)) {
        None => Ok(()),
        Some(unknown) => {
            let instead = "`kennel host list` shows those that there are; name hosts of the future by a tag";
            Err(Refused::by_state(asked, format!("there is no host '{unknown}'"), instead))
        }
    }
}
