//! The proof that a request was authorised, which the registry's verbs demand.
//!
//! A [`Permit`] can only be made through the [`PermitMaker`], and there is one maker in a process:
//! it is taken once, at build, by the authorisation filter. Code that has no permit does not compile
//! into a change of the cluster.

use std::sync::atomic::{AtomicBool, Ordering};

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Evidence that the request at hand passed authorisation.
#[derive(Clone, Copy, Debug)]
pub struct Permit(());

/// The one source of permits.
#[derive(Debug)]
pub struct PermitMaker(());

impl PermitMaker {
    /// Takes the maker; `None` when it was taken before.
    pub fn take() -> Option<Self> {
        (!TAKEN.swap(true, Ordering::SeqCst)).then_some(Self(()))
    }

    /// Makes the permit of a request that authorisation allowed.
    pub fn permit(&self) -> Permit {
        Permit(())
    }
}
