//! `kennel rule`: who is kept apart, together, on or off some hosts, spread over zones.

use std::collections::BTreeSet;
use std::str::FromStr;

use api::{CreateRule, ReplaceRule, RuleState, RuleView};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use model::{GuestName, GuestSelector, HostName, HostSelector, RuleKind, RuleName, RuleScope, RuleStrength};

use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{self, Listed};
use crate::output::{Block, Cell, Tone, note};
use crate::{terminal, times};

/// What marks a tag among names. A name holds no colon.
const TAG: &str = "tag:";

/// How many guests a person reads at a glance.
const GUESTS_SHOWN: usize = 6;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// All rules, and whether each is kept
    #[command(after_help = "Examples:
  kennel rule list
  kennel rule list --watch")]
    List {
        /// Go on, and show every change
        #[arg(long)]
        watch: bool,
    },
    /// One rule, the guests that it binds, and what breaks it
    #[command(after_help = "Example:
  kennel rule show web-apart")]
    Show { rule: RuleName },
    /// Make a rule; what contradicts another one is named, and the rest of it is in force
    #[command(after_help = "Examples:
  kennel rule create web-apart --kind apart --guests tag:web
  kennel rule create shop --kind together --guests shop-web,shop-db --should
  kennel rule create fast --kind on --guests db1,db2 --hosts tag:ssd
  kennel rule create licence --kind off --guests tag:oracle --hosts host1,host2 --priority 10
  kennel rule create dns --kind spread-zones --guests tag:dns
  kennel rule create heavy --kind at-most --count 2 --per host --guests tag:heavy
  kennel rule create heavy --kind at-most --count 3 --per host --guests tag:heavy --replace

A name with tag: before it stands for everything that carries the tag, now or later.")]
    Create(CreateArguments),
    /// Remove a rule; guests stay where they are
    #[command(after_help = "Example:
  kennel rule delete web-apart --yes")]
    Delete {
        rule: RuleName,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// No two on one host
    Apart,
    /// All on one host
    Together,
    /// On these hosts only
    On,
    /// On none of these hosts
    Off,
    /// As evenly over the zones as their number allows
    SpreadZones,
    /// No more than so many on one host, or in one zone
    AtMost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Per {
    #[default]
    Host,
    Zone,
}

#[derive(Debug, Args)]
pub struct CreateArguments {
    name: RuleName,
    /// What it asks of its guests
    #[arg(long, value_enum)]
    kind: Kind,
    /// Guests and tags of guests, with commas
    #[arg(long, value_name = "GUEST|tag:TAG", value_delimiter = ',', required = true)]
    guests: Vec<Selected<GuestName>>,
    /// Hosts and tags of hosts, with commas; for the kinds on and off
    #[arg(long, value_name = "HOST|tag:TAG", value_delimiter = ',', required_if_eq_any([("kind", "on"), ("kind", "off")]))]
    hosts: Vec<Selected<HostName>>,
    /// How many at most; for the kind at-most
    #[arg(long, value_name = "N", required_if_eq("kind", "at-most"))]
    count: Option<u32>,
    /// On one host, or in one zone; for the kind at-most [default: host]
    #[arg(long, value_enum)]
    per: Option<Per>,
    /// Keep it where that costs less than it is worth [default: a plan never breaks it]
    #[arg(long)]
    should: bool,
    /// Of rules that contradict each other the higher one is in force; of equals the older one
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// Say this instead of what the rule of that name says now
    #[arg(long)]
    replace: bool,
}

/// A name, or a tag that many carry.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Selected<N> {
    Name(N),
    Tag(String),
}

impl<N: FromStr> FromStr for Selected<N> {
    type Err = N::Err;
    fn from_str(text: &str) -> Result<Self, N::Err> {
        match text.strip_prefix(TAG) {
            Some(tag) => Ok(Selected::Tag(tag.to_owned())),
            None => text.parse().map(Selected::Name),
        }
    }
}

fn parted<N: Ord>(selected: Vec<Selected<N>>) -> (BTreeSet<N>, BTreeSet<String>) {
    let (mut names, mut tags) = (BTreeSet::new(), BTreeSet::new());
    for one in selected {
        match one {
            Selected::Name(name) => {
                names.insert(name);
            }
            Selected::Tag(tag) => {
                tags.insert(tag);
            }
        }
    }
    (names, tags)
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { watch: true } => {
            listing::watch::<RuleView>(context, context.client()?.watch_rules()).await
        }
        Command::List { watch: false } => listing::print(context, &context.client()?.rules().await?),
        Command::Show { rule } => {
            let view = context.client()?.rule(&rule).await?;
            context.output.result(&view, |coloured| show(&view, Timestamp::now()).render(coloured))
        }
        Command::Create(arguments) => create(context, arguments).await,
        Command::Delete { rule, yes } => {
            let client = context.client()?;
            let consequence = format!("What the rule {rule} keeps as it is may be changed by the next plan.");
            terminal::confirm(&format!("delete the rule '{rule}'"), &[consequence], yes)?;
            client.delete_rule(&rule).await?;
            context
                .output
                .result(&serde_json::json!({ "deleted": rule }), |_| format!("The rule {rule} is gone.\n"))
        }
    }
}

async fn create(context: &Context, arguments: CreateArguments) -> Result<(), Failure> {
    let replace = arguments.replace;
    let request = request(arguments)?;
    let client = context.client()?;
    let view = if replace {
        let CreateRule { name, kind, guests, strength, priority } = request;
        client.replace_rule(&name, &ReplaceRule { kind, guests, strength, priority }).await?
    } else {
        client.create_rule(&request).await?
    };
    context.output.result(&view, |_| {
        let binds = match view.guests.len() {
            1 => "1 guest".to_owned(),
            count => format!("{count} guests"),
        };
        format!("The rule {} is {}; it selects {binds}.\n", view.name, view.state.text())
    })?;
    view.notes.iter().for_each(|line| note(&format!("kennel: {line}")));
    Ok(())
}

/// What the arguments ask for.
fn request(arguments: CreateArguments) -> Result<CreateRule, Failure> {
    let asked = format!("create the rule '{}'", arguments.name);
    let (names, tags) = parted(arguments.hosts);
    let hosts = HostSelector { names, tags };
    let misplaced = match arguments.kind {
        Kind::On | Kind::Off => None,
        Kind::Apart | Kind::Together | Kind::SpreadZones | Kind::AtMost => {
            (hosts != HostSelector::default()).then_some("--hosts is for the kinds on and off")
        }
    };
    let at_most = arguments.count.is_some() || arguments.per.is_some();
    let misplaced = misplaced.or_else(|| {
        (at_most && arguments.kind != Kind::AtMost).then_some("--count and --per are for the kind at-most")
    });
    if let Some(why) = misplaced {
        return Err(Failure::usage(asked, why, "leave it out, or choose another --kind"));
    }
    let per = match arguments.per.unwrap_or_default() {
        Per::Host => RuleScope::Host,
        Per::Zone => RuleScope::Zone,
    };
    let kind = match arguments.kind {
        Kind::Apart => RuleKind::Apart,
        Kind::Together => RuleKind::Together,
        Kind::On => RuleKind::On(hosts),
        Kind::Off => RuleKind::Off(hosts),
        Kind::SpreadZones => RuleKind::SpreadZones,
        Kind::AtMost => RuleKind::AtMost { count: arguments.count.unwrap_or_default(), per },
    };
    let (names, tags) = parted(arguments.guests);
    let strength = if arguments.should { RuleStrength::Should } else { RuleStrength::Must };
    let guests = GuestSelector { names, tags };
    Ok(CreateRule { name: arguments.name, kind, guests, strength, priority: arguments.priority })
}

/// The state, and in the same breath why.
fn state(view: &RuleView) -> Cell {
    let tone = match view.state {
        RuleState::InForce => Tone::Good,
        RuleState::Broken => Tone::Bad,
        RuleState::OutOfForce => Tone::Busy,
        RuleState::Idle => Tone::Plain,
    };
    let text = match (view.notes.first(), view.notes.len()) {
        (None, _) => view.state.text().to_owned(),
        (Some(note), 1) => format!("{}: {note}", view.state.text()),
        (Some(note), count) => format!("{}: {note}, and {} more", view.state.text(), count - 1),
    };
    Cell::new(text, tone)
}

impl Listed for RuleView {
    const HEAD: &'static [&'static str] = &["NAME", "STRENGTH", "KIND", "GUESTS", "PRIORITY", "STATE"];
    const NOTHING: &'static str = "There is no rule.";

    fn row(&self, _now: Timestamp) -> Vec<Cell> {
        vec![
            Cell::from(&self.name),
            Cell::from(self.rule.strength),
            Cell::from(&self.rule.kind),
            Cell::from(&self.rule.guests),
            Cell::from(self.rule.priority),
            state(self),
        ]
    }
}

fn show(view: &RuleView, now: Timestamp) -> Block {
    let shown = view.guests.iter().take(GUESTS_SHOWN).map(ToString::to_string);
    let mut guests: Vec<String> = shown.collect();
    if view.guests.len() > GUESTS_SHOWN {
        guests.push(format!("and {} more", view.guests.len() - GUESTS_SHOWN));
    }
    let guests = if guests.is_empty() { "none".to_owned() } else { guests.join(", ") };
    let tone = match view.state {
        RuleState::InForce => Tone::Good,
        RuleState::Broken => Tone::Bad,
        RuleState::OutOfForce => Tone::Busy,
        RuleState::Idle => Tone::Plain,
    };
    Block::new()
        .line("Name", &view.name)
        .line("State", Cell::new(view.state.text(), tone))
        .each("Notes", &view.notes)
        .line("Kind", &view.rule.kind)
        .line("Strength", view.rule.strength)
        .line("Priority", view.rule.priority)
        .line("Names", &view.rule.guests)
        .line("Selects now", guests)
        .line("Made", times::at_and_ago(view.rule.created_at, now))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use model::Rule;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    fn parse(line: &str) -> Result<CreateRule, String> {
        let words = ["rule", "create"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        let Command::Create(arguments) = line.command else { panic!("{line:?}") };
        request(arguments).map_err(|failure| failure.sentence().unwrap_or_default())
    }

    fn check(line: &str, expected: &str) {
        let text = match parse(line) {
            Ok(rule) => format!("{} {} [{}] {}", rule.strength, rule.kind, rule.guests, rule.priority),
            Err(error) => error,
        };
        assert!(text.contains(expected), "{line}: {text}");
    }

    #[test]
    fn a_rule_is_said_in_one_line() {
        check("a --kind apart --guests web1,tag:web", "must apart [web1, tag:web] 0");
        check("a --kind together --guests a,b --should --priority -3", "should together [a, b] -3");
        check("a --kind on --guests a --hosts tag:ssd,host1", "must on host1, tag:ssd [a] 0");
        check("a --kind off --guests a --hosts host1", "must off host1 [a] 0");
        check("a --kind spread-zones --guests tag:dns", "must spread over zones [tag:dns] 0");
        check("a --kind at-most --count 2 --guests tag:x", "must at most 2 on a host [tag:x] 0");
        check("a --kind at-most --count 2 --per zone --guests tag:x", "must at most 2 in a zone");
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        check("a --kind apart --guests a,b --hosts host1", "--hosts is for the kinds on and off");
        check("a --kind apart --guests a,b --count 2", "--count and --per are for the kind at-most");
        check("a --kind on --guests a", "--hosts");
        check("a --kind at-most --guests a", "--count");
        check("a --kind apart", "--guests");
        check("a --kind apart --guests Web_1", "'Web_1' is not a valid guest name");
    }

    #[test]
    fn a_list_says_what_binds_and_what_does_not() {
        let rule = |name: &str, state, notes: &[&str]| RuleView {
            name: name.parse().unwrap(),
            state,
            notes: notes.iter().map(ToString::to_string).collect(),
            guests: Vec::new(),
            rule: Rule {
                name: name.parse().unwrap(),
                kind: RuleKind::Apart,
                guests: GuestSelector { names: BTreeSet::new(), tags: ["web".to_owned()].into() },
                strength: RuleStrength::Must,
                priority: 0,
                created_at: Timestamp::UNIX_EPOCH,
            },
        };
        let rules = [
            rule("a", RuleState::InForce, &[]),
            rule("b", RuleState::Broken, &["web1 and web2 are on host1", "web3 too"]),
            rule("c", RuleState::OutOfForce, &["contradicts d about web1"]),
        ];
        assert_eq!(
            listing::render(&rules, Timestamp::UNIX_EPOCH, false),
            "NAME  STRENGTH  KIND   GUESTS   PRIORITY  STATE\n\
             a     must      apart  tag:web  0         in force\n\
             b     must      apart  tag:web  0         broken: web1 and web2 are on host1, and 1 more\n\
             c     must      apart  tag:web  0         out of force: contradicts d about web1\n"
        );
    }
}
