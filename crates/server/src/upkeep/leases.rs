//! Takes back leases that nobody knows of: a claim whose reply was lost holds a chunk that no dispatcher has.

use overnight_domain::limits::LEASE_TTL;
use overnight_domain::time::UnixTime;

use crate::clock;
use crate::context::Context;

/// A lease that is in use is renewed several times before it ends. One that ended a whole lease ago is nobody's, unless
/// the machine has slept: the caller passes over the first turn after that.
pub(super) async fn expire(ctx: &Context) -> anyhow::Result<()> {
    let ended = clock::now().millis().saturating_sub(LEASE_TTL.as_millis() as u64);
    let leases = ctx.store.expire_leases(UnixTime::from_millis(ended)).await?;
    if !leases.is_empty() {
        tracing::warn!(chunks = leases.len(), "took back chunks that nobody worked on");
        ctx.bell.ring();
    }
    Ok(())
}
