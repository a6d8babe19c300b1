//! Agents of a few lines, good and bad; and the real one for IPMI, as far as it goes without a device.

use super::*;

/// What a well-behaved agent of these tests says; `$switch` is a file that is there while there is power.
const GOOD: &str = r#"
case "$action" in
metadata) cat <<'END'
<?xml version="1.0" ?>
<resource-agent name="fence_test" shortdesc="A test">
<parameters>
  <parameter name="action" required="1"><content type="string" default="off"/></parameter>
  <parameter name="switch" required="1" obsoletes="button"><content type="string"/></parameter>
  <parameter name="button" required="1" deprecated="1"><content type="string"/></parameter>
  <parameter name="password" required="0"><content type="string"/></parameter>
  <parameter name="power_wait" required="0"><content type="second" default="0"/></parameter>
  <parameter name="lanplus" required="0"><content type="boolean"/></parameter>
  <parameter name="auth" required="0"><content type="select"><option value="md5"/><option value="none"/></content></parameter>
</parameters>
<actions><action name="on"/><action name="off"/><action name="status"/></actions>
</resource-agent>
END
;;
on) touch "$switch" ;;
off) rm -f "$switch" ;;
status) [ -e "$switch" ] || exit 2 ;;
esac
"#;

struct Workshop {
    folder: tempfile::TempDir,
    agents: Agents,
}

impl Workshop {
    fn new() -> Workshop {
        let folder = tempfile::tempdir().unwrap();
        let agents = Agents::in_folders(vec![folder.path().to_owned()])
            .with_limits(Duration::from_secs(30), Duration::from_secs(30));
        Workshop { folder, agents }
    }

    /// An agent that reads its options into variables, and then does this.
    fn agent(&self, name: &str, does: &str) -> &Workshop {
        let path = self.folder.path().join(name);
        let read = "#!/bin/sh\nwhile IFS='=' read -r name value; do eval \"$name=\\$value\"; done\n";
        std::fs::write(&path, format!("{read}{does}")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn device(&self, agent: &str) -> Device {
        let switch = self.folder.path().join("switch").display().to_string();
        let options = [("switch".to_owned(), switch), ("password".to_owned(), "hush hush".to_owned())];
        Device { agent: agent.to_owned(), options: options.into() }
    }
}

fn sentence<T: std::fmt::Debug>(result: Result<T, HostError>) -> String {
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn power_is_given_and_taken() {
    let workshop = Workshop::new();
    workshop.agent("fence_test", GOOD);
    let (agents, device) = (&workshop.agents, workshop.device("fence_test"));
    agents.give_power(&device).await.unwrap();
    assert_eq!(agents.status(&device).await.unwrap(), Power::On);
    agents.take_power(&device).await.unwrap();
    assert_eq!(agents.status(&device).await.unwrap(), Power::Off);
    // Once more proves the same.
    agents.take_power(&device).await.unwrap();
}

#[tokio::test]
async fn what_says_yes_and_leaves_the_power_on_is_no_proof() {
    let workshop = Workshop::new();
    workshop.agent("fence_liar", "exit 0\n");
    let said = sentence(workshop.agents.take_power(&workshop.device("fence_liar")).await);
    assert_eq!(said, "it said that the power is off, and then that it is on");
    // One that takes the power, and cannot say so.
    workshop.agent("fence_mute", "[ \"$action\" = off ] || exit 1\n");
    let said = sentence(workshop.agents.take_power(&workshop.device("fence_mute")).await);
    assert!(said.contains("does not say whether there is power: it said nothing (exit status 1)"), "{said}");
    workshop.agent("fence_dead", "kill -9 $$\n");
    let said = sentence(workshop.agents.take_power(&workshop.device("fence_dead")).await);
    assert!(said.contains("it was killed"), "{said}");
}

#[tokio::test]
async fn what_an_agent_complains_of_is_passed_on_without_secrets() {
    let workshop = Workshop::new();
    let complains = "echo '2026-11-21 20:00:00,123 ERROR: \"'$password'\" was refused' >&2\n\
                     echo 'x.py:3: DeprecationWarning: old' >&2\nexit 1\n";
    workshop.agent("fence_test", complains);
    let device = workshop.device("fence_test");
    let said = sentence(workshop.agents.take_power(&device).await);
    assert_eq!(said, "'fence_test' did not switch the power off: \"…\" was refused (exit status 1)");
    assert!(!format!("{device:?}").contains("hush"));
}

#[tokio::test]
async fn no_option_stands_on_a_command_line_or_in_the_environment() {
    let workshop = Workshop::new();
    let looks = "! tr '\\0' '\\n' < /proc/$$/cmdline | grep -q hush && \
                 ! tr '\\0' '\\n' < /proc/$$/environ | grep -q hush && [ \"$password\" = 'hush hush' ]\n";
    workshop.agent("fence_test", looks);
    assert_eq!(workshop.agents.status(&workshop.device("fence_test")).await.unwrap(), Power::On);
}

#[tokio::test]
async fn what_hangs_is_ended_with_all_that_it_started() {
    let workshop = Workshop::new();
    let child = workshop.folder.path().join("child");
    workshop.agent("fence_test", &format!("sleep 600 & echo $! > {}\nwait\n", child.display()));
    let agents = workshop.agents.clone().with_limits(Duration::from_secs(2), Duration::from_secs(2));
    let said = sentence(agents.take_power(&workshop.device("fence_test")).await);
    assert!(said.contains("did not answer to 'off' within 2 s, and was ended"), "{said}");
    let pid: i32 = std::fs::read_to_string(child).unwrap().trim().parse().unwrap();
    for _ in 0..200 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if status.is_empty() || status.contains("State:\tZ") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{pid} still runs");
}

#[tokio::test]
async fn a_device_that_takes_long_is_asked_a_second_time_beside_it() {
    // The first `off` hangs as one whose packet was lost; those after it are well.
    let forgetful = r#"
    if [ "$action" = off ] && mkdir "$switch.asked" 2>/dev/null; then sleep 1000; fi
    "#;
    let mut shop = Workshop::new();
    shop.agents.ask_again_after = Duration::from_millis(50);
    shop.agent("fence_test", &format!("{forgetful}{GOOD}"));
    let device = shop.device("fence_test");
    shop.agents.give_power(&device).await.unwrap();
    let begun = std::time::Instant::now();
    shop.agents.take_power(&device).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "the first one is not waited for");
    assert_eq!(shop.agents.status(&device).await.unwrap(), Power::Off);
    // One that fails at once is not asked again: the next level is waiting.
    shop.agent("fence_bad", "echo asked >> \"$switch.log\"; exit 1");
    sentence(shop.agents.take_power(&shop.device("fence_bad")).await);
    let asked = std::fs::read_to_string(shop.folder.path().join("switch.log")).unwrap();
    assert_eq!(asked.lines().count(), 1);
}

#[tokio::test]
async fn agents_are_found_by_plain_names_only() {
    let workshop = Workshop::new();
    for name in ["../fence_test", "fence_/../x", "sh", "fence_Test", ""] {
        let said = sentence(workshop.agents.describe(name).await);
        assert!(said.contains("is no name of a fence agent"), "{said}");
    }
    let said = sentence(workshop.agents.describe("fence_nothing").await);
    assert!(said.contains("the fence agent 'fence_nothing' is not installed here"), "{said}");
}

fn options(words: &str) -> BTreeMap<String, String> {
    let pair = |word: &str| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    words.split_whitespace().filter_map(pair).collect()
}

#[tokio::test]
async fn options_are_held_against_what_the_agent_knows() {
    let workshop = Workshop::new();
    workshop.agent("fence_test", GOOD);
    let description = workshop.agents.describe("fence_test").await.unwrap();
    for (words, expected) in [
        ("switch=x password=y power_wait=2 lanplus=1 auth=md5", vec![]),
        ("button=x", vec![]),
        ("", vec!["the agent needs the option 'switch'"]),
        ("switch=x pass=y", vec!["the agent knows no option 'pass' (it knows password)"]),
        ("switch=x colour=y", vec!["the agent knows no option 'colour'"]),
        ("switch=x power_wait=long", vec!["'power_wait' is a number, and not 'long'"]),
        ("switch=x lanplus=maybe", vec!["'lanplus' is 1 or 0, and not 'maybe'"]),
        ("switch=x auth=x", vec!["'auth' is one of md5, none, and not 'x'"]),
        (
            "switch=x action=on",
            vec!["the option 'action' cannot be set: Kennel says itself what is to be done"],
        ),
    ] {
        assert_eq!(description.problems(&options(words)), expected, "{words}");
    }
    workshop.agent(
        "fence_test",
        "echo '<resource-agent><actions><action name=\"on\" on_target=\"1\"/></actions></resource-agent>'\n",
    );
    let problems = workshop.agents.describe("fence_test").await.unwrap().problems(&BTreeMap::new());
    assert!(problems.iter().any(|problem| problem.contains("no action 'off'")), "{problems:?}");
    assert!(problems.iter().any(|problem| problem.contains("by the host itself")), "{problems:?}");
    for (does, why) in
        [("echo no", "it is not XML"), ("echo '<a/>'", "begins with <a>"), ("exit 1", "exit status 1")]
    {
        workshop.agent("fence_test", does);
        let said = sentence(workshop.agents.describe("fence_test").await);
        assert!(said.contains("does not say which options it knows") && said.contains(why), "{said}");
    }
}

/// The real agent, against an address at which nothing listens.
#[tokio::test]
async fn the_agent_for_ipmi_is_understood() {
    let agents = Agents::default();
    let description = agents.describe("fence_ipmilan").await.unwrap();
    let device = options("ip=127.0.0.1 ipport=1 username=admin password=x lanplus=1 cipher=3 power_wait=0");
    assert_eq!(description.problems(&device), Vec::<String>::new());
    let problems = description.problems(&options("ip=127.0.0.1 lanplus=perhaps"));
    assert_eq!(problems, ["'lanplus' is 1 or 0, and not 'perhaps'"]);
    let agents = agents.with_limits(Duration::from_secs(60), Duration::from_secs(60));
    let device = Device { agent: "fence_ipmilan".into(), options: device };
    let said = sentence(agents.take_power(&device).await);
    assert!(said.contains("did not switch the power off"), "{said}");
}

#[test]
fn passwords_are_known_by_their_names() {
    for secret in ["password", "passwd", "snmp_auth_passwd", "hexadecimal_kg", "community", "token_value"] {
        assert!(is_secret(secret), "{secret}");
    }
    for plain in ["ip", "username", "password_script", "plug"] {
        assert!(!is_secret(plain), "{plain}");
    }
}
