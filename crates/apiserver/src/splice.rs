//! Connections that another protocol takes over, and two of them joined: bytes go both ways until one side ends.
//!
//! Invariant: such a connection has a place among a bounded number of them for as long as it is open.

use crate::filters::audit::AuditScope;
use crate::metrics::Running;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// Bytes copied at a time in each direction.
const BUFFER_BYTES: usize = 32 << 10;

/// A client's connection that can be taken over once it was answered with 101.
pub struct Upgrade {
    connection: OnUpgrade,
    place: Place,
}

/// A place among those that were taken over; given back on drop.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    /// It counts as a running request too.
    _running: Option<Arc<Running>>,
}

impl Upgrade {
    pub fn new(connection: OnUpgrade, permit: OwnedSemaphorePermit, running: Option<Arc<Running>>) -> Self {
        Self { connection, place: Place { _permit: permit, _running: running } }
    }

    /// Waits until the client has the answer.
    pub async fn taken(self) -> Result<(TokioIo<Upgraded>, Place), hyper::Error> {
        Ok((TokioIo::new(self.connection.await?), self.place))
    }
}

/// Joins the client with whom it asked for, once both have changed the protocol; the record is completed when it ends.
pub fn join(client: Upgrade, other: OnUpgrade, scope: Arc<AuditScope>, draining: CancellationToken) {
    scope.hold();
    tokio::spawn(async move {
        if let (Ok((mut client, _place)), Ok(other)) = (client.taken().await, other.await) {
            let mut other = TokioIo::new(other);
            let copy =
                tokio::io::copy_bidirectional_with_sizes(&mut client, &mut other, BUFFER_BYTES, BUFFER_BYTES);
            tokio::select! {
                _ = copy => {}
                () = draining.cancelled() => {}
            }
        }
        scope.complete();
    });
}
