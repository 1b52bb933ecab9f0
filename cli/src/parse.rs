//! The small grammars of the command line. *In*: text. *Out*: checked values, or a line that says what to write instead.

use k8s_openapi::jiff::Timestamp;
use nightshift_types::{Bytes, PicoPoints};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A job's name, from `NAME`, `job/NAME`, `ij/NAME` or what `kubectl get -o name` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobName(pub String);

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job/{}", self.0)
    }
}

impl FromStr for JobName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        const KINDS: [&str; 5] = ["job", "ij", "inferencejob", "inferencejobs", "inferencejob.nightshift.dev"];
        let name = match text.split_once('/') {
            None => text,
            Some((kind, name)) if KINDS.contains(&kind.to_ascii_lowercase().as_str()) => name,
            Some((kind, _)) => return Err(format!("{kind:?} is no job: write job/NAME, ij/NAME or NAME")),
        };
        object_name(name).map(Self)
    }
}

/// A Kubernetes object's name (RFC 1123 subdomain).
pub fn object_name(text: &str) -> Result<String, String> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if text.len() <= 253 && text.chars().all(inner) && edge(text.chars().next()) && edge(text.chars().last()) {
        Ok(text.into())
    } else {
        Err("a name has lowercase letters, digits, - and ., begins and ends with a letter or digit, such as voice-2"
            .into())
    }
}

/// `KEY=VALUE`.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().into(), value.into())),
        _ => Err("write it as KEY=VALUE, such as threshold=0.6".into()),
    }
}

/// `NAMESPACE=DIR`, DIR being a folder that is there.
pub fn allowed_folder(text: &str) -> Result<(String, PathBuf), String> {
    let (namespace, folder) = text.split_once('=').ok_or("write it as NAMESPACE=DIR, such as default=/srv/sounds")?;
    let folder = PathBuf::from(folder);
    if !folder.is_dir() {
        return Err(format!("{} is not a folder", folder.display()));
    }
    Ok((object_name(namespace)?, folder))
}

/// How long blobs are kept that nothing refers to: pushed files must live until somebody has applied what names them.
pub fn blob_grace(text: &str) -> Result<Duration, String> {
    let grace = duration(text)?;
    let year = Duration::from_secs(366 * 86_400);
    if (Duration::from_secs(60)..=year).contains(&grace) { Ok(grace) } else { Err("write 1m to 366d".into()) }
}

/// A time span such as `500ms`, `60s`, `5m`, `1h30m` or `2d`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time: write 60s, 5m, 1h30m or 2d");
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            "d" => Duration::from_secs(86_400),
            _ => return Err(wrong()),
        };
        total += unit.checked_mul(number).ok_or_else(wrong)?;
        rest = &rest[letters..];
    }
    if total.is_zero() { Err(wrong()) } else { Ok(total) }
}

/// How far a journal may grow: a Kubernetes quantity of bytes.
pub fn size(text: &str) -> Result<Bytes, String> {
    match text.parse::<Bytes>() {
        Ok(size) if size >= Bytes(4096) && size <= Bytes::gibi(1) => Ok(size),
        _ => Err("write a size from 4Ki to 1Gi, such as 64Mi".into()),
    }
}

/// A day in UTC or a moment (RFC 3339), in milliseconds since 1970.
pub fn moment(text: &str) -> Result<u64, String> {
    let day = format!("{text}T00:00:00Z");
    let time = text.parse::<Timestamp>().or_else(|_| day.parse::<Timestamp>());
    let milliseconds = time.ok().and_then(|time| u64::try_from(time.as_millisecond()).ok());
    milliseconds.ok_or_else(|| format!("{text:?} is no time since 1970: write 2026-11-01 or 2026-11-01T08:30:00Z"))
}

/// A price: a non-negative decimal of points.
pub fn price(text: &str) -> Result<String, String> {
    match text.parse::<PicoPoints>() {
        Ok(points) if points >= PicoPoints::ZERO => Ok(text.into()),
        _ => Err("a price is a decimal number of points an hour, not negative, such as 0.25".into()),
    }
}

/// Points: more than none.
pub fn points(text: &str) -> Result<String, String> {
    match text.parse::<PicoPoints>() {
        Ok(points) if points > PicoPoints::ZERO => Ok(text.into()),
        _ => Err("write a decimal number of points, more than 0, with at most 12 decimals, such as 100 or 0.5".into()),
    }
}

/// An address to listen on.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    let text = text.replacen("localhost:", "127.0.0.1:", 1);
    text.parse().map_err(|_| "write it as ADDRESS:PORT, such as 127.0.0.1:7443; port 0 is any free one".into())
}

/// `HOST:PORT`, as another machine dials it.
pub fn host_port(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(text.into()),
        _ => Err("write it as HOST:PORT, such as pool.example.org:7444".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_names() {
        for text in ["voice", "job/voice", "ij/voice", "IJ/voice", "inferencejob.nightshift.dev/voice"] {
            assert_eq!(text.parse::<JobName>().unwrap().0, "voice", "{text}");
        }
        for bad in ["", "job/", "pod/voice", "Voice", "a b", "-a", "a/b/c", "job/a/b"] {
            assert!(bad.parse::<JobName>().is_err(), "{bad}");
        }
        assert_eq!("ij/voice".parse::<JobName>().unwrap().to_string(), "job/voice");
    }

    #[test]
    fn durations() {
        let cases = [("60", 60_000), ("60s", 60_000), ("500ms", 500), ("1h30m", 5_400_000), ("2d", 172_800_000)];
        for (text, ms) in cases {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for bad in ["", "s", "5x", "0s", "1.5h", "-1s", "99999999999s", "1h2"] {
            assert!(duration(bad).unwrap_err().contains("60s, 5m"), "{bad}");
        }
    }

    #[test]
    fn pairs_prices_addresses() {
        assert_eq!(key_value("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert!(key_value("novalue").is_err() && key_value("=x").is_err());
        assert!(price("0.25").is_ok() && price("0").is_ok());
        assert!(price("-1").is_err() && price("cheap").is_err());
        assert!(host_port("pool:7444").is_ok() && host_port("[::1]:7444").is_ok());
        assert!(host_port("pool").is_err() && host_port(":7444").is_err() && host_port("pool:0").is_err());
        assert_eq!(listen("localhost:0").unwrap(), listen("127.0.0.1:0").unwrap());
        assert!(listen("[::1]:1").is_ok() && listen("7443").unwrap_err().contains("127.0.0.1:7443"));
        assert!(allowed_folder("default=/").is_ok());
        assert!(allowed_folder("default=/no/such/folder").unwrap_err().contains("not a folder"));
        assert!(allowed_folder("/tmp").is_err());
        assert_eq!(size("64Mi"), Ok(Bytes::mebi(64)));
        assert_eq!(moment("1970-01-02"), Ok(86_400_000));
        assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(1_000));
        assert!(["", "yesterday", "1969-12-31", "2026-13-01"].iter().all(|bad| moment(bad).is_err()));
        assert!(["", "1Ki", "2Gi", "many"].iter().all(|bad| size(bad).unwrap_err().contains("64Mi")));
    }
}
