//! The one place where a daemon computes what its pages are shown, however many they are.
//!
//! ```text
//!   keys that changed ─▶ look: only what hangs on them ─┐
//!   some time passed  ─▶ gather: rules, status,        ─┴▶ Items ─▶ each page: what is new since it was told last
//!                        what the hosts measured
//! ```
//!
//! Everything is computed anew when the store was listed anew, and when a key changed of which this file does not know
//! what hangs on it; so what it forgets costs time, and shows nothing old. A guest hangs on its own records, on its
//! volumes' in-sync sets, on the sessions of the hosts that these name, and, while nobody owns it, on the events about
//! it. What hangs on all guests together (how many a host has, rules, the cluster's status) follows a little later, at
//! a pace that leaves the processor to others.
//!
//! A board that is begun shows what is quick to compute, then the status, and then the guests in parts, so that a page
//! draws something long before 20,000 guests have been looked at.
//!
//! The board is there while somebody looks, and a minute longer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use api::{
    AlertView, ClusterStatus, EventQuery, GuestView, HostView, ImageView, IncidentView, JobView, NetworkView,
    PoolView, Watched,
};
use model::{ClusterView, GuestName, GuestPhase, HostName, HostUsage, JobId, Seed, VolumeId};
use serde::Serialize;
use store::{Kind, Mark};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::items::{Items, Json};
use crate::http::{Shared, planner, sign_in};

/// Between two looks, at least.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Between two looks, at most, when something changes.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The board may spend this part of its time on computing: one in so many.
const PAUSE_PER_WORK: u32 = 10;

/// Between two looks at how many guests each host has.
const HOSTS_PAUSE: Duration = Duration::from_secs(1);

/// How often the hosts are asked for what they measured, and the store's members for how they are.
const GATHER_EVERY: Duration = Duration::from_secs(5);

/// Between two looks at the status when things change.
const STATUS_PAUSE: Duration = Duration::from_millis(500);

/// For how long a board is kept that nobody looks at: who loads the page anew finds it.
const KEPT: Duration = Duration::from_secs(60);

/// How long the first look at the guests leaves the processors to the first look at the status.
const STATUS_FIRST: Duration = Duration::from_secs(3);

/// So many guests are shown at once at first.
const PART: usize = 1000;

/// The newest events; older ones are asked for.
const EVENTS_MAX: usize = 300;

/// The newest incidents; older ones are asked for.
const INCIDENTS_MAX: usize = 50;

/// The newest jobs that ended; all that run are told.
const ENDED_JOBS_MAX: usize = 200;

/// This daemon's board, while there is one.
#[derive(Debug, Default)]
pub struct Hub(Mutex<Option<Arc<Board>>>);

impl Hub {
    /// The board, which is begun if there is none; the receiver wakes at each of its looks.
    pub fn board(self: &Arc<Self>, backend: &Shared) -> (Arc<Board>, watch::Receiver<u64>) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Its keeper is gone: something in it has failed.
        slot.take_if(|board| board.looks.has_changed().is_err());
        let board = slot.get_or_insert_with(|| Keeper::begin(self.clone(), backend.clone()));
        (board.clone(), board.looks.clone())
    }
}

/// What the pages are shown.
#[derive(Debug)]
pub struct Board {
    items: RwLock<Items>,
    looks: watch::Receiver<u64>,
    /// The text of the last difference, from which change to which: pages that keep up are all told the same.
    last: Mutex<Option<(u64, u64, Arc<str>)>>,
}

impl Board {
    pub fn read(&self) -> RwLockReadGuard<'_, Items> {
        self.items.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, write: impl FnOnce(&mut Items)) {
        write(&mut self.items.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// What changed after a change, and up to which. `None`: too long ago, everything must be told.
    pub fn since(&self, told: u64) -> Option<(Arc<str>, u64)> {
        let items = self.read();
        let now = items.now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, text)) = last.as_ref().filter(|(from, to, _)| (*from, *to) == (told, now)) {
            return Some((text.clone(), now));
        }
        let text: Arc<str> = items.since(told)?.text().into();
        *last = Some((told, now, text.clone()));
        Some((text, now))
    }
}

/// Keeps the board, until nobody has looked at it for a while.
struct Keeper {
    hub: Arc<Hub>,
    backend: Shared,
    board: Arc<Board>,
    looks: Arc<watch::Sender<u64>>,
    /// Up to where the records' changes have been looked at.
    mark: Option<Mark>,
    /// Whose each volume is.
    volumes: HashMap<VolumeId, GuestName>,
    /// Guests that nobody owns: their messages are events.
    unowned: BTreeSet<GuestName>,
    /// Guests came, went or changed their hosts: all hosts are to be looked at, then at the earliest.
    hosts_due: bool,
    next_hosts: Instant,
    alone_since: Option<Instant>,
    /// Ends with this.
    gatherer: JoinSet<()>,
}

impl Keeper {
    fn begin(hub: Arc<Hub>, backend: Shared) -> Arc<Board> {
        let (sender, looks) = watch::channel(0);
        let board = Arc::new(Board { items: RwLock::new(Items::begun()), looks, last: Mutex::default() });
        let mut keeper = Keeper {
            hub,
            backend: backend.clone(),
            board: board.clone(),
            looks: Arc::new(sender),
            mark: None,
            volumes: HashMap::new(),
            unowned: BTreeSet::new(),
            hosts_due: false,
            next_hosts: Instant::now(),
            alone_since: None,
            gatherer: JoinSet::new(),
        };
        keeper.gatherer.spawn(gather(backend, board.clone(), keeper.looks.clone()));
        tokio::spawn(keeper.keep());
        board
    }

    async fn keep(mut self) {
        let mut changes = self.backend.state().changes();
        while !self.is_over() {
            changes.mark_unchanged();
            let begin = Instant::now();
            self.look().await;
            self.looks.send_modify(|count| *count += 1);
            let pause = (begin.elapsed() * PAUSE_PER_WORK).clamp(PAUSE_MIN, PAUSE_MAX);
            tokio::time::sleep_until(begin + pause).await;
            let until = if self.hosts_due { self.next_hosts } else { Instant::now() + KEPT };
            if let Ok(Err(_)) = tokio::time::timeout_at(until, changes.changed()).await {
                return;
            }
        }
    }

    /// Whether nobody has looked for a while. Then whoever comes begins another board.
    fn is_over(&mut self) -> bool {
        // One receiver is the board's own.
        if self.looks.receiver_count() > 1 {
            self.alone_since = None;
            return false;
        }
        if self.alone_since.get_or_insert_with(Instant::now).elapsed() < KEPT {
            return false;
        }
        let mut slot = self.hub.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = self.looks.receiver_count() <= 1;
        if is_over {
            *slot = None;
        }
        is_over
    }

    /// Looks at what changed since the last time.
    async fn look(&mut self) {
        let state = self.backend.state().clone();
        let found = {
            let cache = state.read();
            let touched = self.mark.and_then(|mark| cache.changed_since(mark));
            let touched = touched.and_then(|keys| self.touched(cache.view(), &keys));
            self.mark = Some(cache.mark());
            match touched {
                // Little: it is computed at once, under the lock, because a snapshot would be copied.
                Some(mut touched) => {
                    self.hosts_due |= touched.places;
                    if self.hosts_due && self.next_hosts <= Instant::now() {
                        touched.lists.extend(["hosts", "pools"]);
                        (self.hosts_due, self.next_hosts) = (false, Instant::now() + HOSTS_PAUSE);
                    }
                    Ok(self.compute(cache.view(), &touched))
                }
                None => Err(cache.snapshot()),
            }
        };
        match found {
            Ok(found) => self.board.write(|items| found.enter(items)),
            Err(view) => self.look_at_everything(view).await,
        }
    }

    async fn look_at_everything(&mut self, view: Arc<ClusterView>) {
        let is_first = self.board.read().more;
        let before = view.clone();
        if let Ok(found) = tokio::task::spawn_blocking(move || lists(&before)).await {
            self.board.write(|items| found.enter(items));
        }
        if is_first {
            self.looks.send_modify(|count| *count += 1);
            self.status_is_known().await;
        }
        let Ok(guests) = tokio::task::spawn_blocking(move || Guests::of(&view)).await else { return };
        (self.volumes, self.unowned) = (guests.volumes, guests.unowned);
        if is_first {
            self.show_in_parts(guests.shown).await;
        } else {
            self.board.write(|items| items.replace("guests", guests.shown));
        }
    }

    async fn show_in_parts(&self, guests: BTreeMap<String, Json>) {
        let mut guests = guests.into_iter().peekable();
        loop {
            let part: Vec<_> = guests.by_ref().take(PART).collect();
            self.board.write(|items| {
                items.more = guests.peek().is_some();
                part.into_iter().for_each(|(name, json)| items.set("guests", &name, Some(json)));
            });
            if guests.peek().is_none() {
                return;
            }
            self.looks.send_modify(|count| *count += 1);
            tokio::task::yield_now().await;
        }
    }

    /// Waits until the status is shown, or for a moment.
    async fn status_is_known(&self) {
        let mut looks = self.board.looks.clone();
        let known = looks.wait_for(|_| self.board.read().has("cluster"));
        tokio::time::timeout(STATUS_FIRST, known).await.ok();
    }

    /// What hangs on these keys. `None`: everything may.
    fn touched(&self, view: &ClusterView, keys: &BTreeSet<&str>) -> Option<Touched> {
        let mut touched = Touched::default();
        for key in keys {
            let (kind, rest) = Kind::of(key)?;
            // Whatever is not listed touches everything.
            if [Kind::Guest, Kind::Assignment, Kind::GuestReport].contains(&kind) {
                touched.guests.insert(rest.parse().ok()?);
                touched.places |= kind != Kind::GuestReport;
            } else if kind == Kind::InSync {
                touched.guests.extend(self.volumes.get(&rest.parse().ok()?).cloned());
            } else if [Kind::Host, Kind::HostReport].contains(&kind) {
                touched.hosts.insert(rest.parse().ok()?);
                touched.lists.extend(["images", "pools"]);
            } else if kind == Kind::Session {
                let host = rest.parse().ok()?;
                touched.guests.extend(concerned(view, &host));
                touched.hosts.insert(host);
            } else if kind == Kind::Event {
                touched.lists.insert("events");
                match view.events.get(&rest.parse().ok()?).map(|event| event.subject.strip_prefix("guest/")) {
                    Some(guest) => touched.guests.extend(guest.and_then(|name| name.parse().ok())),
                    // It was cleared away, and may have been some guest's message.
                    None => touched.guests.extend(self.unowned.iter().cloned()),
                }
            } else if [Kind::Job, Kind::JobReport].contains(&kind) {
                touched.lists.insert("jobs");
            } else if [Kind::Network, Kind::Address].contains(&kind) {
                touched.lists.insert("networks");
            } else if kind == Kind::Incident {
                touched.lists.insert("incidents");
            } else if [Kind::Alert, Kind::AlertState].contains(&kind) {
                touched.lists.insert("alerts");
            } else if kind == Kind::Image {
                touched.lists.insert("images");
            } else if kind == Kind::Pool {
                touched.lists.insert("pools");
            } else if kind == Kind::User {
                touched.lists.insert("users");
            } else if kind == Kind::Leader {
                touched.lists.insert("hosts");
            } else if ![Kind::Rule, Kind::Drop, Kind::Token, Kind::Secret].contains(&kind) {
                return None;
            }
        }
        Some(touched)
    }

    fn compute(&mut self, view: &ClusterView, touched: &Touched) -> Found {
        let mut found = Found { lists: Vec::new(), single: Vec::new() };
        for name in &touched.guests {
            let guest = GuestView::find(view, name);
            self.unowned.remove(name);
            if let Some(guest) = &guest {
                self.volumes.extend(guest.volumes.iter().map(|volume| (volume.id, name.clone())));
                if is_unowned(guest) {
                    self.unowned.insert(name.clone());
                }
            }
            found.single.push(("guests", name.to_string(), guest.and_then(shown)));
        }
        for name in &touched.hosts {
            found.single.push((
                "hosts",
                name.to_string(),
                HostView::find(view, name).as_ref().and_then(Json::of),
            ));
        }
        for kind in &touched.lists {
            let items = match *kind {
                "events" => list(events(view)),
                "incidents" => list(incidents(view)),
                "jobs" => list(jobs(view)),
                "networks" => list(NetworkView::list(view)),
                "images" => list(ImageView::list(view)),
                "pools" => list(PoolView::list(view)),
                "users" => list(sign_in::users::views(view)),
                "alerts" => list(AlertView::list(view)),
                _ => list(HostView::list(view)),
            };
            found.lists.push((kind, items));
        }
        found
    }
}

/// All guests, computed anew.
struct Guests {
    shown: BTreeMap<String, Json>,
    volumes: HashMap<VolumeId, GuestName>,
    unowned: BTreeSet<GuestName>,
}

impl Guests {
    fn of(view: &ClusterView) -> Guests {
        let guests = GuestView::list(view);
        let owners = |guest: &GuestView| {
            let name = guest.name.clone();
            guest.volumes.iter().map(|volume| volume.id).map(move |id| (id, name.clone())).collect::<Vec<_>>()
        };
        let volumes = guests.iter().flat_map(owners).collect();
        let unowned =
            guests.iter().filter(|guest| is_unowned(guest)).map(|guest| guest.name.clone()).collect();
        let shown = guests.into_iter().filter_map(|guest| Some((guest.name.to_string(), shown(guest)?)));
        Guests { shown: shown.collect(), volumes, unowned }
    }
}

/// Everything that is quick to compute: all but the guests.
fn lists(view: &ClusterView) -> Found {
    let lists = vec![
        ("hosts", list(HostView::list(view))),
        ("images", list(ImageView::list(view))),
        ("networks", list(NetworkView::list(view))),
        ("pools", list(PoolView::list(view))),
        ("jobs", list(jobs(view))),
        ("events", list(events(view))),
        ("incidents", list(incidents(view))),
        ("users", list(sign_in::users::views(view))),
        ("alerts", list(AlertView::list(view))),
    ];
    Found { lists, single: Vec::new() }
}

/// What is to be computed anew.
#[derive(Debug, Default)]
struct Touched {
    guests: BTreeSet<GuestName>,
    hosts: BTreeSet<HostName>,
    /// What hosts own.
    places: bool,
    /// Whole kinds.
    lists: BTreeSet<&'static str>,
}

/// What was computed.
struct Found {
    lists: Vec<(&'static str, BTreeMap<String, Json>)>,
    single: Vec<(&'static str, String, Option<Json>)>,
}

impl Found {
    fn enter(self, items: &mut Items) {
        for (kind, id, json) in self.single {
            items.set(kind, &id, json);
        }
        for (kind, list) in self.lists {
            items.replace(kind, list);
        }
    }
}

/// The guests that a host's life or death shows on: those it owns, and those of whose volumes it has a replica.
fn concerned<'a>(view: &'a ClusterView, host: &'a HostName) -> impl Iterator<Item = GuestName> + 'a {
    let holds = move |guest: &GuestName| {
        let spec = view.guests.get(guest);
        let volumes = spec.into_iter().flat_map(|spec| &spec.disks).map(|disk| disk.volume);
        volumes.filter_map(|volume| view.in_sync.get(&volume)).any(|set| set.contains_host(host))
    };
    let assigned = view.assignments.values().filter(move |assignment| {
        assignment.host == *host || assignment.secondary.as_ref() == Some(host) || holds(&assignment.guest)
    });
    assigned.map(|assignment| assignment.guest.clone())
}

fn is_unowned(guest: &GuestView) -> bool {
    matches!(guest.phase, GuestPhase::Waiting | GuestPhase::Unknown)
}

/// A guest without what no page shows, or shows from elsewhere.
fn shown(mut guest: GuestView) -> Option<Json> {
    guest.spec.seed = Seed::default();
    guest.spec.disks.clear();
    if let Some(report) = &mut guest.report {
        report.volumes.clear();
    }
    Json::of(&guest)
}

fn events(view: &ClusterView) -> Vec<model::Event> {
    EventQuery { limit: Some(EVENTS_MAX), ..EventQuery::default() }.select(view)
}

fn incidents(view: &ClusterView) -> Vec<IncidentView> {
    view.incidents.values().rev().take(INCIDENTS_MAX).map(IncidentView::of).collect()
}

/// All that run, and the newest that ended. Ids grow with time.
fn jobs(view: &ClusterView) -> Vec<JobView> {
    let ended = |id: &JobId| view.job_reports.get(id).is_some_and(|report| report.state.is_terminal());
    let mut room = ENDED_JOBS_MAX;
    let newest_first = view.jobs.values().rev().filter(|job| {
        let keep = !ended(&job.id) || room > 0;
        room = room.saturating_sub(usize::from(ended(&job.id)));
        keep
    });
    newest_first.map(|job| JobView::of(view, job)).collect()
}

fn list<T: Serialize + Watched>(views: Vec<T>) -> BTreeMap<String, Json> {
    views.iter().filter_map(|view| Some((view.watch_id(), Json::of(view)?))).collect()
}

/// What hangs on everything soon after each change, and what the hosts measured every few seconds.
async fn gather(backend: Shared, board: Arc<Board>, looks: Arc<watch::Sender<u64>>) {
    let mut changes = backend.state().changes();
    let mut next_usage = Instant::now();
    loop {
        let begin = Instant::now();
        changes.mark_unchanged();
        let found = status(&backend).await;
        board.write(|items| found.enter(items));
        looks.send_modify(|count| *count += 1);
        if next_usage <= begin {
            next_usage = begin + GATHER_EVERY;
            let usages = backend.usages().await.into_iter();
            // What each guest uses its own page asks for.
            let of_hosts = usages.map(|(host, usage)| (host, HostUsage { guests: BTreeMap::new(), ..usage }));
            let encoded = of_hosts.filter_map(|(host, usage)| Some((String::from(host), Json::of(&usage)?)));
            board.write(|items| items.replace("usage", encoded.collect()));
            looks.send_modify(|count| *count += 1);
        }
        let pause = STATUS_PAUSE.max(begin.elapsed() * PAUSE_PER_WORK);
        tokio::time::sleep_until(begin + pause).await;
        if let Ok(Err(_)) = tokio::time::timeout_at(next_usage.max(begin + pause), changes.changed()).await {
            return;
        }
    }
}

/// Rules and the cluster's status.
async fn status(backend: &Shared) -> Found {
    let members = backend.store_members().await;
    let (view, answers) = {
        let cache = backend.state().read();
        (cache.snapshot(), cache.is_connected())
    };
    let (problems, rules) = planner::judged(view.clone()).await;
    let me = backend.me().clone();
    let computed = tokio::task::spawn_blocking(move || {
        // The revision changes with everything, and would make every status a new one.
        let status = ClusterStatus::of(&view, &me, answers, members, problems);
        let status = status.map(|status| ClusterStatus { revision: 0, ..status });
        let status = status.as_ref().and_then(Json::of);
        Found { lists: vec![("rules", list(rules))], single: vec![("cluster", "cluster".to_owned(), status)] }
    });
    computed.await.unwrap_or_else(|_| Found { lists: Vec::new(), single: Vec::new() })
}

#[cfg(test)]
mod tests {
    use model::{BootId, Epoch, EventKind, GuestState, InSync, JobReport, JobState, Replica, Session};
    use store::keys;
    use uuid::Uuid;

    use super::*;
    use crate::http::tests::fixture::{PATIENCE, TestCluster, guest, host_name};

    /// Waits until the board shows what it would show if it computed everything anew.
    async fn agrees(board: &Board, backend: &Shared, after: &str) {
        let mut looks = board.looks.clone();
        let whole = |items: &Items| {
            let kinds = ["hosts", "guests", "networks", "jobs", "events", "users"];
            kinds.map(|kind| items.part(kind, None, usize::MAX).0.text())
        };
        loop {
            let mut anew = Items::default();
            let view = backend.state().view();
            lists(&view).enter(&mut anew);
            anew.replace("guests", Guests::of(&view).shown);
            let shown = whole(&board.read());
            if shown == whole(&anew) {
                return;
            }
            let looked = tokio::time::timeout(PATIENCE, looks.changed()).await;
            assert!(looked.is_ok(), "after {after} this is shown: {shown:?}");
        }
    }

    #[tokio::test]
    async fn whatever_changes_is_shown_as_if_everything_were_computed_anew() {
        let cluster = TestCluster::start(2).await;
        let backend: Shared = cluster.hosts[0].backend.clone();
        let (board, _looks) = Arc::new(Hub::default()).board(&backend);
        agrees(&board, &backend, "its first look").await;
        let web = guest("web1");
        let job = cluster.client().create_guest(&api::CreateGuest::new(web.clone())).await.unwrap();
        agrees(&board, &backend, "a guest is asked for").await;
        let waits = crate::events::Events::new(backend.state().clone(), host_name(0));
        waits.warning(EventKind::GuestWaiting, "guest/web1", "there is no room");
        backend.state().until(|cache| !cache.view().events.is_empty()).await;
        agrees(&board, &backend, "it waits").await;
        cluster.settle(&web, 0, GuestState::Running).await;
        agrees(&board, &backend, "it runs").await;
        let volume = backend.state().view().guests[&web].disks[0].volume;
        let boots: Vec<BootId> =
            backend.state().view().sessions.values().map(|session| session.boot_id).collect();
        let replica = |index: usize| Replica { host: host_name(index), boot_id: boots[index] };
        let members = [replica(0), replica(1)].into();
        cluster
            .write(|txn| {
                txn.create(&InSync::first(volume, Epoch::FIRST, members, jiff::Timestamp::now()));
            })
            .await;
        agrees(&board, &backend, "its volume has an in-sync set").await;
        cluster.delete(&keys::session(&host_name(1))).await;
        agrees(&board, &backend, "the host of a replica is lost").await;
        cluster.delete(&keys::session(&host_name(0))).await;
        agrees(&board, &backend, "its host is lost").await;
        let id = *backend.state().view().events.keys().next().unwrap();
        cluster.delete(&keys::event(id)).await;
        agrees(&board, &backend, "the event that was its message is cleared away").await;
        let session = Session {
            host: host_name(0),
            boot_id: BootId(Uuid::new_v4()),
            started_at: jiff::Timestamp::now(),
        };
        let report = JobReport { state: JobState::Done, ..JobReport::new(job.id, ["one"]) };
        cluster
            .write(|txn| {
                txn.create(&session).create(&report);
            })
            .await;
        agrees(&board, &backend, "its host is back and the job is done").await;
        cluster.delete(&keys::guest(&web)).await;
        agrees(&board, &backend, "it is gone").await;
    }

    #[tokio::test]
    async fn all_pages_are_told_the_same_text_and_a_new_one_finds_the_board() {
        let cluster = TestCluster::start(1).await;
        let backend: Shared = cluster.hosts[0].backend.clone();
        let hub = Arc::new(Hub::default());
        let (board, _looks) = hub.board(&backend);
        agrees(&board, &backend, "its first look").await;
        assert!(Arc::ptr_eq(&board, &hub.board(&backend).0));
        board.write(|items| items.set("guests", "made-up", Json::of(&1)));
        let (first, now) = board.since(0).unwrap();
        let (second, _) = board.since(0).unwrap();
        assert!(Arc::ptr_eq(&first, &second) && first.contains("made-up"));
        assert_eq!(&*board.since(now).unwrap().0, "{\"items\":{}}");
    }
}
