//! `nightshift token`: other machines may join. *Out*: the one command to type there, alone on stdout.

use crate::connect::Connection;
use crate::gateway::TokenRequest;
use crate::{output, parse};
use clap::ValueEnum;
use nightshift_crds::TrustTier;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  nightshift token create --owner anna                     # type what it prints on Anna's machine
  nightshift token create --server pool.example.org:7444   # the address as that machine sees it
  nightshift token create --tier Public --ttl 10m -o json";

/// `nightshift token …`
#[derive(clap::Subcommand, Debug)]
pub enum Token {
    /// Make a join token, for one machine and once, and print the command that makes it join
    Create(Args),
}

/// Flags of `create`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Account that earns what the machine earns
    #[arg(long, value_name = "NAME", default_value = "local", value_parser = parse::object_name)]
    owner: String,
    /// How far you trust the machine with jobs' inputs; by default jobs go to Vetted and Operator machines
    #[arg(long, value_enum, default_value_t = Tier::Vetted)]
    tier: Tier,
    /// How long the token can be used
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse::duration)]
    ttl: Duration,
    /// Address of this pool as the other machine dials it [default: where agents are listened for]
    #[arg(long, value_name = "HOST:PORT", value_parser = parse::host_port)]
    server: Option<String>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
#[value(rename_all = "PascalCase")]
enum Tier {
    /// Anybody's machine
    Public,
    /// You know its owner
    Vetted,
    /// Your own
    Operator,
}

impl From<Tier> for TrustTier {
    fn from(tier: Tier) -> Self {
        match tier {
            Tier::Public => Self::Public,
            Tier::Vetted => Self::Vetted,
            Tier::Operator => Self::Operator,
        }
    }
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum Format {
    Text,
    Json,
}

/// Makes a token and prints the command.
pub async fn create(args: Args) -> anyhow::Result<()> {
    let gateway = args.connection.gateway()?;
    let tier = TrustTier::from(args.tier).to_string();
    let request = TokenRequest { owner: args.owner, tier, ttl_seconds: args.ttl.as_secs().max(1) };
    let issued = gateway.token(&request).await?;
    let (server, note) = server(args.server, &issued.server, own_address);
    let command = format!("nightshift-agent run --server {server} --join {}", issued.token);
    if let Some(note) = note {
        eprintln!("{note}");
    }
    match args.output {
        Format::Json => output::json(&serde_json::json!({
            "id": issued.id, "token": issued.token, "server": server, "command": command,
            "expiresInSeconds": issued.expires_in_seconds,
        })),
        Format::Text => {
            eprintln!("For one machine, once, within {}:", span(issued.expires_in_seconds));
            output::line(&command)
        }
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7200 => format!("{} minutes", seconds / 60),
        _ => format!("{} hours", seconds / 3600),
    }
}

/// The address to dial, and what to tell about it.
fn server(given: Option<String>, listens: &str, own: impl Fn() -> Option<IpAddr>) -> (String, Option<String>) {
    let local = "warning: agents are listened for on loopback only, other machines cannot reach it: start with \
                 `nightshift up --agents-listen 0.0.0.0:7444`";
    let bound: Option<SocketAddr> = listens.parse().ok();
    let is_local = bound.is_some_and(|address| address.ip().is_loopback());
    let warning = is_local.then(|| local.to_string());
    if let Some(given) = given {
        return (given, warning);
    }
    match bound.filter(|address| address.ip().is_unspecified()).zip(own()) {
        Some((address, ip)) => {
            let server = SocketAddr::new(ip, address.port()).to_string();
            let note =
                format!("note: {ip} is this machine's address on its network; another one is named with --server");
            (server, Some(note))
        }
        None => (listens.into(), warning),
    }
}

/// The address this machine would send from; nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let own = || Some("10.0.0.7".parse().unwrap());
        let (address, note) = server(None, "127.0.0.1:7444", own);
        assert_eq!(address, "127.0.0.1:7444");
        assert!(note.unwrap().contains("--agents-listen 0.0.0.0:7444"));
        assert_eq!(server(None, "10.1.1.1:7444", own), ("10.1.1.1:7444".into(), None));
        let (address, note) = server(None, "0.0.0.0:7444", own);
        assert_eq!(address, "10.0.0.7:7444");
        assert!(note.unwrap().contains("--server"));
        let (address, note) = server(Some("pool:1".into()), "127.0.0.1:7444", own);
        assert_eq!(address, "pool:1");
        assert!(note.unwrap().contains("loopback"));
    }

    #[test]
    fn spans() {
        assert_eq!((span(60), span(600), span(86_400)), ("60 seconds".into(), "10 minutes".into(), "24 hours".into()));
    }
}
