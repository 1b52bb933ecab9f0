//! Where tests break a scheduler from within. Without the feature `hooks`, as in every release, nothing of it is compiled in.
//!
//! in → the process's environment · out → a stop at a named place, a bug that was planted, a clock that is off · invariant:
//! without those variables nothing happens.
//!
//! | variable | what |
//! |---|---|
//! | `NIGHTSHIFT_FAILPOINT` | `PLACE=ACTION@N`: the N-th time that this place is passed: `kill`, or `sleep:MS` |
//! | `NIGHTSHIFT_PLANTED_BUG` | the name of a bug: [`planted`] |
//! | `NIGHTSHIFT_CLOCK_SKEW_MS` | added to the clock |

/// Passes a named place: `hooks::pass!("append.before")`, in async code.
#[macro_export]
macro_rules! pass {
    ($place:literal) => {
        #[cfg(feature = "hooks")]
        $crate::hooks::pass($place).await;
    };
}

#[cfg(feature = "hooks")]
mod on {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    struct Failpoint {
        place: String,
        action: String,
        after: u64,
    }

    fn variable(name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|text| !text.is_empty())
    }

    static FAILPOINT: LazyLock<Option<Failpoint>> = LazyLock::new(|| {
        let text = variable("NIGHTSHIFT_FAILPOINT")?;
        let (place, rest) = text.split_once('=').expect("PLACE=ACTION@N");
        let (action, after) = rest.split_once('@').expect("PLACE=ACTION@N");
        Some(Failpoint { place: place.into(), action: action.into(), after: after.parse().expect("a number") })
    });
    static PASSED: AtomicU64 = AtomicU64::new(0);
    static BUG: LazyLock<Option<String>> = LazyLock::new(|| variable("NIGHTSHIFT_PLANTED_BUG"));
    static SKEW: LazyLock<i64> = LazyLock::new(|| {
        variable("NIGHTSHIFT_CLOCK_SKEW_MS").map_or(0, |text| text.parse().expect("NIGHTSHIFT_CLOCK_SKEW_MS: a number"))
    });

    /// Does what the environment says of this place.
    pub async fn pass(place: &str) {
        let Some(point) = FAILPOINT.as_ref().filter(|point| point.place == place) else { return };
        if PASSED.fetch_add(1, Ordering::SeqCst) + 1 != point.after {
            return;
        }
        tracing::warn!(place, action = point.action, "failpoint");
        match point.action.strip_prefix("sleep:") {
            Some(time) => tokio::time::sleep(Duration::from_millis(time.parse().expect("milliseconds"))).await,
            // As kill -9: nothing is unwound, nothing said goodbye to.
            None => std::process::abort(),
        }
    }

    /// Whether a bug is planted.
    pub fn planted(bug: &str) -> bool {
        BUG.as_deref() == Some(bug)
    }

    /// How far the clock is off, in milliseconds.
    pub fn skew() -> i64 {
        *SKEW
    }
}

#[cfg(feature = "hooks")]
pub use on::{pass, planted, skew};

/// Whether a bug is planted: never, here.
#[cfg(not(feature = "hooks"))]
#[inline(always)]
pub const fn planted(_: &str) -> bool {
    false
}

/// How far the clock is off: not at all, here.
#[cfg(not(feature = "hooks"))]
#[inline(always)]
pub const fn skew() -> i64 {
    0
}
