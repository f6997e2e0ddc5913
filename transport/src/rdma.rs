//! What the verbs backend takes of a machine, and how it uses it. There with or without the cargo
//! feature `verbs`, so that programs need not care.

use std::fmt;
use std::str::FromStr;

/// Settings of the verbs backend. Every `None` is chosen from what the device says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdmaSettings {
    /// Name of the device, as `ibv_devices` shows it. Default: the first one with an active port.
    pub device: Option<String>,
    /// Number of its port, from 1. Default: the first active one.
    pub port: Option<u8>,
    /// Index in the port's table of GIDs, as `show_gids` or
    /// `/sys/class/infiniband/DEVICE/ports/PORT/gids` shows it. Default on RoCE: of RoCE v2, one
    /// of an IPv4 address, else of a global IPv6 address, else the link-local one; then the same of RoCE v1.
    /// Default on InfiniBand: none, packets are routed by LID.
    pub gid_index: Option<u8>,
    /// InfiniBand service level or Ethernet priority, 0 to 15 (7 on Ethernet). Default 0.
    pub service_level: u8,
    /// Traffic class (DSCP and ECN bits) of routed packets. Default 0.
    pub traffic_class: u8,
    /// Path MTU in bytes: 256, 512, 1024, 2048 or 4096. Default: the active MTU of the port. The
    /// smaller one of the two sides is used.
    pub mtu: Option<u16>,
    /// Queue pairs per peer, 1 to 16. Reads are spread over them. Default 2.
    pub queue_pairs: u8,
    /// Reads outstanding per queue pair, 1 to 4,096 and as many as the device takes. More wait
    /// their turn. Default 128.
    pub depth: u16,
    /// Reads that the device has on the wire per queue pair, 1 to 255. Default: the most that
    /// both devices can, but 16, past which a read's latency is hidden on every known network.
    pub max_rd_atomic: Option<u8>,
    /// Notifications up to this length travel within the work request, if the device can. Default
    /// 128 bytes.
    pub inline_bytes: u16,
    /// How completions are learnt of. Default: [`Completion::Event`].
    pub completion: Completion,
    /// Exponent of the time after which an unanswered packet is sent again: 4.096 µs x 2^n, 1 to 31
    /// (InfiniBand specification, volume 1, 9.7.6.1.3). Default 18, which is 1.07 s.
    pub timeout_exponent: u8,
    /// How often it is sent again before the connection is given up, 0 to 7. Default 7.
    pub retry_count: u8,
    /// How often a notification is sent again for which the peer has no buffer ready, 0 to 7;
    /// 7 means without end. Default 7: a slow owner delays notifications and loses none.
    pub rnr_retry: u8,
    /// Longest memory region in bytes; longer memory is registered in several. At least 4,096.
    /// Default: what the device allows.
    pub max_region_bytes: Option<u64>,
    /// On-demand paging: pages are pinned only while a transfer uses them. An error where the
    /// device cannot. Default false.
    pub on_demand_paging: bool,
}

impl Default for RdmaSettings {
    fn default() -> Self {
        Self {
            device: None,
            port: None,
            gid_index: None,
            service_level: 0,
            traffic_class: 0,
            mtu: None,
            queue_pairs: 2,
            depth: 128,
            max_rd_atomic: None,
            inline_bytes: 128,
            completion: Completion::Event,
            timeout_exponent: 18,
            retry_count: 7,
            rnr_retry: 7,
            max_region_bytes: None,
            on_demand_paging: false,
        }
    }
}

impl RdmaSettings {
    /// Checks what can be checked without a device.
    ///
    /// # Errors
    /// Which setting cannot be, and what it may be.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(format!("the RDMA {name} is {value}, and can be {least} to {most}"))
        };
        within("port", self.port.unwrap_or(1).into(), 1, 255)?;
        within("service level", self.service_level.into(), 0, 15)?;
        within("number of queue pairs", self.queue_pairs.into(), 1, MAX_QUEUE_PAIRS.into())?;
        within("depth", self.depth.into(), 1, 4096)?;
        within("max_rd_atomic", self.max_rd_atomic.unwrap_or(1).into(), 1, 255)?;
        within("timeout exponent", self.timeout_exponent.into(), 1, 31)?;
        within("retry count", self.retry_count.into(), 0, 7)?;
        within("RNR retry count", self.rnr_retry.into(), 0, 7)?;
        within("region length", self.max_region_bytes.unwrap_or(4096), 4096, u64::MAX)?;
        match self.mtu {
            None | Some(256 | 512 | 1024 | 2048 | 4096) => Ok(()),
            Some(mtu) => {
                Err(format!("the RDMA MTU is {mtu}, and can be 256, 512, 1024, 2048 or 4096"))
            }
        }
    }
}

/// Most queue pairs per peer.
pub(crate) const MAX_QUEUE_PAIRS: u8 = 16;

/// How completions are learnt of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completion {
    /// The progress thread sleeps on the completion channel: no CPU while nothing happens.
    #[default]
    Event,
    /// Who waits for a read polls for its end, on its own thread: no hand-over to another one, and
    /// a core per thread that waits. With nobody waiting for a read nothing is polled for, and
    /// notifications come by event.
    Poll,
}

impl fmt::Display for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Event => "event",
            Self::Poll => "poll",
        })
    }
}

impl FromStr for Completion {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "event" => Ok(Self::Event),
            "poll" => Ok(Self::Poll),
            _ => Err(format!("unknown way of completion '{name}'; choose event or poll")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_can_be() {
        RdmaSettings::default().check().unwrap();
    }

    #[test]
    fn what_cannot_be_is_named() {
        let of = |change: fn(&mut RdmaSettings)| {
            let mut settings = RdmaSettings::default();
            change(&mut settings);
            settings.check().unwrap_err()
        };
        assert!(of(|s| s.mtu = Some(1500)).contains("1500"));
        assert!(of(|s| s.queue_pairs = 0).contains("queue pairs is 0"));
        assert!(of(|s| s.service_level = 16).contains("0 to 15"));
        assert!(of(|s| s.port = Some(0)).contains("port is 0"));
        assert!(of(|s| s.depth = 5000).contains("depth"));
        assert!(of(|s| s.timeout_exponent = 0).contains("timeout"));
        assert!(of(|s| s.rnr_retry = 8).contains("RNR"));
        assert!(of(|s| s.max_region_bytes = Some(1)).contains("region length"));
    }

    #[test]
    fn completion_round_trips() {
        for completion in [Completion::Event, Completion::Poll] {
            assert_eq!(completion.to_string().parse(), Ok(completion));
        }
        assert!("spin".parse::<Completion>().is_err());
    }
}
