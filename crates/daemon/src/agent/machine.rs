//! From a guest's spec to everything that its machine is started with.

use host::network::{bridge_name, tap_name};
use host::seed::{SeedContents, SeedNic, write_seed};
use host::volume::Volumes;
use host::{BootFiles, CpuModel, HostError, MachineConfig, MachineDisk, MachineLabel, MachineNic};
use model::{BootFrom, DiskSpec, ImageName, Network};
use plan::converge::Situation;

use super::keeper::Keeper;

/// What a kernel is told that is booted without a boot loader and whose image says nothing.
const COMMAND_LINE: &str = "console=ttyS0";

impl Keeper {
    pub(super) async fn machine_config(&mut self, s: &Situation) -> Result<MachineConfig, HostError> {
        let boot = match &s.spec.boot {
            BootFrom::Disk => BootFiles::Disk,
            BootFrom::Image(name) => self.boot_files(name).await?,
        };
        let networks = self.networks(s)?;
        let mut nics = Vec::new();
        for (index, (nic, network)) in s.spec.nics.iter().zip(&networks).enumerate() {
            nics.push(MachineNic { tap: self.attach_tap(s, index, network).await?, mac: nic.mac });
        }
        let cpu = CpuModel::at_start(self.agent.state.read().view(), self.agent.accelerator());
        let mut disks = Vec::new();
        for disk in &s.spec.disks {
            let path = self.volumes_of(disk).await?.path(disk.volume);
            let (volume, shared, thin) = (disk.volume, disk.pool_name.is_some(), disk.thin);
            disks.push(MachineDisk { volume, path, shared, thin });
        }
        Ok(MachineConfig {
            label: MachineLabel {
                guest: self.guest.clone(),
                id: s.spec.id,
                epoch: s.assignment.epoch,
                boot_generation: s.spec.boot_generation,
            },
            vcpus: s.spec.vcpus,
            memory: s.spec.memory,
            accelerator: self.agent.accelerator(),
            cpu,
            machine_type: None,
            boot,
            disks,
            seed: Some(self.write_seed(s, &networks).await?),
            nics,
        })
    }

    /// The files of the pool that a disk is in.
    pub(super) async fn volumes_of(&self, disk: &DiskSpec) -> Result<Volumes, HostError> {
        match &disk.pool_name {
            Some(pool) => self.agent.pools.volumes(pool).await,
            None => Ok(self.agent.volumes.clone()),
        }
    }

    async fn boot_files(&self, name: &ImageName) -> Result<BootFiles, HostError> {
        let image = self.agent.images.ensure(name).await?;
        let Some(kernel) = &image.kernel else {
            return Err(HostError::NotFound(format!("the image '{name}' has no kernel to boot")));
        };
        Ok(BootFiles::Kernel {
            kernel: self.agent.images.path(kernel),
            initrd: image.initrd.as_ref().map(|file| self.agent.images.path(file)),
            command_line: image.kernel_command_line.clone().unwrap_or_else(|| COMMAND_LINE.to_owned()),
        })
    }

    /// The network of each of the guest's cards.
    fn networks(&self, s: &Situation) -> Result<Vec<Network>, HostError> {
        let cache = self.agent.state.read();
        let find = |nic: &model::NicSpec| {
            let network = cache.view().networks.get(&nic.network).cloned();
            network.ok_or_else(|| HostError::NotFound(format!("there is no network '{}'", nic.network)))
        };
        s.spec.nics.iter().map(find).collect()
    }

    async fn attach_tap(&self, s: &Situation, index: usize, network: &Network) -> Result<String, HostError> {
        let bridge = bridge_name(&network.name);
        let uplinks = self.agent.config.uplinks();
        let uplink = uplinks.get(network.name.as_str()).map(String::as_str);
        match self.agent.networks.ensure_bridge(&bridge, network.mtu, uplink).await {
            // The bridge is there; guests of this host reach each other.
            Err(HostError::NotFound(why)) => tracing::warn!(why, "a network does not leave this host"),
            other => other?,
        }
        let tap = tap_name(s.spec.id, index);
        let owner = self.agent.run_as().map(|run_as| run_as.uid);
        self.agent.networks.ensure_tap(&tap, &bridge, owner).await?;
        Ok(tap)
    }

    pub(super) async fn remove_taps(&self, s: &Situation) {
        for index in 0..s.spec.nics.len() {
            if let Err(error) = self.agent.networks.delete_link(&tap_name(s.spec.id, index)).await {
                tracing::warn!(guest = %self.guest, %error, "a network card is left behind");
            }
        }
    }

    async fn write_seed(&self, s: &Situation, networks: &[Network]) -> Result<std::path::PathBuf, HostError> {
        let folder = self.agent.config.state_dir.join("guests").join(s.spec.id.to_string());
        let path = folder.join("seed.img");
        let nics = s.spec.nics.iter().zip(networks).map(|(nic, network)| SeedNic {
            mac: nic.mac,
            address: nic.address,
            gateway: network.gateway,
            mtu: Some(network.mtu),
        });
        let contents = SeedContents {
            instance_id: s.spec.id.to_string(),
            hostname: s.spec.name.to_string(),
            ssh_keys: s.spec.seed.ssh_keys.clone(),
            user_data: s.spec.seed.user_data.clone(),
            nics: nics.collect(),
        };
        let target = path.clone();
        let written = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&folder)
                .map_err(|error| HostError::Failed(format!("cannot make {}: {error}", folder.display())))?;
            write_seed(&target, &contents)
        });
        written.await.map_err(|error| HostError::Failed(error.to_string()))??;
        Ok(path)
    }
}
