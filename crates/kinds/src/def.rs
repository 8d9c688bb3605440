//! What a row of the table is.

use crate::custom::Custom;
use async_trait::async_trait;
use meta::field::{ErrorList, Path, quoted};
use meta::gvk::{GroupKind, GroupResource, GroupVersion};
use serde_json::Value;
use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

/// Text that is static in the built-in rows and owned in custom ones.
pub type Text = Cow<'static, str>;

/// Whether objects of a kind live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// A printer column of `kubectl get` (upstream: `pkg/printers/internalversion`).
#[derive(Clone)]
pub struct Column {
    /// Empty where rows have a cell that no column tells of, as upstream's of some kinds.
    pub name: Text,
    /// OpenAPI type: `string`, `integer`, `date`, `boolean`, `number`.
    pub ty: &'static str,
    /// `name` for the Name column, else usually empty.
    pub format: &'static str,
    /// What `kubectl explain`-like tools show for the column; usually empty.
    pub description: Text,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: u8,
    /// The cell of an object. `now` is the time of the request (ages are texts such as `5m`).
    pub cell: Cell,
}

/// How a cell is computed.
#[derive(Clone)]
pub enum Cell {
    Fn(fn(&Value, jiff::Timestamp) -> Value),
    Shared(Arc<dyn Fn(&Value, jiff::Timestamp) -> Value + Send + Sync>),
}

/// A subresource of a kind.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// Path segment: `status`, `scale`, `binding`, `log`, `exec`, `portforward`, `token`, `eviction` …
    pub name: &'static str,
    pub verbs: &'static [&'static str],
    /// Group, version and kind of its bodies where they are not the parent's (`autoscaling`, `v1`, `Scale`).
    pub body: Option<(&'static str, &'static str, &'static str)>,
}

/// The verbs of an ordinary stored kind, in the order of discovery.
pub const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// A subresource whose body is the object itself.
pub const fn status() -> Subresource {
    Subresource { name: "status", verbs: &["get", "patch", "update"], body: None }
}

/// The scale subresource.
pub const fn scale() -> Subresource {
    Subresource {
        name: "scale",
        verbs: &["get", "patch", "update"],
        body: Some(("autoscaling", "v1", "Scale")),
    }
}

/// What a strategy hook may know beyond the object.
#[derive(Clone, Debug)]
pub struct Ctx<'a> {
    pub now: jiff::Timestamp,
    /// Empty for the object itself, else the subresource being written.
    pub subresource: &'a str,
}

/// A label that a namespace must have, with the value `true`, or a field of objects in it is an error.
pub struct NamespaceLabel {
    pub label: &'static str,
    pub field: Path,
    /// What an error says.
    pub detail: String,
}

/// Who sends a request, for the kinds that write it into their objects.
#[derive(Clone, Copy, Debug)]
pub struct Requester<'a> {
    pub name: &'a str,
    pub uid: &'a str,
    pub groups: &'a [String],
    pub extra: &'a std::collections::BTreeMap<String, Vec<String>>,
}

/// How one kind behaves on the generic verbs (upstream: `rest.RESTCreateStrategy` and its siblings, plus
/// defaulting and validation). All hooks are pure; the registry calls them in the order
/// default, prepare, (admission,) validate, and stores what is left.
pub trait Strategy: Send + Sync {
    /// Fills in defaults. Must be idempotent.
    fn default(&self, _obj: &mut Value) {}

    /// As [`Strategy::default`], of fields that are by default the time of the request.
    fn default_times(&self, _obj: &mut Value, _now: jiff::Timestamp) {}

    /// Before a create: clears status, sets the first generation where the kind has one, drops disabled fields.
    fn prepare_create(&self, _obj: &mut Value, _ctx: &Ctx) {}

    /// After [`Strategy::prepare_create`]: writes into the object who asks for it (upstream: kinds whose strategy reads
    /// the user from the request's context).
    fn requested_by(&self, _obj: &mut Value, _who: &Requester) {}

    /// Warnings of an object as it was sent, before [`Strategy::prepare_create`] makes something else of it.
    fn early_warnings(&self, _obj: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Before an update of the object or of a subresource that shares its body (`ctx.subresource`):
    /// restores what this path may not change.
    fn prepare_update(&self, _new: &mut Value, _old: &Value, _ctx: &Ctx) {}

    /// Errors of a complete object about to be created. Metadata common to all kinds is checked by the registry.
    fn validate(&self, _obj: &Value) -> ErrorList {
        Vec::new()
    }

    /// Errors of a change from `old` to `new`.
    fn validate_update(&self, new: &Value, _old: &Value, _ctx: &Ctx) -> ErrorList {
        self.validate(new)
    }

    /// A field of the object that its namespace must allow; `old` is absent on create.
    fn asks_namespace(
        &self,
        _new: &Value,
        _old: Option<&Value>,
        _subresource: &str,
    ) -> Option<NamespaceLabel> {
        None
    }

    /// Warnings sent back in `Warning` headers on create and update.
    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// Whether a PUT to a name that does not exist creates it (upstream: `AllowCreateOnUpdate`).
    fn create_on_update(&self) -> bool {
        false
    }

    /// Whether an applied configuration of the subresource makes an object that is not there.
    fn made_by(&self, _subresource: &str) -> bool {
        false
    }

    /// Fields, with dots between their parts, that a write to this path cannot change, so that nobody comes to own them by
    /// it (upstream: `GetResetFields`). `None`: status, or spec when it is a write of the status.
    fn reset_fields(&self, _subresource: &str) -> Option<&'static [&'static str]> {
        None
    }

    /// Whether an update may leave resourceVersion out (upstream: `AllowUnconditionalUpdate`).
    fn unconditional_update(&self) -> bool {
        true
    }

    /// Grace in seconds with which a delete of this object proceeds (upstream: `CheckGracefulDelete`);
    /// `None` for kinds that are deleted at once. `asked` is what the client gave.
    fn grace_seconds(&self, _obj: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }

    /// Values of the selectable fields beyond `metadata.name` and `metadata.namespace`, as
    /// `(field, value)`; only fields listed in [`KindDef::selectable`].
    fn fields(&self, _obj: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Values of all selectable fields, those of custom resources included.
    fn selected(&self, obj: &Value) -> Vec<(Text, String)> {
        self.fields(obj).into_iter().map(|(field, value)| (field.into(), value)).collect()
    }

    /// Whether a selector may name the namespace, where the kind is in one and has selectable fields of its own.
    fn selects_namespace(&self) -> bool {
        true
    }

    /// Why a field cannot be selected by (upstream: the kind's field label conversion function).
    fn unknown_field(&self, field: &str) -> String {
        format!("field label not supported: {field}")
    }

    /// Turns an object as stored into this row's version. Runs for rows with [`KindDef::stored_as`] or
    /// [`KindDef::reads_through`].
    fn decode_stored(&self, _obj: &mut Value) {}

    /// Turns an object of this row's version into the stored form.
    fn to_storage(&self, _obj: &mut Value) {}

    /// Whether an object is held back from deletion by more than its finalizers: `true` keeps it, as terminating, until
    /// an update lifts what holds it (namespaces wait for `spec.finalizers`). May mark the object.
    fn holds_deletion(&self, _obj: &mut Value, _now: jiff::Timestamp) -> bool {
        false
    }

    /// Whether an immediate delete answers with the object instead of a Status (upstream: `ReturnDeletedObject`).
    fn returns_deleted(&self) -> bool {
        false
    }

    /// Why the object of this name stays, whoever wants to delete it.
    fn stays(&self, _name: &str) -> Option<&'static str> {
        None
    }

    /// What a client is told that deletes without naming a policy.
    fn delete_warning(&self) -> Option<&'static str> {
        None
    }

    /// The finalizer policy where the client names none: whether dependents are orphaned by default
    /// (upstream: `DefaultGarbageCollectionPolicy`).
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// Whether metadata is looked at together with the rest of a new object, and not only when nothing else is wrong.
    fn checks_metadata(&self) -> bool {
        true
    }

    /// Whether the begin of a generated name must be the begin of a name (upstream: kinds that go without
    /// `ValidateObjectMetaWithOpts`).
    fn checks_generate_name(&self) -> bool {
        true
    }

    /// Whether the begin of a generated name is looked at again when an object is changed through a subresource, or as
    /// a whole (upstream: kinds whose `ValidateUpdate` calls `ValidateObjectMeta`).
    fn checks_names_on_update(&self, subresource: &str) -> bool {
        !matches!(subresource, "status" | "finalize")
    }

    /// Whether what this path answers can be shown as a table (upstream: storages that are no `rest.TableConvertor`).
    fn has_table(&self, subresource: &str) -> bool {
        !matches!(subresource, "approval" | "finalize" | "ephemeralcontainers" | "resize")
    }

    /// Whether objects that cannot be read can be deleted all the same (upstream: what is stored behind a layer of its own
    /// cannot).
    fn deletes_unread(&self) -> bool {
        true
    }

    /// Whether an object without a name gets one that nobody else has.
    fn names_itself(&self) -> bool {
        false
    }

    /// Whether the garbage collector knows objects of the kind (upstream: all but those of the policy `Unsupported`).
    fn has_dependents(&self) -> bool {
        true
    }

    /// Names must pass this check (upstream: `ValidateName`); default: DNS subdomain.
    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        crate::helpers::dns_subdomain_errors(name, prefix)
    }
}

/// The strategy of kinds that need nothing of their own.
pub struct Plain;

impl Strategy for Plain {}

/// Conversion between the versions of a custom kind (upstream: apiextensions `pkg/apiserver/conversion`).
#[async_trait]
pub trait Convert: Send + Sync {
    /// Turns objects of any version of the kind into objects of `api_version`, in their order.
    async fn convert(&self, objects: Vec<Value>, api_version: &str) -> meta::status::Result<Vec<Value>>;
}

/// A strategy that is static in built-in rows and shared in custom ones.
#[derive(Clone)]
pub enum StrategyRef {
    Static(&'static dyn Strategy),
    Shared(Arc<dyn Strategy>),
}

impl Deref for StrategyRef {
    type Target = dyn Strategy;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Static(s) => *s,
            Self::Shared(s) => &**s,
        }
    }
}

/// One row: a kind in one version.
#[derive(Clone)]
pub struct KindDef {
    pub group: Text,
    pub version: Text,
    pub kind: Text,
    pub plural: Text,
    pub singular: Text,
    pub short: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub scope: Scope,
    pub verbs: &'static [&'static str],
    /// Name of the type in the schema table; also the OpenAPI definition.
    pub schema: Text,
    /// Where objects are kept: `/registry/<prefix>/[namespace/]name`. Empty for kinds that are not stored
    /// (reviews). Two rows with one prefix are versions of the same objects.
    pub storage: Text,
    pub subresources: &'static [Subresource],
    pub columns: &'static [Column],
    /// Fields that a field selector may name beyond `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
    /// Whether `metadata.generation` counts changes (of anything but metadata and status).
    pub generation: bool,
    pub strategy: StrategyRef,
    /// Group and version in which objects are stored, where they are not this row's own; the kind's name is the same
    /// (see [`Strategy::decode_stored`] and [`Convert`]).
    pub stored_as: Option<(Text, Text)>,
    /// Turns objects between the versions of a custom kind; built-in kinds do it in their strategy.
    pub convert: Option<Arc<dyn Convert>>,
    /// Whether what is read passes [`Strategy::decode_stored`] even when it is stored in this row's version
    /// (custom kinds, whose schema may have got defaults since).
    pub reads_through: bool,
    /// The warning that every request for the kind gets, where the kind is deprecated
    /// (upstream: `deprecation.WarningMessage`).
    pub deprecated: Option<&'static str>,
    /// A complete, valid object, YAML: for the table-wide tests and docs.
    pub sample: &'static str,
    /// What a row that was made at run time says beyond the static parts; `None` for built-in kinds.
    pub custom: Option<Arc<Custom>>,
}

impl KindDef {
    /// What most rows share; rows are written as `KindDef { …, ..KindDef::BASE }`.
    pub const BASE: Self = Self {
        group: Cow::Borrowed(""),
        version: Cow::Borrowed("v1"),
        kind: Cow::Borrowed(""),
        plural: Cow::Borrowed(""),
        singular: Cow::Borrowed(""),
        short: &[],
        categories: &[],
        scope: Scope::Namespaced,
        verbs: ALL_VERBS,
        schema: Cow::Borrowed(""),
        storage: Cow::Borrowed(""),
        subresources: &[],
        columns: &[],
        selectable: &[],
        generation: false,
        strategy: StrategyRef::Static(&Plain),
        stored_as: None,
        convert: None,
        reads_through: false,
        deprecated: None,
        sample: "",
        custom: None,
    };

    /// Short names, in the order of discovery.
    pub fn short_names(&self) -> Vec<&str> {
        match &self.custom {
            Some(custom) => custom.short.iter().map(String::as_str).collect(),
            None => self.short.to_vec(),
        }
    }

    /// Categories such as `all`.
    pub fn category_names(&self) -> Vec<&str> {
        match &self.custom {
            Some(custom) => custom.categories.iter().map(String::as_str).collect(),
            None => self.categories.to_vec(),
        }
    }

    /// The printer columns; empty for kinds with the default ones.
    pub fn printer_columns(&self) -> &[Column] {
        self.custom.as_ref().map_or(self.columns, |custom| &custom.columns)
    }

    /// Refuses a field that a selector of this kind cannot name (upstream: `Scheme.ConvertFieldLabel`).
    ///
    /// # Errors
    /// Why not, in upstream's words.
    pub fn check_field(&self, field: &str) -> Result<(), String> {
        let own = !self.selectable.is_empty() || self.is_custom();
        let known = match field {
            "metadata.name" => true,
            "metadata.namespace" => !own || self.namespaced() && self.strategy.selects_namespace(),
            field => self.selects_by(field),
        };
        match (known, own) {
            (true, _) => Ok(()),
            (false, true) => Err(self.strategy.unknown_field(field)),
            (false, false) => Err(format!(
                "{field} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                field = quoted(field)
            )),
        }
    }

    /// Whether a field selector may name the field, beyond `metadata.name` and `metadata.namespace`.
    pub fn selects_by(&self, field: &str) -> bool {
        match &self.custom {
            Some(custom) => custom.selectable.iter().any(|f| f == field),
            None => self.selectable.contains(&field),
        }
    }

    /// The kind of lists of this kind.
    pub fn list_kind(&self) -> String {
        match &self.custom {
            Some(custom) => custom.list_kind.clone(),
            None => format!("{}List", self.kind),
        }
    }

    pub fn group_version(&self) -> GroupVersion {
        GroupVersion::new(&self.group, &self.version)
    }

    /// The `apiVersion` of objects of this row.
    pub fn api_version(&self) -> String {
        self.group_version().to_string()
    }

    /// The `apiVersion` in which objects are stored.
    pub fn storage_version(&self) -> String {
        match &self.stored_as {
            Some((group, version)) => GroupVersion::new(group, version).to_string(),
            None => self.api_version(),
        }
    }

    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&self.group, &self.plural)
    }

    pub fn group_kind(&self) -> GroupKind {
        GroupKind { group: self.group.to_string(), kind: self.kind.to_string() }
    }

    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// An object that something other than a client's body made (a patch, a webhook), typed and defaulted as a body is.
    ///
    /// # Errors
    /// What does not fit the type, as Go's decoder says it.
    pub fn retype(&self, value: Value) -> Result<Value, String> {
        let schema = crate::schema::schema();
        let mut obj = match schema.types.contains_key(&*self.schema) {
            true => {
                let ignore = meta::schema::Strictness::Ignore;
                schema.decode(value, &self.schema, ignore).map_err(|e| e.to_string())?.0
            }
            false => value,
        };
        if let Some(custom) = &self.custom {
            custom.shape(&mut obj)?;
        }
        if let Some(map) = obj.as_object_mut() {
            map.insert("kind".into(), Value::from(&*self.kind));
            map.insert("apiVersion".into(), self.api_version().into());
        }
        self.strategy.default(&mut obj);
        Ok(obj)
    }

    /// The object as it comes back from where upstream keeps it: a list without entries, which protobuf does not tell
    /// from none, is none, and bytes that are none are empty ones in a map. What is kept as JSON stays as it was sent.
    pub fn as_kept<'v>(&self, obj: &'v Value) -> Cow<'v, Value> {
        let json =
            self.is_custom() || matches!(&*self.group, "apiextensions.k8s.io" | "apiregistration.k8s.io");
        if json || !has_nothing(obj) {
            return Cow::Borrowed(obj);
        }
        let mut kept = obj.clone();
        crate::schema::schema().without_empty_lists(&mut kept, &self.schema);
        Cow::Owned(kept)
    }

    /// Whether the row was made at run time, from a custom resource definition.
    pub fn is_custom(&self) -> bool {
        self.custom.is_some()
    }

    /// The key prefix of all objects of the kind, ending in a slash (so that no kind's prefix covers another's).
    pub fn key_prefix(&self) -> String {
        format!("/registry/{}/", self.storage)
    }

    /// The key of one object. Names and namespaces are validated before they come here.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced() {
            format!("/registry/{}/{namespace}/{name}", self.storage)
        } else {
            format!("/registry/{}/{name}", self.storage)
        }
    }
}

/// Whether anything in the tree is nothing.
fn has_nothing(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Array(list) => list.is_empty() || list.iter().any(has_nothing),
        Value::Object(map) => map.values().any(has_nothing),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::table;

    #[test]
    fn fields_that_selectors_may_name() {
        let check = |kind: &str, field: &str| {
            let row = table().into_iter().find(|r| r.kind == kind).expect("a row");
            row.check_field(field).err().unwrap_or_default()
        };
        for (kind, field, refusal) in [
            ("Pod", "spec.host", ""),
            ("Pod", "metadata.namespace", ""),
            ("Pod", "spec.x", "field label not supported: spec.x"),
            ("Node", "metadata.namespace", "field label not supported: metadata.namespace"),
            ("PodCertificateRequest", "metadata.namespace", "field label not supported: metadata.namespace"),
            ("Job", "status.x", "field label \"status.x\" not supported for Job"),
            (
                "ResourceSlice",
                "spec.x",
                "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: spec.x",
            ),
            (
                "ReplicaSet",
                "status.replicas",
                "\"status.replicas\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            ),
            ("ClusterRole", "metadata.namespace", ""),
        ] {
            assert_eq!(check(kind, field), refusal, "{kind} {field}");
        }
    }

    #[test]
    fn selectable_fields_have_values() {
        for row in table() {
            let sample: serde_json::Value =
                meta::yaml::parse_yaml(row.sample.as_bytes(), 1 << 20).expect(&row.kind).0;
            let named: Vec<_> = row.strategy.fields(&sample).into_iter().map(|(f, _)| f).collect();
            assert!(row.selectable.iter().all(|f| named.contains(f)), "{}: {named:?}", row.kind);
        }
    }
}
