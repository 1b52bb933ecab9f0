//! Why an attempt ended without a result, and whose fault it is: the fault decides charge, blame and retry.

use std::fmt;
use std::str::FromStr;

/// Who pays for a failure (market.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Free for the tenant, unpaid, retried elsewhere.
    Node,
    /// The model cannot do it: no retry helps.
    Model,
    /// The input cannot be read: no retry helps.
    Input,
    /// Nobody's: the owner came back, the job was cancelled.
    Nobody,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $fault:ident, $retry:literal;)*) => {
        /// Typed reason of a failed attempt; the text is the CamelCase name, as in conditions and metrics.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum FailureReason { $($(#[$doc])* $name,)* }
        impl FailureReason {
            /// Every reason, for metrics and documentation.
            pub const ALL: &[FailureReason] = &[$(Self::$name,)*];
            /// The CamelCase word used in conditions, Events, metrics and on the wire.
            pub fn as_str(self) -> &'static str { match self { $(Self::$name => stringify!($name),)* } }
            /// Whose fault it is.
            pub fn fault(self) -> Fault { match self { $(Self::$name => Fault::$fault,)* } }
            /// Whether another attempt may succeed.
            pub fn retryable(self) -> bool { match self { $(Self::$name => $retry,)* } }
        }
        impl FromStr for FailureReason {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                match s { $(stringify!($name) => Ok(Self::$name),)* other => Err(format!("unknown failure reason {other:?}")) }
            }
        }
    };
}

reasons! {
    /// The input is not what the model's codec reads: a WAV that is none, JSON of the wrong shape.
    InputInvalid => Input, false;
    /// libtorch cannot load the model's file.
    ModelLoadFailed => Model, false;
    /// The model raised an error while running.
    ModelExecutionFailed => Model, false;
    /// The model's output is not what its codec writes.
    OutputInvalid => Model, false;
    /// The bytes fetched are not the digest's.
    DigestMismatch => Model, false;
    /// The worker process died.
    WorkerCrashed => Node, true;
    /// The device had too little memory after all.
    OutOfMemory => Node, true;
    /// Ran longer than it may.
    DeadlineExceeded => Node, true;
    /// The agent refused the assignment: its books say there is no room.
    Refused => Nobody, true;
    /// The agent could not fetch model or input from the edge.
    FetchFailed => Node, true;
    /// The node's lease ran out.
    NodeLost => Node, true;
    /// The owner came back.
    OwnerActive => Nobody, true;
    /// A task of higher priority took its place.
    Preempted => Nobody, true;
    /// The job was cancelled.
    Cancelled => Nobody, false;
    /// Something in the agent broke; the message says what.
    Internal => Node, true;
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for reason in FailureReason::ALL {
            assert_eq!(reason.as_str().parse::<FailureReason>().unwrap(), *reason);
        }
        assert!("Nope".parse::<FailureReason>().is_err());
    }
}
