//! `nightshift-agent install` and `uninstall`: a service of this user.
//!
//! in → where to dial, where things are · out → a systemd user unit or a launchd agent · invariant: no secret stands in the
//! service's file; `uninstall` leaves nothing that `install` or the agent made.

use crate::config::args::Places;
use crate::config::file::TEMPLATE;
use crate::config::server;
use anyhow::{Context, bail};
use clap::Args;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of the systemd unit.
const UNIT: &str = "nightshift-agent.service";
/// Label of the launchd agent.
const LABEL: &str = "dev.nightshift.agent";

/// Arguments of `install`.
#[derive(Debug, Args)]
pub struct Install {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub places: Places,
    /// Where agents are listened for; written into a fresh config
    #[arg(long, env = "NIGHTSHIFT_SERVER", value_name = "HOST:PORT", value_delimiter = ',')]
    pub server: Vec<String>,
    /// One-time join token; kept in the data folder, for the first start
    #[arg(long, env = "NIGHTSHIFT_JOIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub join: Option<String>,
    /// Print what would be written and run, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `uninstall`.
#[derive(Debug, Args)]
pub struct Uninstall {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub places: Places,
    /// Keep the config, the node's key, models and results: only the service goes
    #[arg(long)]
    pub keep_data: bool,
    /// Print what would be deleted and run, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// A service as one of the two systems has it.
struct Service {
    file: PathBuf,
    text: String,
    start: Vec<Vec<String>>,
    stop: Vec<Vec<String>>,
    after: Vec<Vec<String>>,
}

struct Where {
    config: PathBuf,
    data_dir: PathBuf,
}

impl Where {
    fn of(places: &Places) -> anyhow::Result<Self> {
        let config = places.config().0.context("--config: this system names no place for settings; give a file")?;
        let data_dir = places.data_dir().map_err(anyhow::Error::msg)?;
        let absolute = |path: &Path| std::path::absolute(path).with_context(|| path.display().to_string());
        Ok(Self { config: absolute(&config)?, data_dir: absolute(&data_dir)? })
    }

    fn token(&self) -> PathBuf {
        self.data_dir.join("join-token")
    }
}

/// Writes the service and starts it.
pub fn install(args: &Install) -> anyhow::Result<()> {
    let place = Where::of(&args.places)?;
    for text in &args.server {
        server(text).map_err(|error| anyhow::anyhow!("--server: {error}"))?;
    }
    if let Some(token) = &args.join {
        let token = token.trim().parse::<nightshift_wire::token::JoinToken>();
        token.map_err(|error| anyhow::anyhow!("--join: {error}"))?;
    }
    let named = || {
        std::fs::read_to_string(&place.config)
            .is_ok_and(|text| text.lines().any(|line| line.trim().starts_with("server")))
    };
    if args.server.is_empty() && !named() {
        bail!("--server: nobody to dial: give --server HOST:PORT, or write `server` into {}", place.config.display());
    }
    let service = service(&place, args.join.is_some())?;
    if args.dry_run {
        println!("# {}\n{}", service.file.display(), service.text);
        service.start.iter().for_each(|command| println!("# then: {}", command.join(" ")));
        return Ok(());
    }
    if !place.config.exists() {
        let list = toml::Value::from(args.server.clone());
        super::config::init(&place.config, &TEMPLATE.replacen("server = []", &format!("server = {list}"), 1))?;
    } else if !args.server.is_empty() {
        println!("{} exists and stays as it is: check its `server`", place.config.display());
    }
    if let Some(token) = &args.join {
        crate::files::private_dir(&place.data_dir)?;
        crate::files::write_atomic(&place.token(), &[token.trim().as_bytes()])?;
    }
    let folder = service.file.parent().context("the service's file has no folder")?;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    std::fs::write(&service.file, &service.text).with_context(|| service.file.display().to_string())?;
    service.start.iter().try_for_each(|command| execute(command))?;
    println!("installed and started: {}\nconfig: {}", service.file.display(), place.config.display());
    if cfg!(target_os = "linux") {
        println!("it runs while you are logged in; `loginctl enable-linger` lets it run before that too");
    }
    Ok(())
}

/// Stops the service and deletes everything.
pub fn uninstall(args: &Uninstall) -> anyhow::Result<()> {
    let place = Where::of(&args.places)?;
    let service = service(&place, false)?;
    if args.dry_run {
        let mut text = String::new();
        service.stop.iter().for_each(|command| text.push_str(&format!("# run: {}\n", command.join(" "))));
        let _ = writeln!(text, "# delete: {}", service.file.display());
        if !args.keep_data {
            let _ = writeln!(text, "# delete: {}\n# delete: {}", place.config.display(), place.data_dir.display());
        }
        print!("{text}");
        return Ok(());
    }
    if service.file.exists() {
        for command in &service.stop {
            // One that was stopped by hand is no reason to keep the rest.
            if let Err(error) = execute(command) {
                eprintln!("nightshift-agent: {error:#}");
            }
        }
        std::fs::remove_file(&service.file).with_context(|| service.file.display().to_string())?;
        service.after.iter().try_for_each(|command| execute(command))?;
    }
    if !args.keep_data {
        if place.data_dir.exists() {
            super::leave::clear(&place.data_dir)?;
        }
        match std::fs::remove_file(&place.config) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| place.config.display().to_string());
            }
            _ => {}
        }
    }
    for folder in [&service.file, &place.config, &place.data_dir].into_iter().filter_map(|path| path.parent()) {
        remove_if_ours(folder);
    }
    println!(
        "uninstalled: the service{} gone",
        if args.keep_data { " is" } else { ", its config, key, models and results are" }
    );
    Ok(())
}

/// A folder `nightshift`, if nothing is in it any more.
fn remove_if_ours(folder: &Path) {
    if folder.file_name().is_some_and(|name| name == "nightshift") {
        let _ = std::fs::remove_dir(folder);
    }
}

fn execute(command: &[String]) -> anyhow::Result<()> {
    let status = Command::new(&command[0]).args(&command[1..]).status();
    let status = status.with_context(|| format!("{} cannot be run", command[0]))?;
    if !status.success() {
        bail!("`{}` ended with {status}", command.join(" "));
    }
    Ok(())
}

fn service(place: &Where, join: bool) -> anyhow::Result<Service> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = vec![program.display().to_string(), "run".into()];
    command.extend(["--config".into(), place.config.display().to_string()]);
    command.extend(["--data-dir".into(), place.data_dir.display().to_string()]);
    if join || place.token().exists() {
        command.extend(["--join-file".into(), place.token().display().to_string()]);
    }
    if cfg!(target_os = "macos") { launchd(&command) } else { systemd(&command) }
}

fn words(list: &[&[&str]]) -> Vec<Vec<String>> {
    list.iter().map(|command| command.iter().map(ToString::to_string).collect()).collect()
}

fn systemd(command: &[String]) -> anyhow::Result<Service> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    let file = base.context("HOME is not set")?.join("systemd/user").join(UNIT);
    let quoted: Vec<String> = command.iter().map(|word| systemd_word(word)).collect();
    let text = format!(
        "[Unit]\nDescription=Nightshift: lets this machine compute while you do not use it\nAfter=network-online.target\n\n\
         [Service]\nExecStart={}\nExecReload=/bin/kill -HUP $MAINPID\nRestart=on-failure\nRestartSec=30\n\
         # Exit codes 2 to 5 say that a restart would not help.\nRestartPreventExitStatus=2 3 4 5\nNice=19\nTimeoutStopSec=30\n\
         NoNewPrivileges=true\n# So that it may cap each worker's memory and processor (cgroup v2).\nDelegate=memory cpu\n\n[Install]\nWantedBy=default.target\n",
        quoted.join(" ")
    );
    Ok(Service {
        file,
        text,
        start: words(&[&["systemctl", "--user", "daemon-reload"], &["systemctl", "--user", "enable", "--now", UNIT]]),
        stop: words(&[&["systemctl", "--user", "disable", "--now", UNIT]]),
        after: words(&[&["systemctl", "--user", "daemon-reload"]]),
    })
}

/// As systemd.service(5) unquotes it: backslash and quote escaped, % and $ doubled.
fn systemd_word(word: &str) -> String {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    if escaped.contains(char::is_whitespace) { format!("\"{escaped}\"") } else { escaped }
}

fn launchd(command: &[String]) -> anyhow::Result<Service> {
    let home = std::env::var_os("HOME").map(PathBuf::from).context("HOME is not set")?;
    let file = home.join("Library/LaunchAgents").join(format!("{LABEL}.plist"));
    let xml = |word: &String| {
        let word = word.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        format!("    <string>{word}</string>\n")
    };
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \
         \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n<plist version=\"1.0\">\n<dict>\n  <key>Label</key>\n  \
         <string>{LABEL}</string>\n  <key>ProgramArguments</key>\n  <array>\n{}  </array>\n  <key>RunAtLoad</key>\n  <true/>\n  \
         <key>KeepAlive</key>\n  <dict>\n    <key>SuccessfulExit</key>\n    <false/>\n  </dict>\n  <key>ThrottleInterval</key>\n  \
         <integer>30</integer>\n  <key>Nice</key>\n  <integer>19</integer>\n  <key>ProcessType</key>\n  <string>Background</string>\n\
         </dict>\n</plist>\n",
        command.iter().map(xml).collect::<String>()
    );
    let path = file.display().to_string();
    Ok(Service {
        start: words(&[&["launchctl", "load", "-w", &path]]),
        stop: words(&[&["launchctl", "unload", "-w", &path]]),
        after: Vec::new(),
        file,
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_program_as_they_are() {
        let command: Vec<String> = ["/opt/a b/agent", "--x", "50%$\"<&>"].iter().map(ToString::to_string).collect();
        let unit = systemd(&command).unwrap().text;
        assert!(unit.contains("\nDelegate=memory cpu\n"), "{unit}");
        assert!(unit.contains("ExecStart=\"/opt/a b/agent\" --x 50%%$$\\\"<&>\n"), "{unit}");
        let plist = launchd(&command).unwrap().text;
        assert!(plist.contains("<string>/opt/a b/agent</string>"), "{plist}");
        assert!(plist.contains("<string>50%$\"&lt;&amp;&gt;</string>"), "{plist}");
    }
}
