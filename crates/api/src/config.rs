//! How a client finds its cluster: a small TOML file.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Names the file instead of the default.
pub const CONFIG_VARIABLE: &str = "KENNEL_CONFIG";

/// Where a cluster is, how it proves itself, and who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientConfig {
    /// The cluster's name.
    pub cluster: String,
    /// As in `https://10.77.0.1:7440`. Tried in turn.
    pub endpoints: Vec<String>,
    /// The bearer token.
    pub token: String,
    /// The cluster's certificate authority, PEM.
    pub ca: String,
}

/// Why a configuration file is of no use. Each is a sentence that says what would work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "there is no client configuration at {}: `kennel cluster init` writes one, and KENNEL_CONFIG names \
         another place",
        path.display()
    )]
    Missing { path: PathBuf },
    #[error("the client configuration {} cannot be read: {why}", path.display())]
    Unreadable { path: PathBuf, why: String },
    #[error("the client configuration {} cannot be written: {why}", path.display())]
    Unwritable { path: PathBuf, why: String },
}

impl ClientConfig {
    /// `$KENNEL_CONFIG`, or `kennel/client.toml` in the user's configuration folder (`/etc` for a program
    /// without a home).
    pub fn default_path() -> PathBuf {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        set(CONFIG_VARIABLE).unwrap_or_else(|| {
            let folder = set("XDG_CONFIG_HOME")
                .or_else(|| set("HOME").map(|home| home.join(".config")))
                .unwrap_or_else(|| PathBuf::from("/etc"));
            folder.join("kennel/client.toml")
        })
    }

    pub fn load_default() -> Result<Self, ConfigError> {
        Self::load(&Self::default_path())
    }

    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |why: String| ConfigError::Unreadable { path: path.to_owned(), why };
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|error| unreadable(error.message().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(ConfigError::Missing { path: path.to_owned() })
            }
            Err(error) => Err(unreadable(error.to_string())),
        }
    }

    /// Writes the file, for its owner's eyes only, all of it or nothing.
    pub fn save(&self, path: &Path) -> Result<(), ConfigError> {
        let text = toml::to_string(self)
            .map_err(|error| ConfigError::Unwritable { path: path.to_owned(), why: error.to_string() })?;
        write_private(path, text.as_bytes())
            .map_err(|error| ConfigError::Unwritable { path: path.to_owned(), why: error.to_string() })
    }
}

fn write_private(path: &Path, text: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let new = path.with_extension("toml.new");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    // A file that a broken attempt left may have other rights.
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_reads_back_and_is_private() {
        let folder = std::env::temp_dir().join(format!("kennel-config-{}", std::process::id()));
        let path = folder.join("deep/client.toml");
        let config = ClientConfig {
            cluster: "lab".to_owned(),
            endpoints: vec!["https://127.0.0.1:7440".to_owned()],
            token: "secret".to_owned(),
            ca: "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n".to_owned(),
        };
        config.save(&path).unwrap();
        assert_eq!(ClientConfig::load(&path), Ok(config));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "cluster = 3").unwrap();
        assert!(matches!(ClientConfig::load(&path), Err(ConfigError::Unreadable { .. })));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(matches!(ClientConfig::load(&path), Err(ConfigError::Missing { .. })));
    }
}
