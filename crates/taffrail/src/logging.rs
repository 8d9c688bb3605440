//! Component logs: one file of JSON lines per component, told apart by where an event was logged.
//!
//! Files are bounded: at [`FILE_BYTES_MAX`] the current one becomes `.1` and the one before it is dropped.

use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

const FILE_BYTES_MAX: u64 = 10 << 20;

/// Our crates, with the components that they belong to.
const CRATES: &[(&str, &str)] = &[
    ("admission", APISERVER),
    ("apiserver", APISERVER),
    ("audit", APISERVER),
    ("auth", APISERVER),
    ("client", APISERVER),
    ("controllers", "controller-manager"),
    ("kinds", APISERVER),
    ("meta", APISERVER),
    ("network", "network"),
    ("node", "kubelet"),
    ("oci", "kubelet"),
    ("registry", APISERVER),
    ("scheduler", "scheduler"),
    ("store", "store"),
    ("taffrail", APISERVER),
    ("trail", APISERVER),
];
const APISERVER: &str = "apiserver";

/// The component that an event is of, and whether it was logged by a crate of ours.
fn component(target: &str) -> (&'static str, bool) {
    let name = target.split("::").next().unwrap_or("");
    CRATES.iter().find(|(n, _)| *n == name).map_or((APISERVER, false), |(_, component)| (component, true))
}

/// The log file of a component.
pub fn path(data_dir: &Path, component: &str) -> PathBuf {
    data_dir.join("logs").join(format!("{component}.log"))
}

/// Writes events to the components' files.
pub struct Files {
    data_dir: PathBuf,
    level: Level,
    open: Mutex<HashMap<&'static str, (File, u64)>>,
}

impl Files {
    pub fn new(data_dir: &Path, level: Level) -> std::io::Result<Self> {
        std::fs::create_dir_all(data_dir.join("logs"))?;
        Ok(Self { data_dir: data_dir.to_owned(), level, open: Mutex::default() })
    }

    fn write(&self, component: &'static str, line: &[u8]) -> std::io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let file = path(&self.data_dir, component);
        if open.get(component).is_some_and(|(_, size)| *size > FILE_BYTES_MAX) {
            open.remove(component);
            std::fs::rename(&file, file.with_extension("log.1"))?;
        }
        if !open.contains_key(component) {
            let f = OpenOptions::new().create(true).append(true).mode(0o600).open(&file)?;
            let size = f.metadata()?.len();
            open.insert(component, (f, size));
        }
        if let Some((f, size)) = open.get_mut(component) {
            f.write_all(line)?;
            *size += line.len() as u64;
        }
        Ok(())
    }
}

impl<S: Subscriber> Layer<S> for Files {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        let (component, ours) = component(meta.target());
        // Other people's crates only speak up when something is wrong.
        if *meta.level() > (if ours { self.level } else { Level::WARN }) {
            return;
        }
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let mut line = Map::new();
        #[allow(clippy::disallowed_methods)] // a log line's time is the machine's
        let now = jiff::Timestamp::now();
        line.insert("ts".into(), meta::time::rfc3339_micro(now).into());
        line.insert("level".into(), meta.level().as_str().to_lowercase().into());
        line.insert("component".into(), component.into());
        if let Some(message) = fields.0.remove("message") {
            line.insert("msg".into(), message);
        }
        line.extend(fields.0);
        let mut bytes = Value::Object(line).to_string().into_bytes();
        bytes.push(b'\n');
        // A log that cannot be written must not stop the cluster.
        let _ = self.write(component, &bytes);
    }
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

/// Starts logging for the process.
pub fn start(data_dir: &Path, level: &str) -> Result<(), String> {
    use tracing_subscriber::layer::SubscriberExt as _;
    let level = level.parse().map_err(|_| format!("unknown log level {level:?}"))?;
    let files = Files::new(data_dir, level)
        .map_err(|e| format!("cannot make the log directory {}: {e}", data_dir.join("logs").display()))?;
    let subscriber = tracing_subscriber::registry().with(files);
    tracing::subscriber::set_global_default(subscriber).map_err(|e| e.to_string())
}
