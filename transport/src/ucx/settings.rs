//! UCX settings that differ from UCX's own defaults. Every `UCX_*` variable of the user wins.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::library::Version;

/// A setting and its value, as in `UCX_<name>=<value>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    name: &'static str,
    /// What [`KNOWS_PREFIXES`] is about.
    short_name: &'static str,
    pub(super) value: &'static str,
}

/// Before this version, UCX looks a transport's own settings up without the transport's prefix
/// when a program sets them, and ignores them with it:
/// <https://github.com/openucx/ucx/blob/v1.16.0/src/uct/base/uct_md.c>.
const KNOWS_PREFIXES: Version = Version { major: 1, minor: 17, release: 0 };

impl Setting {
    const fn new(name: &'static str, value: &'static str) -> Self {
        Self { name, short_name: name, value }
    }

    /// The variable with which a user sets it.
    pub(super) fn variable(&self) -> String {
        format!("UCX_{}", self.name)
    }

    /// The name by which this version of UCX takes it from a program.
    pub(super) fn key(&self, ucx: Version) -> &'static str {
        if ucx < KNOWS_PREFIXES { self.short_name } else { self.name }
    }
}

/// Names in `UCX_TLS` that stand for TCP, for memory that is shared between processes, and for
/// the other transports that need no network device.
const TCP: &[&str] = &["tcp"];
const SHARED_MEMORY: &[&str] = &["shm", "sm", "mm", "posix", "sysv", "xpmem"];
const OTHER_LOCAL: &[&str] = &["self", "cma", "knem"];

/// In 1.20.0 and 1.20.1 no peer is reachable through the loopback device, not even for UCX's own
/// benchmark: <https://github.com/openucx/ucx/pull/11202>.
pub(super) fn loopback_is_broken(ucx: Version) -> bool {
    (ucx.major, ucx.minor) == (1, 20)
}

/// What to set, given the user's `UCX_*` variables and the address that the agent listens on.
///
/// Only what concerns a transport that may be used: UCX warns about the rest.
pub(super) fn defaults(
    ucx: Version,
    user: &BTreeMap<String, String>,
    listen: IpAddr,
) -> Vec<Setting> {
    let transports = Transports::of(user.get("UCX_TLS").map_or("all", String::as_str));
    let mut settings = vec![
        // How soon a peer is missed that died without a word, as over shared memory, and how soon
        // a socket is closed whose peer has closed its endpoint. UCX's 20 s are longer than a
        // request may take.
        Setting::new("KEEPALIVE_INTERVAL", "1s"),
    ];
    if transports.may_use(TCP) {
        settings.extend([
            // UCX's 8 KiB make every segment a system call: over the loopback, 1 MiB quadruples
            // the throughput.
            Setting { short_name: "TX_SEG_SIZE", ..Setting::new("TCP_TX_SEG_SIZE", "1m") },
            Setting { short_name: "RX_SEG_SIZE", ..Setting::new("TCP_RX_SEG_SIZE", "1m") },
        ]);
    }
    if transports.may_use(SHARED_MEMORY) {
        // Without it, endpoints over shared memory cannot report that their peer died:
        // https://github.com/openucx/ucx/blob/v1.19.0/src/uct/sm/mm/base/mm_iface.c
        settings.push(Setting::new("MM_ERROR_HANDLING", "y"));
    }
    // Who names InfiniBand means its device, and this would leave none.
    let is_local = listen.is_loopback() && !loopback_is_broken(ucx);
    if is_local && transports.may_use(TCP) && transports.need_no_network() {
        settings.push(Setting::new("NET_DEVICES", "lo"));
    }
    settings.retain(|setting| !user.contains_key(&setting.variable()));
    settings
}

/// A value of `UCX_TLS`: `tcp,self`, or `^rc,ud` for all but these.
struct Transports<'a> {
    names: Vec<&'a str>,
    all_but: bool,
}

impl<'a> Transports<'a> {
    fn of(value: &'a str) -> Self {
        let list = value.strip_prefix('^');
        // `tcp:aux` restricts a transport to connection set-up.
        let names = list.unwrap_or(value).split(',');
        let names = names.map(|name| name.split(':').next().unwrap_or_default().trim()).collect();
        Self { names, all_but: list.is_some() }
    }

    fn may_use(&self, any_of: &[&str]) -> bool {
        let named = self.names.iter().any(|name| any_of.contains(name));
        if self.all_but { !named } else { named || self.names.contains(&"all") }
    }

    /// Whether the loopback device suffices. For `all` it does: the rest falls back.
    fn need_no_network(&self) -> bool {
        let local = |name| [TCP, SHARED_MEMORY, OTHER_LOCAL, &["all"]].concat().contains(name);
        self.all_but || self.names.iter().all(local)
    }
}

/// What may help when UCX does not open with the user's variables.
pub(super) fn cure(user: &BTreeMap<String, String>) -> String {
    let value = |name: &str| user.get(name).map(String::as_str);
    let on =
        |name| value(name).is_some_and(|value| matches!(value, "y" | "yes" | "on" | "1" | "try"));
    if value("UCX_MEM_MMAP_HOOK_MODE") == Some("none") && on("UCX_RCACHE_ENABLE") {
        return "UCX_RCACHE_ENABLE=y needs memory hooks, and UCX_MEM_MMAP_HOOK_MODE=none takes \
                them away: unset one of the two"
            .into();
    }
    let limits: Vec<_> = ["UCX_TLS", "UCX_NET_DEVICES", "UCX_PROTOS"]
        .into_iter()
        .filter_map(|name| Some(format!("{name}={}", value(name)?)))
        .collect();
    if limits.is_empty() {
        "set UCX_LOG_LEVEL=info to see what UCX tried".into()
    } else {
        format!(
            "{} may leave no usable transport; UCX_LOG_LEVEL=info shows more",
            limits.join(" and ")
        )
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn variables(user: &[(&str, &str)], listen: Ipv4Addr) -> Vec<String> {
        let user = user.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        defaults(minor(19), &user, listen.into()).iter().map(Setting::variable).collect()
    }

    fn minor(minor: u32) -> Version {
        Version { major: 1, minor, release: 0 }
    }

    const ALL: [&str; 5] = [
        "UCX_KEEPALIVE_INTERVAL",
        "UCX_TCP_TX_SEG_SIZE",
        "UCX_TCP_RX_SEG_SIZE",
        "UCX_MM_ERROR_HANDLING",
        "UCX_NET_DEVICES",
    ];

    #[test]
    fn the_users_variables_win() {
        assert_eq!(variables(&[], Ipv4Addr::LOCALHOST), ALL);
        for name in ALL {
            let left = variables(&[(name, "x")], Ipv4Addr::LOCALHOST);
            assert_eq!(left.len(), ALL.len() - 1);
            assert!(left.iter().all(|left| left != name));
        }
        assert_eq!(variables(&[("TCP_TX_SEG_SIZE", "8k")], Ipv4Addr::LOCALHOST), ALL);
    }

    #[test]
    fn the_loopback_device_is_for_local_agents_that_name_no_network() {
        let has_lo = |tls: &str, listen| {
            variables(&[("UCX_TLS", tls)], listen).iter().any(|name| name == "UCX_NET_DEVICES")
        };
        for tls in ["tcp", "tcp,self,sm", "all", "^ib", "tcp:aux, shm"] {
            assert!(has_lo(tls, Ipv4Addr::LOCALHOST), "{tls}");
            assert!(!has_lo(tls, Ipv4Addr::new(10, 0, 0, 1)), "{tls}");
        }
        for tls in ["rc", "tcp,rc_mlx5", "ib", "rdmacm,tcp", "posix,cma", "^tcp"] {
            assert!(!has_lo(tls, Ipv4Addr::LOCALHOST), "{tls}");
        }
    }

    #[test]
    fn transports_that_are_not_used_are_left_alone() {
        let of = |tls: &str| variables(&[("UCX_TLS", tls)], Ipv4Addr::LOCALHOST);
        assert_eq!(of("tcp"), [ALL[0], ALL[1], ALL[2], ALL[4]]);
        assert_eq!(of("posix,cma"), [ALL[0], ALL[3]]);
        assert_eq!(of("^tcp,ib"), [ALL[0], ALL[3]]);
        assert_eq!(of("rc_mlx5"), [ALL[0]]);
    }

    #[test]
    fn old_versions_know_tcp_settings_by_a_shorter_name() {
        let keys = |version| -> Vec<_> {
            let all = defaults(minor(version), &BTreeMap::new(), Ipv4Addr::LOCALHOST.into());
            all.iter().map(|setting| setting.key(minor(version))).collect()
        };
        assert_eq!(keys(17), ALL.map(|name| name.trim_start_matches("UCX_")));
        let short = ["KEEPALIVE_INTERVAL", "TX_SEG_SIZE", "RX_SEG_SIZE", "MM_ERROR_HANDLING"];
        assert_eq!(keys(16)[..4], short);
        assert_eq!(keys(20), keys(21)[..4], "and 1.20 has no use for the loopback device");
    }

    #[test]
    fn the_cure_names_the_variables_at_fault() {
        let cure = |user: &[(&str, &str)]| {
            super::cure(
                &user.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            )
        };
        let hooks = cure(&[("UCX_MEM_MMAP_HOOK_MODE", "none"), ("UCX_RCACHE_ENABLE", "y")]);
        assert!(
            hooks.contains("UCX_MEM_MMAP_HOOK_MODE=none") && hooks.contains("unset"),
            "{hooks}"
        );
        assert!(cure(&[("UCX_TLS", "bogus")]).contains("UCX_TLS=bogus"));
        assert!(cure(&[]).contains("UCX_LOG_LEVEL"));
    }
}
