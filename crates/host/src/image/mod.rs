//! Images: their files on this host, what may become one, and those that Kennel builds itself.

pub mod build;
pub mod inspect;
pub mod store;
