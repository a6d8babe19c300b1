//! `kennel guest start|stop`: one guest, or several in the order in which they belong.

use api::Client;
use clap::Args;
use model::GuestName;
use plan::order::StartOrder;

use super::guest::finish;
use crate::context::Context;
use crate::failure::Failure;

/// Guests that something is done to.
#[derive(Debug, Args)]
pub struct Guests {
    #[arg(required = true, value_name = "GUEST")]
    guests: Vec<GuestName>,
    /// Do not wait; print the job's id
    #[arg(long)]
    no_wait: bool,
}

/// Guests that are to be started.
#[derive(Debug, Args)]
pub struct ForceGuests {
    #[command(flatten)]
    guests: Guests,
    /// Though the cluster could no longer survive what it promises to
    #[arg(long)]
    force: bool,
}

/// Asks for all of them before it waits for any: who starts after another one waits for it by itself.
pub async fn start(context: &Context, arguments: ForceGuests) -> Result<(), Failure> {
    let ForceGuests { guests: Guests { guests, no_wait }, force } = arguments;
    let client = context.client()?;
    let mut jobs = Vec::new();
    for guest in in_order(&client, guests).await? {
        let job = match force {
            true => client.force_start_guest(&guest).await?,
            false => client.start_guest(&guest).await?,
        };
        jobs.push((guest, job));
    }
    for (guest, job) in jobs {
        finish(context, &client, job, &guest, no_wait).await?;
    }
    Ok(())
}

/// One after the other, so that nobody runs without what it needs, unless it is not waited for.
pub async fn stop(context: &Context, arguments: Guests) -> Result<(), Failure> {
    let Guests { guests, no_wait } = arguments;
    let client = context.client()?;
    for guest in in_order(&client, guests).await?.into_iter().rev() {
        let job = client.stop_guest(&guest).await?;
        finish(context, &client, job, &guest, no_wait).await?;
    }
    Ok(())
}

/// Those that others start after come first. What the cluster does not know stays where it was said.
async fn in_order(client: &Client, guests: Vec<GuestName>) -> Result<Vec<GuestName>, Failure> {
    if guests.len() < 2 {
        return Ok(guests);
    }
    let views = client.guests().await?;
    Ok(sorted(guests, &StartOrder::of(views.iter().map(|view| &view.spec))))
}

fn sorted(mut guests: Vec<GuestName>, order: &StartOrder) -> Vec<GuestName> {
    let mut seen = std::collections::BTreeSet::new();
    guests.retain(|guest| seen.insert(guest.clone()));
    guests.sort_by_key(|guest| order.rank(guest));
    guests
}
