//! Cutting the wire of a software RDMA device. A device answers reads without its peer's process,
//! so to stop a peer on RDMA takes more than to stop its process: its packets must be lost, too.
//!
//! That works for devices on top of a network interface (Soft-RoCE), as root, with `tc` and the
//! kernel module sch_netem: nothing that is sent over it, or over the loopback interface, which
//! carries what goes to an address of the same host, arrives. Tests that do it run one at a time.

use std::process::Command;

/// The wire, cut. Whole again when dropped.
#[derive(Debug)]
pub(crate) struct Cut {
    interfaces: Vec<String>,
}

/// Whether the wires of these devices can be cut; why not.
pub(crate) fn can_cut(devices: &[String]) -> Result<(), String> {
    let interfaces = interfaces(devices)?;
    let probe = Command::new("tc").args(["qdisc", "show", "dev", &interfaces[0]]).output();
    let root = nix::unistd::geteuid().is_root();
    if !root || !probe.is_ok_and(|probe| probe.status.success()) {
        return Err("cutting a wire takes root and the command `tc`".to_owned());
    }
    Ok(())
}

pub(crate) fn cut(devices: &[String]) -> Cut {
    let cut = Cut { interfaces: interfaces(devices).unwrap() };
    for interface in &cut.interfaces {
        let netem = ["qdisc", "replace", "dev", interface, "root", "netem", "loss", "100%"];
        let status = Command::new("tc").args(netem).status().unwrap();
        assert!(status.success(), "tc {netem:?}; is the kernel module sch_netem there?");
    }
    cut
}

impl Drop for Cut {
    fn drop(&mut self) {
        for interface in &self.interfaces {
            let status =
                Command::new("tc").args(["qdisc", "del", "dev", interface, "root"]).status();
            assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking());
        }
    }
}

/// The network interface below each device, and the loopback one.
fn interfaces(devices: &[String]) -> Result<Vec<String>, String> {
    let parent = |device: &String| {
        let file = format!("/sys/class/infiniband/{device}/parent");
        let parent = std::fs::read_to_string(file);
        parent.map(|name| name.trim().to_owned()).map_err(|_| {
            format!("{device} is no software device: its wire cannot be cut from here")
        })
    };
    let mut interfaces = devices.iter().map(parent).collect::<Result<Vec<_>, _>>()?;
    interfaces.push("lo".to_owned());
    interfaces.sort();
    interfaces.dedup();
    Ok(interfaces)
}
