//! What a guest said last on its serial port, also when nothing runs that could be asked.

use jiff::Timestamp;
use model::HostName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Blob;

/// The last lines of a guest, from each host that has some. A host keeps what the guest said while it was there until
/// the guest is deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastLines {
    /// Who spoke last comes last.
    pub hosts: Vec<LastLinesOfHost>,
    /// Hosts that did not answer: what the guest said there is missing.
    #[schema(value_type = Vec<String>)]
    pub silent: Vec<HostName>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastLinesOfHost {
    pub host: HostName,
    /// When the last of it was said.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// The end of what was said, as it came: 64 KiB at most.
    pub text: Blob,
}
