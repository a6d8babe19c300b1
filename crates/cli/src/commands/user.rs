//! `kennel user`: who may sign in to the web page with a password.

use api::{AddUser, SetPassword, UserView};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use model::UserName;

use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{self, Listed};
use crate::output::Cell;
use crate::{terminal, times};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Let somebody sign in to the web page; the password is asked for
    #[command(after_help = "Examples:
  kennel user add ada
  pwgen 20 1 | kennel user add ada --password-stdin")]
    Add {
        name: UserName,
        #[command(flatten)]
        source: Source,
    },
    /// All who may
    #[command(after_help = "Example:
  kennel user list")]
    List,
    /// Give a user another password; the user has to sign in again everywhere
    #[command(after_help = "Example:
  kennel user password ada")]
    Password {
        user: UserName,
        #[command(flatten)]
        source: Source,
    },
    /// Remove a user, who is signed out everywhere
    #[command(after_help = "Example:
  kennel user remove ada --yes")]
    Remove {
        user: UserName,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub struct Source {
    /// Read the password from the first line of the input
    #[arg(long)]
    password_stdin: bool,
}

impl Source {
    fn password(&self, asked: &str) -> Result<String, Failure> {
        if self.password_stdin {
            return terminal::first_line(asked);
        }
        terminal::new_password(asked)
    }
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        Command::Add { name, source } => {
            let password = source.password(&format!("add the user '{name}'"))?;
            let view = client.add_user(&AddUser { name, password }).await?;
            context.output.result(&view, |_| format!("{} may sign in.\n", view.name))
        }
        Command::List => listing::print(context, &client.users().await?),
        Command::Password { user, source } => {
            let password = source.password(&format!("change the password of '{user}'"))?;
            let view = client.set_password(&user, &SetPassword { password }).await?;
            context.output.result(&view, |_| {
                format!("The password of {} is another one, and the sessions are over.\n", view.name)
            })
        }
        Command::Remove { user, yes } => {
            let consequence = format!("{user} can sign in no more, and is signed out everywhere.");
            terminal::confirm(&format!("remove the user '{user}'"), &[consequence], yes)?;
            client.remove_user(&user).await?;
            context
                .output
                .result(&serde_json::json!({ "removed": user }), |_| format!("The user {user} is gone.\n"))
        }
    }
}

impl Listed for UserView {
    const HEAD: &'static [&'static str] = &["NAME", "SINCE", "PASSWORD SET"];
    const NOTHING: &'static str =
        "There is no user; a token opens the web page, and `kennel user add` makes one.";

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            Cell::from(&self.name),
            Cell::from(times::ago(self.created_at, now)),
            Cell::from(times::ago(self.password_set_at, now)),
        ]
    }
}
