//! What a connection is made with: port, GID, MTU, path attributes. Pure: the device's answers
//! come in, choices go out.

use std::fmt;
use std::net::Ipv6Addr;

use crate::rdma::RdmaSettings;

/// What carries the packets of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkLayer {
    InfiniBand,
    /// RoCE.
    Ethernet,
}

impl fmt::Display for LinkLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::InfiniBand => "InfiniBand",
            Self::Ethernet => "RoCE",
        })
    }
}

/// One entry of a port's GID table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GidEntry {
    pub(super) index: u8,
    pub(super) gid: Ipv6Addr,
    /// As the kernel calls it: `RoCE v2`, `IB/RoCE v1`. Empty if it does not say.
    pub(super) kind: String,
}

/// A port as its device describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) device: String,
    pub(super) number: u8,
    /// The kernel's number of the state; 4 is active.
    pub(super) state: u32,
    pub(super) link_layer: LinkLayer,
    pub(super) lid: u16,
    /// Bytes.
    pub(super) active_mtu: u16,
    /// Longest message in bytes, a read included.
    pub(super) max_message: u32,
    /// Entries that are not zero.
    pub(super) gids: Vec<GidEntry>,
    /// Entries in the table, zeros included.
    pub(super) gid_table: u32,
}

const ACTIVE: u32 = 4;

impl Port {
    pub(super) fn is_active(&self) -> bool {
        self.state == ACTIVE
    }

    /// Such as `port 1 of rxe0 is DOWN`.
    pub(super) fn state_in_words(&self) -> String {
        // enum ibv_port_state of <infiniband/verbs.h>.
        let state = match self.state {
            1 => "DOWN",
            2 => "INIT, which waits for a subnet manager",
            3 => "ARMED, which waits for a subnet manager",
            4 => "ACTIVE",
            5 => "ACTIVE, but deferred",
            _ => "of no known state",
        };
        format!("port {} of {} is {state}", self.number, self.device)
    }
}

/// The address of this side, and how packets are to travel from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) link_layer: LinkLayer,
    pub(super) lid: u16,
    /// Unspecified where packets are routed by LID alone.
    pub(super) gid: Ipv6Addr,
    /// Some: with a global route header.
    pub(super) gid_index: Option<u8>,
    /// Bytes.
    pub(super) mtu: u16,
}

/// Chooses the source address and MTU of a port.
///
/// # Errors
/// What about the port or the settings does not work, and the cure.
pub(super) fn source(port: &Port, settings: &RdmaSettings) -> Result<Source, String> {
    if !port.is_active() {
        return Err(format!(
            "{}; bring its link up (`ip link`, `ibstat`) or name another device with --rdma-device",
            port.state_in_words()
        ));
    }
    let mtu = match settings.mtu {
        Some(mtu) if mtu > port.active_mtu => {
            return Err(format!(
                "an MTU of {mtu} bytes was asked for, and the active one of port {} of {} is {}; \
                 raise the MTU of the network interface or ask for less",
                port.number, port.device, port.active_mtu
            ));
        }
        Some(mtu) => mtu,
        None => port.active_mtu,
    };
    if port.link_layer == LinkLayer::Ethernet && settings.service_level > 7 {
        return Err(format!(
            "service level {} is no Ethernet priority; choose 0 to 7",
            settings.service_level
        ));
    }
    let entry = match settings.gid_index {
        Some(index) => Some(named_gid(port, index)?),
        None if port.link_layer == LinkLayer::InfiniBand => None,
        None => Some(best_gid(&port.gids).ok_or_else(|| {
            format!(
                "port {} of {} has no GID; give its network interface an address",
                port.number, port.device
            )
        })?),
    };
    Ok(Source {
        link_layer: port.link_layer,
        lid: port.lid,
        gid: entry.map_or(Ipv6Addr::UNSPECIFIED, |entry| entry.gid),
        gid_index: entry.map(|entry| entry.index),
        mtu,
    })
}

fn named_gid(port: &Port, index: u8) -> Result<&GidEntry, String> {
    let found = port.gids.iter().find(|entry| entry.index == index);
    found.ok_or_else(|| {
        let there: Vec<String> = port
            .gids
            .iter()
            .map(|entry| format!("{} ({}, {})", entry.index, entry.gid, entry.kind))
            .collect();
        let what = if u32::from(index) >= port.gid_table {
            format!("GID index {index} is out of range: the table has {} entries", port.gid_table)
        } else {
            format!("GID index {index} is empty")
        };
        format!("{what}; port {} of {} has {}", port.number, port.device, there.join(", "))
    })
}

/// RoCE v2 before v1; then what routes farthest: IPv4, global IPv6, link-local. The first of equals.
fn best_gid(gids: &[GidEntry]) -> Option<&GidEntry> {
    gids.iter().min_by_key(|entry| {
        let reach = match entry.gid {
            gid if gid.to_ipv4_mapped().is_some() => 0,
            gid if gid.is_unicast_link_local() => 2,
            _ => 1,
        };
        (!entry.kind.contains("v2"), reach, entry.index)
    })
}

/// What the two sides of a connection agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// Bytes.
    pub(super) mtu: u16,
    /// Reads on the wire per queue pair.
    pub(super) rd_atomic: u8,
}

/// Reads on the wire per queue pair unless the user asks for more.
const USUAL_RD_ATOMIC: u8 = 16;

/// How many reads a queue pair starts at a time, by its own device's limit.
pub(super) fn initiator_depth(settings: &RdmaSettings, device_max: i32) -> Result<u8, String> {
    let most = u8::try_from(device_max.clamp(0, 255)).expect("clamped to a byte");
    if most == 0 {
        return Err("the device cannot start RDMA reads".to_owned());
    }
    match settings.max_rd_atomic {
        Some(asked) if asked > most => Err(format!(
            "max_rd_atomic {asked} was asked for, and the device can do {most}; ask for no more"
        )),
        Some(asked) => Ok(asked),
        None => Ok(most.min(USUAL_RD_ATOMIC)),
    }
}

/// The path of two sides: the smaller MTU, and as many reads as both can.
pub(super) fn path(ours: (u16, u8), theirs: (u16, u8)) -> Path {
    Path { mtu: ours.0.min(theirs.0), rd_atomic: ours.1.min(theirs.1) }
}

/// The code of an MTU in `enum ibv_mtu` and on the wire: 256 bytes is 1, 4,096 is 5.
pub(super) fn mtu_code(bytes: u16) -> u8 {
    bytes.trailing_zeros().saturating_sub(7) as u8
}

/// The bytes of a code; `None` for what is none.
pub(super) fn mtu_bytes(code: u32) -> Option<u16> {
    (1..=5).contains(&code).then(|| 128 << code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u8, gid: &str, kind: &str) -> GidEntry {
        GidEntry { index, gid: gid.parse().unwrap(), kind: kind.to_owned() }
    }

    fn port() -> Port {
        Port {
            device: "mlx5_0".to_owned(),
            number: 1,
            state: ACTIVE,
            link_layer: LinkLayer::Ethernet,
            lid: 0,
            active_mtu: 1024,
            max_message: 1 << 30,
            gids: vec![
                entry(0, "fe80::1", "IB/RoCE v1"),
                entry(1, "fe80::1", "RoCE v2"),
                entry(2, "::ffff:10.0.0.1", "IB/RoCE v1"),
                entry(3, "::ffff:10.0.0.1", "RoCE v2"),
                entry(4, "fd77::1", "RoCE v2"),
            ],
            gid_table: 255,
        }
    }

    #[test]
    fn roce_v2_over_ipv4_is_the_choice_then_global_then_local() {
        let mut port = port();
        let index = |port: &Port| source(port, &RdmaSettings::default()).unwrap().gid_index;
        assert_eq!(index(&port), Some(3));
        port.gids.remove(3);
        assert_eq!(index(&port), Some(4));
        port.gids.pop();
        assert_eq!(index(&port), Some(1));
        port.gids.remove(1);
        assert_eq!(index(&port), Some(2));
        port.gids.clear();
        assert!(source(&port, &RdmaSettings::default()).unwrap_err().contains("no GID"));
    }

    #[test]
    fn infiniband_routes_by_lid_unless_a_gid_is_named() {
        let mut port = Port { link_layer: LinkLayer::InfiniBand, lid: 7, ..port() };
        port.gids = vec![entry(0, "fe80::2", "")];
        let chosen = source(&port, &RdmaSettings::default()).unwrap();
        assert_eq!((chosen.lid, chosen.gid_index, chosen.gid), (7, None, Ipv6Addr::UNSPECIFIED));
        let settings = RdmaSettings { gid_index: Some(0), ..RdmaSettings::default() };
        assert_eq!(source(&port, &settings).unwrap().gid_index, Some(0));
    }

    #[test]
    fn a_gid_that_is_not_there_is_named_with_those_that_are() {
        for (index, what) in [(9, "index 9 is empty"), (255, "out of range")] {
            let settings = RdmaSettings { gid_index: Some(index), ..RdmaSettings::default() };
            let error = source(&port(), &settings).unwrap_err();
            assert!(
                error.contains(what) && error.contains("3 (::ffff:10.0.0.1, RoCE v2)"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_port_that_is_down_says_so() {
        let error = source(&Port { state: 1, ..port() }, &RdmaSettings::default()).unwrap_err();
        assert!(error.contains("port 1 of mlx5_0 is DOWN"), "{error}");
    }

    #[test]
    fn the_smaller_mtu_wins_and_one_above_the_active_is_refused() {
        assert_eq!(path((4096, 16), (1024, 8)), Path { mtu: 1024, rd_atomic: 8 });
        let settings = |mtu| RdmaSettings { mtu: Some(mtu), ..RdmaSettings::default() };
        assert_eq!(source(&port(), &settings(512)).unwrap().mtu, 512);
        assert!(source(&port(), &settings(2048)).unwrap_err().contains("active one"));
    }

    #[test]
    fn mtu_codes_round_trip() {
        for code in 1..=5 {
            assert_eq!(u32::from(mtu_code(mtu_bytes(code).unwrap())), code);
        }
        assert_eq!((mtu_bytes(0), mtu_bytes(6), mtu_bytes(5)), (None, None, Some(4096)));
    }

    #[test]
    fn the_initiator_depth_is_what_the_device_can() {
        let asked = |n| RdmaSettings { max_rd_atomic: n, ..RdmaSettings::default() };
        assert_eq!(initiator_depth(&asked(None), 128), Ok(16));
        assert_eq!(initiator_depth(&asked(None), 4), Ok(4));
        assert_eq!(initiator_depth(&asked(Some(64)), 128), Ok(64));
        assert!(initiator_depth(&asked(Some(64)), 16).unwrap_err().contains("can do 16"));
        assert!(initiator_depth(&asked(None), 0).is_err());
    }
}
