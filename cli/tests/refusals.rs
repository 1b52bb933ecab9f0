//! What goes wrong says why: at admission by field and remedy, afterwards by a typed reason, and a good job still runs.

mod common;

use common::{Home, Pool, condition, example, model, until};
use std::process::Command;

const WRONG: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

fn voice_model() -> String {
    std::fs::read_to_string(example("voice").join("model.yaml")).unwrap()
}

fn digest_line(manifest: &str) -> &str {
    manifest.lines().find(|line| line.trim_start().starts_with("digest: ")).unwrap()
}

fn job(name: &str, model: &str, input: &str) -> String {
    format!(
        "apiVersion: nightshift.dev/v1alpha1\nkind: InferenceJob\nmetadata: {{name: {name}}}\n\
         spec:\n  modelRef: {{name: {model}}}\n  input: {input}\n"
    )
}

#[test]
fn too_big_says_so_in_numbers() {
    let home = Home::new();
    let pool = Pool::up(&home);
    pool.apply(&example("too-big"));
    let described = until("the job says why it waits", || {
        let text = pool.kubectl_ok(&["describe", "inferencejob", "too-big"]);
        text.contains("NoMatchingNode").then_some(text)
    });
    assert!(described.contains("0/1 nodes fit") && described.contains("need 900Gi"), "{described}");
    let explained = pool.cli_ok(&["explain", "job/too-big"]);
    assert!(explained.contains("job/too-big is Pending: NoMatchingNode"), "{explained}");
    assert!(explained.contains("need 900Gi"), "{explained}");
    let json: serde_json::Value = serde_json::from_str(&pool.cli_ok(&["explain", "too-big", "-o", "json"])).unwrap();
    assert_eq!(json["nodes"]["total"], 1);
    pool.stop();
}

#[test]
fn manifests_are_refused_by_field_with_a_remedy() {
    let home = Home::new();
    let pool = Pool::up_with(&home, &["--no-agent"]);
    let refused = |name: &str, manifest: &str| {
        let path = home.write(&format!("{name}.yaml"), manifest);
        pool.kubectl_refused(&["apply", "-f", path.to_str().unwrap()])
    };
    let good = job("x", "m", "{inline: \"1\"}");
    let said = refused("typo", &good.replace("modelRef", "modelReff"));
    assert!(said.contains("modelReff"), "{said}");
    let said = refused("negative", &format!("{good}  maxPricePerHour: \"-1\"\n"));
    assert!(said.contains("maxPricePerHour") && said.contains("such as \"0.25\""), "{said}");
    let said = refused("two", &job("x", "m", "{inline: \"1\", uri: \"data:,1\"}"));
    assert!(said.contains("exactly one of") && said.contains("remove the others"), "{said}");
    assert_eq!(pool.kubectl_ok(&["get", "inferencejobs", "-o", "name"]), "");
    pool.stop();
}

#[test]
fn failures_have_reasons_and_good_jobs_go_on() {
    let home = Home::new();
    let pool = Pool::up(&home);
    let manifest = voice_model();

    let wrong = manifest
        .replace(digest_line(&manifest), &format!("  digest: {WRONG}"))
        .replace("name: silero-vad", "name: wrong");
    pool.apply_text("wrong", &wrong);
    pool.apply_text("wrong-job", &job("wrong-digest", "wrong", "{uri: \"data:,x\"}"));
    let failed = pool.wait("wrong-digest", "Failed");
    let why = condition(&failed, "Failed");
    assert_eq!(why["reason"], "DigestMismatch", "{why}");
    assert!(why["message"].as_str().unwrap().contains("e1122837"), "{why}");
    let explained = pool.cli_ok(&["explain", "wrong-digest"]);
    assert!(explained.contains("is Failed: DigestMismatch"), "{explained}");

    let bytes = std::fs::read(model()).unwrap();
    let truncated = home.write("truncated.jit", &bytes[..bytes.len() / 2]);
    let pushed = pool.cli_ok(&["push", truncated.to_str().unwrap(), "-o", "json"]);
    let pushed: serde_json::Value = serde_json::from_str(&pushed).unwrap();
    let (uri, digest) = (pushed["uri"].as_str().unwrap(), pushed["digest"].as_str().unwrap());
    let old_uri = manifest.lines().find(|line| line.trim_start().starts_with("uri: ")).unwrap();
    let broken = manifest.replace(old_uri, &format!("    uri: {uri}"));
    let broken = broken
        .replace(digest_line(&manifest), &format!("  digest: {digest}"))
        .replace("name: silero-vad", "name: broken");
    pool.apply_text("broken", &broken);
    pool.apply_text("broken-job", &job("truncated", "broken", "{uri: \"data:,x\"}"));
    let failed = pool.wait("truncated", "Failed");
    assert_eq!(condition(&failed, "Failed")["reason"], "LoadFailed", "{failed:#}");

    pool.apply_text("good-model", &manifest);
    pool.apply_text("noise-job", &job("noise", "silero-vad", "{inline: \"this is no sound\"}"));
    let failed = pool.wait("noise", "Failed");
    let why = condition(&failed, "Failed");
    assert_eq!(why["reason"], "InputInvalid", "{why}");
    assert!(why["message"].as_str().unwrap().contains("WAV"), "{why}");
    let run = pool.cli(&["run", "--model", "silero-vad", "--text", "this is no sound either"]);
    assert_eq!(run.status.code(), Some(3), "{}", common::text(&run));
    assert!(common::text(&run).contains("InputInvalid"), "{}", common::text(&run));

    pool.apply(&example("voice"));
    pool.wait("voice", "Complete");
    pool.stop();
}

#[test]
fn run_says_what_it_lacks_and_cleans_up() {
    let home = Home::new();
    let pool = Pool::up(&home);
    let said = |args: &[&str], code: i32| {
        let output = pool.cli(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", common::text(&output));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = said(&["run", "--model", "nope", "--text", "x"], 1);
    assert!(text.contains("no ModelArtifact \"nope\"") && text.contains("kubectl apply"), "{text}");
    pool.apply(&example("too-big").join("model.yaml"));
    let text = said(&["run", "--model", "nope", "--text", "x"], 1);
    assert!(text.contains("there are too-big"), "{text}");
    let text = said(&["explain", "nope"], 1);
    assert!(text.contains("\"nope\" not found"), "{text}");

    // A model whose file nobody has pushed: its job waits, until the time is over or somebody presses Ctrl-C.
    let manifest = voice_model();
    let away = manifest.replace("name: silero-vad", "name: away");
    let old_uri = away.lines().find(|line| line.trim_start().starts_with("uri: ")).unwrap();
    let missing = WRONG.replace("sha256:", "store://sha256/");
    let away = away.replace(old_uri, &format!("    uri: {missing}"));
    pool.apply_text("away", &away.replace(digest_line(&manifest), &format!("  digest: {WRONG}")));
    let text = said(&["run", "--model", "away", "--text", "x", "--timeout", "2s"], 4);
    assert!(text.contains("did not end within 2.0s") && text.contains("ModelNotReady"), "{text}");
    assert_eq!(pool.kubectl_ok(&["get", "inferencejobs", "-o", "name"]), "");

    let mut command: Command = home.command();
    let mut run = common::Process::start(command.args(["run", "--model", "away", "--text", "x"]));
    until("the job is there", || (!pool.kubectl_ok(&["get", "inferencejobs", "-o", "name"]).is_empty()).then_some(()));
    run.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(run.wait().code(), Some(130), "{}", run.output());
    until("the job is gone", || pool.kubectl_ok(&["get", "inferencejobs", "-o", "name"]).is_empty().then_some(()));
    pool.stop();
}
