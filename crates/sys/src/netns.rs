//! Named network namespaces.
