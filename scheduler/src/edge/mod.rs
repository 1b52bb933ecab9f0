//! What agents and apps talk to. One module, so that it could run as stateless replicas in front of the leader.
//!
//! * [`service`]: the agents' gRPC calls: joining, blobs, results, metrics
//! * [`session`]: one agent's stream: hello, heartbeats, outcomes
//! * [`front`]: the HTTP port, of a leader and of a standby
//! * [`http`]: health, and the gateway for people's tools
//! * `points`: grants, balances, statements
//! * `results`: what jobs put out, as a stream
//! * [`observe`]: metrics and service discovery, for Prometheus

pub mod front;
pub mod http;
pub mod observe;
mod points;
mod results;
pub mod service;
pub mod session;
