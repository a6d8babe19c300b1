//! Tickets for consoles: each opens one console of one guest, once, within half a minute.
//!
//! They are known to the host that gave them only, which is the one that the page speaks with; that one passes the
//! console on to the guest's host.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::ConsoleTicket;
use jiff::Timestamp;
use model::GuestName;
use uuid::Uuid;

use super::answer::{Answer, Refused};
use super::token::token_sha256;

/// A page uses its ticket at once.
const GOOD_FOR: Duration = Duration::from_secs(30);

/// Tickets that nobody uses are forgotten, the oldest first.
const TICKETS_MAX: usize = 1024;

const INSTEAD: &str = "open the console anew from the guest's page";

#[derive(Debug, Default)]
pub struct Tickets(Mutex<BTreeMap<String, (GuestName, Instant)>>);

impl Tickets {
    pub fn give(&self, guest: &GuestName) -> ConsoleTicket {
        let ticket = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let now = Instant::now();
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.retain(|_, (_, end)| *end > now);
        if tickets.len() >= TICKETS_MAX {
            let oldest = tickets.iter().min_by_key(|(_, (_, end))| *end).map(|(hash, _)| hash.clone());
            tickets.retain(|hash, _| Some(hash) != oldest.as_ref());
        }
        tickets.insert(token_sha256(&ticket), (guest.clone(), now + GOOD_FOR));
        ConsoleTicket { ticket, expires_at: Timestamp::now() + GOOD_FOR }
    }

    /// Uses a ticket up.
    pub fn take(&self, ticket: &str, guest: &GuestName) -> Answer<()> {
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match tickets.remove(&token_sha256(ticket)) {
            Some((for_guest, end)) if &for_guest == guest && end > Instant::now() => Ok(()),
            Some(_) | None => {
                let why = "the ticket was used, is older than half a minute, or is not for this console";
                Err(Refused::forbidden(why, INSTEAD))
            }
        }
    }
}

/// For a browser that comes with a cookie alone.
pub fn none_shown() -> Refused {
    Refused::forbidden("a console of the page opens with a ticket only, and there is none", INSTEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_opens_one_console_once() {
        let (tickets, web1, web2) = (Tickets::default(), "web1".parse().unwrap(), "web2".parse().unwrap());
        let ticket = tickets.give(&web1).ticket;
        assert!(tickets.take("guessed", &web1).is_err());
        assert_eq!(tickets.take(&ticket, &web1), Ok(()));
        assert!(tickets.take(&ticket, &web1).is_err(), "it was used");
        let other = tickets.give(&web2).ticket;
        assert!(tickets.take(&other, &web1).is_err(), "it is for another guest");
        assert!(tickets.take(&other, &web2).is_err(), "a try uses it up");
    }
}
