//! A real Kubernetes API of the test's own: etcd, kube-apiserver with RBAC and the controllers that need no machines, on
//! free loopback ports. There is no kubelet, so pods stay Pending.
//!
//! in → the binaries that `scripts/kubebuilder-assets.sh` built · out → kubeconfigs · invariant: when it is dropped, or this
//! process dies however, its processes end.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// A running one.
#[derive(Debug)]
pub struct Kube {
    child: Child,
    /// Its processes live while this pipe is open.
    hold: Option<ChildStdin>,
    folder: tempfile::TempDir,
    assets: PathBuf,
    helm: PathBuf,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the checkout")
}

/// The line that a script prints; it fetches and builds nothing.
fn present(script: &str, arguments: &[&str]) -> PathBuf {
    let mut command = Command::new(repository().join("scripts").join(script));
    let output = command.arg("--if-present").args(arguments).output().expect("bash");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}`make conformance` builds what is missing", complaint);
    String::from_utf8_lossy(&output.stdout).trim().into()
}

/// Runs a command that must succeed, and gives its stdout.
pub fn ok(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

impl Kube {
    /// Starts it and waits until all of it serves.
    pub fn start() -> Self {
        let (assets, helm) = (present("kubebuilder-assets.sh", &[]), present("helm.sh", &["3"]));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(repository().join("scripts/kube-up.sh"));
        command.arg(folder.path()).arg("--if-present").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("bash");
        let hold = child.stdin.take();
        let mut said = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut said).expect("text");
        assert!(said.starts_with("ready "), "the Kubernetes API does not start: {said}");
        Self { child, hold, folder, assets, helm }
    }

    /// kubectl of the API's own version.
    pub fn kubectl_program(&self) -> PathBuf {
        self.assets.join("kubectl")
    }

    /// The kubeconfig of one who may do everything.
    pub fn admin(&self) -> PathBuf {
        self.folder.path().join("admin.kubeconfig")
    }

    /// kubectl as the one who may do everything.
    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.kubectl_program());
        command.arg("--kubeconfig").arg(self.admin()).args(arguments);
        command
    }

    /// Helm, knowing this API alone.
    pub fn helm(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.helm);
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(name, self.folder.path().join("helm"));
        }
        command.env("KUBECONFIG", self.admin()).args(arguments).current_dir(repository());
        command
    }

    /// A kubeconfig with a token of a service account, and so with its rights alone.
    pub fn service_account(&self, namespace: &str, name: &str) -> PathBuf {
        let token = ok(&mut self.kubectl(&["create", "token", name, "-n", namespace]));
        let path = self.folder.path().join(format!("{namespace}-{name}.kubeconfig"));
        std::fs::copy(self.admin(), &path).expect("a copy");
        for arguments in [
            vec!["set-credentials", "account", "--token", token.trim()],
            vec!["set-context", "--current", "--user", "account", "--namespace", namespace],
        ] {
            let mut command = Command::new(self.kubectl_program());
            ok(command.arg("--kubeconfig").arg(&path).arg("config").args(arguments));
        }
        path
    }

    /// What service accounts asked for: the API's audit log, an event a line.
    pub fn audit(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("audit.log")).expect("the audit log")
    }

    /// The ends of its logs.
    pub fn logs(&self) -> String {
        let tail = |name: &str| {
            let text = std::fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(10)..].join("\n"))
        };
        ["etcd", "kube-apiserver", "kube-controller-manager"].map(tail).concat()
    }
}

impl Drop for Kube {
    fn drop(&mut self) {
        drop(self.hold.take());
        let _ = self.child.wait();
    }
}
