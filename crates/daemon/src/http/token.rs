//! Tokens: what opens the cluster. The store keeps their SHA-256 only.

use jiff::Timestamp;
use model::{AccessToken, ClusterView, TokenUse};
use sha2::{Digest, Sha256};
use store::StoredToken;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::pki::hex;

/// A new token, and what is stored of it.
pub fn new_token(
    name: &str,
    used_for: TokenUse,
    now: Timestamp,
    expires_at: Option<Timestamp>,
) -> (String, StoredToken) {
    // 244 random bits.
    let text = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let token = AccessToken { name: name.to_owned(), used_for, created_at: now, expires_at };
    let stored = StoredToken { sha256: token_sha256(&text), token };
    (text, stored)
}

/// Under what a token is stored: hexadecimal, lower case.
pub fn token_sha256(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

/// The stored token that somebody holds, if it is good for this use now.
pub fn find<'a>(
    view: &'a ClusterView,
    token: &str,
    used_for: TokenUse,
    now: Timestamp,
) -> Option<(&'a str, &'a AccessToken)> {
    let hash = token_sha256(token);
    let (stored, access) = view.tokens.get_key_value(&hash)?;
    // The look-up ran over hashes, which tell nothing of a token; the last word takes constant time.
    let same = bool::from(stored.as_bytes().ct_eq(hash.as_bytes()));
    let fresh = access.expires_at.is_none_or(|end| now < end);
    (same && fresh && access.used_for == used_for).then_some((stored.as_str(), access))
}
