//! What to do about an owner that nobody knows: the code, its version, and the next step.

use crate::ledger::Owner;
use crate::stacks::namer::Namer;
use crate::trace::{Frame, ModuleState};
use crate::version::UcxVersion;

/// What to do about growth that `frames` has mapped and no signature knows: who asked for the memory, of which version,
/// what to try, and whom to tell. Sentences, one per line.
pub fn unknown_owner(frames: &[Frame], namer: &Namer<'_>) -> String {
    let Some(frame) = namer.frame(frames) else {
        return "No known bug has this stack, and none of its frames lies in a file: code made at run time, or a stack \
                that could not be copied. Try --trace on with a build that has frame tables (.eh_frame)."
            .to_string();
    };
    let module = frame.module.as_deref().unwrap_or("code that lies in no file");
    let version = match module_version(module, namer.ucx) {
        Some(version) => format!("version {version}"),
        None => "of a version that its path does not tell".to_string(),
    };
    let state = match frame.module_state {
        ModuleState::Replaced => "; the file there now is another one",
        ModuleState::Unloaded => "; it is unloaded by now",
        ModuleState::Present | ModuleState::NoFile => "",
    };
    let function = frame.function.as_deref().unwrap_or("a function without a symbol");
    let mut text = format!(
        "No known bug has this stack. The memory was asked for by {function} in {module} ({version}{state})."
    );
    for step in steps(frames, frame) {
        text += &format!("\n{step}");
    }
    text
}

/// What to try when growth has an owner, but only by its kind of memory, or none at all.
pub fn unseen_owner(first: Option<&Owner>) -> String {
    let what = first.map_or("the growth".to_string(), |owner| format!("\"{}\"", owner.name));
    format!(
        "Who mapped {what} is not known by stack: --trace on shows it, and pdlab doctor what that needs."
    )
}

fn steps(frames: &[Frame], asked: &Frame) -> Vec<&'static str> {
    let module = |frame: &Frame| {
        frame.module.as_deref().unwrap_or_default().rsplit('/').next().map(str::to_owned)
    };
    let through = |prefixes: &[&str]| {
        frames
            .iter()
            .filter_map(module)
            .any(|file| prefixes.iter().any(|prefix| file.starts_with(prefix)))
    };
    let mut steps = Vec::new();
    if through(&["libuc", "libuct"]) {
        steps.push(
            "It passes through UCX: try --set UCX_RCACHE_MAX_UNRELEASED=64M and --set UCX_MEM_MMAP_HOOK_MODE=none, and \
             another --ucx; report it at https://github.com/openucx/ucx/issues.",
        );
    } else if through(&["libnixl"]) {
        steps
            .push("It passes through NIXL: report it at https://github.com/ai-dynamo/nixl/issues.");
    } else if through(&["libpython", "python3"]) {
        steps.push(
            "It passes through Python: PYTHONMALLOC=malloc tells object memory from arenas; report it to whoever maintains \
             the module above.",
        );
    } else {
        steps.push("Report it to whoever maintains that module.");
    }
    if asked.function.is_none() {
        steps.push("It has no symbols: install its debug package, or a build that is not stripped, to see functions.");
    }
    steps.push(
        "All stacks are in stacks.json of the run; pdlab report RUN shows them as a flame graph.",
    );
    steps
}

/// The version that the path of a module tells: of UCX what its library reports, else the numbers in a directory or in
/// the name of the file (`/opt/foo-2.1.3/lib/libfoo.so`, `libfoo.so.2.1`).
pub fn module_version(path: &str, ucx: Option<UcxVersion>) -> Option<String> {
    let file = path.rsplit('/').next().unwrap_or(path);
    if let Some(version) = ucx.filter(|_| {
        ["libucp", "libucs", "libucm", "libuct"].iter().any(|lib| file.starts_with(lib))
    }) {
        return Some(version.to_string());
    }
    path.split('/').rev().find_map(numbers)
}

/// The first run of digits and dots in `text` that has a dot between digits.
fn numbers(text: &str) -> Option<String> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .map(|part| part.trim_matches('.'))
        .find(|part| part.contains('.') && part.split('.').all(|number| !number.is_empty()))
        // What libtool calls 0.0.0 is the version of nothing.
        .filter(|part| part.split('.').any(|number| !number.trim_matches('0').is_empty()))
        .map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::Known;
    use crate::stacks::fixture::frames;

    #[test]
    fn an_unknown_owner_has_a_module_a_version_and_a_next_step() {
        let namer = Known::builtin().namer(Some(UcxVersion::new(1, 19, 0)));
        let ours =
            unknown_owner(&frames(&["mmap@libc.so.6", "load@libfoo.so.2.1", "main@app"]), &namer);
        for words in
            ["load in /usr/lib/libfoo.so.2.1 (version 2.1)", "maintains that module", "stacks.json"]
        {
            assert!(ours.contains(words), "{words} is not in {ours}");
        }
        let ucx = unknown_owner(
            &frames(&["ucs_mpool_grow@libucs.so.0.0.0", "ucp_am@libucp.so.0", "@app"]),
            &namer,
        );
        assert!(ucx.contains("ucp_am in /usr/lib/libucp.so.0 (version 1.19.0)"), "{ucx}");
        assert!(ucx.contains("UCX_RCACHE_MAX_UNRELEASED"), "{ucx}");
        let stripped = unknown_owner(&frames(&["mmap@libc.so.6", "@libbar.so"]), &namer);
        assert!(
            stripped.contains("debug package") && stripped.contains("does not tell"),
            "{stripped}"
        );
        assert!(unknown_owner(&[], &namer).contains("--trace on"));
    }

    #[test]
    fn versions_are_read_off_paths() {
        let of = |path: &str| module_version(path, None);
        assert_eq!(of("/opt/hpcx-v2.21/ucx/lib/libucs.so.0").as_deref(), Some("2.21"));
        assert_eq!(of("/usr/lib/libfoo.so.1.2.3").as_deref(), Some("1.2.3"));
        assert_eq!(of("/x/ucx/1.19.0/lib/libucs.so.0.0.0").as_deref(), Some("1.19.0"));
        assert_eq!(of("/usr/lib/libfoo.so.0"), None);
        assert_eq!(of("[vdso]"), None);
    }
}
