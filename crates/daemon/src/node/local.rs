//! What root on this machine may ask of its daemon.

use std::str::FromStr;
use std::sync::Arc;

use api::{
    ClientError, InitAnswer, InitRequest, InvalidJoinToken, JoinToken, LocalJoinAnswer, LocalJoinRequest,
    LocalStatus, Problem, ProblemKind,
};
use async_trait::async_trait;
use model::Refusal;

use super::{Node, found};
use crate::http::LocalOps;

/// The node, as its local socket asks it.
#[derive(Debug)]
pub struct Handle(pub Arc<Node>);

#[async_trait]
impl LocalOps for Handle {
    async fn init(&self, request: InitRequest) -> Result<InitAnswer, Problem> {
        let asked = format!("make the cluster '{}'", request.name);
        let _one_at_a_time = self.0.changing.lock().await;
        self.0.must_be_fresh(&asked)?;
        // A cluster's name follows the rule of all names.
        if let Err(error) = model::HostName::from_str(&request.name) {
            let why = error.to_string().replace("host name", "cluster name");
            return Err(refused(ProblemKind::Invalid, &asked, why, "choose another name"));
        }
        let (member, client) =
            found::init(&self.0, &request.name).await.map_err(|error| failed(&asked, &error))?;
        // It is empty: the host was fresh, and the lock is held.
        let _ = self.0.member.set(member);
        Ok(InitAnswer { host: self.0.config.name.clone(), client })
    }

    async fn join(&self, request: LocalJoinRequest) -> Result<LocalJoinAnswer, Problem> {
        let asked = format!("join a cluster as '{}'", self.0.config.name);
        let _one_at_a_time = self.0.changing.lock().await;
        self.0.must_be_fresh(&asked)?;
        let token: JoinToken = request.token.parse().map_err(|error: InvalidJoinToken| {
            refused(
                ProblemKind::Invalid,
                &asked,
                error.to_string(),
                "ask for a new one on a host of the cluster",
            )
        })?;
        let member = found::join(&self.0, &token).await.map_err(|error| failed(&asked, &error))?;
        let cluster = member.cluster();
        // It is empty: the host was fresh, and the lock is held.
        let _ = self.0.member.set(member);
        Ok(LocalJoinAnswer { cluster, host: self.0.config.name.clone() })
    }

    async fn status(&self) -> LocalStatus {
        let member = self.0.member.get();
        LocalStatus {
            host: self.0.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: member.map(|member| member.cluster()),
            store_answers: member.is_some_and(|member| member.agent.state.read().is_connected()),
            problems: member
                .map(|member| member.agent.problems().borrow().values().cloned().collect())
                .unwrap_or_default(),
        }
    }
}

impl Node {
    fn must_be_fresh(&self, asked: &str) -> Result<(), Problem> {
        match self.member.get() {
            None => Ok(()),
            Some(member) => Err(refused(
                ProblemKind::Refused,
                asked,
                format!("this host belongs to the cluster '{}' already", member.cluster()),
                "use another host",
            )),
        }
    }
}

fn refused(kind: ProblemKind, asked: &str, why: impl Into<String>, instead: &str) -> Problem {
    Problem::new(kind, Refusal::new(asked, why, instead))
}

/// A refusal of the cluster is passed on word for word; everything else is told with its whole chain.
fn failed(asked: &str, error: &anyhow::Error) -> Problem {
    if let Some(ClientError::Refused(problem)) = error.downcast_ref::<ClientError>() {
        return problem.clone();
    }
    tracing::warn!(error = %format!("{error:#}"), "cannot {asked}");
    refused(
        ProblemKind::Failed,
        asked,
        format!("{error:#}"),
        "mend that, and try again; nothing is left half done",
    )
}
