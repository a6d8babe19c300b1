//! What was measured over time.
//!
//! Each host keeps its own series. A host's are asked of that host; a guest's of all hosts, because nobody writes down
//! where it was, and joined. A host that is lost or does not answer in time is named in the answer.

use std::time::Duration;

use api::{SeriesQuery, SeriesView};
use axum::Json;
use axum::extract::{Path, Query, State};
use host::series::{Range, STEP_MIN_S, Subject};
use jiff::{SignedDuration, Timestamp};
use model::{GuestId, GuestName, Host, HostName, Usage};
use serde::Deserialize;

use super::Shared;
use super::answer::{Answer, Refused, named};

/// How long one host may take for its part.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// So many steps are answered when nobody says how many.
const STEPS_DEFAULT: u64 = 360;

/// More would be more than a day in the smallest steps.
const STEPS_MAX: u64 = 10_000;

const SPAN_DEFAULT: SignedDuration = SignedDuration::from_hours(1);

/// As it was typed: what cannot be understood is refused in words.
#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    guest: Option<String>,
    from: Option<String>,
    to: Option<String>,
    step: Option<String>,
}

impl Asked {
    fn range(&self, asked: &str) -> Answer<Range> {
        let moment = |text: &Option<String>, what: &str| match text {
            None => Ok(None),
            Some(text) => text.parse::<Timestamp>().map(Some).map_err(|_| {
                let why = format!("'{what}' is {text:?}, which is no moment");
                Refused::invalid(asked, why, "write it as in 2026-11-21T08:00:00Z")
            }),
        };
        let to = moment(&self.to, "to")?.unwrap_or_else(Timestamp::now);
        let from = moment(&self.from, "from")?;
        let from = from.or_else(|| to.checked_sub(SPAN_DEFAULT).ok()).unwrap_or(to);
        let (Ok(from_s), Ok(to_s)) = (u64::try_from(from.as_second()), u64::try_from(to.as_second())) else {
            return Err(Refused::invalid(asked, "nothing was measured before 1970", "ask for a later time"));
        };
        if from_s >= to_s {
            let why = format!("it ends ({to}) before it begins ({from})");
            return Err(Refused::invalid(asked, why, "let 'to' be later than 'from'"));
        }
        let step_s = match &self.step {
            None => (to_s - from_s).div_ceil(STEPS_DEFAULT).next_multiple_of(STEP_MIN_S),
            Some(text) => step(text, asked)?,
        };
        let steps = (to_s - from_s).div_ceil(step_s);
        if steps > STEPS_MAX {
            let why = format!("that would be {steps} steps, and there are {STEPS_MAX} in an answer at most");
            return Err(Refused::invalid(asked, why, "ask for longer steps, or a shorter time"));
        }
        Ok(Range::covering(from_s, to_s, step_s))
    }
}

fn step(text: &str, asked: &str) -> Answer<u64> {
    let step = text.parse::<u64>().ok().filter(|step| *step > 0 && step.is_multiple_of(STEP_MIN_S));
    // What does not fit there is longer than any answer.
    step.filter(|step| u32::try_from(*step).is_ok()).ok_or_else(|| {
        let why = format!("'step' is {text:?}, and steps are whole multiples of {STEP_MIN_S} seconds");
        Refused::invalid(asked, why, "ask for steps of 10, 60 or 300")
    })
}

/// Of any host.
pub async fn of_host(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    Query(query): Query<Asked>,
) -> Answer<Json<SeriesView>> {
    let name: HostName = named(&name, "host")?;
    let asked = format!("show what the host '{name}' used");
    let view = backend.state().view();
    let host = view.hosts.get(&name).ok_or_else(|| Refused::not_found(&asked, "host", &name))?;
    let range = query.range(&asked)?;
    if &name == backend.me() {
        return own(&backend, Subject::HOST, range, &asked).await.map(Json);
    }
    if !view.is_live(&name) {
        let why = format!("it is {}, and only it knows", view.host_phase(&name));
        return Err(Refused::by_state(&asked, why, "wait until it is online; `kennel host list` shows it"));
    }
    let answer = of_peer(&backend, host, None, range).await;
    answer.map(Json).map_err(|why| Refused::host_unreachable(&asked, why, "try again"))
}

/// Of a guest, on whichever hosts it was.
pub async fn of_guest(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    Query(query): Query<Asked>,
) -> Answer<Json<SeriesView>> {
    let name: GuestName = named(&name, "guest")?;
    let asked = format!("show what the guest '{name}' used");
    let view = backend.state().view();
    let guest = view.guests.get(&name).ok_or_else(|| Refused::not_found(&asked, "guest", &name))?.id;
    let range = query.range(&asked)?;
    let parts = view.hosts.values().map(|host| {
        let (backend, view, asked) = (&backend, &view, &asked);
        async move {
            let part = if &host.name == backend.me() {
                own(backend, guest.into(), range, asked).await.ok()
            } else if view.is_live(&host.name) {
                of_peer(backend, host, Some(guest), range).await.ok()
            } else {
                None
            };
            (host.name.clone(), part)
        }
    });
    let mut whole = view_of(range, &vec![None; range.count]);
    for (host, part) in futures::future::join_all(parts).await {
        match part {
            Some(part) => whole.join(&part),
            None => whole.silent.push(host),
        }
    }
    Ok(Json(whole))
}

/// Of this host, or of a guest while it was here; for the other hosts.
pub async fn of_this_host(
    State(backend): State<Shared>,
    Query(query): Query<Asked>,
) -> Answer<Json<SeriesView>> {
    let asked = "show what was used";
    let subject = match &query.guest {
        Some(guest) => named::<GuestId>(guest, "guest")?.into(),
        None => Subject::HOST,
    };
    own(&backend, subject, query.range(asked)?, asked).await.map(Json)
}

async fn own(backend: &Shared, subject: Subject, range: Range, asked: &str) -> Answer<SeriesView> {
    let series = backend.series().ok_or_else(|| {
        let instead = "look into its kenneld's log for why; `kennel host usage` shows the present";
        Refused::by_state(asked, "this host keeps no record of what was used", instead)
    })?;
    let steps = tokio::task::spawn_blocking(move || series.read(subject, range)).await;
    let steps = steps.map_err(|error| Refused::failed(asked, error))?;
    let steps = steps.map_err(|error| Refused::of_host(asked, error))?;
    Ok(view_of(range, &steps))
}

fn view_of(range: Range, steps: &[Option<Usage>]) -> SeriesView {
    let step_s = u32::try_from(range.step_s).unwrap_or(u32::MAX);
    SeriesView::new(moment(range.from_s).unwrap_or_default(), step_s, steps)
}

fn moment(second: u64) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(second).ok()?).ok()
}

/// What another host measured in these very steps; why not, in words.
async fn of_peer(
    backend: &Shared,
    host: &Host,
    guest: Option<GuestId>,
    range: Range,
) -> Result<SeriesView, String> {
    let query = SeriesQuery {
        from: moment(range.from_s),
        to: moment(range.to_s()),
        step_s: u32::try_from(range.step_s).ok(),
    };
    let client = backend.peers().to(host).map_err(|error| error.to_string())?;
    let answer = tokio::time::timeout(ANSWER_LIMIT, client.own_series(guest, &query)).await;
    match answer {
        Ok(Ok(view)) => Ok(view),
        Ok(Err(error)) => Err(format!("it does not answer: {error}")),
        Err(_) => Err("it does not answer in time".to_owned()),
    }
}
