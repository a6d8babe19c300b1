//! Guests' networks on this host: a Linux bridge for each network, a TAP interface for each network card.
//!
//! Every call says how things should be and may be repeated; what is right already is left alone, so that a
//! kenneld that starts anew disturbs no guest. An interface of the right name but of another kind is never
//! touched. The bridges run no spanning tree: a guest that was just moved must be heard at once, not after a
//! forward delay.
//!
//! All of it happens in the network namespace of the threads that call: [`Networks::new`] opens its netlink
//! socket there, and TAP interfaces appear where the calling thread is.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

use futures::TryStreamExt;
use model::{GuestId, NetworkName};
use nix::errno::Errno;
use nix::libc;
use rtnetlink::packet_route::link::{
    BridgeStpState, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{Handle, LinkBridge, LinkUnspec};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::HostError;

/// The kernel's limit for an interface's name, without the final zero byte.
const INTERFACE_NAME_MAX: usize = libc::IFNAMSIZ - 1;

const BRIDGE_PREFIX: &str = "kbr-";

/// A hardware address for a bridge. One that was given none has that of its lowest port: it changes as cards come and
/// go, and whoever knew the old one does not reach this host on the bridge for some nine seconds.
fn own_address() -> Vec<u8> {
    let [first, b, c, d, e, f, ..] = Uuid::new_v4().into_bytes();
    // Locally administered, and of one interface.
    vec![(first & 0b1111_1100) | 0b10, b, c, d, e, f]
}

/// The bridge of a network: readable where it fits into a name of 15 characters, else cut and made unique
/// with a hash. The underscore keeps the two apart: no network's name has one.
pub fn bridge_name(network: &NetworkName) -> String {
    const KEPT: usize = 4;
    const HASH_BYTES: usize = 3;
    const _: () = assert!(BRIDGE_PREFIX.len() + KEPT + 1 + 2 * HASH_BYTES == INTERFACE_NAME_MAX);
    let name = network.as_str();
    if BRIDGE_PREFIX.len() + name.len() <= INTERFACE_NAME_MAX {
        return format!("{BRIDGE_PREFIX}{name}");
    }
    let hash: String =
        Sha256::digest(name).iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect();
    // Network names are ASCII, and longer than this here.
    let kept: String = name.chars().take(KEPT).collect();
    format!("{BRIDGE_PREFIX}{kept}_{hash}")
}

/// The TAP interface of a guest's network card. The id's last digits are its random ones in every version of
/// UUID that we draw; the first ones of a version 7 are a clock.
pub fn tap_name(guest: GuestId, index: usize) -> String {
    let id = guest.0.simple().to_string();
    format!("ktap{}n{index}", &id[id.len() - 8..])
}

/// The interfaces of this host.
#[derive(Debug, Clone)]
pub struct Networks {
    netlink: Handle,
}

impl Networks {
    /// Must be called within a Tokio runtime.
    pub fn new() -> Result<Self, HostError> {
        let (connection, netlink, _) = rtnetlink::new_connection().map_err(|error| {
            HostError::Failed(format!("cannot speak to the kernel's network side: {error}"))
        })?;
        tokio::spawn(connection);
        Ok(Self { netlink })
    }

    /// Makes a bridge, or sets one right: its MTU, up, and with `uplink` as a port. When the uplink is not
    /// there, the bridge is still made, so that guests on this host reach each other, and the answer is
    /// [`HostError::NotFound`].
    pub async fn ensure_bridge(&self, bridge: &str, mtu: u32, uplink: Option<&str>) -> Result<(), HostError> {
        check_name(bridge)?;
        let what = |error| failed(&format!("set up the bridge {bridge}"), &error);
        if self.find(bridge).await?.is_none() {
            let message = LinkBridge::new(bridge)
                .stp_state(BridgeStpState::Disabled)
                .forward_delay(0)
                .mcast_snooping(false)
                .address(own_address())
                .build();
            match self.netlink.link().add(message).execute().await {
                Err(error) if errno(&error) != Some(Errno::EEXIST) => return Err(what(error)),
                Ok(()) | Err(_) => {}
            }
        }
        let link = self.require(bridge).await?;
        if link.kind() != Some(&InfoKind::Bridge) {
            return Err(foreign(bridge, "bridge"));
        }
        if link.mtu() != Some(mtu) || !link.is_up() {
            let message = LinkUnspec::new_with_index(link.index()).mtu(mtu).up().build();
            self.netlink.link().set(message).execute().await.map_err(what)?;
        }
        match uplink {
            Some(uplink) => self.attach_uplink(bridge, link.index(), mtu, uplink).await,
            None => Ok(()),
        }
    }

    /// Makes a persistent TAP interface that the user `owner` may open, or sets one right: a port of
    /// `bridge`, with the bridge's MTU, and up. One that a machine holds open stays as it is otherwise.
    pub async fn ensure_tap(&self, tap: &str, bridge: &str, owner: Option<u32>) -> Result<(), HostError> {
        check_name(tap)?;
        let bridge_link = self.require(bridge).await?;
        if self.find(tap).await?.is_some_and(|link| link.kind() != Some(&InfoKind::Tun)) {
            return Err(foreign(tap, "TAP interface"));
        }
        make_tap(tap, owner).map_err(|error| {
            HostError::Failed(format!("cannot make the TAP interface {tap} (through /dev/net/tun): {error}"))
        })?;
        let link = self.require(tap).await?;
        let (index, mtu) = (bridge_link.index(), bridge_link.mtu());
        if link.controller() == Some(index) && link.mtu() == mtu && link.is_up() {
            return Ok(());
        }
        let mut message = LinkUnspec::new_with_index(link.index()).controller(index).up();
        if let Some(mtu) = mtu {
            message = message.mtu(mtu);
        }
        let what = |error| failed(&format!("attach {tap} to the bridge {bridge}"), &error);
        self.netlink.link().set(message.build()).execute().await.map_err(what)
    }

    /// Removes a bridge or a TAP interface. One that is not there is no error.
    pub async fn delete_link(&self, name: &str) -> Result<(), HostError> {
        let Some(link) = self.find(name).await? else { return Ok(()) };
        match self.netlink.link().del(link.index()).execute().await {
            Err(error) if errno(&error) != Some(Errno::ENODEV) => {
                Err(failed(&format!("remove the interface {name}"), &error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn attach_uplink(
        &self,
        bridge: &str,
        bridge_index: u32,
        mtu: u32,
        uplink: &str,
    ) -> Result<(), HostError> {
        let Some(link) = self.find(uplink).await? else {
            return Err(HostError::NotFound(format!(
                "the bridge {bridge} has no uplink: this host has no interface '{uplink}'; guests on it reach only \
                 each other until it is there"
            )));
        };
        match link.controller() {
            Some(index) if index != bridge_index => {
                return Err(HostError::Conflict(format!(
                    "the interface '{uplink}' cannot be the uplink of {bridge}: it is part of another bridge or \
                     bond; give that one's own interface, or take it out there"
                )));
            }
            Some(_) | None => {}
        }
        let mut message = LinkUnspec::new_with_index(link.index()).up();
        let small = link.mtu().is_some_and(|own| own < mtu);
        if link.controller() == Some(bridge_index) && link.is_up() && !small {
            return Ok(());
        }
        if link.controller().is_none() {
            message = message.controller(bridge_index);
        }
        if small {
            message = message.mtu(mtu);
        }
        let what = |error| failed(&format!("make {uplink} the uplink of {bridge}"), &error);
        self.netlink.link().set(message.build()).execute().await.map_err(what)
    }

    async fn find(&self, name: &str) -> Result<Option<Link>, HostError> {
        let mut links = self.netlink.link().get().match_name(name).execute();
        match links.try_next().await {
            Ok(link) => Ok(link.map(Link)),
            Err(error) if errno(&error) == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(failed(&format!("look at the interface {name}"), &error)),
        }
    }

    async fn require(&self, name: &str) -> Result<Link, HostError> {
        self.find(name).await?.ok_or_else(|| {
            HostError::NotFound(format!(
                "there is no interface '{name}' on this host; was it removed by hand?"
            ))
        })
    }
}

/// What the kernel says of an interface.
struct Link(LinkMessage);

impl Link {
    fn index(&self) -> u32 {
        self.0.header.index
    }

    fn is_up(&self) -> bool {
        self.0.header.flags.contains(LinkFlags::Up)
    }

    fn attribute<'a, T>(&'a self, pick: impl Fn(&'a LinkAttribute) -> Option<T>) -> Option<T> {
        self.0.attributes.iter().find_map(pick)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel's attributes are many, and grow")]
    fn mtu(&self) -> Option<u32> {
        self.attribute(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        })
    }

    /// The bridge or bond that it is a port of.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel's attributes are many, and grow")]
    fn controller(&self) -> Option<u32> {
        self.attribute(|attribute| match attribute {
            LinkAttribute::Controller(index) => Some(*index),
            _ => None,
        })
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel's attributes are many, and grow")]
    fn kind(&self) -> Option<&InfoKind> {
        let info = self.attribute(|attribute| match attribute {
            LinkAttribute::LinkInfo(info) => Some(info),
            _ => None,
        })?;
        info.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind),
            _ => None,
        })
    }
}

fn check_name(name: &str) -> Result<(), HostError> {
    let fits = !name.is_empty() && name.len() <= INTERFACE_NAME_MAX;
    if fits && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':') {
        return Ok(());
    }
    Err(HostError::Conflict(format!(
        "'{name}' cannot name an interface: use 1 to {INTERFACE_NAME_MAX} characters without spaces, slashes and \
         colons"
    )))
}

fn foreign(name: &str, wanted: &str) -> HostError {
    HostError::Conflict(format!(
        "the interface '{name}' exists and is no {wanted}; Kennel needs the name: remove or rename that interface"
    ))
}

fn failed(what: &str, error: &rtnetlink::Error) -> HostError {
    match errno(error) {
        Some(Errno::EPERM | Errno::EACCES) => HostError::Failed(format!(
            "cannot {what}: the kernel does not permit it; kenneld must run as root (or with CAP_NET_ADMIN)"
        )),
        Some(errno) => HostError::Failed(format!("cannot {what}: {}", errno.desc())),
        None => HostError::Failed(format!("cannot {what}: {error}")),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only the kernel's own refusals have a number")]
fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(Errno::from_raw(message.raw_code().abs())),
        _ => None,
    }
}

/// Makes a TAP interface that stays when this process lets go of it, with the header that virtio's offloads
/// need. One that a machine holds open is right already.
fn make_tap(name: &str, owner: Option<u32>) -> io::Result<()> {
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(INTERFACE_NAME_MAX)) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    match tun::set_interface(&device, &mut request) {
        Err(Errno::EBUSY) => return Ok(()),
        result => result?,
    }
    if let Some(owner) = owner {
        tun::set_owner(&device, owner)?;
    }
    tun::set_persistent(&device)?;
    Ok(())
}

/// The requests of linux/if_tun.h that are needed here.
#[expect(unsafe_code, reason = "the kernel makes TAP interfaces through ioctl only")]
mod tun {
    use std::fs::File;

    use super::{AsRawFd, Errno, libc};

    nix::ioctl_write_ptr_bad!(
        tunsetiff,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    nix::ioctl_write_int_bad!(tunsetpersist, nix::request_code_write!(b'T', 203, size_of::<libc::c_int>()));
    nix::ioctl_write_int_bad!(tunsetowner, nix::request_code_write!(b'T', 204, size_of::<libc::c_int>()));

    /// The kernel writes the interface's name back into the request.
    pub(super) fn set_interface(device: &File, request: &mut libc::ifreq) -> Result<(), Errno> {
        // SAFETY: the descriptor is open, and the request is a whole ifreq that outlives the call.
        unsafe { tunsetiff(device.as_raw_fd(), request) }.map(drop)
    }

    pub(super) fn set_persistent(device: &File) -> Result<(), Errno> {
        // SAFETY: the descriptor is open, and this request takes a plain number.
        unsafe { tunsetpersist(device.as_raw_fd(), 1) }.map(drop)
    }

    pub(super) fn set_owner(device: &File, user: u32) -> Result<(), Errno> {
        let user = libc::c_int::try_from(user).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the descriptor is open, and this request takes a plain number.
        unsafe { tunsetowner(device.as_raw_fd(), user) }.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use uuid::Uuid;

    use super::*;

    #[test]
    fn bridges_have_names_of_their_own() {
        let name = |network: &str| bridge_name(&network.parse().unwrap());
        assert_eq!(name("lan"), "kbr-lan");
        assert_eq!(name("abcdefghijk"), "kbr-abcdefghijk");
        let (one, two) = (name("customer-network-1"), name("customer-network-2"));
        assert_eq!((one.len(), two.len()), (15, 15));
        assert!(one != two && one.starts_with("kbr-cust_"), "{one} {two}");
    }

    #[test]
    fn taps_have_names_that_fit() {
        let guest = GuestId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_dead_beef));
        assert_eq!(tap_name(guest, 0), "ktapdeadbeefn0");
        assert!(tap_name(guest, 99).len() <= INTERFACE_NAME_MAX);
    }

    /// Runs a story on a thread with a network namespace of its own, which goes away with the thread.
    fn in_namespace<F: Future<Output = ()>>(story: impl FnOnce() -> F + Send + 'static) {
        let thread = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("this test needs root");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(story());
        });
        thread.join().unwrap();
    }

    fn ip(arguments: &str) -> String {
        let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_bridge_and_its_taps_come_and_go() {
        fn address() -> String {
            let shown = ip("link show kbr-lan");
            shown.split_once("link/ether ").unwrap().1.split(' ').next().unwrap().to_owned()
        }
        in_namespace(|| async {
            let networks = Networks::new().unwrap();
            networks.ensure_bridge("kbr-lan", 1400, None).await.unwrap();
            let alone = address();
            for _ in 0..2 {
                networks.ensure_bridge("kbr-lan", 1400, None).await.unwrap();
                networks.ensure_tap("ktap0n0", "kbr-lan", Some(12345)).await.unwrap();
            }
            // Lower than any other.
            ip("link set ktap0n0 address 00:00:00:00:00:01");
            assert_eq!(address(), alone, "it is known by one address, whatever its ports are");
            let bridge = ip("-d link show kbr-lan");
            for wanted in ["mtu 1400", "stp_state 0", "forward_delay 0", ",UP"] {
                assert!(bridge.contains(wanted), "{bridge}");
            }
            let tap = ip("-d link show ktap0n0");
            for wanted in
                ["mtu 1400", "master kbr-lan", "type tap", "vnet_hdr on", "persist on", "user 12345", ",UP"]
            {
                assert!(tap.contains(wanted), "{tap}\nhas no {wanted}");
            }
            for name in ["ktap0n0", "kbr-lan"] {
                networks.delete_link(name).await.unwrap();
                networks.delete_link(name).await.unwrap();
            }
            assert!(!ip("link show").contains("kbr-") && !ip("link show").contains("ktap"));
        });
    }

    #[test]
    fn a_tap_that_is_held_open_is_left_alone() {
        in_namespace(|| async {
            let networks = Networks::new().unwrap();
            networks.ensure_bridge("kbr-lan", 1500, None).await.unwrap();
            networks.ensure_tap("ktap0n0", "kbr-lan", None).await.unwrap();
            let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
            let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
            let mut request = libc::ifreq {
                ifr_name: [0; libc::IFNAMSIZ],
                ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags.try_into().unwrap() },
            };
            for (to, from) in request.ifr_name.iter_mut().zip(b"ktap0n0") {
                *to = libc::c_char::from_ne_bytes([*from]);
            }
            tun::set_interface(&device, &mut request).unwrap();
            networks.ensure_tap("ktap0n0", "kbr-lan", None).await.unwrap();
        });
    }

    #[test]
    fn an_uplink_joins_when_it_is_there() {
        in_namespace(|| async {
            let networks = Networks::new().unwrap();
            let error = networks.ensure_bridge("kbr-lan", 1500, Some("up0")).await.unwrap_err();
            assert!(matches!(error, HostError::NotFound(_)), "{error}");
            ip("link show kbr-lan");
            ip("link add up0 type veth peer name up1");
            for _ in 0..2 {
                networks.ensure_bridge("kbr-lan", 1500, Some("up0")).await.unwrap();
            }
            assert!(ip("link show up0").contains("master kbr-lan"));
            let error = networks.ensure_bridge("kbr-other", 1500, Some("up0")).await.unwrap_err();
            assert!(matches!(error, HostError::Conflict(_)), "{error}");
            assert!(ip("link show up0").contains("master kbr-lan"));
        });
    }

    #[test]
    fn foreign_interfaces_are_refused() {
        in_namespace(|| async {
            let networks = Networks::new().unwrap();
            ip("link add kbr-lan type veth peer name up1");
            let error = networks.ensure_bridge("kbr-lan", 1500, None).await.unwrap_err();
            assert!(matches!(error, HostError::Conflict(_)), "{error}");
            networks.ensure_bridge("kbr-two", 1500, None).await.unwrap();
            let error = networks.ensure_tap("kbr-lan", "kbr-two", None).await.unwrap_err();
            assert!(matches!(error, HostError::Conflict(_)), "{error}");
            let error = networks.ensure_tap("ktap0n0", "kbr-none", None).await.unwrap_err();
            assert!(matches!(error, HostError::NotFound(_)), "{error}");
            assert!(networks.ensure_bridge("a-name-that-is-too-long", 1500, None).await.is_err());
        });
    }
}
