//! What the owner asks of the running agent: status, pause, resume, earnings, history, page.

use super::{Common, human_time};
use crate::config::values::duration;
use crate::owner::control::Request;
use crate::owner::{page, socket};
use crate::progress::Download;
use anyhow::Context;
use clap::Args;
use nightshift_types::Bytes;
use serde_json::Value;
use std::fmt::Write;

/// Arguments of `pause`.
#[derive(Debug, Args)]
pub struct Pause {
    /// Resume by itself after so long: 30m, 2h
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub length: Option<std::time::Duration>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// Arguments of `history`.
#[derive(Debug, Args)]
pub struct History {
    /// At most so many attempts, the newest first
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    pub most: usize,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

fn ask(common: &Common, request: &Request, human: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
    let data_dir = common.places.data_dir().map_err(anyhow::Error::msg)?;
    let answer = socket::ask(&data_dir, request)?;
    common.print(&answer, human);
    Ok(())
}

/// Prints what goes on.
pub fn status(common: &Common) -> anyhow::Result<()> {
    ask(common, &Request::Status, status_text)
}

/// Stops work, at once.
pub fn pause(args: &Pause) -> anyhow::Result<()> {
    let seconds = args.length.map(|length| length.as_secs().max(1));
    ask(&args.common, &Request::Pause { seconds }, |answer| match answer["manual"]["until"].as_str() {
        Some(until) => format!("paused until {until}; `nightshift-agent resume` ends it sooner"),
        None => "paused until `nightshift-agent resume`".into(),
    })
}

/// Takes a pause back.
pub fn resume(common: &Common) -> anyhow::Result<()> {
    ask(common, &Request::Resume, |_| {
        "no longer paused by hand; the other rules hold: see `nightshift-agent status`".into()
    })
}

/// Prints what it gave.
pub fn earnings(common: &Common) -> anyhow::Result<()> {
    ask(common, &Request::Earnings, |answer| {
        let mut text = String::new();
        let sum = &answer["all"];
        let time = human_time(sum["computeSeconds"].as_f64().unwrap_or(0.0));
        let _ = writeln!(
            text,
            "results       {} ({time} of computing), {} on their way",
            sum["succeeded"], answer["waiting"]
        );
        let _ = writeln!(text, "handed back   {}", sum["handedBack"]);
        let _ = writeln!(text, "failed        {}", sum["failed"]);
        let points = answer["pointsAtOwnPace"].as_str().unwrap_or_default();
        let price = answer["pricePerHour"].as_str().unwrap_or_default();
        let _ = writeln!(text, "points        {points} at {price} an hour and this machine's own pace");
        for (model, sum) in answer["models"].as_object().into_iter().flatten() {
            let time = human_time(sum["computeSeconds"].as_f64().unwrap_or(0.0));
            let _ = writeln!(text, "  {model}: {} results, {time}", sum["succeeded"]);
        }
        let _ = writeln!(text, "{}", answer["note"].as_str().unwrap_or_default());
        text
    })
}

/// Prints what ran.
pub fn history(args: &History) -> anyhow::Result<()> {
    ask(&args.common, &Request::History { most: Some(args.most) }, |answer| {
        let mut text = String::new();
        for entry in answer.as_array().into_iter().flatten() {
            let word = |field: &str| entry[field].as_str().unwrap_or_default().to_string();
            let (at, model, result) = (word("at"), word("model"), word("result"));
            let took = human_time(entry["seconds"].as_f64().unwrap_or(0.0));
            let at = at.split('.').next().unwrap_or_default();
            let _ = writeln!(text, "{at}  {result:<18} {took:>8}  {model}  {}", word("attempt"));
        }
        if text.is_empty() { "nothing yet".into() } else { text }
    })
}

/// Prints the page's address.
pub fn page(common: &Common) -> anyhow::Result<()> {
    let data_dir = common.places.data_dir().map_err(anyhow::Error::msg)?;
    let file = page::url_file(&data_dir);
    let url = std::fs::read_to_string(&file).with_context(|| {
        format!(
            "{} cannot be read: no agent runs with this data folder, or its config says local.page = \"none\"",
            file.display()
        )
    })?;
    common.print(&serde_json::json!({ "url": url.trim() }), |answer| answer["url"].as_str().unwrap_or_default().into());
    Ok(())
}

fn status_text(status: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let bytes = |value: &Value| Bytes(value.as_u64().unwrap_or(0)).human();
    let mut text = word(&status["state"]);
    if let Some(reason) = status["reason"].as_str() {
        let _ = write!(text, " ({reason}): {}", word(&status["message"]));
    }
    let since = word(&status["since"]);
    let _ = writeln!(text, ", since {}", since.split('.').next().unwrap_or_default());
    let _ = writeln!(text, "node     {} at {}", word(&status["node"]), word(&status["server"]));
    let source = match (status["when"].as_str(), status["idleSource"].as_str()) {
        (Some("always"), _) => "not looked at: when = \"always\"".into(),
        (_, Some(source)) => source.to_string(),
        (_, None) => "nothing tells of input here; load alone does".into(),
    };
    let _ = writeln!(text, "input    {source}");
    let signals = &status["signals"];
    for (name, value, unit) in [
        ("idle", &signals["idleSeconds"], "s"),
        ("others", &signals["otherProgramsPercent"], "% of the processor"),
        ("heat", &signals["celsius"], "°C"),
        ("power", &signals["watts"], "W"),
    ] {
        if let Some(value) = value.as_f64() {
            let _ = writeln!(text, "{name:<8} {value:.0} {unit}");
        }
    }
    let _ = writeln!(
        text,
        "workers  {} with {} of {}",
        status["workers"],
        bytes(&status["heldBytes"]),
        bytes(&status["capacityBytes"])
    );
    if let Some(caps) = status["caps"].as_str() {
        let _ = writeln!(text, "caps     {caps}");
    }
    if let Some(freed) = status["lastFreed"].as_object() {
        let (before, left) = (bytes(&freed["beforeBytes"]), bytes(&freed["leftBytes"]));
        let _ = writeln!(text, "freed    {before} in {} ms at the last pause, {left} were left", freed["milliseconds"]);
    }
    for running in status["running"].as_array().into_iter().flatten() {
        let (model, device, attempt) = (word(&running["model"]), word(&running["device"]), word(&running["attempt"]));
        let download = serde_json::from_value::<Download>(running["download"].clone());
        let download = download.map_or_else(|_| String::new(), |download| format!(", {download}"));
        let _ = writeln!(text, "running  {model} on {device}: {attempt}{download}");
    }
    text
}
