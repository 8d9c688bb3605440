//! Lists of amounts by resource name, added up and compared (upstream: apiserver `pkg/quota/v1/resources.go`).

use meta::quantity::Quantity;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A resource list. Upstream's lists have no order; ours go by name, as messages show them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts(BTreeMap<String, Quantity>);

impl Amounts {
    /// Reads a list of an object; what is no quantity is left out.
    pub fn of(list: &Value) -> Self {
        Self(crate::resources::entries(list).map(|(name, q)| (name.clone(), q)).collect())
    }

    pub fn get(&self, name: &str) -> Option<&Quantity> {
        self.0.get(name)
    }

    pub fn set(&mut self, name: impl Into<String>, amount: Quantity) {
        self.0.insert(name.into(), amount);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Quantity)> {
        self.0.iter()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn add(&mut self, more: &Self) {
        for (name, amount) in &more.0 {
            match self.0.get_mut(name) {
                Some(own) => own.add(amount),
                None => drop(self.0.insert(name.clone(), amount.clone())),
            }
        }
    }

    /// Of each resource the larger amount.
    pub fn raise(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            match self.0.get(name) {
                Some(own) if *own >= *amount => {}
                _ => drop(self.0.insert(name.clone(), amount.clone())),
            }
        }
    }

    /// What is more than in another list; never less than nothing (upstream: `SubtractWithNonNegativeResult`).
    pub fn more_than(&self, other: &Self) -> Self {
        let mut out = self.clone();
        for (name, amount) in &other.0 {
            let own = out.0.entry(name.clone()).or_default();
            own.sub(amount);
        }
        for amount in out.0.values_mut().filter(|a| a.sign() < 0) {
            *amount = Quantity::default();
        }
        out
    }

    /// Only some names (upstream: `Mask`).
    pub fn only(&self, keep: impl Fn(&str) -> bool) -> Self {
        Self(self.0.iter().filter(|(n, _)| keep(n)).map(|(n, q)| (n.clone(), q.clone())).collect())
    }

    /// Names whose amount is above the limit for it; what has no limit is not above.
    pub fn above(&self, limits: &Self) -> Vec<String> {
        let above = |(name, own): (&String, &Quantity)| {
            limits.get(name).is_some_and(|limit| own > limit).then(|| name.clone())
        };
        self.0.iter().filter_map(above).collect()
    }

    pub fn to_value(&self) -> Value {
        Value::Object(self.0.iter().map(|(n, q)| (n.clone(), q.to_string().into())).collect::<Map<_, _>>())
    }
}

impl FromIterator<(String, Quantity)> for Amounts {
    fn from_iter<I: IntoIterator<Item = (String, Quantity)>>(list: I) -> Self {
        Self(list.into_iter().collect())
    }
}

/// `cpu=1,memory=2Gi` (upstream: `prettyPrint`).
impl std::fmt::Display for Amounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, (name, amount)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{name}={amount}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_never_negative() {
        let now = Amounts::of(&json!({"cpu": "1", "memory": "1Gi"}));
        let before = Amounts::of(&json!({"cpu": "2", "memory": "512Mi", "pods": "1"}));
        assert_eq!(now.more_than(&before).to_string(), "cpu=0,memory=512Mi,pods=0");
        assert_eq!(now.above(&Amounts::of(&json!({"cpu": "500m", "memory": "1Gi"}))), ["cpu"]);
        let mut most = now.clone();
        most.raise(&before);
        assert_eq!(most.to_string(), "cpu=2,memory=1Gi,pods=1");
    }
}
