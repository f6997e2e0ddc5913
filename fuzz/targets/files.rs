//! Files of users: scenarios, signatures, results.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pdlab_leak::result::ReproResult;
use pdlab_leak::scenario::Scenario;
use pdlab_leak::signature::Known;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Scenario::parse(text, "scenario.toml");
    let _ = Known::parse(text, "signatures.toml");
    let _ = serde_json::from_str::<ReproResult>(text);
});
