//! Two connections that another protocol has taken over: bytes go both ways until one side ends.

use crate::filters::audit::AuditScope;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Bytes copied at a time in each direction.
const BUFFER_BYTES: usize = 32 << 10;

/// Joins the client with whom it asked for, once both have changed the protocol; the record is completed when it ends.
pub fn join(client: OnUpgrade, other: OnUpgrade, scope: Arc<AuditScope>, draining: CancellationToken) {
    scope.hold();
    tokio::spawn(async move {
        if let (Ok(client), Ok(other)) = (client.await, other.await) {
            let (mut client, mut other) = (TokioIo::new(client), TokioIo::new(other));
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
