//! `kennel plan reboot`: which hosts may be rebooted together, so that no guest stops.

use api::RebootView;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Block;

pub const EXAMPLES: &str = "Examples:
  kennel plan reboot
  kennel plan reboot -o json | jq -r '.groups[].hosts | join(\" \")'

Put the hosts of a group into maintenance (`kennel host maintenance`), reboot them, resume them, and wait until
`kennel cluster status` is well before the next group.";

pub async fn run(context: &Context) -> Result<(), Failure> {
    let view = context.client()?.reboot().await?;
    context.output.result(&view, |coloured| text(&view, coloured))
}

fn text(view: &RebootView, coloured: bool) -> String {
    if view.groups.is_empty() {
        return "There is no host to reboot.\n".to_owned();
    }
    let groups = view.groups.iter().enumerate().map(|(index, group)| {
        let hosts: Vec<_> = group.hosts.iter().map(ToString::to_string).collect();
        Block::new()
            .line(&format!("Group {}", index + 1), hosts.join(", "))
            .each("  Move first", group.moves.iter().map(|step| format!("{} to {}", step.guest, step.on)))
            .each("  Stop", group.stops.iter().map(|(guest, why)| format!("{guest}: {why}")))
            .each("  Note", &group.notes)
            .render(coloured)
    });
    groups.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use api::{RebootGroupView, RestartView};

    use super::*;

    #[test]
    fn groups_come_one_after_the_other_with_what_moves_before() {
        let group = |hosts: &[&str]| RebootGroupView {
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            moves: vec![RestartView { guest: "web1".parse().unwrap(), on: "host3".parse().unwrap() }],
            stops: BTreeMap::from([("old".parse().unwrap(), "its disks are local".to_owned())]),
            notes: Vec::new(),
        };
        let view = RebootView { groups: vec![group(&["host1", "host2"]), group(&["host3"])] };
        let text = text(&view, false);
        assert!(
            text.starts_with(
                "Group 1:      host1, host2\n  Move first: web1 to host3\n  Stop:       old: its disks are local\n\n"
            ),
            "{text}"
        );
        assert!(text.contains("Group 2:      host3\n"), "{text}");
    }
}
