//! Starting one container: image, settings, runtime, postStart hook (upstream: `startContainer`).

use super::model::{Exit, Instance, State, to_ns};
use super::references::container_reference;
use super::settings::{self, Attempt};
use super::{hooks, spec};
use crate::context::NodeContext;
use crate::image_pull;
use crate::ports::Image;
use crate::runtime::RuntimeError;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::future::Future;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Exit code of a container whose program could not be executed (containerd).
const START_ERROR: i32 = 128;

/// What to start.
#[derive(Clone)]
pub struct Job {
    pub ctx: Arc<NodeContext>,
    pub pod: Arc<Pod>,
    pub container: Container,
    pub attempt: Attempt,
    pub sandbox: u32,
    /// The pod is being stopped: give up between steps.
    pub cancel: CancellationToken,
}

/// How it went.
#[derive(Debug)]
pub enum Outcome {
    Started(Box<Instance>),
    Failed(Box<Failure>),
    Cancelled,
}

/// A start that failed, as the waiting state shows it.
#[derive(Debug)]
pub struct Failure {
    pub reason: String,
    pub message: String,
    /// The image could not be pulled: worth a back-off of its own.
    pub pull: bool,
    /// The container counts as started and ended.
    pub instance: Option<Instance>,
}

fn failed(reason: &str, message: String) -> Outcome {
    Outcome::Failed(Box::new(Failure { reason: reason.into(), message, pull: false, instance: None }))
}

impl Job {
    fn event(&self, warning: bool, reason: &str, text: &str) {
        self.ctx.api.event(&container_reference(&self.pod, &self.container.name), warning, reason, text);
    }

    /// Starts the container; `launched` hears of it before its postStart hook runs.
    pub async fn run<F: Future<Output = ()>>(self, launched: impl FnOnce(Instance) -> F) -> Outcome {
        let pulled = tokio::select! {
            () = self.cancel.cancelled() => return Outcome::Cancelled,
            pulled = image_pull::ensure(&self.ctx, &self.pod, &self.container) => pulled,
        };
        let image = match pulled {
            Ok(image) => image,
            Err(e) => {
                self.event(true, "Failed", &format!("Error: {}", e.reason));
                let pull = !matches!(
                    e.reason.as_str(),
                    "ErrImageNeverPull" | "InvalidImageName" | "ImageInspectError"
                );
                let failure = Failure { reason: e.reason, message: e.message, pull, instance: None };
                return Outcome::Failed(Box::new(failure));
            }
        };
        if self.cancel.is_cancelled() {
            return Outcome::Cancelled;
        }
        let built = settings::build(&self.ctx, &self.pod, &self.container, &image, &self.attempt).await;
        let built = match built {
            Ok(built) => built,
            Err(message) => {
                self.event(true, "Failed", &format!("Error: {message}"));
                return failed("CreateContainerConfigError", message);
            }
        };
        let mut instance = self.instance(&image, &built);
        if built.spec.args.is_empty() {
            let message = "no command specified".to_owned();
            self.event(true, "Failed", &format!("Error: {message}"));
            return failed("CreateContainerError", message);
        }
        match self.ctx.runtime.start_container(spec::uid(&self.pod), &built.spec).await {
            Ok(state) => instance.state = State::Running { started_ns: state.started_ns },
            Err(e) => return self.start_failed(instance, &e),
        }
        self.event(false, "Created", "Container created");
        self.event(false, "Started", "Container started");
        self.post_start(instance, launched).await
    }

    fn instance(&self, image: &Image, built: &settings::Settings) -> Instance {
        Instance {
            id: self.attempt.id.clone(),
            name: self.container.name.clone(),
            restart_count: self.attempt.restart_count,
            sandbox: self.sandbox,
            state: State::Created,
            spec_image: self.container.image.clone().unwrap_or_default(),
            image: image.name.clone(),
            image_ref: image.image_ref().to_owned(),
            user: built.user.clone(),
            log_path: built.spec.log_path.clone(),
            termination_log: Some(built.termination_log.clone()),
        }
    }

    fn start_failed(&self, mut instance: Instance, e: &RuntimeError) -> Outcome {
        let message = e.to_string();
        if !e.container_fault {
            self.event(true, "Failed", &format!("Error: {message}"));
            return failed("CreateContainerError", message);
        }
        self.event(false, "Created", "Container created");
        self.event(true, "Failed", &format!("Error: {message}"));
        instance.state = State::Exited(Exit {
            started_ns: 0,
            finished_ns: to_ns(self.ctx.clock.now()),
            exit_code: START_ERROR,
            reason: "StartError".into(),
            message: message.clone(),
        });
        let failure =
            Failure { reason: "RunContainerError".into(), message, pull: false, instance: Some(instance) };
        Outcome::Failed(Box::new(failure))
    }

    async fn post_start<F: Future<Output = ()>>(
        &self,
        instance: Instance,
        launched: impl FnOnce(Instance) -> F,
    ) -> Outcome {
        let hook = self.container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
        let Some(hook) = hook else { return Outcome::Started(Box::new(instance)) };
        launched(Instance { state: State::Created, ..instance.clone() }).await;
        let ip = self.attempt.ips.first().copied();
        let run = hooks::run(&self.ctx, &self.pod, &self.container, &instance.id, ip, hook);
        let result = tokio::select! {
            () = self.cancel.cancelled() => return Outcome::Started(Box::new(instance)),
            result = run => result,
        };
        let Err(message) = result else { return Outcome::Started(Box::new(instance)) };
        // The message may quote output of the container: not for the event.
        self.event(true, "FailedPostStartHook", "PostStartHook failed");
        tracing::info!(
            pod = spec::display(&self.pod),
            container = self.container.name,
            "postStart hook failed"
        );
        self.event(false, "Killing", "FailedPostStartHook");
        let grace = spec::grace(&self.pod).max(super::plan::MINIMUM_GRACE);
        if let Err(e) = self.ctx.runtime.stop_container(spec::uid(&self.pod), &instance.id, grace).await {
            tracing::warn!(container = instance.id, "container was not stopped: {e}");
        }
        let failure =
            Failure { reason: "PostStartHookError".into(), message, pull: false, instance: Some(instance) };
        Outcome::Failed(Box::new(failure))
    }
}
