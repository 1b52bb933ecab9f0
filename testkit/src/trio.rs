//! A real etcd of three members, each of which can be killed, stopped and cut off from the others.
//!
//! in → which member, and what happens to it · out → endpoints · invariant: members reach each other through relays alone;
//! when it is dropped its processes end.

use crate::etcd::binary;
use crate::free_port;
use crate::relay::Relay;
use etcd_client::{AlarmAction, AlarmType, Client, CompactionOptions, ConnectOptions, DeleteOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How many there are.
pub const MEMBERS: usize = 3;
/// Where [`Trio::fill`] puts what fills the quota.
const JUNK: &str = "/junk/";

/// The cluster.
#[derive(Debug)]
pub struct Trio {
    folder: tempfile::TempDir,
    children: [Option<Child>; MEMBERS],
    /// Clients' ports.
    pub ports: [u16; MEMBERS],
    peers: [u16; MEMBERS],
    /// What the others dial to hear of a member: when it is cut, they hear nothing more of it.
    pub relays: Vec<Relay>,
    quota: u64,
}

impl Trio {
    /// Starts it with a disk quota, in bytes, and waits until it serves.
    pub async fn start(quota: u64) -> Self {
        let peers: [u16; MEMBERS] = std::array::from_fn(|_| free_port());
        let mut relays = Vec::new();
        for peer in peers {
            relays.push(Relay::to(peer).await);
        }
        let ports = std::array::from_fn(|_| free_port());
        let folder = tempfile::tempdir().unwrap();
        let mut trio = Self { folder, children: [const { None }; MEMBERS], ports, peers, relays, quota };
        (0..MEMBERS).for_each(|member| trio.run(member));
        trio.serves().await;
        trio
    }

    /// Starts a member (again).
    pub fn run(&mut self, member: usize) {
        if self.children[member].is_some() {
            return;
        }
        let client = format!("http://127.0.0.1:{}", self.ports[member]);
        let listen = format!("http://127.0.0.1:{}", self.peers[member]);
        let of = |member: usize| format!("http://127.0.0.1:{}", self.relays[member].port);
        let all: Vec<String> = (0..MEMBERS).map(|member| format!("m{member}={}", of(member))).collect();
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("etcd.log"));
        let child = Command::new(binary())
            .args(["--name", &format!("m{member}"), "--data-dir"])
            .arg(self.folder.path().join(format!("m{member}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &listen, "--initial-advertise-peer-urls", &of(member)])
            .args(["--initial-cluster", &all.join(","), "--log-level", "warn"])
            .args(["--quota-backend-bytes", &self.quota.to_string()])
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .spawn()
            .expect("etcd starts");
        self.children[member] = Some(child);
    }

    /// kill -9; the data stays.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.children[member].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGSTOP, SIGCONT.
    pub fn signal(&self, member: usize, signal: Signal) {
        if let Some(child) = &self.children[member] {
            kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        }
    }

    /// A client of some members, dialled directly.
    pub async fn client(&self, members: &[usize]) -> Result<Client, etcd_client::Error> {
        let endpoints: Vec<String> = members.iter().map(|m| format!("http://127.0.0.1:{}", self.ports[*m])).collect();
        let options = ConnectOptions::new().with_connect_timeout(Duration::from_secs(1));
        Client::connect(endpoints, Some(options.with_timeout(Duration::from_secs(3)))).await
    }

    /// Waits until a linearizable read of each running member succeeds.
    pub async fn serves(&self) {
        let end = Instant::now() + crate::PATIENCE;
        for member in (0..MEMBERS).filter(|member| self.children[*member].is_some()) {
            let probe = async || self.client(&[member]).await?.get("probe", None).await;
            while let Err(error) = probe().await {
                assert!(Instant::now() < end, "member {member} of etcd does not serve: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Fills the quota until etcd refuses to write.
    pub async fn fill(&self) {
        let Ok(mut client) = self.client(&[0, 1, 2]).await else { return };
        for n in 0.. {
            if client.put(format!("{JUNK}{n}"), vec![0u8; 1 << 20], None).await.is_err() {
                return;
            }
        }
    }

    /// What an operator does about it: deletes, compacts, defragments every member, disarms.
    pub async fn make_room(&self) -> Result<(), etcd_client::Error> {
        let mut client = self.client(&[0, 1, 2]).await?;
        let deleted = client.delete(JUNK, Some(DeleteOptions::new().with_prefix())).await?;
        let revision = deleted.header().map_or(0, etcd_client::ResponseHeader::revision);
        // Somebody else may have compacted further.
        let _ = client.compact(revision, Some(CompactionOptions::new().with_physical())).await;
        for member in 0..MEMBERS {
            self.client(&[member]).await?.defragment().await?;
        }
        for alarm in client.alarm(AlarmAction::Get, AlarmType::Nospace, None).await?.alarms() {
            let mut options = etcd_client::AlarmOptions::new();
            options.with_member(alarm.member_id());
            client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(options)).await?;
        }
        Ok(())
    }

    /// The end of what the members said.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("etcd.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Trio {
    fn drop(&mut self) {
        (0..MEMBERS).for_each(|member| self.kill(member));
    }
}
