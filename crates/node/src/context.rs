//! What all parts of a node agent share.

use crate::config::NodeConfig;
use crate::pod::spec::ResourceList;
use crate::ports::{Images, NodeApi, PodNet};
use crate::runtime::Runtime;
use crate::volumes::token::Tokens;
use base::clock::SharedClock;
use base::rng::Rng;
use parking_lot::RwLock;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Image pulls at a time.
const PULLS_MAX: usize = 4;

/// Shared by all pod tasks; nothing in it changes but the node's allocatable resources.
pub struct NodeContext {
    pub config: NodeConfig,
    pub api: Arc<dyn NodeApi>,
    pub runtime: Arc<dyn Runtime>,
    pub images: Arc<dyn Images>,
    pub net: Arc<dyn PodNet>,
    pub clock: SharedClock,
    pub tokens: Arc<Tokens>,
    pub rng: Rng,
    pub pulls: Semaphore,
    /// What pods may have in all, as the Node object says.
    pub allocatable: RwLock<ResourceList>,
    /// Bytes.
    pub memory_capacity: u64,
}

impl NodeContext {
    pub fn new(
        config: NodeConfig,
        api: Arc<dyn NodeApi>,
        runtime: Arc<dyn Runtime>,
        images: Arc<dyn Images>,
        net: Arc<dyn PodNet>,
        clock: SharedClock,
    ) -> Self {
        Self {
            config,
            api,
            runtime,
            images,
            net,
            clock,
            tokens: Arc::default(),
            rng: Rng::from_os(),
            pulls: Semaphore::new(PULLS_MAX),
            allocatable: RwLock::default(),
            memory_capacity: 1,
        }
    }

    /// A new container id: 64 hexadecimal digits.
    pub fn container_id(&self) -> String {
        (0..4).map(|_| format!("{:016x}", self.rng.below(u64::MAX))).collect()
    }
}
