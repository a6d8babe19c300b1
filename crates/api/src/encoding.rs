//! Bytes inside JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Any bytes, written as base64.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, format = Byte)]
pub struct Blob(pub Vec<u8>);

impl From<Blob> for String {
    fn from(blob: Blob) -> String {
        STANDARD.encode(blob.0)
    }
}

impl TryFrom<String> for Blob {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        STANDARD.decode(text).map(Blob).map_err(|error| format!("this is not base64: {error}"))
    }
}
