//! Addresses to listen on. *In*: the flags. *Out*: nothing, or an error that names the flag. *Invariant*: what passes here
//! was free a moment ago.

use anyhow::bail;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

/// Each flag with its address.
pub type Flags<'a> = [(&'a str, SocketAddr)];

/// Tries every address, all at once, so that two flags with one port are found too.
pub fn check(flags: &Flags) -> anyhow::Result<()> {
    let mut held: Vec<(&str, SocketAddr, TcpListener)> = Vec::new();
    for (flag, address) in flags {
        let twin = held.iter().find(|(_, other, _)| other.port() == address.port() && address.port() != 0);
        match TcpListener::bind(address) {
            Ok(listener) => held.push((flag, *address, listener)),
            Err(error) if error.kind() == ErrorKind::AddrInUse => match twin {
                Some((other, ..)) => {
                    bail!("{other} and {flag} have the same port {}: give one of them another", address.port())
                }
                None => bail!(
                    "{address} is in use: stop what listens there, or choose another port with {flag} (`{flag} {}:0` takes any free one)",
                    host(address)
                ),
            },
            Err(error) => bail!("cannot listen on {address} ({error}): choose another address with {flag}"),
        }
    }
    Ok(())
}

fn host(address: &SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_ports_name_their_flag() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        check(&[("--a", any), ("--b", any)]).unwrap();
        let holder = TcpListener::bind(any).unwrap();
        let taken = holder.local_addr().unwrap();
        let error = check(&[("--a", any), ("--b", taken)]).unwrap_err().to_string();
        assert!(error.contains("--b 127.0.0.1:0") && error.contains("in use"), "{error}");
        drop(holder);
        let error = check(&[("--a", taken), ("--b", taken)]).unwrap_err().to_string();
        assert!(error.contains("--a and --b have the same port"), "{error}");
        let foreign: SocketAddr = "192.0.2.1:1".parse().unwrap();
        assert!(check(&[("--a", foreign)]).unwrap_err().to_string().contains("--a"));
    }
}
