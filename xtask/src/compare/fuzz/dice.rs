//! Choices of a seeded source.

use base::rng::Rng;

pub struct Dice(Rng);

impl Dice {
    pub fn seeded(seed: u64) -> Self {
        Self(Rng::seeded(seed))
    }

    pub fn below(&self, bound: usize) -> usize {
        usize::try_from(self.0.below(bound as u64)).unwrap_or(0)
    }

    pub fn one_in(&self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of texts; empty for none.
    pub fn pick<'t>(&self, of: &[&'t str]) -> &'t str {
        self.pick_of(of).copied().unwrap_or("")
    }

    pub fn pick_of<'t, T>(&self, of: &'t [T]) -> Option<&'t T> {
        of.get(self.below(of.len()))
    }

    /// One of the choices, each as often as its weight says.
    pub fn weighted<T: Copy>(&self, of: &[(usize, T)]) -> Option<T> {
        let mut at = self.below(of.iter().map(|(weight, _)| weight).sum());
        for (weight, choice) in of {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return Some(*choice),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_again() {
        let roll = |seed| {
            let dice = Dice::seeded(seed);
            (0..20).map(|_| dice.below(100)).collect::<Vec<_>>()
        };
        assert_eq!(roll(7), roll(7));
        assert_ne!(roll(7), roll(8));
        let dice = Dice::seeded(1);
        assert!((0..50).all(|_| dice.weighted(&[(0, 'a'), (1, 'b')]) == Some('b')));
        assert_eq!(dice.pick(&[]), "");
    }
}
