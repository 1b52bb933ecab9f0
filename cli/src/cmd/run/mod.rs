//! `nightshift run`: one input through one model. *In*: a model's name, an input. *Out*: the result on stdout.
//! *Invariant*: the job is gone afterwards unless `--keep`, also after Ctrl-C.

mod follow;
mod input;

use crate::connect::{Connection, Pool};
use crate::exit::{self, Coded};
use crate::gateway::Output;
use crate::signals::Signals;
use crate::{cmd::results, output, parse};
use anyhow::Context;
use clap::ValueEnum;
use follow::{End, Follower};
use input::Input;
use kube::api::{Api, DeleteParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher::watch_object};
use nightshift_crds::{InferenceInput, InferenceJob, InferenceJobSpec, ModelArtifact, Visibility};
use rand::Rng;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  nightshift run --model silero-vad --input speech.wav
  nightshift run --model silero-vad --input speech.wav --param threshold=0.6 -o json
  nightshift run --model adder --text '[[1, 2], [3, 4]]' --timeout 5m
  cat speech.wav | nightshift run --model silero-vad --input -";

/// Longest time for deleting the job at the end.
const CLEANUP: Duration = Duration::from_secs(5);

/// Flags.
#[derive(clap::Args, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub struct Args {
    /// Name of the ModelArtifact
    #[arg(short, long, value_name = "NAME", value_parser = parse::object_name)]
    model: String,
    /// A file, - for stdin, or text; one word that looks like a file's name is never text
    #[arg(short, long, value_name = "FILE|-|TEXT", required_unless_present = "text")]
    input: Option<String>,
    /// Text, never a file's name
    #[arg(long, value_name = "TEXT", conflicts_with = "input")]
    text: Option<String>,
    /// A parameter of the model's codecs; may be repeated
    #[arg(short, long = "param", value_name = "KEY=VALUE", value_parser = parse::key_value)]
    params: Vec<(String, String)>,
    /// Name of the job [default: run- and something random]
    #[arg(long, value_name = "NAME", value_parser = parse::object_name)]
    name: Option<String>,
    /// Longest time to wait for the result
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse::duration)]
    timeout: Duration,
    /// Keep the job when it has ended
    #[arg(long)]
    keep: bool,
    /// Say nothing on stderr but errors
    #[arg(short, long)]
    quiet: bool,
    /// text: the output as it is; json: indented
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq)]
enum Format {
    Text,
    Json,
}

/// Runs the job to its end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let pool = args.connection.pool().await?;
    let input = match (&args.input, &args.text) {
        (_, Some(text)) => input::text(text.clone()),
        (Some(given), None) => input::read(given).await?,
        (None, None) => anyhow::bail!("give the input with --input or --text"),
    };
    known_model(&pool, &args.model).await?;
    let jobs: Api<InferenceJob> = Api::namespaced(pool.client.clone(), &pool.namespace);
    let name = args.name.clone().unwrap_or_else(random_name);
    let mut signals = Signals::take()?;
    let mut follower = Follower::new(args.quiet);
    let ended = tokio::select! {
        ended = to_its_end(&args, &pool, &jobs, &name, input, &mut follower) => ended,
        () = signals.stop() => Err(Coded::error(exit::INTERRUPTED, "interrupted")),
    };
    let not_ours = ended.as_ref().is_err_and(|error| error.downcast_ref::<NotCreated>().is_some());
    if !args.keep && !not_ours {
        tokio::select! {
            () = delete(&jobs, &name) => {}
            () = signals.stop() => {}
        }
    }
    tokio::select! {
        printed = results::raw(ended?, args.output == Format::Json) => printed,
        () = signals.stop() => Err(Coded::error(exit::INTERRUPTED, "interrupted: the output is not whole")),
    }
}

/// The API server refused the job: there is none to delete, or it is somebody else's.
#[derive(Debug)]
struct NotCreated;

impl std::fmt::Display for NotCreated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the job was not created")
    }
}

async fn to_its_end(
    args: &Args,
    pool: &Pool,
    jobs: &Api<InferenceJob>,
    name: &str,
    input: Input,
    follower: &mut Follower,
) -> anyhow::Result<Output> {
    let spec = InferenceJobSpec {
        parameters: args.params.iter().cloned().collect(),
        ..InferenceJobSpec::new(&args.model, stored(pool, input, follower).await.context(NotCreated)?)
    };
    let created = jobs.create(&PostParams::default(), &InferenceJob::new(name, spec)).await;
    created.map_err(|error| pool.explain(error)).context(NotCreated)?;
    follower.say(&format!("job/{name} created in namespace {}", pool.namespace));
    let watch = watch_object(jobs.clone(), name).default_backoff();
    let ended = tokio::time::timeout(args.timeout, follower.follow(watch)).await;
    let Ok(ended) = ended else {
        let why = match follower.state() {
            "" | "Pending" => "wait longer with --timeout".to_string(),
            state if state.starts_with("Running") => format!("it is {state}: wait longer with --timeout"),
            state => format!("it is {state}"),
        };
        let text = format!("job/{name} did not end within {}: {why}", output::took(args.timeout));
        return Err(Coded::error(exit::TIMED_OUT, text));
    };
    match ended.with_context(|| format!("job/{name}"))? {
        End::Failed(why) => Err(Coded::error(exit::JOB_FAILED, format!("job/{name} failed: {why}"))),
        End::Complete(job) => {
            follower.say(&completed(&job));
            result(pool, &job).await
        }
    }
}

fn completed(job: &InferenceJob) -> String {
    let status = job.status.clone().unwrap_or_default();
    let cost = status.cost.map(|cost| format!(" for {cost} points")).unwrap_or_default();
    format!("Complete on {}{cost}", status.nodes.join(", "))
}

/// Small text goes into the manifest, the rest into the blob store.
async fn stored(pool: &Pool, input: Input, follower: &mut Follower) -> anyhow::Result<InferenceInput> {
    let blob = match input {
        Input::Inline(text) => return Ok(InferenceInput { inline: Some(text), ..Default::default() }),
        Input::Bytes(bytes) => pool.gateway()?.push(&pool.namespace, false, bytes.into()).await?,
        Input::File(path) => super::push::push_file(&pool.gateway()?, &pool.namespace, false, &path).await?,
    };
    follower.say(&format!("pushed {} as {}", output::bytes(blob.size), blob.uri));
    Ok(InferenceInput { uri: Some(blob.uri.into()), ..Default::default() })
}

/// A job without its model waits for it; someone who types a name wants to hear of it at once.
async fn known_model(pool: &Pool, model: &str) -> anyhow::Result<()> {
    let models: Api<ModelArtifact> = Api::all(pool.client.clone());
    let list = models.list(&Default::default()).await.map_err(|error| pool.explain(error))?;
    let here = |found: &&ModelArtifact| {
        let namespace = found.metadata.namespace.as_deref();
        namespace == Some(&pool.namespace) || found.spec.visibility == Visibility::Public
    };
    let mut names: Vec<String> = list.iter().filter(here).filter_map(|found| found.metadata.name.clone()).collect();
    names.sort();
    let known = match names.as_slice() {
        [] => format!("namespace {} has none: `kubectl apply -f` a ModelArtifact first", pool.namespace),
        names => format!("there are {}", names.join(", ")),
    };
    anyhow::ensure!(names.iter().any(|name| name == model), "there is no ModelArtifact {model:?}; {known}");
    Ok(())
}

fn random_name() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    let letters = (0..8).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())]));
    format!("run-{}", letters.collect::<String>())
}

/// From the status where it is whole there, else from the gateway.
async fn result(pool: &Pool, job: &InferenceJob) -> anyhow::Result<Output> {
    if let Some(first) = job.status.as_ref().and_then(|status| status.results.first()) {
        return Ok(Output::json(&first.output));
    }
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let found = pool.gateway()?.output(&pool.namespace, name, 0).await?;
    found.with_context(|| format!("job/{name} is complete, yet the gateway has no result"))
}

async fn delete(jobs: &Api<InferenceJob>, name: &str) {
    let problem = match tokio::time::timeout(CLEANUP, jobs.delete(name, &DeleteParams::background())).await {
        Ok(Ok(_)) => return,
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer".into(),
    };
    eprintln!("warning: job/{name} was not deleted ({problem}): `kubectl delete inferencejob {name}`");
}
