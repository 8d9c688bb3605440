//! `/version`: the Kubernetes version whose API this is (upstream: `version.Info`).

use serde_json::{Value, json};

/// The Kubernetes release that this program conforms to.
pub const KUBERNETES: &str = "v1.37.2";

pub fn document() -> Value {
    json!({
        "major": "1", "minor": "37", "emulationMajor": "1", "emulationMinor": "37",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "36",
        "gitVersion": format!("{KUBERNETES}+taffrail.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": format!("linux/{}", platform()),
    })
}

/// Go's name of the processor, which clients expect.
pub fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
