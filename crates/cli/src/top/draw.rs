//! What [`Top`] looks like.

use api::{GuestView, HostView, JobView};
use model::{Bytes, GuestPhase, HostPhase, Usage};
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table, Widget};

use super::Top;
use crate::output::Tone;

/// What is shown of lists that are not the guests', at most; the rest is counted.
const HOSTS_MAX: u16 = 12;
const LINES_MAX: u16 = 5;

const BAR_WIDTH: usize = 10;

/// Narrower screens have no bars, and less between the columns.
const WIDE: u16 = 108;

const KEYS: &str = "c m d n a: sort by CPU, memory, disk, network, name   r: reverse   /: filter   q: quit";

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    pub coloured: bool,
}

impl Paint {
    fn tone(self, tone: Tone) -> Style {
        let colour = match tone {
            Tone::Plain => None,
            Tone::Good => Some(Color::Green),
            Tone::Busy => Some(Color::Yellow),
            Tone::Bad => Some(Color::Red),
        };
        colour.filter(|_| self.coloured).map_or_else(Style::default, |colour| Style::default().fg(colour))
    }

    fn bold(self) -> Style {
        if self.coloured { Style::default().add_modifier(Modifier::BOLD) } else { Style::default() }
    }

    fn faint(self) -> Style {
        if self.coloured { Style::default().add_modifier(Modifier::DIM) } else { Style::default() }
    }
}

/// How many lines it takes to show all of it.
pub fn height(top: &Top) -> u16 {
    let lists = [top.hosts.len(), top.guests.len(), top.problems().len(), top.running_jobs().len()];
    let lines: usize = lists.iter().map(|count| count + 3).sum::<usize>() + 2;
    u16::try_from(lines).unwrap_or(u16::MAX)
}

/// Draws all of it. `whole`: lists are as long as they are, not as long as a screen allows.
pub fn draw(top: &Top, paint: Paint, whole: bool, area: Rect, buffer: &mut Buffer) {
    let hosts = rows(top.hosts.len(), if whole { u16::MAX } else { HOSTS_MAX.min(area.height / 3) }) + 1;
    let lines = |count: usize| match count {
        0 => 0,
        count => rows(count, if whole { u16::MAX } else { LINES_MAX }) + 2,
    };
    let (problems, jobs) = (lines(top.problems().len()), lines(top.running_jobs().len()));
    let keys = u16::from(!whole);
    let guests =
        if whole { Constraint::Length(rows(top.shown().len(), u16::MAX) + 1) } else { Constraint::Min(3) };
    let [head, _, host_area, _, guest_area, problem_area, job_area, key_area] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(hosts),
        Constraint::Length(1),
        guests,
        Constraint::Length(problems),
        Constraint::Length(jobs),
        Constraint::Length(keys),
    ])
    .areas(area);
    title(top, paint).render(head, buffer);
    draw_hosts(top, paint, host_area, buffer);
    draw_guests(top, paint, guest_area, buffer);
    let problem = |text: &String| Line::styled(format!("  {text}"), paint.tone(Tone::Bad));
    list("PROBLEMS", top.problems().iter().map(problem).collect(), paint, problem_area, buffer);
    let job = |job: &&JobView| job_line(job);
    list("JOBS", top.running_jobs().iter().map(job).collect(), paint, job_area, buffer);
    if !whole {
        foot(top, paint).render(key_area, buffer);
    }
}

fn rows(count: usize, max: u16) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX).min(max)
}

/// The cluster in one sentence.
fn title(top: &Top, paint: Paint) -> Line<'static> {
    let Some(status) = &top.status else {
        let text = top.broken.clone().unwrap_or_else(|| "asking the cluster".to_owned());
        return Line::raw(format!("kennel: {text}"));
    };
    let running = status.guests.get(&GuestPhase::Running).copied().unwrap_or_default();
    let all: u32 = status.guests.values().sum();
    let about = format!(
        "{}: {} of {} hosts online, {running} of {all} guests running, ",
        status.name, status.hosts_online, status.hosts_total
    );
    let (health, tone) = match (&top.broken, status.problems.len()) {
        (Some(why), _) => (format!("this is old: {why}"), Tone::Bad),
        (None, 0) => ("all is well".to_owned(), Tone::Good),
        (None, 1) => ("1 problem".to_owned(), Tone::Bad),
        (None, count) => (format!("{count} problems"), Tone::Bad),
    };
    Line::from(vec![Span::styled(about, paint.bold()), Span::styled(health, paint.tone(tone))])
}

/// The last line: what is typed, or what could be.
fn foot(top: &Top, paint: Paint) -> Line<'static> {
    if top.typing {
        return Line::raw(format!("filter: {}_   (enter keeps it, escape drops it)", top.filter));
    }
    Line::styled(KEYS, paint.faint())
}

fn draw_hosts(top: &Top, paint: Paint, area: Rect, buffer: &mut Buffer) {
    let head = Row::new(["HOST", "PHASE", "CPU", "MEMORY", "DISK", "NETWORK", "GUESTS"]).style(paint.bold());
    let room = usize::from(area.height.saturating_sub(1));
    let is_wide = area.width >= WIDE;
    let shown = top.hosts.values().take(room).map(|host| host_row(top, host, is_wide, paint));
    let widths = if is_wide { [16, 11, 21, 24, 9, 9, 6] } else { [12, 11, 8, 12, 9, 9, 6] };
    let widths = widths.map(Constraint::Length);
    let table = Table::new(shown, widths).header(head).column_spacing(spacing(is_wide));
    Widget::render(table, area, buffer);
}

fn spacing(is_wide: bool) -> u16 {
    if is_wide { 2 } else { 1 }
}

fn host_row(top: &Top, host: &HostView, is_wide: bool, paint: Paint) -> Row<'static> {
    let share = |share: f64| if is_wide { bar(share) + " " } else { String::new() };
    let usage = top.usages.get(&host.name).map(|measured| measured.total);
    let report = host.report.as_ref();
    let cpu = match (usage, report) {
        (Some(usage), Some(report)) => {
            let bar = share(usage.cpu / f64::from(report.cpus));
            format!("{bar}{:.1}/{}", usage.cpu, report.cpus)
        }
        (Some(_) | None, Some(_) | None) => "-".to_owned(),
    };
    let memory = match (usage, report) {
        (Some(usage), Some(report)) => {
            let bar = share(usage.memory / report.memory.0 as f64);
            format!("{bar}{}/{}", size(usage.memory), report.memory)
        }
        (Some(_) | None, Some(_) | None) => "-".to_owned(),
    };
    let phase = match host.host.duty {
        model::Duty::Normal => host.phase.to_string(),
        duty @ (model::Duty::Draining | model::Duty::Maintenance) => duty.to_string(),
    };
    let tone = match host.phase {
        HostPhase::Online => Tone::Good,
        HostPhase::Joining => Tone::Busy,
        HostPhase::Lost => Tone::Bad,
    };
    Row::new([
        Cell::from(host.name.to_string()),
        Cell::from(phase).style(paint.tone(tone)),
        Cell::from(cpu),
        Cell::from(memory),
        Cell::from(usage.map_or_else(nothing, |usage| rate(usage.disk))),
        Cell::from(usage.map_or_else(nothing, |usage| rate(usage.network))),
        Cell::from(host.guests.to_string()),
    ])
}

fn draw_guests(top: &Top, paint: Paint, area: Rect, buffer: &mut Buffer) {
    let shown = top.shown();
    let by =
        if top.reversed { format!("{}, reversed", top.sort.as_str()) } else { top.sort.as_str().to_owned() };
    let mut name = format!("GUEST (by {by})");
    if !top.filter.is_empty() {
        name = format!("GUEST with '{}' (by {by})", top.filter);
    }
    let head =
        Row::new([name.as_str(), "PHASE", "HOST", "CPU", "MEMORY", "DISK", "NETWORK"]).style(paint.bold());
    let is_wide = area.width >= WIDE;
    let others = if is_wide { [10, 20, 9, 13, 9, 9] } else { [10, 10, 8, 12, 9, 9] };
    // The names get what is left.
    let widths = std::iter::once(Constraint::Fill(1)).chain(others.map(Constraint::Length));
    let rows = shown
        .iter()
        .skip(top.offset)
        .take(usize::from(area.height))
        .map(|(guest, usage)| guest_row(guest, *usage, paint));
    Widget::render(Table::new(rows, widths).header(head).column_spacing(spacing(is_wide)), area, buffer);
}

fn guest_row(guest: &GuestView, usage: Option<Usage>, paint: Paint) -> Row<'static> {
    let told = |text: fn(&Usage) -> String| usage.as_ref().map_or_else(nothing, text);
    let (vcpus, memory) = (guest.spec.vcpus, guest.spec.memory);
    let tone = match guest.phase {
        GuestPhase::Running => Tone::Good,
        GuestPhase::Stopped => Tone::Plain,
        GuestPhase::Failed | GuestPhase::Unknown | GuestPhase::Paused => Tone::Bad,
        GuestPhase::Waiting
        | GuestPhase::Preparing
        | GuestPhase::Starting
        | GuestPhase::Stopping
        | GuestPhase::Deleting => Tone::Busy,
    };
    Row::new([
        Cell::from(guest.name.to_string()),
        Cell::from(guest.phase.to_string()).style(paint.tone(tone)),
        Cell::from(guest.host.as_ref().map_or_else(nothing, ToString::to_string)),
        Cell::from(usage.map_or_else(nothing, |usage| format!("{:.2}/{vcpus}", usage.cpu))),
        Cell::from(usage.map_or_else(nothing, |usage| format!("{}/{memory}", size(usage.memory)))),
        Cell::from(told(|usage| rate(usage.disk))),
        Cell::from(told(|usage| rate(usage.network))),
    ])
}

fn job_line(job: &JobView) -> Line<'static> {
    let message = job.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
    Line::raw(format!("  {} {} {}{message}", bar(job.progress), job.what, job.state))
}

/// A head and its lines, after an empty line; the last line says how many there is no room for.
fn list(head: &str, mut lines: Vec<Line<'static>>, paint: Paint, area: Rect, buffer: &mut Buffer) {
    if area.height < 3 || lines.is_empty() {
        return;
    }
    let room = usize::from(area.height - 2);
    if lines.len() > room {
        let more = lines.len() - room + 1;
        lines.truncate(room - 1);
        lines.push(Line::raw(format!("  and {more} more")));
    }
    let head = Line::styled(head.to_owned(), paint.bold());
    for (row, line) in (area.y + 1..).zip(std::iter::once(head).chain(lines)) {
        line.render(Rect { y: row, height: 1, ..area }, buffer);
    }
}

/// As in `[|||||     ]`.
fn bar(share: f64) -> String {
    let full = (share.clamp(0.0, 1.0) * BAR_WIDTH as f64).round() as usize;
    format!("[{}{}]", "|".repeat(full), " ".repeat(BAR_WIDTH - full))
}

fn nothing() -> String {
    "-".to_owned()
}

fn size(bytes: f64) -> String {
    Bytes(bytes.max(0.0) as u64).to_string()
}

fn rate(bytes_a_second: f64) -> String {
    format!("{}/s", size(bytes_a_second))
}
