//! How long a pod stays on a tainted node (upstream: `processPodOnNode`).

use k8s_openapi::api::core::v1::{Taint, Toleration};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Stays,
    Goes,
    /// Goes when it has been on the tainted node for so long.
    After(Duration),
}

/// Judges by the NoExecute taints of a node.
pub fn verdict(tolerations: &[Toleration], taints: &[Taint]) -> Verdict {
    let mut shortest: Option<i64> = None;
    for taint in taints {
        let Some(used) = tolerations.iter().find(|t| tolerates(t, taint)) else { return Verdict::Goes };
        if let Some(s) = used.toleration_seconds {
            shortest = Some(shortest.map_or(s, |m| m.min(s)));
        }
    }
    match shortest {
        None => Verdict::Stays,
        Some(s) if s <= 0 => Verdict::Goes,
        Some(s) => Verdict::After(Duration::from_secs(s.unsigned_abs())),
    }
}

/// Upstream: `Toleration.ToleratesTaint`.
fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    let (effect, key) = (text(&t.effect), text(&t.key));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match text(&t.operator).as_str() {
        "" | "Equal" => text(&t.value) == text(&taint.value),
        "Exists" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_toleration_counts() {
        let taint = |k: &str| Taint { key: k.into(), effect: "NoExecute".into(), ..Taint::default() };
        let tolerate = |k: &str, seconds: Option<i64>| Toleration {
            key: Some(k.into()),
            operator: Some("Exists".into()),
            toleration_seconds: seconds,
            ..Toleration::default()
        };
        let both = [taint("a"), taint("b")];
        assert_eq!(verdict(&[], &both), Verdict::Goes);
        assert_eq!(verdict(&[tolerate("a", None)], &both), Verdict::Goes);
        assert_eq!(verdict(&[tolerate("a", None), tolerate("b", None)], &both), Verdict::Stays);
        let timed = [tolerate("a", Some(300)), tolerate("b", Some(10))];
        assert_eq!(verdict(&timed, &both), Verdict::After(Duration::from_secs(10)));
        assert_eq!(verdict(&[tolerate("", Some(0))], &both), Verdict::Goes);
    }
}
