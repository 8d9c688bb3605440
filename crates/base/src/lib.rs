//! The ground floor: time, randomness, sizes and error texts, with nothing that touches the world but the system clock.

pub mod clock;
pub mod error;
pub mod hash;
pub mod metrics;
pub mod rng;
pub mod size;
