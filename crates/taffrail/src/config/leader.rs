//! The flags of leader election, under upstream's names (upstream: component-base `config/options/leaderelectionconfig.go`).

use super::duration;
use clap::{ArgAction, Args};
use client::leader::Times;
use std::time::Duration;

/// Which of several servers runs controllers and scheduler.
#[derive(Args, Clone, Debug)]
pub struct LeaderOptions {
    /// Run controllers and scheduler only after winning an election among the servers on one etcd. On the embedded store,
    /// which is one server's, there is none
    #[arg(
        long,
        default_value_t = true,
        num_args = 0..=1,
        default_missing_value = "true",
        action = ArgAction::Set,
        value_name = "BOOL"
    )]
    pub leader_elect: bool,

    /// How long other servers wait for the leader to renew its lease before they take over
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = duration)]
    pub leader_elect_lease_duration: Duration,

    /// How long the leader tries to renew its lease before it stops leading
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = duration)]
    pub leader_elect_renew_deadline: Duration,

    /// Between two tries to get or renew the lease
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = duration)]
    pub leader_elect_retry_period: Duration,
}

impl LeaderOptions {
    /// The times, when there is an election.
    ///
    /// # Errors
    /// They cannot work together.
    pub fn times(&self) -> Result<Option<Times>, String> {
        if !self.leader_elect {
            return Ok(None);
        }
        let times = Times {
            lease_duration: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry_period: self.leader_elect_retry_period,
        };
        times.check().map_err(|e| format!("--leader-elect-…: {e}"))?;
        Ok(Some(times))
    }
}
