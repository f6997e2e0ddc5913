//! Flags of the verbs transport. Each has a variable, so that a cluster's roles share them.

use clap::Args;
use pdlab_transport::RdmaSettings;
use pdlab_transport::rdma::Completion;

/// Which RDMA device moves KV blocks, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "RDMA (--transport verbs)")]
pub(crate) struct RdmaArgs {
    /// RDMA device; without it, the first one with an active port
    #[arg(long, value_name = "NAME", env = "PDLAB_RDMA_DEVICE")]
    rdma_device: Option<String>,
    /// Port of the device; without it, the first active one
    #[arg(long, value_name = "N", env = "PDLAB_RDMA_PORT")]
    rdma_port: Option<u8>,
    /// GID index; without it, RoCE v2 over IPv4, else over IPv6, and none on InfiniBand
    #[arg(long, value_name = "N", env = "PDLAB_RDMA_GID_INDEX")]
    rdma_gid_index: Option<u8>,
    /// InfiniBand service level or Ethernet priority
    #[arg(long, value_name = "N", default_value_t = 0, env = "PDLAB_RDMA_SERVICE_LEVEL")]
    rdma_service_level: u8,
    /// Traffic class of RoCE v2 and routed InfiniBand packets: DSCP x 4 + ECN
    #[arg(long, value_name = "N", default_value_t = 0, env = "PDLAB_RDMA_TRAFFIC_CLASS")]
    rdma_traffic_class: u8,
    /// Path MTU in bytes; without it, the active one of the port
    #[arg(long, value_name = "BYTES", env = "PDLAB_RDMA_MTU")]
    rdma_mtu: Option<u16>,
    /// Queue pairs per peer
    #[arg(long, value_name = "N", default_value_t = 2, env = "PDLAB_RDMA_QUEUE_PAIRS")]
    rdma_queue_pairs: u8,
    /// Reads outstanding per queue pair
    #[arg(long, value_name = "N", default_value_t = 128, env = "PDLAB_RDMA_DEPTH")]
    rdma_depth: u16,
    /// Reads on the wire per queue pair; without it, what both devices can, but 16
    #[arg(long, value_name = "N", env = "PDLAB_RDMA_MAX_RD_ATOMIC")]
    rdma_max_rd_atomic: Option<u8>,
    /// Longest notification that travels within its work request, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 128, env = "PDLAB_RDMA_INLINE_BYTES")]
    rdma_inline_bytes: u16,
    /// How completions are noticed: event (sleeps) or poll (a core per role)
    #[arg(long, value_name = "HOW", default_value_t = Completion::Event, env = "PDLAB_RDMA_COMPLETION")]
    rdma_completion: Completion,
    /// Time until a packet is sent again: 4.096 us x 2^N
    #[arg(long, value_name = "N", default_value_t = 18, env = "PDLAB_RDMA_TIMEOUT_EXPONENT")]
    rdma_timeout_exponent: u8,
    /// How often a packet is sent again
    #[arg(long, value_name = "N", default_value_t = 7, env = "PDLAB_RDMA_RETRY_COUNT")]
    rdma_retry_count: u8,
    /// How often a notification is sent again that finds no buffer; 7 is without end
    #[arg(long, value_name = "N", default_value_t = 7, env = "PDLAB_RDMA_RNR_RETRY")]
    rdma_rnr_retry: u8,
    /// Longest memory region; without it, what the device allows
    #[arg(long, value_name = "BYTES", env = "PDLAB_RDMA_MAX_REGION_BYTES")]
    rdma_max_region_bytes: Option<u64>,
    /// Register memory with on-demand paging instead of pinning it
    #[arg(long, env = "PDLAB_RDMA_ON_DEMAND_PAGING")]
    rdma_on_demand_paging: bool,
}

impl RdmaArgs {
    /// The settings, checked as far as that can be done without a device.
    ///
    /// # Errors
    /// Which one cannot be, and what it may be.
    pub(crate) fn settings(&self) -> Result<RdmaSettings, String> {
        let settings = RdmaSettings {
            device: self.rdma_device.clone(),
            port: self.rdma_port,
            gid_index: self.rdma_gid_index,
            service_level: self.rdma_service_level,
            traffic_class: self.rdma_traffic_class,
            mtu: self.rdma_mtu,
            queue_pairs: self.rdma_queue_pairs,
            depth: self.rdma_depth,
            max_rd_atomic: self.rdma_max_rd_atomic,
            inline_bytes: self.rdma_inline_bytes,
            completion: self.rdma_completion,
            timeout_exponent: self.rdma_timeout_exponent,
            retry_count: self.rdma_retry_count,
            rnr_retry: self.rdma_rnr_retry,
            max_region_bytes: self.rdma_max_region_bytes,
            on_demand_paging: self.rdma_on_demand_paging,
        };
        settings.check()?;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        rdma: RdmaArgs,
    }

    fn settings(line: &str) -> Result<RdmaSettings, String> {
        Line::parse_from(["line"].into_iter().chain(line.split_whitespace())).rdma.settings()
    }

    #[test]
    fn the_flags_have_the_librarys_defaults() {
        assert_eq!(settings(""), Ok(RdmaSettings::default()));
    }

    #[test]
    fn flags_become_settings_and_impossible_ones_are_refused() {
        let chosen = settings("--rdma-device mlx5_0 --rdma-gid-index 3 --rdma-completion poll");
        let chosen = chosen.unwrap();
        assert_eq!((chosen.device.as_deref(), chosen.gid_index), (Some("mlx5_0"), Some(3)));
        assert_eq!(chosen.completion, Completion::Poll);
        assert!(settings("--rdma-mtu 1500").unwrap_err().contains("1500"));
    }
}
