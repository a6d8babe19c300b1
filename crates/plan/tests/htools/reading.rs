//! What stands in a file is what is read, and what does not stand there has Ganeti's defaults.

use plan::htools::{Cluster, Mirroring, Role, Status, Template, Utilisation};

use crate::sample::TWO_GROUPS;

#[test]
fn every_field_arrives() {
    let cluster = Cluster::parse(TWO_GROUPS).unwrap();
    assert_eq!(cluster.groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), ["attic", "cellar"]);
    let oak = &cluster.nodes[0];
    assert_eq!((oak.name.as_str(), oak.t_mem, oak.n_mem, oak.f_mem), ("oak", 4096.0, 256, 1792));
    assert_eq!((oak.t_disk, oak.f_disk, oak.t_cpu, oak.role), (102_400.0, 71_680, 4.0, Role::Master));
    assert_eq!((oak.group, oak.spindles, oak.tags.len(), oak.n_cpu, oak.speed), (0, 4, 2, 0, 1.0));
    let mail = &cluster.instances[0];
    assert_eq!((mail.memory, mail.disk, mail.vcpus, mail.status), (1024, 10_240, 2, Status::Running));
    assert_eq!((mail.primary, mail.secondary, mail.template), (0, Some(1), Template::Drbd));
    assert_eq!(mail.load, Utilisation::ONES);
    assert_eq!(cluster.tags, ["htools:iextags:svc", "htools:nlocation:room"]);
}

#[test]
fn missing_fields_have_defaults() {
    let cluster = Cluster::parse(TWO_GROUPS).unwrap();
    let fir = &cluster.nodes[3];
    assert_eq!((fir.spindles, fir.tags.len(), fir.exclusive_storage, fir.f_spindles), (1, 0, false, 0));
    assert_eq!((fir.n_cpu, fir.speed), (1, 1.0), "a short line has one vCPU in use");
    let log = &cluster.instances[4];
    assert_eq!((log.spindle_use, log.forthcoming), (1, false));
    // The cluster's own policy does not reach the group without one.
    assert_eq!((cluster.vcpu_ratio(0), cluster.spindle_ratio(0)), (3.0, 16.0));
    assert_eq!((cluster.vcpu_ratio(1), cluster.spindle_ratio(1)), (4.0, 32.0));
}

#[test]
fn fields_and_sections_from_the_future_are_passed_over() {
    let text = TWO_GROUPS.replace("|0|0|2.0\n", "|0|0|2.0|new|newer\n").replace("|1|-|N\n", "|1|-|N|new\n")
        + "\nanother|section\n";
    let cluster = Cluster::parse(&text).unwrap();
    let plain = Cluster::parse(TWO_GROUPS).unwrap();
    assert_eq!((cluster.nodes, cluster.instances), (plain.nodes, plain.instances));
}

#[test]
fn a_question_mark_makes_a_node_offline() {
    let text = TWO_GROUPS.replace("elm|4096|256|2816|", "elm|4096|?|2816|");
    let elm = &Cluster::parse(&text).unwrap().nodes[1];
    assert!(elm.is_offline());
    assert_eq!((elm.t_mem, elm.f_mem, elm.t_cpu), (0.0, 0, 0.0));
}

#[test]
fn who_uses_what() {
    let cluster = Cluster::parse(TWO_GROUPS).unwrap();
    let named = |name: &str| cluster.instances.iter().find(|i| i.name == name).unwrap();
    assert!(named("web").uses_memory() && named("log").uses_memory() && !named("wiki").uses_memory());
    assert!(named("web").reserves() && !named("wiki").reserves(), "auto balance N reserves nothing");
    assert_eq!(named("web").template.mirroring(), Mirroring::Internal);
    assert_eq!(named("shop").template.mirroring(), Mirroring::External);
    assert_eq!(named("log").template.mirroring(), Mirroring::None);
    assert_eq!(cluster.exclusion_tags(named("web")), ["svc:web"]);
}

#[test]
fn migration_follows_tags() {
    let text = TWO_GROUPS
        .replace("room:right|", "room:right,hv:old|")
        .replace("htools:nlocation:room", "htools:migration:hv\nhtools:allowmigration:hv:old::hv:new");
    let cluster = Cluster::parse(&text).unwrap();
    let may = |from: &str, to: &str| {
        cluster.may_migrate(cluster.find_node(from).unwrap(), cluster.find_node(to).unwrap())
    };
    assert!(may("elm", "oak"), "old to new is allowed");
    assert!(!may("oak", "elm"), "new to old is not");
    assert!(!may("oak", "ash") && may("ash", "oak"), "a node without tags takes from nodes without tags");
}
