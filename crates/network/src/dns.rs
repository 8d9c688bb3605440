//! placeholder
pub struct DnsConfig; pub struct DnsServer;
