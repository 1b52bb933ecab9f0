//! A relay between two processes of a test that fails on demand, as a network does.
//!
//! in → connections to its port · out → the same bytes to another port of this machine, as its [`Mode`] has it · invariant:
//! bytes are delayed or their connection is broken; none is changed or left out of a connection that goes on.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Everything, at once.
    #[default]
    Pass,
    /// Everything, each piece so much later.
    Slow(Duration),
    /// Nothing, and nobody is told: what was sent waits.
    Silent,
    /// Requests do, answers do not; the connections are broken when it ends.
    Deaf,
    /// Connections are broken, new ones refused at once.
    Refuse,
}

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub port: u16,
    mode: watch::Sender<Mode>,
}

impl Relay {
    /// A relay to a port of this machine.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (mode, modes) = watch::channel(Mode::Pass);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *modes.borrow() != Mode::Refuse {
                    tokio::spawn(relay(client, port, modes.clone()));
                }
            }
        });
        Self { port: own, mode }
    }

    /// From now on; also for the connections that there are.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Requests pass, answers do not.
    pub fn swallow_answers(&self) {
        self.set(Mode::Deaf);
    }

    /// Everything passes again; over new connections, where bytes were lost.
    pub fn heal(&self) {
        self.set(Mode::Pass);
    }
}

async fn relay(client: TcpStream, port: u16, modes: watch::Receiver<Mode>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut broken = modes.clone();
    let broken = async move {
        // What was swallowed is gone: the connection cannot go on.
        let mut deaf = false;
        loop {
            match *broken.borrow_and_update() {
                Mode::Refuse => return,
                Mode::Deaf => deaf = true,
                _ if deaf => return,
                _ => {}
            }
            if broken.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = pump(from_client, to_server, modes.clone(), false) => {}
        () = pump(from_server, to_client, modes, true) => {}
        () = broken => {}
    }
}

/// One direction, to its end; `answers` is the one that [`Mode::Deaf`] swallows.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut modes: watch::Receiver<Mode>, answers: bool) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let mode = *modes.borrow_and_update();
        match mode {
            Mode::Deaf if answers => continue,
            Mode::Slow(by) => tokio::time::sleep(by).await,
            Mode::Silent => drop(modes.wait_for(|mode| *mode != Mode::Silent).await),
            _ => {}
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
