//! In: the Authorization header → out: who calls and what they may do → invariant: tokens are compared in constant time and
//! never logged; there are two identities, admin and viewer, and no RBAC rules.

use http::{HeaderMap, header};
use sha2::{Digest, Sha256};

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Admin,
    /// Reads everything but Secrets, as Kubernetes' own `view` role.
    Viewer,
}

/// An authenticated caller.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub name: String,
    pub groups: Vec<String>,
    pub role: Role,
}

impl Caller {
    pub fn admin() -> Caller {
        Caller { name: "nightshift-admin".into(), groups: groups("system:masters"), role: Role::Admin }
    }

    pub fn viewer() -> Caller {
        Caller { name: "nightshift-viewer".into(), groups: groups("nightshift:viewers"), role: Role::Viewer }
    }

    /// Whether the caller may `verb` the resource; `*` stands for all.
    pub fn may(&self, verb: &str, group: &str, resource: &str) -> bool {
        match self.role {
            Role::Admin => true,
            Role::Viewer => {
                let read = matches!(verb, "get" | "list" | "watch");
                let own = verb == "create"
                    && matches!(group, "authentication.k8s.io" | "authorization.k8s.io")
                    && resource.starts_with("selfsubject");
                let secret = (group.is_empty() || group == "*") && matches!(resource, "secrets" | "*");
                own || (read && !secret)
            }
        }
    }
}

fn groups(own: &str) -> Vec<String> {
    vec![own.into(), "system:authenticated".into()]
}

/// Digests of the tokens known.
pub(crate) struct Tokens {
    admin: [u8; 32],
    viewer: [u8; 32],
}

impl Tokens {
    pub fn new(admin: &str, viewer: &str) -> Tokens {
        Tokens { admin: digest(admin), viewer: digest(viewer) }
    }

    pub fn authenticate(&self, headers: &HeaderMap) -> Option<Caller> {
        let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = text.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        // Digests are compared whole: the time tells nothing about the token.
        let given = digest(token.trim());
        if given == self.admin {
            Some(Caller::admin())
        } else if given == self.viewer {
            Some(Caller::viewer())
        } else {
            None
        }
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}
