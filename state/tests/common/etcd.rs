//! An etcd of the test's own: free loopback ports, a temporary data folder, killed when dropped.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// `$ETCD`, else on the PATH, else where `make deps` puts it.
fn binary() -> PathBuf {
    let deps = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.deps/bin/etcd");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("etcd"));
    let named = std::env::var_os("ETCD").map(PathBuf::from);
    let mut places = named.into_iter().chain(on_path).chain([deps]);
    places.find(|place| place.is_file()).expect("no etcd: run `make deps`, or name one with ETCD=/path/to/etcd")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub struct Etcd {
    child: Option<Child>,
    folder: tempfile::TempDir,
    pub port: u16,
    peer: u16,
}

impl Etcd {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut etcd = Self { child: None, folder, port: free_port(), peer: free_port() };
        etcd.run().await;
        etcd
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
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
        let (client, peer) = (self.endpoint(), format!("http://127.0.0.1:{}", self.peer));
        let child = Command::new(binary())
            .args(["--name", "test", "--data-dir"])
            .arg(self.folder.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}"), "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        self.child = Some(child);
        let end = Instant::now() + Duration::from_secs(30);
        while !self.serves().await {
            assert!(Instant::now() < end, "etcd does not serve within 30 s");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn serves(&self) -> bool {
        let probe = async {
            let mut client = etcd_client::Client::connect([self.endpoint()], None).await?;
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

/// A relay that can stop delivering answers: what a client sees when the network fails after its request.
pub struct Relay {
    pub port: u16,
    deaf: Arc<AtomicBool>,
    cut: watch::Sender<u32>,
}

impl Relay {
    pub async fn to(port: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let deaf = Arc::new(AtomicBool::new(false));
        let (cut, cuts) = watch::channel(0);
        let flag = deaf.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (flag, mut cuts) = (flag.clone(), cuts.clone());
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! { _ = relay(client, port, flag) => {}, _ = cuts.changed() => {} }
                });
            }
        });
        Self { port: own, deaf, cut }
    }

    /// Requests pass, answers do not.
    pub fn swallow_answers(&self) {
        self.deaf.store(true, Ordering::SeqCst);
    }

    /// Everything passes again, over new connections.
    pub fn heal(&self) {
        self.deaf.store(false, Ordering::SeqCst);
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}

async fn relay(client: TcpStream, port: u16, deaf: Arc<AtomicBool>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let down = async move {
        let mut buffer = [0; 16384];
        while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
            if !deaf.load(Ordering::SeqCst) && to_client.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(up, down);
}
