//! Addresses of the web (upstream: apiserver `pkg/cel/library/urls.go`, with Go's `net/url`).

use crate::functions::{Failure, Outcome, Row};
use crate::value::{Key, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The parts of an address, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    host: String,
    path: String,
    query: String,
}

pub const ROWS: &[Row] = &[
    Row { name: "url", run: to_url, overloads: &[("string_to_url", "(string) -> kubernetes.URL")] },
    Row { name: "isURL", run: is_url, overloads: &[("is_url_string", "(string) -> bool")] },
    Row {
        name: "getScheme",
        run: |a| part(a, |u| u.scheme.clone()),
        overloads: &[("url_get_scheme", "kubernetes.URL.() -> string")],
    },
    Row {
        name: "getHost",
        run: |a| part(a, |u| u.host.clone()),
        overloads: &[("url_get_host", "kubernetes.URL.() -> string")],
    },
    Row {
        name: "getHostname",
        run: |a| part(a, |u| u.hostname().to_owned()),
        overloads: &[("url_get_hostname", "kubernetes.URL.() -> string")],
    },
    Row {
        name: "getPort",
        run: |a| part(a, |u| u.port().to_owned()),
        overloads: &[("url_get_port", "kubernetes.URL.() -> string")],
    },
    Row {
        name: "getEscapedPath",
        run: |a| part(a, |u| escaped_path(&u.path)),
        overloads: &[("url_get_escaped_path", "kubernetes.URL.() -> string")],
    },
    Row {
        name: "getQuery",
        run: query,
        overloads: &[("url_get_query", "kubernetes.URL.() -> map(string, list(string))")],
    },
];

impl Url {
    /// Reads an absolute address or an absolute path.
    ///
    /// # Errors
    /// What Go's parser says.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("parse {text:?}: {why}");
        if text.is_empty() {
            return Err(wrong("empty url"));
        }
        if text.bytes().any(|b| b < b' ' || b == 0x7f) {
            return Err(wrong("net/url: invalid control character in URL"));
        }
        let (scheme, rest) = scheme(text).map_err(|why| wrong(&why))?;
        if scheme.is_empty() && !rest.starts_with('/') {
            return Err(wrong("invalid URI for request"));
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, path) = match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None if rest.starts_with('/') => ("", rest),
            // `mailto:a@b` has no path.
            None => ("", ""),
        };
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        check_host(host).map_err(|why| wrong(&why))?;
        if let Some(bad) = bad_escape(path) {
            return Err(wrong(&format!("invalid URL escape {bad:?}")));
        }
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            host: host.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
        })
    }

    fn hostname(&self) -> &str {
        let host = self.host.strip_suffix(&format!(":{}", self.port())).unwrap_or(&self.host);
        let host = host.strip_suffix(':').unwrap_or(host);
        host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
    }

    fn port(&self) -> &str {
        match self.host.rsplit_once(':') {
            Some((before, port)) if !before.contains(':') || before.ends_with(']') => port,
            _ => "",
        }
    }
}

/// The scheme, empty when there is none, and what comes after it.
fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (i, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if i > 0 => {}
            ':' if i == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&text[..i], &text[i + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn check_host(host: &str) -> Result<(), String> {
    if let Some(rest) = host.strip_prefix('[') {
        let (inside, after) = rest.split_once(']').ok_or("missing ']' in host")?;
        if inside.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!("invalid host: {host:?}"));
        }
        return check_port(after);
    }
    if let Some(bad) = host.chars().find(|c| " \"<>^`{|}\\".contains(*c)) {
        return Err(format!("invalid character {:?} in host name", bad.to_string()));
    }
    match host.find(':') {
        Some(at) => check_port(&host[at..]),
        None => Ok(()),
    }
}

fn check_port(port: &str) -> Result<(), String> {
    let digits = port.strip_prefix(':');
    if port.is_empty() || digits.is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit())) {
        Ok(())
    } else {
        Err(format!("invalid port {port:?} after host"))
    }
}

/// A percent sign without two hexadecimal digits.
fn bad_escape(path: &str) -> Option<String> {
    path.match_indices('%').find_map(|(at, _)| {
        let escape: String = path[at..].chars().take(3).collect();
        let good = escape.len() == 3 && escape.bytes().skip(1).all(|b| b.is_ascii_hexdigit());
        (!good).then_some(escape)
    })
}

/// The path with all escaped that has no place in one.
fn escaped_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for b in path.bytes() {
        let plain = b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@/[]%".contains(&b);
        if plain {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

fn to_url(args: &[Value]) -> Outcome {
    match args {
        [Value::String(s)] => Url::parse(s)
            .map(|u| Value::Url(Arc::new(u)))
            .map_err(|why| format!("URL parse error during conversion from string: {why}").into()),
        _ => Err(Failure::NoOverload),
    }
}

fn is_url(args: &[Value]) -> Outcome {
    match args {
        [Value::String(s)] => Ok(Value::Bool(Url::parse(s).is_ok())),
        _ => Err(Failure::NoOverload),
    }
}

fn part(args: &[Value], of: fn(&Url) -> String) -> Outcome {
    match args {
        [Value::Url(u)] => Ok(Value::String(of(u).into())),
        _ => Err(Failure::NoOverload),
    }
}

fn query(args: &[Value]) -> Outcome {
    let [Value::Url(u)] = args else { return Err(Failure::NoOverload) };
    let mut out: BTreeMap<Key, Vec<Value>> = BTreeMap::new();
    for (name, value) in url::form_urlencoded::parse(u.query.as_bytes()) {
        out.entry(Key::String((&*name).into())).or_default().push(Value::String((&*value).into()));
    }
    Ok(Value::Map(Arc::new(out.into_iter().map(|(k, v)| (k, Value::list(v))).collect())))
}
