//! Moves of guests, as jobs that are watched from outside.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::lab::{LIMIT, Lab};
use crate::wait;

/// A move that was asked for.
#[derive(Debug)]
pub struct Move<'a> {
    lab: &'a Lab,
    id: String,
}

impl<'a> Move<'a> {
    /// Asks for it with these words for `kennel guest migrate`.
    pub fn start(lab: &'a Lab, guest: &str, words: &[&str]) -> Result<Move<'a>> {
        let job = lab.json(&[&["guest", "migrate", guest, "--no-wait"], words].concat())?;
        let id = job["id"].as_str().context("the job's id")?.to_owned();
        Ok(Move { lab, id })
    }

    /// Asks for one that must not be made, be it refused at once or by the job; answers why.
    pub fn refused(lab: &Lab, guest: &str, words: &[&str]) -> Result<String> {
        let output = lab.try_kennel(&[&["guest", "migrate", guest], words].concat())?;
        ensure!(!output.status.success(), "`kennel guest migrate {guest} {}` went well", words.join(" "));
        Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn look(&self) -> Result<Value> {
        self.lab.json(&["job", "show", &self.id])
    }

    pub fn has_ended(&self) -> Result<bool> {
        let job = self.look()?;
        Ok(["done", "failed", "cancelled"].contains(&job["state"].as_str().unwrap_or_default()))
    }

    /// Waits until it is over, however it ends.
    pub fn wait_for_end(&self) -> Result<Value> {
        wait("the move to end", LIMIT, || {
            let ended = self.has_ended()?;
            if ended { self.look().map(Some) } else { bail!("it is at {}", self.look()?["message"]) }
        })
    }

    /// Waits until it says something else than this; nothing once it has ended.
    pub fn wait_for_news(&self, old: &str) -> Result<Option<String>> {
        wait("the move to get on", LIMIT, || {
            if self.has_ended()? {
                return Ok(Some(None));
            }
            let message = self.look()?["message"].as_str().unwrap_or_default().to_owned();
            Ok((message != old).then_some(Some(message)))
        })
    }

    /// Waits until its present step says something.
    pub fn wait_for_note(&self, words: &str) -> Result<()> {
        wait(&format!("the move to say '{words}'"), LIMIT, || {
            let message = self.look()?["message"].as_str().unwrap_or_default().to_owned();
            Ok(message.contains(words).then_some(()))
        })
    }
}
