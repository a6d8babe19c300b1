//! The certificates that QEMU uses between hosts, in a folder as it wants them (`host::qemu::TlsFiles`).
//!
//! They are the host's own. QEMU reads them as the user that guests run as, who gets at nothing else of the
//! daemon's; so they are copied, each time a member starts, into the run directory:
//!
//! ```text
//!     <run dir>/tls ──► tls-<fingerprint>/    ca-cert.pem, dh-params.pem, {server,client}-{cert,key}.pem
//! ```
//!
//! The link is replaced as a whole: nobody ever reads a certificate with the key of another one. Whoever has
//! read the ones before keeps them: machines read them for each connection that they begin, the storage daemon
//! when it starts.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use host::qemu::{RunAs, TlsFiles};

use crate::config::Config;
use crate::pki::{self, HostIdentity};

/// Begins the names of all that stands in the run directory for this.
const LINK: &str = "tls";

/// How much of a certificate's fingerprint tells it from the ones before.
const FINGERPRINT_DIGITS: usize = 16;

/// Readable by the guests' user through its group, and by nobody else.
const FOLDER_MODE: u32 = 0o750;
const FILE_MODE: u32 = 0o640;

/// The group ffdhe2048 of RFC 7919, appendix A.1. Our keys need none, and without the file QEMU draws a group of its own
/// each time it sets up a server, which takes seconds.
const DH_PARAMS: &str = "\
-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
";

/// Where QEMU finds the certificates of this host, once it is a member.
pub fn files(config: &Config) -> TlsFiles {
    TlsFiles::new(config.run_dir.join(LINK))
}

/// Puts them there.
pub fn write(config: &Config, identity: &HostIdentity, run_as: Option<RunAs>) -> anyhow::Result<()> {
    let fingerprint = pki::fingerprint(&identity.certificate)?;
    let name = format!("{LINK}-{}", fingerprint.get(..FINGERPRINT_DIGITS).unwrap_or(&fingerprint));
    replace(&config.run_dir, &name, identity, run_as.map(|user| user.gid))
        .with_context(|| format!("write the certificates for QEMU in {}", config.run_dir.display()))
}

fn replace(run_dir: &Path, name: &str, identity: &HostIdentity, group: Option<u32>) -> std::io::Result<()> {
    let folder = run_dir.join(name);
    if !folder.is_dir() {
        let half = run_dir.join(format!("{name}.new"));
        remove(&half)?;
        fill(&half, identity, group)?;
        std::fs::rename(&half, &folder)?;
    }
    let link = run_dir.join(format!("{LINK}.new"));
    remove(&link)?;
    std::os::unix::fs::symlink(name, &link)?;
    std::fs::rename(&link, run_dir.join(LINK))?;
    for entry in std::fs::read_dir(run_dir)? {
        let old = entry?.file_name();
        if old.to_str().is_some_and(|old| old.starts_with("tls-") && old != name) {
            remove(&run_dir.join(old))?;
        }
    }
    Ok(())
}

fn fill(folder: &Path, identity: &HostIdentity, group: Option<u32>) -> std::io::Result<()> {
    let private = Permissions::from_mode(0o700);
    std::fs::create_dir(folder)?;
    std::fs::set_permissions(folder, private)?;
    let (certificate, key) = (identity.certificate.as_str(), identity.key.as_str());
    let files = [
        ("ca-cert.pem", identity.ca.as_str()),
        ("dh-params.pem", DH_PARAMS),
        ("server-cert.pem", certificate),
        ("server-key.pem", key),
        ("client-cert.pem", certificate),
        ("client-key.pem", key),
    ];
    for (name, text) in files {
        let path: PathBuf = folder.join(name);
        let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())?;
        share(&path, FILE_MODE, group)?;
        file.sync_all()?;
    }
    share(folder, FOLDER_MODE, group)
}

fn share(path: &Path, mode: u32, group: Option<u32>) -> std::io::Result<()> {
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group)?;
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Removes a folder with all that is in it, or a link. Nothing there is no error.
fn remove(path: &Path) -> std::io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn identity(certificate: &str) -> HostIdentity {
        let (ca, key) = ("the authority".to_owned(), format!("the key of {certificate}"));
        HostIdentity { ca, certificate: certificate.to_owned(), key }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_certificate_takes_the_place_of_the_old_one() {
        let run_dir = tempfile::tempdir().unwrap();
        let own = std::fs::metadata(run_dir.path()).unwrap().gid();
        // What a daemon left that died half way.
        std::fs::create_dir(run_dir.path().join("tls-1.new")).unwrap();
        let read = |name: &str| std::fs::read_to_string(run_dir.path().join("tls").join(name)).unwrap();
        replace(run_dir.path(), "tls-1", &identity("one"), Some(own)).unwrap();
        replace(run_dir.path(), "tls-1", &identity("one"), Some(own)).unwrap();
        assert_eq!(
            (read("server-cert.pem"), read("server-key.pem")),
            ("one".into(), "the key of one".into())
        );
        replace(run_dir.path(), "tls-2", &identity("two"), Some(own)).unwrap();
        assert_eq!(
            (read("client-cert.pem"), read("client-key.pem")),
            ("two".into(), "the key of two".into())
        );
        assert_eq!(names(run_dir.path()), ["tls", "tls-2"]);
        let keys =
            ["client-cert.pem", "client-key.pem", "dh-params.pem", "server-cert.pem", "server-key.pem"];
        let files = [&["ca-cert.pem"], &keys[..]].concat();
        assert_eq!(names(&run_dir.path().join("tls")), files);
        let mode = |name: &str| run_dir.path().join("tls").join(name).metadata().unwrap().mode() & 0o777;
        assert_eq!((mode("server-key.pem"), mode(".")), (0o640, 0o750));
    }

    #[test]
    fn without_a_user_for_guests_only_the_daemon_s_own_may_read_them() {
        let run_dir = tempfile::tempdir().unwrap();
        replace(run_dir.path(), "tls-1", &identity("one"), None).unwrap();
        let mode = |name: &str| run_dir.path().join("tls").join(name).metadata().unwrap().mode() & 0o777;
        assert_eq!((mode("client-key.pem"), mode(".")), (0o600, 0o700));
    }
}
