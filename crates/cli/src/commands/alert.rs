//! `kennel alert`: who is told of incidents.

use std::path::{Path, PathBuf};

use api::{AddAlert, AlertView};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use model::{AlertName, AlertWay, MailTls, Weight};

use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{self, Listed};
use crate::output::{Cell, Tone};
use crate::{terminal, times};

/// Mail servers take mail with TLS from the first byte on here (RFC 8314).
const SUBMISSIONS_PORT: u16 = 465;

const ASKED: &str = "add an alert";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Have a webhook, or somebody by mail, told when incidents open, change in weight, and end
    #[command(subcommand)]
    Add(Add),
    /// Who is told, and whether that works
    #[command(after_help = "Example:
  kennel alert list")]
    List,
    /// Tell somebody no more
    #[command(after_help = "Example:
  kennel alert remove webhook-1 --yes")]
    Remove {
        alert: AlertName,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Send a test, and say why it does not arrive
    #[command(after_help = "Example:
  kennel alert test webhook-1

The host that is asked sends it; what another one reaches may differ. Ends with status 1 when it does not arrive.")]
    Test { alert: AlertName },
}

#[derive(Debug, Subcommand)]
pub enum Add {
    /// A POST of JSON to a URL
    #[command(after_help = "Examples:
  kennel alert add webhook https://alerts.example/kennel --secret-file key
  kennel alert add webhook http://pager.lan:8080/ --name pager --from critical

With a secret each request carries `Kennel-Signature: sha256=<HMAC-SHA-256 of the body, hexadecimal>`.")]
    Webhook {
        url: String,
        /// A file whose first line is the key that requests are signed with
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
    /// Mail, through your own mail server
    #[command(after_help = "Examples:
  kennel alert add mail ada@example.org --server mail.example.org:587 --user kennel --password-file password
  kennel alert add mail ada@example.org --server mail.example.org:465 --sender kennel@example.org --from critical
  kennel alert add mail root@lan --server 192.0.2.25:25 --tls none")]
    Mail {
        address: String,
        /// The mail server, and its port
        #[arg(long, value_name = "HOST:PORT", value_parser = server)]
        server: (String, u16),
        /// How the way to it is protected; default: tls on port 465, else starttls
        #[arg(long, value_enum)]
        tls: Option<TlsArgument>,
        /// The name to log in with
        #[arg(long)]
        user: Option<String>,
        /// A file whose first line is the password
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// Whom the mail is from; default: the user, if that is an address, else the address itself
        #[arg(long, value_name = "ADDRESS")]
        sender: Option<String>,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
pub struct Common {
    /// What it is called; default: as in webhook-1
    #[arg(long)]
    name: Option<AlertName>,
    /// Only of incidents that weigh that much at some time: warning or critical
    #[arg(long, value_name = "WEIGHT", default_value_t = Weight::Warning)]
    from: Weight,
    /// A file with a certificate authority to trust beside those of the hosts' systems
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TlsArgument {
    Starttls,
    Tls,
    None,
}

impl From<TlsArgument> for MailTls {
    fn from(argument: TlsArgument) -> MailTls {
        match argument {
            TlsArgument::Starttls => MailTls::Starttls,
            TlsArgument::Tls => MailTls::Tls,
            TlsArgument::None => MailTls::None,
        }
    }
}

fn server(text: &str) -> Result<(String, u16), String> {
    let wrong = || format!("'{text}' is not a server with its port: use one as in mail.example.org:587");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = port.parse().map_err(|_| wrong())?;
    if host.is_empty() { Err(wrong()) } else { Ok((host.to_owned(), port)) }
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::refused(
            ASKED,
            format!("{} cannot be read: {error}", path.display()),
            "name a file that can be read",
        )
    })
}

fn first_line(path: &Path) -> Result<String, Failure> {
    let text = read(path)?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        Some(_) | None => {
            let why = format!("the first line of {} is empty", path.display());
            Err(Failure::refused(ASKED, why, "put the secret there"))
        }
    }
}

fn request(add: Add) -> Result<AddAlert, Failure> {
    let (way, secret, common) = match add {
        Add::Webhook { url, secret_file, common } => (AlertWay::Webhook { url }, secret_file, common),
        Add::Mail { address, server: (server, port), tls, user, password_file, sender, common } => {
            let usual = if port == SUBMISSIONS_PORT { MailTls::Tls } else { MailTls::Starttls };
            let tls = tls.map_or(usual, MailTls::from);
            let user_is_address = user.clone().filter(|user| user.contains('@'));
            let sender = sender.or(user_is_address).unwrap_or_else(|| address.clone());
            (AlertWay::Mail { to: address, sender, server, port, tls, user }, password_file, common)
        }
    };
    Ok(AddAlert {
        name: common.name,
        way,
        from: common.from,
        secret: secret.as_deref().map(first_line).transpose()?,
        ca: common.ca_file.as_deref().map(read).transpose()?,
    })
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Add(add) => {
            let request = request(add)?;
            let view = context.client()?.add_alert(&request).await?;
            context.output.result(&view, |_| {
                format!("{} is told of incidents. `kennel alert test {}` tries it.\n", view.name, view.name)
            })
        }
        Command::List => listing::print(context, &context.client()?.alerts().await?),
        Command::Remove { alert, yes } => {
            let client = context.client()?;
            let consequence = format!("{alert} is told of incidents no more.");
            terminal::confirm(&format!("remove the alert '{alert}'"), &[consequence], yes)?;
            client.remove_alert(&alert).await?;
            context
                .output
                .result(&serde_json::json!({ "removed": alert }), |_| format!("The alert {alert} is gone.\n"))
        }
        Command::Test { alert } => {
            let view = context.client()?.test_alert(&alert).await?;
            if let Some(why) = &view.problem {
                let why = format!("{why} (sent from {})", view.sent_by);
                return Err(Failure::refused(
                    format!("reach '{alert}'"),
                    why,
                    "mend that, and test it again",
                ));
            }
            context.output.result(&view, |_| format!("{alert} has taken a test from {}.\n", view.sent_by))
        }
    }
}

impl Listed for AlertView {
    const HEAD: &'static [&'static str] = &["NAME", "FROM", "LAST SENT", "STATE", "WHERE"];
    const NOTHING: &'static str = "Nobody is told of incidents; `kennel alert add` changes that.";

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let state = match &self.problem {
            Some(why) => Cell::new(format!("fails: {why}"), Tone::Bad),
            None if self.last_sent_at.is_some() => Cell::new("arrives", Tone::Good),
            None => Cell::from("not used yet"),
        };
        vec![
            Cell::from(&self.name),
            Cell::from(self.target.from),
            Cell::maybe(self.last_sent_at.map(|at| times::ago(at, now))),
            state,
            Cell::from(&self.target.way),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_with_its_port() {
        assert_eq!(server("mail.example.org:587"), Ok(("mail.example.org".to_owned(), 587)));
        assert_eq!(server("[2001:db8::25]:25"), Ok(("2001:db8::25".to_owned(), 25)));
        for wrong in ["mail.example.org", ":25", "mail:smtp", "mail:99999"] {
            assert!(server(wrong).is_err_and(|why| why.contains("mail.example.org:587")), "{wrong}");
        }
    }

    #[test]
    fn tls_and_sender_follow_from_the_rest() {
        let mail = |port: u16, user: Option<&str>| {
            let common = Common { name: None, from: Weight::Warning, ca_file: None };
            let add = Add::Mail {
                address: "ada@example.org".to_owned(),
                server: ("mail.example.org".to_owned(), port),
                tls: None,
                user: user.map(str::to_owned),
                password_file: None,
                sender: None,
                common,
            };
            match request(add).unwrap().way {
                AlertWay::Mail { tls, sender, .. } => (tls, sender),
                AlertWay::Webhook { .. } => panic!("it is mail"),
            }
        };
        assert_eq!(mail(465, None), (MailTls::Tls, "ada@example.org".to_owned()));
        assert_eq!(mail(587, Some("kennel@lan")), (MailTls::Starttls, "kennel@lan".to_owned()));
        assert_eq!(mail(587, Some("kennel")).1, "ada@example.org");
    }
}
