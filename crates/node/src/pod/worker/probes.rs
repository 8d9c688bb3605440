//! Keeping one probe task per running container and kind.

use super::{Message, Worker};
use crate::pod::model::State;
use crate::pod::spec;
use crate::probe::{self, ProbeKind, Prober, Target, Verdict};
use std::collections::BTreeMap;
use tokio::task::AbortHandle;

/// Tasks by container and kind, with the id of the container that they probe; all end with the pod's task.
#[derive(Default)]
pub(super) struct Probes(BTreeMap<(String, ProbeKind), (String, AbortHandle)>);

impl Drop for Probes {
    fn drop(&mut self) {
        for (_, task) in self.0.values() {
            task.abort();
        }
    }
}

impl Worker {
    pub(super) fn sync_probes(&mut self) {
        let mut wanted: BTreeMap<(String, ProbeKind), (String, i64)> = BTreeMap::new();
        for instance in &self.local.record.instances {
            let State::Running { started_ns } = instance.state else { continue };
            let Some((role, container)) = spec::find(&self.pod, &instance.name) else { continue };
            if role == spec::Role::Init {
                continue;
            }
            let started = self.local.track(&instance.name).and_then(|t| t.startup);
            let kinds: &[ProbeKind] = match (&container.startup_probe, started) {
                _ if self.local.stopping => &[ProbeKind::Readiness],
                (Some(_), Some(true)) | (None, _) => &[ProbeKind::Liveness, ProbeKind::Readiness],
                (Some(_), _) => &[ProbeKind::Startup],
            };
            for kind in kinds.iter().filter(|k| k.of(&container).is_some()) {
                wanted.insert((instance.name.clone(), *kind), (instance.id.clone(), started_ns));
            }
        }
        self.probes.0.retain(|key, (id, task)| {
            let keep = wanted.get(key).is_some_and(|(wanted, _)| wanted == id);
            if !keep {
                task.abort();
            }
            keep
        });
        for ((name, kind), (id, started_ns)) in wanted {
            if !self.probes.0.contains_key(&(name.clone(), kind)) {
                self.start_probe(name, kind, id, started_ns);
            }
        }
    }

    fn start_probe(&mut self, name: String, kind: ProbeKind, id: String, started_ns: i64) {
        let Some((_, container)) = spec::find(&self.pod, &name) else { return };
        let ips =
            if spec::host_network(&self.pod) { &self.ctx.config.node_ips } else { &self.local.record.ips };
        let prober = Prober {
            runtime: self.ctx.runtime.clone(),
            api: self.ctx.api.clone(),
            clock: self.ctx.clock.clone(),
        };
        let target = Target {
            pod: self.pod.clone(),
            pod_uid: spec::uid(&self.pod).to_owned(),
            container,
            container_id: id.clone(),
            ip: ips.first().copied(),
            started_ns,
        };
        let task = tokio::spawn(probe::run::<Message>(prober, target, kind, self.outbox.clone()));
        self.probes.0.insert((name, kind), (id, task.abort_handle()));
    }

    pub(super) fn verdict(&mut self, v: &Verdict) {
        let current =
            self.local.record.latest(&v.container).is_some_and(|i| i.id == v.container_id && i.running());
        if !current {
            return;
        }
        let track = self.local.track_mut(&v.container);
        match v.kind {
            ProbeKind::Startup => track.startup = Some(v.success),
            ProbeKind::Liveness => track.liveness = Some(v.success),
            ProbeKind::Readiness => track.readiness = v.success,
        }
    }
}
