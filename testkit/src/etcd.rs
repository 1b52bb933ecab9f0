//! An etcd of the test's own: free loopback ports, a temporary data folder, killed when dropped.

use crate::free_port;
pub use crate::relay::Relay;
use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Certificate, ConnectOptions, Identity, TlsOptions};
use nightshift_types::NodeId;
use nightshift_wire::pki::{self, CertificateAuthority};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// `$ETCD`, else on the PATH, else where `make deps` puts it.
pub(crate) fn binary() -> PathBuf {
    let deps = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.deps/bin/etcd");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("etcd"));
    let named = std::env::var_os("ETCD").map(PathBuf::from);
    let mut places = named.into_iter().chain(on_path).chain([deps]);
    places.find(|place| place.is_file()).expect("no etcd: run `make deps`, or name one with ETCD=/path/to/etcd")
}

/// What a client of an etcd with TLS shows and trusts, as PEM.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// CA of etcd's certificate.
    pub ca: String,
    /// The client's certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl ClientTls {
    /// As files of a folder: `ca.crt`, `tls.crt`, `tls.key`.
    pub fn write_to(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        for (name, text) in [("ca.crt", &self.ca), ("tls.crt", &self.certificate), ("tls.key", &self.key)] {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
}

/// One member.
#[derive(Debug)]
pub struct Etcd {
    child: Option<Child>,
    folder: tempfile::TempDir,
    tls: Option<ClientTls>,
    arguments: Vec<String>,
    /// Where clients dial.
    pub port: u16,
    peer: u16,
}

impl Etcd {
    /// Starts one, and waits until it serves.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with more arguments: `--quota-backend-bytes=…`.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let arguments = arguments.iter().map(|argument| argument.to_string()).collect();
        let mut etcd = Self { child: None, folder, tls: None, arguments, port: free_port(), peer: free_port() };
        etcd.run().await;
        etcd
    }

    /// The same with TLS: clients need a certificate of its CA.
    pub async fn start_tls() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::generate("etcd's CA").unwrap();
        let (chain, key) = ca.server_identity(&[]).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("ca.crt", ca.certificate_pem());
        write("server.crt", &chain);
        write("server.key", &key);
        let (key, request) = pki::node_request().unwrap();
        let certificate = ca.sign_node(&request, &NodeId::new("client").unwrap()).unwrap();
        let tls = Some(ClientTls { ca: ca.certificate_pem().into(), certificate, key });
        let arguments = Vec::new();
        let mut etcd = Self { child: None, folder, tls, arguments, port: free_port(), peer: free_port() };
        etcd.run().await;
        etcd
    }

    /// `http(s)://HOST:PORT`.
    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.tls.is_some() { "https" } else { "http" }, self.port)
    }

    /// What its clients need, if it has TLS.
    pub fn client_tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref()
    }

    /// A client of its own.
    pub async fn client(&self) -> Result<etcd_client::Client, etcd_client::Error> {
        let options = self.tls.as_ref().map(|tls| {
            let options = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca));
            ConnectOptions::new().with_tls(options.identity(Identity::from_pem(&tls.certificate, &tls.key)))
        });
        etcd_client::Client::connect([self.endpoint()], options).await
    }

    /// Fills it until it says that it is full, with keys that are nobody's. For one with a small quota.
    pub async fn fill(&self) {
        let mut client = self.client().await.unwrap();
        for number in 0..4096 {
            let Err(error) = client.put(format!("/filler/{number}"), vec![0; 1 << 20], None).await else { continue };
            assert!(error.to_string().contains("space exceeded"), "{error}");
            return;
        }
        panic!("4 GiB are no more than its quota");
    }

    /// What an operator does of a full etcd: make room, compact, defragment, disarm its alarm.
    pub async fn make_room(&self) {
        let mut client = self.client().await.unwrap();
        let filler = etcd_client::DeleteOptions::new().with_prefix();
        let revision = client.delete("/filler/", Some(filler)).await.unwrap().header().unwrap().revision();
        client.compact(revision, Some(etcd_client::CompactionOptions::new().with_physical())).await.unwrap();
        client.defragment().await.unwrap();
        self.alarm(AlarmAction::Deactivate, AlarmType::Nospace).await;
    }

    /// Raises an alarm, or disarms it.
    pub async fn alarm(&self, action: AlarmAction, alarm: AlarmType) {
        let mut client = self.client().await.unwrap();
        client.alarm(action, alarm, None).await.unwrap();
        if action == AlarmAction::Deactivate {
            // Each member has raised its own.
            let raised = client.alarm(AlarmAction::Get, alarm, None).await.unwrap();
            for one in raised.alarms().iter().filter(|one| one.alarm() == alarm) {
                let mut member = AlarmOptions::new();
                member.with_member(one.member_id());
                client.alarm(action, alarm, Some(member)).await.unwrap();
            }
        }
    }

    /// Kills it; the data stays.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it (again) and waits until it serves.
    pub async fn run(&mut self) {
        self.spawn();
        let end = Instant::now() + Duration::from_secs(30);
        while !self.serves().await {
            assert!(Instant::now() < end, "etcd does not serve within 30 s");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn spawn(&mut self) {
        let (client, peer) = (self.endpoint(), format!("http://127.0.0.1:{}", self.peer));
        let file = |name: &str| self.folder.path().join(name).into_os_string();
        let mut command = Command::new(binary());
        if self.tls.is_some() {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(file("ca.crt"));
            command.arg("--cert-file").arg(file("server.crt")).arg("--key-file").arg(file("server.key"));
        }
        let child = command
            .args(&self.arguments)
            .args(["--name", "test", "--data-dir"])
            .arg(file("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}"), "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        self.child = Some(child);
    }

    /// The same for one that lets no client in without a name: it serves once it refuses one.
    pub async fn run_with_users(&mut self) {
        self.spawn();
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let probe = async {
                let mut client = self.client().await?;
                client.get("probe", None).await
            };
            match tokio::time::timeout(Duration::from_secs(1), probe).await {
                Ok(Err(error)) if error.to_string().contains("user name is empty") => return,
                _ => assert!(Instant::now() < end, "etcd does not serve within 30 s"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn serves(&self) -> bool {
        let probe = async {
            let mut client = self.client().await?;
            client.get("probe", None).await
        };
        matches!(tokio::time::timeout(Duration::from_secs(1), probe).await, Ok(Ok(_)))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
