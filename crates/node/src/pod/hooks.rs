//! postStart and preStop handlers (upstream: `pkg/kubelet/lifecycle/handlers.go`).

use super::spec;
use crate::context::NodeContext;
use crate::probe;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use std::net::IpAddr;
use std::time::Duration;

/// Longest a hook may take by itself; a preStop hook is bounded by the grace period besides.
const HOOK_MAX: Duration = Duration::from_secs(24 * 3600);

/// Runs a handler to its end.
///
/// # Errors
/// Upstream's message; it may quote output of the container and is not for events.
pub async fn run(
    ctx: &NodeContext,
    pod: &Pod,
    container: &Container,
    container_id: &str,
    ip: Option<IpAddr>,
    handler: &LifecycleHandler,
) -> Result<(), String> {
    let place = format!("for Container {:?} in Pod {:?} failed", container.name, spec::display(pod));
    if let Some(exec) = &handler.exec {
        let args = exec.command.clone().unwrap_or_default();
        let shown = args.join(" ");
        return match ctx.runtime.exec_sync(spec::uid(pod), container_id, &args, HOOK_MAX).await {
            Ok((0, _)) => Ok(()),
            Ok((code, output)) => Err(format!(
                "Exec lifecycle hook ([{shown}]) {place} - error: command '{shown}' exited with {code}: {0}, message: {1}",
                String::from_utf8_lossy(&output),
                meta::field::quoted(&String::from_utf8_lossy(&output)),
            )),
            Err(e) => Err(format!("Exec lifecycle hook ([{shown}]) {place} - error: {e}, message: \"\"")),
        };
    }
    if let Some(get) = &handler.http_get {
        let path = get.path.as_deref().unwrap_or_default();
        let text = |e: String| format!("HTTP lifecycle hook ({path}) {place} - error: {e}");
        let ip = ip.map(|i| i.to_string()).unwrap_or_default();
        let mut request = probe::http_request(get, container, &ip, "lifecycle").map_err(text)?;
        let mut result = probe::http::get(&request, HOOK_MAX).await;
        if request.tls
            && result.as_ref().is_err_and(|f| f.text.contains("server gave HTTP response to HTTPS client"))
        {
            request.tls = false;
            request.headers.retain(|(n, _)| !n.eq_ignore_ascii_case("authorization"));
            result = probe::http::get(&request, HOOK_MAX).await;
        }
        return result.map(|_| ()).map_err(|f| text(f.text));
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    // tcpSocket is accepted by the API and refused here, as upstream does.
    Err(format!("Cannot run handler: invalid handler {place}"))
}
