//! `/healthz`, `/livez` and `/readyz` with their single checks (upstream: apiserver `pkg/server/healthz`).

use crate::context::Context;
use crate::reply::Reply;
use bytes::Bytes;
use std::sync::Arc;

/// One named check.
pub struct Check {
    pub name: &'static str,
    /// Part of `/livez`, or of readiness only.
    pub live: bool,
    pub run: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// The answer at a health path; `None` when the path is none.
pub fn serve(ctx: &Context, path: &str) -> Option<Reply> {
    let mut parts = path.trim_matches('/').splitn(2, '/');
    let endpoint = parts.next()?;
    let single = parts.next();
    let live_only = match endpoint {
        "livez" => true,
        "readyz" | "healthz" => false,
        _ => return None,
    };
    let q = &ctx.info.query;
    let excluded: Vec<&str> = q.all("exclude").collect();
    let checks = ctx.server.checks.iter().filter(|c| !live_only || c.live);
    if let Some(name) = single {
        let check = ctx.server.checks.iter().find(|c| c.name == name)?;
        return Some(match (check.run)() {
            Ok(()) => text(200, "ok"),
            Err(e) => text(500, &format!("internal server error: {e}\n")),
        });
    }
    let mut lines = String::new();
    let mut failed = Vec::new();
    for check in checks {
        if excluded.contains(&check.name) {
            lines.push_str(&format!("[+]{} excluded: ok\n", check.name));
            continue;
        }
        match (check.run)() {
            Ok(()) => lines.push_str(&format!("[+]{} ok\n", check.name)),
            Err(_) => {
                failed.push(check.name);
                // The reason is for the log, not for whoever asks without a name.
                lines.push_str(&format!("[-]{} failed: reason withheld\n", check.name));
            }
        }
    }
    if failed.is_empty() {
        return Some(if q.has("verbose") {
            text(200, &format!("{lines}{endpoint} check passed\n"))
        } else {
            text(200, "ok")
        });
    }
    Some(text(500, &format!("{lines}{endpoint} check failed\n")))
}

fn text(code: u16, body: &str) -> Reply {
    Reply::Text {
        code,
        content_type: "text/plain; charset=utf-8",
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}
