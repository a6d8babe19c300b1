//! `kennel plan balance`: a better place for every guest, and the moves that lead there.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use model::Bytes;
use plan::htools::{METRICS, Metrics};
use plan::layout::Layout;
use plan::objective::ganeti::{self, Options};
use plan::objective::kennel::Kennel;
use plan::search::{self, Balance, MoveStep, ScoredMove};
use plan::snapshot::{HostIx, Place, Snapshot};
use serde::Serialize;

use super::plan_file::{FileArguments, Ganeti, Loaded};
use super::plan_proposal;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Cell, Table};
use crate::row;

pub const EXAMPLES: &str = "Examples:
  kennel cluster dump > home.json; kennel plan balance --from home.json
  hscan -d . cluster.example.com; kennel plan balance --from cluster.example.com.data
  kennel plan balance --from old.data --objective ganeti --metrics        as hbal scores it
  kennel plan balance --from old.data --objective ganeti --group rack1 --ignore-dynu
  kennel plan balance --from old.data --offline host3 --objective ganeti --evac-mode
  kennel plan balance --from old.data --objective ganeti --save new.data  then: hinfo -t new.data
  kennel plan balance --from old.data --objective ganeti -o json | jq .placement";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Goal {
    /// What hurts the guests' users first; as few moves as that takes
    Kennel,
    /// Ganeti's score, as hbal and hinfo compute it; as low as can be found
    Ganeti,
}

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    file: FileArguments,
    /// What counts as better
    #[arg(long, value_name = "OBJECTIVE", default_value = "kennel")]
    objective: Goal,
    /// Make no more moves than this
    #[arg(long, value_name = "COUNT")]
    max_steps: Option<usize>,
    /// Write the cluster as it is after the moves, in the format of the file [Ganeti's format only]
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    #[command(flatten)]
    ganeti: GanetiArguments,
}

/// What only makes sense with Ganeti's score: hbal's options by their names.
#[derive(Debug, Args)]
#[command(next_help_heading = "With --objective ganeti")]
struct GanetiArguments {
    /// Show the twenty metrics that make the score, before and after
    #[arg(long)]
    metrics: bool,
    /// Take every guest for idle: spread memory, disk and processors, not the number of guests
    #[arg(long)]
    ignore_dynu: bool,
    /// Balance this group of hosts only, by name or UUID [default: each group by itself]
    #[arg(long, short = 'G', value_name = "GROUP")]
    group: Option<String>,
    /// Allow moves that break a limit which hbal calls soft: processors, spindles, exclusion tags, room for a loss
    #[arg(long)]
    ignore_soft_errors: bool,
    /// Move only what is on hosts that are offline
    #[arg(long)]
    evac_mode: bool,
    /// Migrate guests only to hosts that have their disks already: from online hosts a swap is all there is
    #[arg(long)]
    restricted_migration: bool,
    /// Copy no disk: mirrored guests only swap their roles
    #[arg(long)]
    no_disk_moves: bool,
    /// Leave every guest running where it is: only secondaries move
    #[arg(long)]
    no_instance_moves: bool,
}

const ASKED: &str = "plan a balance";

pub fn run(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    arguments.refuse_strays()?;
    let ignore_load = arguments.ganeti.ignore_dynu;
    let loaded = arguments.file.load_changed(ASKED, |cluster| {
        if ignore_load {
            cluster.ignore_loads();
        }
    })?;
    let settings = search::Settings { moves_max: arguments.max_steps, ..search::Settings::default() };
    if let (Goal::Kennel, Some(inventory)) = (arguments.objective, &loaded.inventory) {
        arguments.refuse_save()?;
        return plan_proposal::run(context, inventory, arguments.max_steps);
    }
    match (arguments.objective, &loaded.ganeti) {
        (Goal::Kennel, _) => {
            let balance = search::balance(&loaded.snapshot, &Kennel, &settings);
            arguments.save(&loaded, &balance)?;
            let report = KennelReport::new(&loaded.snapshot, &balance);
            context.output.result(&report, |coloured| {
                moves_table(&report.moves, "SCORE", (balance.score_before, balance.score_after), coloured)
                    + &wrong(&report.wrong)
            })
        }
        (Goal::Ganeti, Some(ganeti)) => by_ganeti(context, arguments, &loaded, ganeti, &settings),
        (Goal::Ganeti, None) => Err(Failure::refused(
            ASKED,
            format!(
                "{} is a dump of Kennel's, and Ganeti's score needs facts that it does not have",
                arguments.file.from.display()
            ),
            "leave out --objective ganeti",
        )),
    }
}

fn by_ganeti(
    context: &Context,
    arguments: &Arguments,
    loaded: &Loaded,
    ganeti: &Ganeti,
    settings: &search::Settings,
) -> Result<(), Failure> {
    let options = arguments.options(ganeti)?;
    let group = options.group;
    let objective = ganeti::Ganeti { facts: &ganeti.facts, options };
    let mut balance = search::balance(&loaded.snapshot, &objective, settings);
    // With several groups each is balanced by itself, and a move is judged by its group's score.
    let several = group.is_none() && ganeti.cluster.groups.len() > 1;
    shorten(&loaded.snapshot, &mut balance, arguments.max_steps, several);
    arguments.save(loaded, &balance)?;
    let seats = ganeti.order.seats(&ganeti.cluster, &balance.places);
    let before = ganeti.cluster.metrics(&ganeti.cluster.seats(), group);
    let after = ganeti.cluster.metrics(&seats, group);
    let report = GanetiReport {
        score: after.score(),
        moves: moves(&loaded.snapshot, &balance.moves),
        placement: placement(&loaded.snapshot, &balance.places),
        metrics: arguments.ganeti.metrics.then(|| metrics(&before, &after)),
    };
    context.output.result(&report, |coloured| {
        let head = if several { "GROUP'S SCORE" } else { "SCORE" };
        let mut text = moves_table(&report.moves, head, (before.score(), after.score()), coloured);
        if arguments.ganeti.metrics {
            text.push('\n');
            text.push_str(&metrics_table(&before, &after, coloured));
        }
        let mut still = ganeti.cluster.spindle_violations(&seats);
        if !still.is_empty() && !arguments.ganeti.ignore_soft_errors {
            text.push_str(
                "\nNothing moves to a host that is beyond its policy; --ignore-soft-errors allows it.\n",
            );
        }
        still.extend(wrong_after(&loaded.snapshot, &balance.places));
        text + &wrong(&still)
    })
}

/// Cuts a plan where it has no more moves than `most`; within that, where the score is best, for a plan may pass
/// through something worse. The scores of several groups cannot be compared, so there it is cut at `most`.
fn shorten(snapshot: &Snapshot, balance: &mut Balance, most: Option<usize>, several: bool) {
    let Some(most) = most.filter(|most| *most < balance.moves.len()) else { return };
    let score_at = |count: usize| match count.checked_sub(1) {
        Some(last) => balance.moves[last].score_after,
        None => balance.score_before,
    };
    let best = (0..=most).min_by(|a, b| score_at(*a).total_cmp(&score_at(*b))).unwrap_or(most);
    balance.moves.truncate(if several { most } else { best });
    balance.places = snapshot.guests.iter().map(|guest| guest.place).collect();
    for scored in &balance.moves {
        balance.places[scored.step.guest.at()] = Some(scored.step.to);
    }
    balance.score_after = balance.moves.last().map_or(balance.score_before, |last| last.score_after);
}

impl Arguments {
    /// Options that would do nothing are refused rather than passed over.
    fn refuse_strays(&self) -> Result<(), Failure> {
        let ganeti = &self.ganeti;
        let given = [
            ("--metrics", ganeti.metrics),
            ("--ignore-dynu", ganeti.ignore_dynu),
            ("--group", ganeti.group.is_some()),
            ("--ignore-soft-errors", ganeti.ignore_soft_errors),
            ("--evac-mode", ganeti.evac_mode),
            ("--restricted-migration", ganeti.restricted_migration),
            ("--no-disk-moves", ganeti.no_disk_moves),
            ("--no-instance-moves", ganeti.no_instance_moves),
        ];
        match (self.objective, given.iter().find(|(_, given)| *given)) {
            (Goal::Kennel, Some((option, _))) => Err(Failure::usage(
                ASKED,
                format!("{option} says something about Ganeti's score, and Kennel's own is asked for"),
                "add --objective ganeti, or leave it out",
            )),
            (Goal::Kennel, None) | (Goal::Ganeti, _) => Ok(()),
        }
    }

    fn options(&self, ganeti: &Ganeti) -> Result<Options, Failure> {
        let group = match &self.ganeti.group {
            None => None,
            Some(name) => Some(ganeti.cluster.find_group(name).ok_or_else(|| {
                let names: Vec<&str> = ganeti.cluster.groups.iter().map(|g| g.name.as_str()).collect();
                Failure::refused(
                    ASKED,
                    format!("there is no group '{name}' in {}", self.file.from.display()),
                    format!("name one of {}", names.join(", ")),
                )
            })?),
        };
        Ok(Options {
            group,
            ignore_soft_errors: self.ganeti.ignore_soft_errors,
            evacuate: self.ganeti.evac_mode,
            restricted_migration: self.ganeti.restricted_migration,
            disk_moves: !self.ganeti.no_disk_moves,
            guest_moves: !self.ganeti.no_instance_moves,
            ignore_load: self.ganeti.ignore_dynu,
            ..Options::default()
        })
    }

    fn refuse_save(&self) -> Result<(), Failure> {
        let Some(path) = &self.save else { return Ok(()) };
        let asked = format!("save the cluster to {}", path.display());
        let why = "only files of Ganeti's format can be written back";
        Err(Failure::refused(asked, why, "leave out --save, and use -o json"))
    }

    fn save(&self, loaded: &Loaded, balance: &Balance) -> Result<(), Failure> {
        let Some(path) = &self.save else { return Ok(()) };
        let asked = format!("save the cluster to {}", path.display());
        let Some(ganeti) = &loaded.ganeti else { return self.refuse_save() };
        let seats = ganeti.order.seats(&ganeti.cluster, &balance.places);
        std::fs::write(path, ganeti.cluster.write(&seats))
            .map_err(|error| Failure::refused(asked, error, "name a file that you may write"))
    }
}

/// What programs get with Ganeti's objective; the referee reads `placement`.
#[derive(Debug, Serialize)]
struct GanetiReport {
    score: f64,
    moves: Vec<MoveReport>,
    placement: BTreeMap<String, PlaceReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<Vec<MetricReport>>,
}

#[derive(Debug, Serialize)]
struct KennelReport {
    score_before: f64,
    score: f64,
    moves: Vec<MoveReport>,
    placement: BTreeMap<String, PlaceReport>,
    /// What no move mends.
    wrong: Vec<String>,
}

impl KennelReport {
    fn new(snapshot: &Snapshot, balance: &Balance) -> Self {
        Self {
            score_before: balance.score_before,
            score: balance.score_after,
            moves: moves(snapshot, &balance.moves),
            placement: placement(snapshot, &balance.places),
            wrong: wrong_after(snapshot, &balance.places),
        }
    }
}

#[derive(Debug, Serialize)]
struct PlaceReport {
    primary: String,
    secondary: Option<String>,
}

impl PlaceReport {
    fn new(snapshot: &Snapshot, place: Place) -> Self {
        let name = |host: HostIx| snapshot.host(host).name.clone();
        Self { primary: name(place.host), secondary: place.secondary.map(name) }
    }
}

#[derive(Debug, Serialize)]
struct MoveReport {
    guest: String,
    from: PlaceReport,
    to: PlaceReport,
    /// In order, as people read them.
    steps: Vec<String>,
    /// The same in hbal's letters.
    hbal: String,
    /// After the move.
    score: f64,
    gain: f64,
    /// Bytes of memory to send.
    memory: u64,
    /// Bytes of disk to copy.
    disk: u64,
}

#[derive(Debug, Serialize)]
struct MetricReport {
    name: &'static str,
    weight: f64,
    before: f64,
    after: f64,
}

fn moves(snapshot: &Snapshot, moves: &[ScoredMove]) -> Vec<MoveReport> {
    let report = |scored: &ScoredMove| MoveReport {
        guest: snapshot.guest(scored.step.guest).name.clone(),
        from: PlaceReport::new(snapshot, scored.step.from),
        to: PlaceReport::new(snapshot, scored.step.to),
        steps: steps(snapshot, scored),
        hbal: scored.step.ganeti_words(snapshot),
        score: scored.score_after,
        gain: scored.gain,
        memory: scored.cost.memory,
        disk: scored.cost.disk,
    };
    moves.iter().map(report).collect()
}

fn steps(snapshot: &Snapshot, scored: &ScoredMove) -> Vec<String> {
    let word = |step| match step {
        MoveStep::SwapRoles => "swap roles".to_owned(),
        MoveStep::ReplaceSecondary { to } => format!("secondary to {}", snapshot.host(to).name),
        MoveStep::Migrate { to } => format!("migrate to {}", snapshot.host(to).name),
    };
    scored.step.steps(snapshot).into_iter().map(word).collect()
}

fn placement(snapshot: &Snapshot, places: &[Option<Place>]) -> BTreeMap<String, PlaceReport> {
    let placed = snapshot.guests.iter().zip(places);
    placed
        .filter_map(|(guest, place)| Some((guest.name.clone(), PlaceReport::new(snapshot, (*place)?))))
        .collect()
}

fn metrics(before: &Metrics, after: &Metrics) -> Vec<MetricReport> {
    let values = before.0.iter().zip(after.0);
    METRICS
        .iter()
        .zip(values)
        .map(|(metric, (before, after))| MetricReport {
            name: metric.name,
            weight: metric.weight,
            before: *before,
            after,
        })
        .collect()
}

/// As hinfo prints them.
fn metrics_table(before: &Metrics, after: &Metrics, coloured: bool) -> String {
    let mut table = Table::new(&["METRIC", "WEIGHT", "BEFORE", "AFTER"]);
    for metric in metrics(before, after) {
        let value = |value: f64| format!("{value:.8}");
        table.add(row!(
            metric.name,
            format!("x{}", metric.weight),
            value(metric.before),
            value(metric.after)
        ));
    }
    table.render(coloured)
}

fn moves_table(moves: &[MoveReport], score: &str, (before, after): (f64, f64), coloured: bool) -> String {
    if moves.is_empty() {
        return format!("Score {before:.8}. No move makes it better by more than it costs.\n");
    }
    let mut table = Table::new(&["STEP", "GUEST", "FROM", "TO", "WHAT IS DONE", score, "MEMORY", "DISK"]);
    let bytes = |bytes: u64| Cell::maybe((bytes > 0).then_some(Bytes(bytes)));
    for (number, report) in (1..).zip(moves) {
        table.add(vec![
            Cell::from(number),
            Cell::from(&report.guest),
            Cell::from(place(&report.from)),
            Cell::from(place(&report.to)),
            Cell::from(report.steps.join(", ")),
            Cell::from(format!("{:.8}", report.score)),
            bytes(report.memory),
            bytes(report.disk),
        ]);
    }
    let total = |of: fn(&MoveReport) -> u64| moves.iter().map(of).map(Bytes).sum::<Bytes>();
    format!(
        "{}\nScore {before:.8} before, {after:.8} after {} move{}: {} of memory to send, {} of disk to copy.\n",
        table.render(coloured),
        moves.len(),
        if moves.len() == 1 { "" } else { "s" },
        total(|report| report.memory),
        total(|report| report.disk),
    )
}

/// `primary:secondary`.
fn place(report: &PlaceReport) -> String {
    match &report.secondary {
        Some(secondary) => format!("{}:{secondary}", report.primary),
        None => report.primary.clone(),
    }
}

fn wrong_after(snapshot: &Snapshot, places: &[Option<Place>]) -> Vec<String> {
    let mut layout = Layout::empty(snapshot);
    for (guest, place) in snapshot.guest_indices().zip(places) {
        layout.put(guest, *place);
    }
    layout.broken().iter().map(ToString::to_string).collect()
}

fn wrong(sentences: &[String]) -> String {
    if sentences.is_empty() {
        return String::new();
    }
    let lines: Vec<String> = sentences.iter().map(|sentence| format!("  {sentence}\n")).collect();
    format!("\nWhat stays wrong:\n{}", lines.concat())
}
