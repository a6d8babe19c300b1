//! A new guest: every default filled in, everything that speaks against it found, then one transaction.

use std::net::IpAddr;

use api::{CreateDisk, CreateGuest, JobView};
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use ipnet::IpNet;
use jiff::Timestamp;
use model::{
    AddressClaim, BootFrom, Bytes, ClusterView, DiskSpec, GuestId, GuestSpec, HealthSpec, Image, JobKind,
    MacAddress, Network, NetworkName, NicSpec, Pool, PoolName, PowerWish, Resync, Seed, VolumeId,
};
use store::keys;
use uuid::Uuid;

use super::answer::{Answer, Body, Refused};
use super::auth::Caller;
use super::{Shared, checks, commit, planner};

const MEMORY_DEFAULT: Bytes = Bytes::mib(512);
const DISK_DEFAULT: Bytes = Bytes::gib(10);
/// For an image that brings its own kernel and lives in memory, as the tiny guest does.
const MEMORY_DEFAULT_SMALL: Bytes = Bytes::mib(128);
const DISK_DEFAULT_SMALL: Bytes = Bytes::mib(64);

/// Slots for virtio disks that a guest's machine surely has.
const DISKS_MAX: usize = 16;

/// The specification is one value of the store, which is read and written whole.
const USER_DATA_BYTES_MAX: usize = 64 << 10;

/// Sizes of disks are rounded up to this.
const DISK_UNIT: u64 = Bytes::MIB;

/// Long enough for a server to stop its services.
const STOP_TIMEOUT_S: u32 = 90;

/// The network that a guest is on when none is named.
const NETWORK_DEFAULT: &str = "default";

pub async fn create(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<CreateGuest>,
) -> Answer<(StatusCode, Json<JobView>)> {
    let asked = format!("create the guest '{}'", request.name);
    let job = commit::new_job(JobKind::CreateGuest { guest: request.name.clone() }, &caller);
    let draft = Draft::new(&request, &asked);
    let planned = draft.guest(&backend.state().view())?;
    let warnings = planner::admit_new(&backend, &planned, request.force, &asked).await?;
    let view = commit::start_job(&backend, &asked, &job, |cache, txn| {
        let guest = draft.guest(cache.view())?;
        txn.create(&guest);
        // What it was checked against must still be there.
        for image in guest.disks.iter().filter_map(|disk| disk.image.as_ref()) {
            txn.unchanged(&keys::image(image));
        }
        for pool in guest.named_pools() {
            txn.unchanged(&keys::pool(pool)).exists(&keys::pool(pool));
        }
        for nic in &guest.nics {
            txn.unchanged(&keys::network(&nic.network));
            if let Some(address) = nic.address {
                let (network, guest) = (nic.network.clone(), guest.name.clone());
                txn.create(&AddressClaim { network, address: address.addr(), guest });
            }
        }
        Ok(())
    })
    .await?;
    Ok((StatusCode::ACCEPTED, Json(JobView { warnings, ..view })))
}

/// What stays the same however often the guest is drafted.
struct Draft<'a> {
    request: &'a CreateGuest,
    asked: &'a str,
    id: GuestId,
    volumes: Vec<VolumeId>,
    now: Timestamp,
}

impl<'a> Draft<'a> {
    fn new(request: &'a CreateGuest, asked: &'a str) -> Self {
        let volumes = (0..request.disks.len().max(1)).map(|_| VolumeId(Uuid::new_v4())).collect();
        Self { request, asked, id: GuestId(Uuid::new_v4()), volumes, now: Timestamp::now() }
    }

    fn refuse(&self, why: impl Into<String>, instead: impl Into<String>) -> Refused {
        Refused::by_state(self.asked, why, instead)
    }

    fn guest(&self, view: &ClusterView) -> Answer<GuestSpec> {
        let request = self.request;
        self.check_name(view)?;
        let image = self.image(view)?;
        let small = image.is_some_and(|image| image.kernel.is_some());
        let memory = request.memory.unwrap_or(if small { MEMORY_DEFAULT_SMALL } else { MEMORY_DEFAULT });
        checks::guest_size(memory, request.vcpus, self.asked)?;
        self.check_seed()?;
        checks::tags(&request.tags, self.asked)?;
        checks::number_of_tags(&request.tags, self.asked)?;
        if let Some(host) = request.host.as_ref().filter(|host| !view.hosts.contains_key(*host)) {
            let why = format!("there is no host '{host}'");
            return Err(self.refuse(why, "`kennel host list` shows those that there are"));
        }
        let boot = match image {
            Some(image) if small => BootFrom::Image(image.name.clone()),
            Some(_) | None => BootFrom::Disk,
        };
        let spec = GuestSpec {
            name: request.name.clone(),
            id: self.id,
            created_at: self.now,
            vcpus: request.vcpus,
            memory,
            boot,
            disks: self.disks(view, image, small)?,
            nics: self.nics(view)?,
            seed: Seed { user_data: request.user_data.clone(), ssh_keys: request.ssh_keys.clone() },
            power: if request.start { PowerWish::Running } else { PowerWish::Stopped },
            boot_generation: 1,
            priority: request.priority,
            stop_timeout_s: STOP_TIMEOUT_S,
            preferred_host: request.host.clone(),
            deleting: false,
            tags: request.tags.clone(),
            pinned: request.pinned,
            start_after: request.start_after.clone(),
            restart_with: request.restart_with.clone(),
            resync: Resync::default(),
            health: self.health(),
        };
        checks::health(&spec, self.asked)?;
        planner::check_start_order(view, &spec, &spec.start_after, self.asked)?;
        planner::check_group(view, &spec, &spec.restart_with, self.asked)?;
        Ok(spec)
    }

    fn health(&self) -> HealthSpec {
        let mut health = HealthSpec::default();
        self.request.health.apply(&mut health);
        health
    }

    fn check_name(&self, view: &ClusterView) -> Answer<()> {
        match view.guests.get(&self.request.name) {
            None => Ok(()),
            Some(guest) if guest.deleting => {
                Err(self.refuse("the guest of that name is still being deleted", "wait until it is gone"))
            }
            Some(_) => Err(self.refuse("a guest of that name exists", "choose another name")),
        }
    }

    fn image<'v>(&self, view: &'v ClusterView) -> Answer<Option<&'v Image>> {
        let Some(name) = &self.request.image else { return Ok(None) };
        view.images.get(name).map(Some).ok_or_else(|| {
            let instead =
                "`kennel image list` shows those that there are, `kennel image build tiny` makes one";
            self.refuse(format!("there is no image '{name}'"), instead)
        })
    }

    fn check_seed(&self) -> Answer<()> {
        let seed = self.request.user_data.as_deref().unwrap_or_default().len()
            + self.request.ssh_keys.iter().map(String::len).sum::<usize>();
        if seed > USER_DATA_BYTES_MAX {
            let why = format!("its user-data and keys are {} in all", Bytes(seed as u64));
            let instead = format!(
                "keep them below {}, and let the guest fetch the rest",
                Bytes(USER_DATA_BYTES_MAX as u64)
            );
            return Err(self.refuse(why, instead));
        }
        Ok(())
    }

    fn disks(&self, view: &ClusterView, image: Option<&Image>, small: bool) -> Answer<Vec<DiskSpec>> {
        let standard = [CreateDisk::default()];
        let asked = if self.request.disks.is_empty() { &standard } else { &self.request.disks[..] };
        if asked.len() > DISKS_MAX {
            return Err(self.refuse(
                format!("{} disks are more than its machine takes", asked.len()),
                format!("give it {DISKS_MAX} or fewer"),
            ));
        }
        let pool_default =
            if view.hosts.len() >= Pool::Mirror.replicas() { Pool::Mirror } else { Pool::Local };
        let mut disks = Vec::new();
        for (index, (disk, volume)) in asked.iter().zip(&self.volumes).enumerate() {
            let image = image.filter(|_| index == 0);
            let size = self.disk_size(index, disk, image, small)?;
            let (pool, pool_name) = match &disk.pool {
                Some(name) => self.pool(view, name)?,
                None => (pool_default, None),
            };
            disks.push(DiskSpec {
                volume: *volume,
                pool,
                pool_name,
                size,
                image: image.map(|image| image.name.clone()),
                thin: disk.thin,
            });
        }
        if disks.iter().any(|disk| (disk.pool, &disk.pool_name) != (disks[0].pool, &disks[0].pool_name)) {
            let why = "its disks are in several pools, so that it could not run where all of them are";
            return Err(self.refuse(why, "put all its disks into one pool"));
        }
        Ok(disks)
    }

    fn pool(&self, view: &ClusterView, name: &PoolName) -> Answer<(Pool, Option<PoolName>)> {
        if let Some(kind) = name.built_in() {
            return Ok((kind, None));
        }
        let pool = view.pools.get(name).ok_or_else(|| {
            let instead = "`kennel pool list` shows those that there are, `kennel pool create` makes one";
            self.refuse(format!("there is no pool '{name}'"), instead)
        })?;
        if !view.hosts.keys().any(|host| view.is_live(host) && view.pool_problem(host, name).is_none()) {
            let instead = format!("`kennel pool show {name}` says why");
            return Err(self.refuse(format!("no host reaches the pool '{name}'"), instead));
        }
        Ok((pool.storage.kind(), Some(name.clone())))
    }

    fn disk_size(
        &self,
        index: usize,
        disk: &CreateDisk,
        image: Option<&Image>,
        small: bool,
    ) -> Answer<Bytes> {
        let needed = image.map_or(Bytes(0), |image| image.virtual_size);
        let default = if small { DISK_DEFAULT_SMALL } else { DISK_DEFAULT };
        let size = disk.size.unwrap_or(default.max(needed));
        if size == Bytes(0) {
            return Err(self.refuse(format!("disk {index} has no size"), "give it one, as in 10G"));
        }
        if let Some(image) = image.filter(|_| size < needed) {
            let why =
                format!("disk {index} of {size} is smaller than the image '{}' of {needed}", image.name);
            return Err(self.refuse(why, format!("give it {needed} or more")));
        }
        match size.0.checked_next_multiple_of(DISK_UNIT) {
            Some(size) => Ok(Bytes(size)),
            None => Err(self.refuse(format!("no host has {size} for disk {index}"), "make it smaller")),
        }
    }

    fn nics(&self, view: &ClusterView) -> Answer<Vec<NicSpec>> {
        let network = match &self.request.network {
            Some(name) => Some(view.networks.get(name).ok_or_else(|| {
                let instead = "`kennel network list` shows those that there are";
                self.refuse(format!("there is no network '{name}'"), instead)
            })?),
            None => view.networks.values().find(|network| network.name.as_str() == NETWORK_DEFAULT),
        };
        let Some(network) = network else {
            return match self.request.address {
                None => Ok(Vec::new()),
                Some(address) => Err(self.refuse(
                    format!("there is no network '{NETWORK_DEFAULT}' to hold its address {address}"),
                    "create the network, or name one with --network",
                )),
            };
        };
        let address = Some(match self.request.address {
            Some(address) => self.address(view, network, address)?,
            None => self.free_address(view, network)?,
        });
        let mac = self.mac(view);
        Ok(vec![NicSpec { network: network.name.clone(), mac, address }])
    }

    fn address(&self, view: &ClusterView, network: &Network, address: IpAddr) -> Answer<IpNet> {
        let subnet = network.subnet;
        let spare = |name: &NetworkName| {
            format!("choose another one of {subnet}, `kennel network list` shows who is on {name}")
        };
        if !subnet.contains(&address) {
            let why = format!("its address {address} is not in {subnet}, the network '{}'", network.name);
            return Err(self.refuse(why, "choose one that is, or another network"));
        }
        // A subnet of one or two addresses has neither.
        let wide = subnet.max_prefix_len() - subnet.prefix_len() > 1;
        let reserved = address == subnet.network() || (address.is_ipv4() && address == subnet.broadcast());
        if wide && reserved {
            let why = format!("{address} is not an address for a host of {subnet}");
            return Err(self.refuse(why, spare(&network.name)));
        }
        if network.gateway == Some(address) {
            let why = format!("{address} is the gateway of the network '{}'", network.name);
            return Err(self.refuse(why, spare(&network.name)));
        }
        if let Some(claim) = view.addresses.get(&(network.name.clone(), address)) {
            let why = format!("the guest '{}' has the address {address}", claim.guest);
            return Err(self.refuse(why, spare(&network.name)));
        }
        IpNet::new(address, subnet.prefix_len()).map_err(|error| Refused::failed(self.asked, error))
    }

    /// The first that nobody holds. The very first of a subnet is left to a gateway.
    fn free_address(&self, view: &ClusterView, network: &Network) -> Answer<IpNet> {
        let mut candidates = network.subnet.hosts().skip(1);
        candidates.find_map(|address| self.address(view, network, address).ok()).ok_or_else(|| {
            let why = format!("every address of {}, the network '{}', is held", network.subnet, network.name);
            self.refuse(why, "delete a guest, or create a larger network and name it with --network")
        })
    }

    /// Follows from the guest's id, and avoids those that are taken.
    fn mac(&self, view: &ClusterView) -> MacAddress {
        let taken = |mac: MacAddress| view.guests.values().flat_map(|g| &g.nics).any(|nic| nic.mac == mac);
        let bytes = self.id.0.into_bytes();
        let mut candidates =
            bytes.windows(3).map(|three| MacAddress::from_random([three[0], three[1], three[2]]));
        let free = candidates.find(|mac| !taken(*mac));
        // Fourteen collisions in a row: the operator has other worries.
        free.unwrap_or_else(|| MacAddress::from_random([bytes[0], bytes[1], bytes[2]]))
    }
}
