//! Which RDMA devices the machine has.

use std::fs;
use std::path::Path;

/// Where the kernel shows them (<https://www.kernel.org/doc/Documentation/ABI/stable/sysfs-class-infiniband>).
pub(super) const CLASS: &str = "/sys/class/infiniband";

/// A device with an active port, the first by name: `mlx5_0`. `None` where no process can use any.
pub fn active_device() -> Option<String> {
    active_in(Path::new(CLASS))
}

fn active_in(class: &Path) -> Option<String> {
    let names = |dir: &Path| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names
    };
    names(class).into_iter().find(|device| {
        let ports = class.join(device).join("ports");
        // `4: ACTIVE`
        let active = |port: String| {
            let state = fs::read_to_string(ports.join(port).join("state")).unwrap_or_default();
            state.trim_end().ends_with(": ACTIVE")
        };
        names(&ports).into_iter().any(active)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_counts_if_one_of_its_ports_is_active() {
        let class = tempfile::tempdir().unwrap();
        let port = |device: &str, port: &str, state: &str| {
            let dir = class.path().join(device).join("ports").join(port);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("state"), state).unwrap();
        };
        assert_eq!(active_in(&class.path().join("no-such")), None);
        port("mlx5_0", "1", "1: DOWN\n");
        assert_eq!(active_in(class.path()), None);
        port("mlx5_1", "1", "2: INIT\n");
        port("mlx5_1", "2", "4: ACTIVE\n");
        port("mlx5_2", "1", "4: ACTIVE\n");
        assert_eq!(active_in(class.path()).as_deref(), Some("mlx5_1"));
    }
}
