//! Where things lie on this machine. *In*: flags and the environment. *Out*: the data dir and the files in it.

use anyhow::Context;
use std::path::{Path, PathBuf};

/// Environment variable that names the data dir. Not the agent's NIGHTSHIFT_DATA_DIR: an agent's is another folder.
pub const DATA_DIR_ENV: &str = "NIGHTSHIFT_HOME";

/// A data dir and the names in it that several commands know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The given one, made absolute; else the platform's place for a user's data.
    pub fn resolve(given: Option<&Path>) -> anyhow::Result<Self> {
        let path = match given {
            Some(path) => path.to_owned(),
            None => default_dir(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
                .context("neither HOME nor XDG_DATA_HOME is set: name a folder with --data-dir")?,
        };
        let path = std::path::absolute(&path).with_context(|| format!("--data-dir {}", path.display()))?;
        // Without `..` and links, so that the lines we print can be pasted anywhere.
        Ok(Self(path.canonicalize().unwrap_or(path)))
    }
    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// The admin's kubeconfig, written by the embedded API.
    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }
    /// The gateway's address and token, written by the scheduler.
    pub fn gateway(&self) -> PathBuf {
        self.0.join("gateway.json")
    }
    /// The journal.
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal.redb")
    }
    /// Locked while `up` runs on the data dir; says which process that is.
    pub fn lock(&self) -> PathBuf {
        self.0.join("up.lock")
    }
    /// Log files.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }
    /// A local agent's own data dir; agents are counted from 1.
    pub fn agent(&self, number: u16) -> PathBuf {
        self.0.join(agent_name(number))
    }
    /// A local agent's log.
    pub fn agent_log(&self, number: u16) -> PathBuf {
        self.logs().join(agent_name(number)).with_extension("log")
    }
}

/// The first one's is that of the only one.
fn agent_name(number: u16) -> String {
    if number < 2 { "agent".into() } else { format!("agent-{number}") }
}

fn default_dir(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    if cfg!(target_os = "macos") {
        return Some(variable("HOME")?.join("Library/Application Support/nightshift"));
    }
    let base = variable("XDG_DATA_HOME").filter(|path| path.is_absolute());
    Some(base.or_else(|| Some(variable("HOME")?.join(".local/share")))?.join("nightshift"))
}

/// A path as a shell reads it, quoted where it must be.
pub fn shell_quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_places() {
        let of = |pairs: &'static [(&str, &str)]| {
            default_dir(move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value)))
        };
        if !cfg!(target_os = "macos") {
            assert_eq!(of(&[("HOME", "/h")]), Some("/h/.local/share/nightshift".into()));
            assert_eq!(of(&[("HOME", "/h"), ("XDG_DATA_HOME", "/x")]), Some("/x/nightshift".into()));
            assert_eq!(of(&[("HOME", "/h"), ("XDG_DATA_HOME", "relative")]), Some("/h/.local/share/nightshift".into()));
        }
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn quoting() {
        assert_eq!(shell_quoted(Path::new("/a/b-c.d")), "/a/b-c.d");
        assert_eq!(shell_quoted(Path::new("/Application Support/it's")), r"'/Application Support/it'\''s'");
    }
}
