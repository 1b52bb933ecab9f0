//! Nightshift as the chart installs it, on a real Kubernetes API: RBAC, CRDs, Services and the Deployment by Helm. Since
//! there is no kubelet, its pods stay Pending, and this starts the schedulers by hand in their place: with the pods' names,
//! the arguments of their containers, and a token of their service account.

use super::common::{self, Home, Process, digits, model, until};
use nightshift_testkit::etcd::Etcd;
use nightshift_testkit::free_port;
use nightshift_testkit::kube::{Kube, ok};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

const NAMESPACE: &str = "nightshift";

/// Where kubectl is pointed at.
pub struct Place {
    pub kubeconfig: PathBuf,
    pub kubectl: PathBuf,
}

impl Place {
    pub fn run(&self, arguments: &[&str], input: Option<&str>) -> Output {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments).current_dir(common::repository());
        // An editor that is no person.
        command.env("KUBE_EDITOR", "sed -i -e 's/parallelism: 24/parallelism: 12/'");
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut pipe, input.unwrap_or_default().as_bytes()).unwrap();
        drop(pipe);
        child.wait_with_output().unwrap()
    }

    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments, None);
        assert!(output.status.success(), "kubectl {arguments:?}: {}", common::text(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// kubectl of the real API's version, for both homes.
pub fn kubectl() -> PathBuf {
    let mut script = Command::new(common::repository().join("scripts/kubebuilder-assets.sh"));
    Path::new(ok(script.arg("--if-present")).trim()).join("kubectl")
}

struct Scheduler {
    pod: String,
    http_port: u16,
    process: Process,
}

pub struct Cluster {
    pub kube: Kube,
    home: Home,
    schedulers: Mutex<Vec<Scheduler>>,
    _agents: Vec<Process>,
    _etcd: Etcd,
}

impl Cluster {
    pub fn start(agents: usize) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (kube, etcd, home) = (Kube::start(), runtime.block_on(Etcd::start_tls()), Home::new());
        std::fs::create_dir_all(home.data()).unwrap();
        etcd.client_tls().unwrap().write_to(&home.folder.path().join("etcd"));
        let values = json!({
            "etcd": { "endpoints": [etcd.endpoint()], "tls": { "existingSecret": "etcd-client" }, "leaderLease": "2s" },
            "scheduler": { "agentLease": "5s", "heartbeat": "1s" },
        });
        let values = home.write("values.json", values.to_string());
        let values = values.to_str().unwrap();
        ok(&mut kube.helm(&[
            "install",
            "nightshift",
            "charts/nightshift",
            "-n",
            NAMESPACE,
            "--create-namespace",
            "-f",
            values,
        ]));
        let (schedulers, join) = schedulers(&kube, &home);
        let mut cluster = Self { kube, home, schedulers: Mutex::new(schedulers), _agents: Vec::new(), _etcd: etcd };
        cluster.connect();
        cluster._agents = (1..=agents).map(|number| cluster.agent(number, &join)).collect();
        let ready = || cluster.cli(&["nodes", "-o", "json"]).matches("\"ready\": \"True\"").count();
        until("the nodes are ready", || (ready() == agents).then_some(()));
        cluster
    }

    pub fn place(&self) -> Place {
        Place { kubeconfig: self.kube.admin(), kubectl: self.kube.kubectl_program() }
    }

    /// The pod that leads, as the Services find it.
    pub fn leader(&self) -> String {
        until("a pod carries the leader's label", || {
            let query = ["get", "pods", "-n", NAMESPACE, "-l", "nightshift.dev/role=leader", "-o", "name"];
            let name = ok(&mut self.kube.kubectl(&query));
            let mut schedulers = self.schedulers.lock().unwrap();
            for scheduler in schedulers.iter_mut() {
                let ended = scheduler.process.has_ended();
                assert!(ended.is_none(), "{}: {}{}", scheduler.pod, scheduler.process.output(), self.kube.logs());
            }
            name.trim().strip_prefix("pod/").map(String::from)
        })
    }

    /// kill -9; the pod's container is not started again.
    pub fn kill(&self, pod: &str) {
        let mut schedulers = self.schedulers.lock().unwrap();
        let index = schedulers.iter().position(|scheduler| scheduler.pod == pod).unwrap();
        schedulers.remove(index).process.signal(nix::sys::signal::Signal::SIGKILL);
    }

    /// As the chart's notes say it, but for the port-forward: there is no kubelet to forward.
    fn connect(&self) {
        let leader = self.leader();
        let schedulers = self.schedulers.lock().unwrap();
        let port = schedulers.iter().find(|scheduler| scheduler.pod == leader).unwrap().http_port;
        drop(schedulers);
        self.cli(&["connect", "-n", NAMESPACE, "--url", &format!("http://127.0.0.1:{port}")]);
    }

    pub fn cli(&self, arguments: &[&str]) -> String {
        ok(self.home.command().args(arguments).arg("--kubeconfig").arg(self.kube.admin()))
    }

    fn agent(&self, number: usize, join: &[String]) -> Process {
        let issued: Value =
            serde_json::from_str(&self.cli(&["token", "create", "--tier", "Operator", "-o", "json"])).unwrap();
        let name = format!("agent-{number}");
        let mut command = Command::new(self.home.agent());
        self.home.environment(&mut command);
        command.args(["run", "--server", &join.join(","), "--name", &name, "--threads", "1", "--memory", "1Gi"]);
        command.env("NIGHTSHIFT_WHEN", "always");
        command.arg("--data-dir").arg(self.home.folder.path().join(name));
        command.env("NIGHTSHIFT_JOIN_TOKEN", issued["token"].as_str().unwrap());
        Process::start(&mut command)
    }

    pub fn scheduler_logs(&self) -> String {
        self.schedulers.lock().unwrap().iter().map(|scheduler| scheduler.process.output()).collect()
    }
}

/// A process for each pod of the Deployment, and where their agents dial.
fn schedulers(kube: &Kube, home: &Home) -> (Vec<Scheduler>, Vec<String>) {
    let get = |what: &[&str]| -> Value {
        serde_json::from_str(&ok(kube.kubectl(&["get", "-n", NAMESPACE, "-o", "json"]).args(what))).unwrap()
    };
    let deployment = get(&["deployment", "nightshift-scheduler"]);
    let container = deployment["spec"]["template"]["spec"]["containers"][0].clone();
    let replicas = deployment["spec"]["replicas"].as_u64().unwrap();
    let pods = until("the Deployment's pods", || {
        let pods = get(&["pods", "-l", "app.kubernetes.io/component=scheduler"])["items"].as_array().unwrap().clone();
        (pods.len() as u64 == replicas).then_some(pods)
    });
    let account = deployment["spec"]["template"]["spec"]["serviceAccountName"].as_str().unwrap();
    let kubeconfig = kube.service_account(NAMESPACE, account);
    let start = |pod: &Value| {
        let pod = pod["metadata"]["name"].as_str().unwrap().to_string();
        let (agents_port, http_port) = (free_port(), free_port());
        let mut command = home.command();
        for argument in container["args"].as_array().unwrap() {
            command.arg(here(argument.as_str().unwrap(), home, agents_port, http_port));
        }
        command.env("POD_NAME", &pod).env("NIGHTSHIFT_NAMESPACE", NAMESPACE).arg("--kubeconfig").arg(&kubeconfig);
        command.arg("--agent-program").arg(home.agent()).arg("--seed").arg(model()).args(["--seed", &digits::model()]);
        (Scheduler { pod, http_port, process: Process::start(&mut command) }, format!("127.0.0.1:{agents_port}"))
    };
    pods.iter().map(start).unzip()
}

/// An argument of the container, for a process on this machine: other ports and folders, all else as it is.
fn here(argument: &str, home: &Home, agents_port: u16, http_port: u16) -> String {
    let folder = home.folder.path().display();
    let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
    match name {
        "--data-dir" => format!("--data-dir={}", home.data().join("shared").display()),
        "--agents-listen" | "--agents-address" => format!("{name}=127.0.0.1:{agents_port}"),
        "--http-listen" | "--http-address" => format!("{name}=127.0.0.1:{http_port}"),
        _ if value.starts_with("/etc/nightshift/etcd-tls/") => {
            argument.replacen("/etc/nightshift/etcd-tls", &format!("{folder}/etcd"), 1)
        }
        _ => argument.into(),
    }
}
