//! What keeps passwords from being guessed: every try costs memory and time, and wrong ones cost waiting.
//!
//! Each host counts by itself, by name and address together, so that nobody can lock out somebody else from
//! elsewhere.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use tokio::sync::Semaphore;

/// Wrong passwords that cost nothing: people mistype.
const FREE_TRIES: u32 = 3;

/// The longest wait between two tries.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// When wrong tries are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(15 * 60);

/// Names and addresses that are remembered; the longest unused is forgotten for a new one.
const REMEMBERED_MAX: usize = 1024;

/// Between two events of refused sign-ins, so that a flood of them does not push out all others.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Passwords that are looked at at once; each takes some 20 MB while it is.
const AT_ONCE: usize = 2;

/// Longer ones are no passwords.
pub const PASSWORD_MAX: usize = 1024;

#[derive(Debug)]
pub struct Guard {
    wrong: Mutex<BTreeMap<(String, IpAddr), Wrong>>,
    /// When an event was written last, and how many were left out since.
    told: Mutex<(Option<Instant>, u32)>,
    hashing: Semaphore,
}

#[derive(Debug, Clone, Copy)]
struct Wrong {
    tries: u32,
    last: Instant,
}

impl Wrong {
    /// Two seconds after the first try that is not free, then twice as long each time.
    fn wait(self) -> Duration {
        match self.tries.checked_sub(FREE_TRIES) {
            None | Some(0) => Duration::ZERO,
            Some(more) => Duration::from_secs(1 << more.min(6)).min(WAIT_MAX),
        }
    }
}

impl Guard {
    pub fn new() -> Self {
        Self { wrong: Mutex::default(), told: Mutex::default(), hashing: Semaphore::new(AT_ONCE) }
    }

    fn wrong(&self) -> MutexGuard<'_, BTreeMap<(String, IpAddr), Wrong>> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how many seconds the next try is refused. `None`: not at all.
    pub fn must_wait(&self, user: &str, from: IpAddr) -> Option<u64> {
        let wrong = *self.wrong().get(&(user.to_owned(), from))?;
        let left = wrong.wait().checked_sub(wrong.last.elapsed())?;
        (!left.is_zero()).then(|| left.as_secs() + 1)
    }

    pub fn was_right(&self, user: &str, from: IpAddr) {
        self.wrong().remove(&(user.to_owned(), from));
    }

    pub fn was_wrong(&self, user: &str, from: IpAddr) {
        let mut all = self.wrong();
        all.retain(|_, wrong| wrong.last.elapsed() < FORGET_AFTER);
        let key = (user.to_owned(), from);
        if all.len() >= REMEMBERED_MAX && !all.contains_key(&key) {
            let oldest = all.iter().min_by_key(|(_, wrong)| wrong.last).map(|(key, _)| key.clone());
            all.retain(|key, _| Some(key) != oldest.as_ref());
        }
        let wrong = all.entry(key).or_insert(Wrong { tries: 0, last: Instant::now() });
        *wrong = Wrong { tries: wrong.tries.saturating_add(1), last: Instant::now() };
    }

    /// Whether an event may be written now, and how many were left out before it.
    pub fn may_tell(&self) -> Option<u32> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match told.0 {
            Some(last) if last.elapsed() < TELL_EVERY => {
                told.1 = told.1.saturating_add(1);
                None
            }
            Some(_) | None => Some(std::mem::replace(&mut *told, (Some(Instant::now()), 0)).1),
        }
    }

    /// Takes as long for a user that there is not.
    pub async fn verify(&self, password: String, hash: Option<String>) -> bool {
        let Ok(_permit) = self.hashing.acquire().await else { return false };
        let work = move || match hash.as_deref().map(PasswordHash::new) {
            Some(Ok(hash)) => Argon2::default().verify_password(password.as_bytes(), &hash).is_ok(),
            Some(Err(_)) => false,
            None => {
                let _ = Argon2::default().hash_password(password.as_bytes());
                false
            }
        };
        tokio::task::spawn_blocking(work).await.unwrap_or(false)
    }

    /// What is stored of a password. `Err`: why there is none.
    pub async fn hash(&self, password: String) -> Result<String, String> {
        let _permit = self.hashing.acquire().await.map_err(|error| error.to_string())?;
        let work = move || {
            let hash = Argon2::default().hash_password(password.as_bytes());
            hash.map(|hash| hash.to_string()).map_err(|error| error.to_string())
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_try_costs_more_waiting() {
        let wait = |tries| Wrong { tries, last: Instant::now() }.wait().as_secs();
        assert_eq!([0, 1, 3, 4, 5, 6, 9, 100].map(wait), [0, 0, 0, 2, 4, 8, 60, 60]);
        let (guard, from) = (Guard::new(), "192.0.2.1".parse().unwrap());
        for _ in 0..4 {
            assert_eq!(guard.must_wait("eve", from), None);
            guard.was_wrong("eve", from);
        }
        assert_eq!(guard.must_wait("eve", from), Some(2));
        assert_eq!(guard.must_wait("ada", from), None, "others are not slowed down");
        guard.was_right("eve", from);
        assert_eq!(guard.must_wait("eve", from), None);
    }

    #[tokio::test]
    async fn a_password_is_known_again_by_its_hash() {
        let guard = Guard::new();
        let hash = guard.hash("correct horse".to_owned()).await.unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert!(guard.verify("correct horse".to_owned(), Some(hash.clone())).await);
        assert!(!guard.verify("correct horsf".to_owned(), Some(hash)).await);
        assert!(!guard.verify("correct horse".to_owned(), None).await);
    }
}
