//! The control plane: controllers, the cycle, the edge.
//!
//! ```text
//! controller/ ─▶ leader (cycle: queue ▶ filter ▶ score ▶ plan ▶ commit ▶ dispatch) ─▶ edge/session ─▶ agents
//!     ▲ custom resources                  │ facts                                          │ outcomes
//!     └────────────── status ◀────────────┴──────────────────◀─────────────────────────────┘
//! ```

pub mod blobs;
pub mod controller;
pub mod credentials;
pub mod cycle;
pub mod dispatch;
pub mod displace;
pub mod downloads;
pub mod edge;
pub mod estimates;
pub mod leader;
pub mod metrics;
pub mod models;
pub mod nodes;
pub mod prove;
pub mod role;
pub mod run;
pub mod scrape;
pub mod tenants;
pub mod uri;
