//! `nightshift points`: who has what, who paid whom, and new points for a queue. *In*: the gateway's ledger. *Out*: tables,
//! JSON, CSV. *Invariant*: a statement's opening balance and its amounts add up to its closing balance.

use crate::connect::Connection;
use crate::gateway::GrantRequest;
use crate::{output, parse};
use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

const GRANT: &str = "\
Examples:
  nightshift points grant research 100
  nightshift points grant research 100 --id 2026-11 --note 'November, ticket 4711'

The queue is a TenantQueue; default needs no points. With --id the same command again grants nothing
more, so a script may repeat it; another amount under that name is refused.";

const BALANCE: &str = "\
Examples:
  nightshift points balance
  nightshift points balance -o json | jq '.queues[] | select(.spendable == \"0\")'

SPENDABLE is what a queue may still reserve: what is left of its budget in this period or of its
balance, whichever is less. The mint is where points come from: it is below zero by all there are.";

const STATEMENT: &str = "\
Examples:
  nightshift points statement                        # of the queue default
  nightshift points statement --queue research
  nightshift points statement --owner anna -o csv > anna.csv
  nightshift points statement --queue research --from 2026-11-01

Without --from it has what is in the scheduler's memory, the newest 10,000 entries of the whole
ledger as far as they concern the account; --from and --all read journal and archive too, up to
100,000 lines. What was before is in the opening balance, and a note says since when it has
everything. CSV is RFC 4180.";

/// `nightshift points …`
#[derive(Subcommand, Debug)]
pub enum Points {
    /// Bring points in: a queue may spend that many more
    #[command(after_help = GRANT)]
    Grant {
        /// The TenantQueue
        #[arg(value_parser = parse::object_name)]
        queue: String,
        /// Points, a decimal with at most 12 decimals
        #[arg(value_parser = parse::points, allow_negative_numbers = true)]
        amount: String,
        /// Name of this grant among the queue's: it is made once [default: a random one]
        #[arg(long)]
        id: Option<String>,
        /// What it is for; stands in statements
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        note: String,
        /// Which pool.
        #[command(flatten)]
        connection: Connection,
    },
    /// Show what every account has, and what queues may spend
    #[command(after_help = BALANCE)]
    Balance {
        /// How to print it
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
        /// Which pool.
        #[command(flatten)]
        connection: Connection,
    },
    /// Show what an account paid and got
    #[command(after_help = STATEMENT)]
    Statement {
        /// A TenantQueue's account [default: default]
        #[arg(long, value_name = "NAME", value_parser = parse::object_name, conflicts_with = "owner")]
        queue: Option<String>,
        /// Since that day (in UTC) or moment, such as 2026-11-01 or 2026-11-01T08:30:00Z
        #[arg(long, value_name = "TIME", value_parser = parse::moment)]
        from: Option<u64>,
        /// Since the beginning
        #[arg(long, conflicts_with = "from")]
        all: bool,
        /// A node owner's account
        #[arg(long, value_name = "NAME", value_parser = parse::object_name)]
        owner: Option<String>,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
        /// Which pool.
        #[command(flatten)]
        connection: Connection,
    },
}

/// How accounts are printed.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For spreadsheets.
    Csv,
}

/// What every account has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Balances {
    accounts: Vec<Account>,
    queues: Vec<Queue>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Account {
    account: String,
    balance: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Queue {
    queue: String,
    balance: Option<String>,
    spent: String,
    reserved: String,
    spendable: Option<String>,
    usage_milliseconds: u64,
    budget: Option<Budget>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Budget {
    points: String,
    period: String,
    spent: String,
    left: String,
    ends_milliseconds: u64,
}

/// What an account paid and got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    account: String,
    queue: Option<String>,
    known: bool,
    /// Every entry since then is in it; `None`: all there ever were.
    #[serde(default)]
    since_milliseconds: Option<u64>,
    opening: String,
    closing: String,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    time_milliseconds: u64,
    id: String,
    kind: String,
    queue: String,
    about: String,
    other: String,
    amount: String,
    balance: String,
}

/// Does it.
pub async fn run(command: Points) -> anyhow::Result<()> {
    match command {
        Points::Grant { queue, amount, id, note, connection } => {
            let id = id.unwrap_or_else(|| format!("grant-{:032x}", rand::random::<u128>()));
            let granted = connection.gateway()?.grant(&GrantRequest { id, queue, amount, note }).await?;
            if granted.repeated {
                eprintln!("note: {} was granted before; nothing more was", granted.id);
            }
            output::line(&format!("queue {} has {} points", granted.queue, granted.balance))
        }
        Points::Balance { output, connection } => {
            let balances: Balances = connection.gateway()?.points("balances").await?;
            print(output, &balances, balances_table, balances_csv)
        }
        Points::Statement { queue, owner, from, all, output, connection } => {
            let of = match (&queue, &owner) {
                (_, Some(owner)) => format!("statement?owner={owner}"),
                (Some(queue), None) => format!("statement?queue={queue}"),
                (None, None) => format!("statement?queue={}", nightshift_types::DEFAULT_QUEUE),
            };
            let of = match from.or(all.then_some(0)) {
                Some(from) => format!("{of}&fromMilliseconds={from}"),
                None => of,
            };
            let statement: Statement = connection.gateway()?.points(&of).await?;
            if let Some(since) = statement.since_milliseconds.filter(|since| from != Some(*since)) {
                eprintln!("note: this is since {}; --all, or --from with a time, asks for more", moment(since));
            }
            if !statement.known {
                eprintln!("note: account {} has no entries yet", statement.account);
            }
            print(output, &statement, statement_table, statement_csv)
        }
    }
}

fn print<T: Serialize>(
    format: Format,
    value: &T,
    table: fn(&T) -> String,
    csv: fn(&T) -> String,
) -> anyhow::Result<()> {
    match format {
        Format::Json => output::json(value),
        Format::Table => output::write(table(value).as_bytes()),
        Format::Csv => output::write(csv(value).as_bytes()),
    }
}

/// The same from the gateway's answer, for tests: a table and CSV.
pub fn balances_text(json: &str) -> anyhow::Result<(String, String)> {
    let balances = serde_json::from_str(json).context("balances")?;
    Ok((balances_table(&balances), balances_csv(&balances)))
}

/// The same for a statement.
pub fn statement_text(json: &str) -> anyhow::Result<(String, String)> {
    let statement = serde_json::from_str(json).context("a statement")?;
    Ok((statement_table(&statement), statement_csv(&statement)))
}

fn or(value: Option<&String>, unset: &str) -> String {
    value.cloned().unwrap_or_else(|| unset.into())
}

fn balances_table(balances: &Balances) -> String {
    let row = |queue: &Queue| {
        let budget = queue.budget.as_ref();
        vec![
            queue.queue.clone(),
            or(queue.balance.as_ref(), "<mint>"),
            queue.spent.clone(),
            queue.reserved.clone(),
            or(queue.spendable.as_ref(), "<unlimited>"),
            budget.map_or_else(|| "<none>".into(), |budget| format!("{}/{}", budget.points, budget.period)),
            or(budget.map(|budget| &budget.left), ""),
        ]
    };
    let rows: Vec<Vec<String>> = balances.queues.iter().map(row).collect();
    let mut text = output::table(&["QUEUE", "BALANCE", "SPENT", "RESERVED", "SPENDABLE", "BUDGET", "LEFT"], &rows);
    // Queues have their own table.
    let others = balances.accounts.iter().filter(|account| !account.account.starts_with("tenant/"));
    let rows: Vec<Vec<String>> = others.map(|a| vec![a.account.clone(), a.balance.clone()]).collect();
    if !rows.is_empty() {
        text += &format!("\n{}", output::table(&["ACCOUNT", "BALANCE"], &rows));
    }
    text
}

fn balances_csv(balances: &Balances) -> String {
    let rows = balances.accounts.iter().map(|a| vec![a.account.clone(), a.balance.clone()]);
    csv(&["account", "balance"], rows)
}

fn statement_table(statement: &Statement) -> String {
    let edge = |word: &str, balance: &String| {
        let empty = String::new;
        vec![empty(), word.into(), empty(), empty(), empty(), balance.clone()]
    };
    let row = |entry: &Entry| {
        let Entry { kind, about, other, amount, balance, .. } = entry;
        vec![
            moment(entry.time_milliseconds),
            kind.clone(),
            about.clone(),
            other.clone(),
            amount.clone(),
            balance.clone(),
        ]
    };
    let mut rows = vec![edge("Opening", &statement.opening)];
    rows.extend(statement.entries.iter().map(row));
    rows.push(edge("Closing", &statement.closing));
    output::table(&["TIME", "KIND", "ABOUT", "OTHER", "AMOUNT", "BALANCE"], &rows)
}

fn statement_csv(statement: &Statement) -> String {
    let row = |entry: &Entry| {
        let Entry { id, kind, queue, about, other, amount, balance, .. } = entry.clone();
        vec![moment(entry.time_milliseconds), statement.account.clone(), kind, queue, about, other, amount, balance, id]
    };
    let header = ["time", "account", "kind", "queue", "about", "other", "amount", "balance", "entry"];
    csv(&header, statement.entries.iter().map(row))
}

/// UTC, in seconds.
fn moment(milliseconds: u64) -> String {
    let second = i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX);
    Timestamp::from_second(second).map(|time| time.to_string()).unwrap_or_default()
}

/// RFC 4180: a field with a comma, a quote or a line end stands in quotes, quotes in it twice.
fn csv(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let field = |text: &str| {
        if text.contains([',', '"', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.into() }
    };
    let line = |fields: Vec<String>| format!("{}\r\n", fields.iter().map(|f| field(f)).collect::<Vec<_>>().join(","));
    let header = line(header.iter().map(|name| (*name).to_string()).collect());
    std::iter::once(header).chain(rows.map(line)).collect()
}
