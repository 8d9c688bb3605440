//! Capabilities of the calling process.
//!
//! Invariant: after [`drop_to`] no set holds a capability that was not asked for.

use crate::error::{Error, Result};
use caps::{CapSet, Capability, CapsHashSet};

fn failed(what: &str) -> impl FnOnce(caps::errors::CapsError) -> Error + '_ {
    move |e| Error::check(format!("{what}: {e}"))
}

/// Parses names such as `CAP_NET_ADMIN`.
pub fn parse(names: &[String]) -> Result<CapsHashSet> {
    names
        .iter()
        .map(|n| n.parse::<Capability>().map_err(|_| Error::check(format!("unknown capability {n:?}"))))
        .collect()
}

/// Every capability that this process has itself.
pub fn own() -> Result<CapsHashSet> {
    caps::read(None, CapSet::Permitted).map_err(failed("read capabilities"))
}

/// Whether this process has a capability, by name.
pub fn have(name: &str) -> bool {
    name.parse::<Capability>().is_ok_and(|c| own().is_ok_and(|set| set.contains(&c)))
}

/// Takes everything but `keep` out of the bounding set. Must come before the change of user.
pub fn bound_to(keep: &CapsHashSet) -> Result<()> {
    for c in caps::all() {
        if !keep.contains(&c) && caps::has_cap(None, CapSet::Bounding, c).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, c).map_err(failed("drop a bounding capability"))?;
        }
    }
    Ok(())
}

/// Sets permitted and effective to `keep` (that this process has); inheritable and ambient become empty.
pub fn drop_to(keep: &CapsHashSet) -> Result<()> {
    let have = own()?;
    let keep: CapsHashSet = keep.intersection(&have).copied().collect();
    let _ = caps::clear(None, CapSet::Ambient); // absent on old kernels
    caps::clear(None, CapSet::Inheritable).map_err(failed("clear inheritable capabilities"))?;
    // Effective first: permitted must contain it at every moment.
    caps::set(None, CapSet::Effective, &keep).map_err(failed("set effective capabilities"))?;
    caps::set(None, CapSet::Permitted, &keep).map_err(failed("set permitted capabilities"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!(parse(&["CAP_CHOWN".into(), "CAP_NET_RAW".into()]).unwrap().len(), 2);
        assert!(parse(&["CAP_OF_GOOD_HOPE".into()]).is_err());
    }
}
