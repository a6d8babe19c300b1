//! The NoCloud seed: a small disk that tells a guest who it is.
//!
//! A FAT volume labelled `CIDATA` with the files `meta-data`, `user-data` and `network-config` (version 2,
//! netplan's form). cloud-init's NoCloud data source documents all of it; the tiny guest's init reads the same
//! files, but only in the layout that is written here, one key to a line.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Cursor, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use ipnet::IpNet;
use model::MacAddress;

use crate::HostError;

/// What NoCloud looks for.
const LABEL: [u8; 11] = *b"CIDATA     ";

/// Smallest volume that is made; the kernel's and fatfs' limits for FAT12 are far below.
const VOLUME_BYTES_MIN: u64 = 1 << 20;

/// For the tables and the other two files, beside the user-data.
const OVERHEAD_BYTES: u64 = 1 << 19;

/// What a guest is told about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedContents {
    /// cloud-init does its first-boot work once for each of these: the guest's id.
    pub instance_id: String,
    pub hostname: String,
    pub ssh_keys: Vec<String>,
    /// cloud-init's user-data, or a script that begins with `#!`.
    pub user_data: Option<String>,
    pub nics: Vec<SeedNic>,
}

/// How one network card is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedNic {
    pub mac: MacAddress,
    /// Address and prefix length.
    pub address: Option<IpNet>,
    pub gateway: Option<IpAddr>,
    /// Bytes of a packet, where it is not the usual 1500.
    pub mtu: Option<u32>,
}

/// Writes the seed to `path`, in one step: a reader sees the old one or the new one.
pub fn write_seed(path: &Path, contents: &SeedContents) -> Result<(), HostError> {
    let failed = |error: io::Error| {
        HostError::Failed(format!("cannot write the guest's seed ({}): {error}", path.display()))
    };
    let volume = volume(contents).map_err(failed)?;
    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        // User-data may hold secrets; whoever starts the guest gives the file to the user that QEMU runs as.
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&volume)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(failed)
}

/// The volume's bytes.
fn volume(contents: &SeedContents) -> io::Result<Vec<u8>> {
    let user_data = contents.user_data.as_deref().unwrap_or("#cloud-config\n{}\n");
    let size = (OVERHEAD_BYTES + user_data.len() as u64).next_multiple_of(VOLUME_BYTES_MIN);
    let size = usize::try_from(size).map_err(io::Error::other)?;
    let mut disk = Cursor::new(vec![0; size]);
    format_volume(&mut disk, FormatVolumeOptions::new().volume_label(LABEL))?;
    let fs = FileSystem::new(&mut disk, FsOptions::new())?;
    for (name, text) in [
        ("meta-data", meta_data(contents)),
        ("user-data", user_data.to_owned()),
        ("network-config", network_config(&contents.nics)),
    ] {
        fs.root_dir().create_file(name)?.write_all(text.as_bytes())?;
    }
    fs.unmount()?;
    Ok(disk.into_inner())
}

fn meta_data(contents: &SeedContents) -> String {
    let mut text = String::new();
    line(&mut text, format_args!("instance-id: {}", quoted(&contents.instance_id)));
    line(&mut text, format_args!("local-hostname: {}", quoted(&contents.hostname)));
    if !contents.ssh_keys.is_empty() {
        line(&mut text, format_args!("public-keys:"));
        for key in &contents.ssh_keys {
            line(&mut text, format_args!("  - {}", quoted(key)));
        }
    }
    text
}

fn network_config(nics: &[SeedNic]) -> String {
    let mut text = "version: 2\n".to_owned();
    if nics.is_empty() {
        line(&mut text, format_args!("ethernets: {{}}"));
        return text;
    }
    line(&mut text, format_args!("ethernets:"));
    for (index, nic) in nics.iter().enumerate() {
        line(&mut text, format_args!("  nic{index}:"));
        line(&mut text, format_args!("    match:"));
        line(&mut text, format_args!("      macaddress: {}", quoted(&nic.mac.to_string())));
        line(&mut text, format_args!("    dhcp4: false"));
        line(&mut text, format_args!("    dhcp6: false"));
        if let Some(mtu) = nic.mtu {
            line(&mut text, format_args!("    mtu: {mtu}"));
        }
        if let Some(address) = nic.address {
            line(&mut text, format_args!("    addresses:"));
            line(&mut text, format_args!("      - {}", quoted(&address.to_string())));
        }
        // In numbers rather than as "default", which older releases of cloud-init do not know.
        let (to, via) = match nic.gateway {
            Some(IpAddr::V4(gateway)) => ("0.0.0.0/0", gateway.to_string()),
            Some(IpAddr::V6(gateway)) => ("::/0", gateway.to_string()),
            None => continue,
        };
        line(&mut text, format_args!("    routes:"));
        line(&mut text, format_args!("      - to: {}", quoted(to)));
        line(&mut text, format_args!("        via: {}", quoted(&via)));
    }
    text
}

/// YAML takes every JSON string as it is.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{arguments}");
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn contents() -> SeedContents {
        SeedContents {
            instance_id: "0190-web1".to_owned(),
            hostname: "web1".to_owned(),
            ssh_keys: vec!["ssh-ed25519 AAAA \"me\"".to_owned()],
            user_data: Some("#!/bin/sh\necho hello\n".to_owned()),
            nics: vec![
                SeedNic {
                    mac: MacAddress::from_random([1, 2, 3]),
                    address: Some("10.90.0.5/24".parse().unwrap()),
                    gateway: Some("10.90.0.1".parse().unwrap()),
                    mtu: Some(1400),
                },
                SeedNic { mac: MacAddress::from_random([1, 2, 4]), address: None, gateway: None, mtu: None },
            ],
        }
    }

    fn read(path: &Path, name: &str) -> String {
        let fs = FileSystem::new(
            OpenOptions::new().read(true).write(true).open(path).unwrap(),
            FsOptions::new().update_accessed_date(false),
        )
        .unwrap();
        assert_eq!(fs.volume_label(), "CIDATA");
        assert_eq!(fs.read_volume_label_from_root_dir().unwrap().as_deref(), Some("CIDATA"));
        let mut text = String::new();
        fs.root_dir().open_file(name).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_seed_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed.img");
        write_seed(&path, &contents()).unwrap();
        assert_eq!(
            read(&path, "meta-data"),
            "instance-id: \"0190-web1\"\nlocal-hostname: \"web1\"\npublic-keys:\n  - \"ssh-ed25519 AAAA \\\"me\\\"\"\n"
        );
        assert_eq!(read(&path, "user-data"), "#!/bin/sh\necho hello\n");
        assert_eq!(
            read(&path, "network-config"),
            r#"version: 2
ethernets:
  nic0:
    match:
      macaddress: "52:54:00:01:02:03"
    dhcp4: false
    dhcp6: false
    mtu: 1400
    addresses:
      - "10.90.0.5/24"
    routes:
      - to: "0.0.0.0/0"
        via: "10.90.0.1"
  nic1:
    match:
      macaddress: "52:54:00:01:02:04"
    dhcp4: false
    dhcp6: false
"#
        );
        let entries = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(entries, 1);
    }

    #[test]
    fn a_seed_is_written_anew_and_holds_large_user_data() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed.img");
        write_seed(&path, &contents()).unwrap();
        let large = "#!/bin/sh\n".to_owned() + &"# ä\n".repeat(1 << 19);
        write_seed(&path, &SeedContents { user_data: Some(large.clone()), nics: vec![], ..contents() })
            .unwrap();
        assert!(read(&path, "user-data") == large);
        assert_eq!(read(&path, "network-config"), "version: 2\nethernets: {}\n");
    }

    #[test]
    fn without_user_data_cloud_init_has_nothing_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed.img");
        write_seed(&path, &SeedContents { user_data: None, ..contents() }).unwrap();
        assert_eq!(read(&path, "user-data"), "#cloud-config\n{}\n");
    }

    #[test]
    fn a_place_that_is_not_there_is_named() {
        let error = write_seed(Path::new("/no/such/dir/seed.img"), &contents()).unwrap_err().to_string();
        assert!(error.contains("/no/such/dir/seed.img"), "{error}");
    }
}
