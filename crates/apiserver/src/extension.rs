//! Paths that other parts of the program add to the server (the audit queries): they get the whole chain before them.

use crate::context::Context;
use crate::reply::Reply;
use async_trait::async_trait;
use meta::status::Result;

#[async_trait]
pub trait Extension: Send + Sync {
    /// The path prefix, ending in a slash.
    fn prefix(&self) -> &str;

    async fn serve(&self, ctx: &Context) -> Result<Reply>;
}
