//! Stopping one container: preStop hook, its turn, stop signal, kill (upstream: `killContainer`).

use super::plan::{Kill, MINIMUM_GRACE};
use super::references::container_reference;
use super::{hooks, spec};
use crate::context::NodeContext;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// What to stop.
#[derive(Clone)]
pub struct Job {
    pub ctx: Arc<NodeContext>,
    pub pod: Arc<Pod>,
    pub container: Option<Container>,
    pub kill: Kill,
    pub ip: Option<IpAddr>,
    /// Names of the pod's running containers.
    pub running: watch::Receiver<BTreeSet<String>>,
    /// A stop with more time is under way: its hook has been run.
    pub again: bool,
}

impl Job {
    /// Returns when the container has ended.
    ///
    /// # Errors
    /// The runtime's; the container may still run.
    pub async fn run(mut self) -> Result<(), String> {
        let begin = self.ctx.clock.monotonic();
        let grace = Duration::from_secs(self.kill.grace);
        let about = container_reference(&self.pod, &self.kill.name);
        if !self.again {
            let message = match self.kill.message.as_str() {
                "" => format!("Stopping container {}", self.kill.name),
                text => text.to_owned(),
            };
            self.ctx.api.event(&about, false, "Killing", &message);
            self.pre_stop(grace).await;
        }
        let after = std::mem::take(&mut self.kill.after);
        let left = self.left(begin, grace);
        let turn = self.running.wait_for(|running| after.iter().all(|n| !running.contains(n)));
        // Out of time or turn: it is stopped either way.
        let _ = tokio::time::timeout(left, turn).await;
        let seconds = self.left(begin, grace).as_secs_f64().ceil() as u64;
        let uid = spec::uid(&self.pod);
        self.ctx
            .runtime
            .stop_container(uid, &self.kill.id, seconds.max(MINIMUM_GRACE))
            .await
            .map_err(|e| e.to_string())
    }

    fn left(&self, begin: Duration, grace: Duration) -> Duration {
        grace.saturating_sub(self.ctx.clock.monotonic().saturating_sub(begin))
    }

    async fn pre_stop(&self, grace: Duration) {
        let Some(container) = &self.container else { return };
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) else { return };
        if grace.is_zero() {
            return;
        }
        let run = hooks::run(&self.ctx, &self.pod, container, &self.kill.id, self.ip, hook);
        match tokio::time::timeout(grace, run).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                // The message may quote output of the container: not for the event.
                tracing::info!(
                    pod = spec::display(&self.pod),
                    container = container.name,
                    "preStop hook failed"
                );
                tracing::debug!("{e}");
                let about = container_reference(&self.pod, &self.kill.name);
                self.ctx.api.event(&about, true, "FailedPreStopHook", "PreStopHook failed");
            }
            Err(_) => {
                tracing::info!(
                    pod = spec::display(&self.pod),
                    container = container.name,
                    "preStop hook took all of the grace period"
                );
            }
        }
    }
}
