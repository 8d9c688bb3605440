//! Acting as somebody else: what the headers ask, which permissions it takes
//! (upstream: apiserver `pkg/endpoints/filters/impersonation`).

use crate::identity::{AUTHENTICATED, Identity, UNAUTHENTICATED, split_service_account};
use http::HeaderMap;
use meta::status::Status;

/// One permission that impersonation needs: verb `impersonate` on a resource with this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    pub group: &'static str,
    pub resource: &'static str,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

/// Who to act as, and what that takes. `None` when no header asks for it.
pub fn wanted(headers: &HeaderMap) -> Result<Option<(Identity, Vec<Need>)>, Status> {
    let all = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .map(str::to_owned)
            .filter(|v| !v.is_empty())
            .collect()
    };
    let user = all("impersonate-user").into_iter().next();
    let groups = all("impersonate-group");
    let uid = all("impersonate-uid").into_iter().next();
    let mut extra: Vec<(String, String)> = Vec::new();
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix("impersonate-extra-") else { continue };
        let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().to_lowercase();
        extra.push((key, value.to_str().unwrap_or("").to_owned()));
    }
    let Some(user) = user else {
        if groups.is_empty() && extra.is_empty() && uid.is_none() {
            return Ok(None);
        }
        let asked = format!(
            "requested {groups:?} groups, {extra:?} extras, {:?} uid without impersonating a user",
            uid.unwrap_or_default()
        );
        return Err(Status::internal(asked));
    };
    let mut needs = Vec::new();
    let mut need = |group: &'static str, resource: &'static str, namespace: &str, name: &str, sub: &str| {
        needs.push(Need {
            group,
            resource,
            subresource: sub.into(),
            namespace: namespace.into(),
            name: name.into(),
        });
    };
    let mut identity = Identity { name: user.clone(), groups: groups.clone(), ..Identity::default() };
    match split_service_account(&user) {
        Some((namespace, name)) => {
            need("", "serviceaccounts", namespace, name, "");
            if groups.is_empty() {
                identity.groups = Identity::service_account(namespace, name).groups;
                identity.groups.retain(|g| g != AUTHENTICATED);
            }
        }
        None => need("", "users", "", &user, ""),
    }
    for g in &groups {
        need("", "groups", "", g, "");
    }
    if let Some(uid) = uid {
        need("authentication.k8s.io", "uids", "", &uid, "");
        identity.uid = uid;
    }
    for (key, value) in extra {
        need("authentication.k8s.io", "userextras", "", &value, &key);
        identity.extra.entry(key).or_default().push(value);
    }
    let anonymous = identity.name == crate::identity::ANONYMOUS;
    if anonymous {
        if !identity.in_group(UNAUTHENTICATED) {
            identity.groups.push(UNAUTHENTICATED.to_owned());
        }
    } else {
        identity = identity.authenticated();
    }
    Ok(Some((identity, needs)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut h = HeaderMap::new();
        for (k, v) in list {
            h.append(*k, v.parse().expect("a value"));
        }
        h
    }

    #[test]
    fn users_groups_and_accounts() {
        assert_eq!(wanted(&headers(&[])), Ok(None));
        let (id, needs) = wanted(&headers(&[("impersonate-user", "bob"), ("impersonate-group", "dev")]))
            .expect("read")
            .expect("asked");
        assert_eq!(id.groups, ["dev", AUTHENTICATED]);
        assert_eq!(needs.iter().map(|n| n.resource).collect::<Vec<_>>(), ["users", "groups"]);
        let (id, needs) = wanted(&headers(&[("impersonate-user", "system:serviceaccount:ns:sa")]))
            .expect("read")
            .expect("asked");
        assert!(id.in_group("system:serviceaccounts:ns"));
        assert_eq!(
            (needs[0].resource, needs[0].namespace.as_str(), needs[0].name.as_str()),
            ("serviceaccounts", "ns", "sa")
        );
        assert!(wanted(&headers(&[("impersonate-group", "dev")])).is_err());
    }
}
