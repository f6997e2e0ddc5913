//! Whom `pdlab watch` must work on.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::common::{PDLAB, Target, Watched, compiled, is_root, libucp, run, trace, turn, watch};

/// UCX over TCP on the loopback interface: everywhere, and nothing is logged to stdout.
const UCX: [(&str, &str); 3] =
    [("UCX_TLS", "tcp"), ("UCX_NET_DEVICES", "lo"), ("UCX_LOG_FILE", "stderr")];

fn unmapper(args: &[&str]) -> Command {
    let mut command = Command::new(compiled("unmapper"));
    command.args(args);
    command
}

/// It leaks as UCX 1.19 does, by some MB per second.
fn leaks(watched: &Watched, version: bool) {
    let result = &watched.result;
    assert_eq!((watched.code, &result["verdict"]), (Some(1), &"leak".into()), "{result}");
    assert!(result["slope_mb_per_min"].as_f64().unwrap() > 1.0, "{result}");
    assert!(watched.text.contains("LEAK."), "{}", watched.text);
    if version {
        assert_eq!(result["ucx_version"], "1.19.0", "{result}");
        assert_eq!(result["settings"]["UCX_TLS"], "tcp");
    }
}

#[test]
fn a_c_program_that_does_nothing_but_ucp_init_and_unmap_leaks() {
    let Some(libucp) = libucp() else { return };
    let _turn = turn();
    let target = Target::start(unmapper(&[&libucp]).envs(UCX));
    let watched = watch(&target.pid(), &["--until-verdict"]);
    leaks(&watched, true);
    assert!(watched.text.contains("vllm#24264"), "the suspect is named: {}", watched.text);
    assert_eq!(watched.result["watch"]["end"], "verdict");
    assert!(watched.progress.lines().any(|line| line.contains("RSS") && line.contains("so far")));

    // The files of any run, and the page of any run.
    let report =
        Command::new(PDLAB).args(["report", "run"]).current_dir(watched.dir.path()).output();
    assert!(report.unwrap().status.success());
    let page = std::fs::read_to_string(watched.dir.path().join("run/report.html")).unwrap();
    assert!(page.contains("<title>leak: unmapper-"), "{page}");
    assert!(page.contains("libucp.so.0"), "{page}");
}

#[test]
fn per_unmap_the_leak_has_its_size_and_its_name() {
    let Some(libucp) = libucp() else { return };
    let _turn = turn();
    let target = Target::start(unmapper(&[&libucp]).envs(UCX));
    let args = ["--unit-from", "unmaps", "--until-verdict"];
    let Some(watched) = trace(&target.pid(), &args) else { return };
    leaks(&watched, true);
    let result = &watched.result;
    assert_eq!(result["unit"], "unmap");
    let slope = result["slope_bytes_per_unit"].as_f64().unwrap();
    assert!((140.0..148.0).contains(&slope), "{slope}");
    assert_eq!(result["signature"]["id"], "vllm#24264", "{result}");
    assert!(watched.text.contains("ucs_mpool_grow"), "{}", watched.text);
    assert!(watched.dir.path().join("run/stacks.json").exists());
}

#[test]
fn the_same_program_without_ucx_is_clean() {
    let _turn = turn();
    let target = Target::start(&mut unmapper(&[]));
    let watched = watch(&target.pid(), &["--until-verdict"]);
    let result = &watched.result;
    assert_eq!((watched.code, &result["verdict"]), (Some(0), &"clean".into()), "{result}");
    assert_eq!((&result["unit"], &result["ucx_version"]), (&"second".into(), &().into()));
}

#[test]
fn python_with_numpy_and_ucx_is_watched_like_anything_else() {
    let Some(libucp) = libucp() else { return };
    let python = python_with_numpy();
    let _turn = turn();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/watch/unmapper.py");
    let target = Target::start(Command::new(python).arg(script).arg(libucp).envs(UCX));
    let watched = watch(&target.pid(), &["--until-verdict"]);
    leaks(&watched, true);
}

/// The interpreter of a virtual environment below `target/`, made once.
fn python_with_numpy() -> std::path::PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("watch-venv");
    let python = dir.join("bin/python");
    let has_numpy = |python: &Path| {
        let import = Command::new(python).args(["-c", "import numpy"]).output();
        import.is_ok_and(|output| output.status.success())
    };
    if !has_numpy(&python) {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir));
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "numpy"];
        run(Command::new(&python).args(install));
    }
    python
}

/// What everybody may read and run: `target/` may lie in a home directory that is closed.
fn open_to_all(files: &[&Path]) -> tempfile::TempDir {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    for file in files {
        std::fs::copy(file, dir.path().join(file.file_name().unwrap())).unwrap();
    }
    dir
}

/// A user that is nobody's.
const NOBODY: u32 = 65_534;

#[test]
fn another_users_process_is_open_to_root_alone() {
    if !is_root() {
        return;
    }
    let _turn = turn();
    let program = compiled("unmapper");
    let shared = open_to_all(&[&program, Path::new(PDLAB)]);
    let theirs =
        Target::start(Command::new(shared.path().join("unmapper")).uid(NOBODY).gid(NOBODY));
    let watched = watch(&theirs.pid(), &["--duration", "3s"]);
    assert!(watched.text.contains(&format!("of user {NOBODY}")), "{}", watched.text);
    assert!(watched.result["watch"]["readings"].as_u64().unwrap() >= 1, "{}", watched.result);

    let ours = Target::start(&mut unmapper(&[]));
    let refused = Command::new(shared.path().join("pdlab"))
        .args(["watch", "--pid", &ours.pid()])
        .current_dir(shared.path())
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{error}");
    assert!(error.contains("no permission") && error.contains("CAP_SYS_PTRACE"), "{error}");
    assert!(error.contains(&ours.pid()), "{error}");
    assert!(!shared.path().join("runs").exists(), "nothing is left");
}

#[test]
fn a_process_in_a_container_is_seen_through_its_own_root() {
    if !is_root() {
        return;
    }
    let Some(libucp) = libucp() else { return };
    let _turn = turn();
    // Program and libraries lie on a file system that only the container sees.
    let lib_dir = Path::new(&libucp).parent().unwrap().display().to_string();
    let script = format!(
        "mount -t tmpfs none /mnt && mkdir /mnt/libucx && cp -rL {lib_dir} /mnt/libucx/lib && \
         for more in {lib_dir}/../../*.libs; do if [ -d $more ]; then cp -r $more /mnt/; fi; done && \
         cp {} /mnt/boxed && exec /mnt/boxed /mnt/libucx/lib/libucp.so.0",
        compiled("unmapper").display()
    );
    let target = Target::start(
        Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", &script])
            .envs(UCX),
    )
    .named("boxed");
    assert!(!Path::new("/mnt/boxed").exists(), "it is not to be seen from outside");
    let watched = watch(&target.pid(), &["--until-verdict"]);
    leaks(&watched, true);
    let target = &watched.result["watch"]["plan"]["target"];
    assert_eq!((&target["contained"], &target["inner_pid"]), (&true.into(), &1.into()), "{target}");
    assert_eq!(target["ucx_library"], "/mnt/libucx/lib/libucp.so.0", "{target}");
}
