//! What is asked of both homes, in this order. *In*: a place. *Out*: every command's normalised answer. *Invariant*: a step
//! that needs something to have happened waits for it first, so that answers do not depend on when they were asked.

use super::cluster::Place;
use super::common::DEADLINE;
use regex::Regex;

/// One command's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// As a person types it.
    pub command: &'static str,
    /// On its stdin.
    pub input: Option<&'static str>,
    /// Stdout, then stderr, then the exit code if it is not 0.
    pub text: String,
}

const TYPO: &str = "\
apiVersion: nightshift.dev/v1alpha1
kind: InferenceJob
metadata: {name: typo}
spec: {modelRef: {name: digits}, input: {inline: '[]'}, paralelism: 3}
";
const WRONG: &str = "\
apiVersion: nightshift.dev/v1alpha1
kind: InferenceJob
metadata: {name: wrong}
spec: {modelRef: {name: digits}, input: {inline: '[]', uri: 'ftp://x'}, objective: Quickest, parallelism: -1, maxCost: lots}
";
const EMPTY: &str = "\
apiVersion: nightshift.dev/v1alpha1
kind: InferenceJob
metadata: {name: empty}
spec: {input: {inline: '[]'}}
";
const OTHER_MODEL: &str = "\
apiVersion: nightshift.dev/v1alpha1
kind: InferenceJob
metadata: {name: voice}
spec: {modelRef: {name: another}, input: {configMapKeyRef: {name: voice-audio, key: speech.wav}}}
";
const WAITING: &str = "\
apiVersion: nightshift.dev/v1alpha1
kind: InferenceJob
metadata: {name: waiting, labels: {team: a}}
spec: {modelRef: {name: digits}, input: {inline: '[]'}, suspend: true}
";
const OWNED: &str = "\
apiVersion: nightshift.dev/v1alpha1
kind: InferenceJob
metadata: {name: waiting}
spec: {modelRef: {name: digits}, input: {inline: '[]'}, suspend: true, backoffLimit: 2}
";
const ELSEWHERE: &str = "\
apiVersion: nightshift.dev/v1alpha1
kind: InferenceJob
metadata: {name: short-lived, namespace: tenant}
spec: {modelRef: {name: digits}, input: {inline: '[]'}, suspend: true}
";
/// What is waited for before a command: an object, and words that come with one of its next statuses.
const UNTIL: &[(&str, &str, &str)] = &[
    ("kubectl get modelartifacts", "modelartifact/silero-vad", "{.status.loadedNodes}=1"),
    ("kubectl get inferencejobs waiting", "inferencejob/waiting", "{.status.state}=Suspended"),
    ("kubectl get inferencejobs too-big -o wide", "inferencejob/too-big", "{.status.reason}=NoMatchingNode"),
];

/// A line is a command; `<` puts a manifest on its stdin; `$NODE` is a node's name.
const STEPS: &[(&str, Option<&str>)] = &[
    // what there is
    ("kubectl version", None),
    ("kubectl api-versions", None),
    ("kubectl api-resources --api-group=nightshift.dev -o wide", None),
    ("kubectl get crds", None),
    ("kubectl auth whoami", None),
    ("kubectl auth can-i create inferencejobs", None),
    ("kubectl auth can-i --list --namespace default", None),
    ("kubectl explain inferencejob", None),
    ("kubectl explain inferencejob.spec.input", None),
    ("kubectl explain modelartifact --recursive", None),
    ("kubectl explain computenode.status.devices", None),
    ("kubectl get inferencejobs", None),
    // a first job; were it there before its model, an Event might say so, or be too late
    ("kubectl apply -f examples/voice/model.yaml", None),
    ("kubectl wait --for=condition=Ready modelartifact/silero-vad --timeout=$DEADLINE", None),
    ("kubectl apply -f examples/voice", None),
    ("kubectl wait --for=condition=Complete inferencejob/voice --timeout=$DEADLINE", None),
    ("kubectl get inferencejobs", None),
    ("kubectl get ij -o wide", None),
    ("kubectl get ij,ma -o name", None),
    ("kubectl get inferencejob voice -o jsonpath={.status.results[0].output}", None),
    ("kubectl get inferencejob voice -o yaml", None),
    ("kubectl describe inferencejob voice", None),
    (
        "kubectl get events --field-selector involvedObject.name=voice -o custom-columns=TYPE:.type,REASON:.reason,FROM:.source.component,MESSAGE:.message",
        None,
    ),
    ("kubectl get modelartifacts", None),
    ("kubectl describe modelartifact silero-vad", None),
    ("kubectl get computenodes", None),
    ("kubectl describe computenode $NODE", None),
    ("kubectl get nightshift -o name", None),
    // again, and otherwise
    ("kubectl apply -f examples/voice", None),
    ("kubectl diff -f examples/voice", None),
    ("kubectl create -f examples/voice/job.yaml", None),
    ("kubectl replace -f examples/voice/model.yaml", None),
    ("kubectl apply -f -", Some(OTHER_MODEL)),
    ("kubectl apply -f -", Some(TYPO)),
    ("kubectl apply --validate=warn --dry-run=server -f -", Some(TYPO)),
    ("kubectl apply -f -", Some(WRONG)),
    ("kubectl apply -f -", Some(EMPTY)),
    ("kubectl get inferencejob nothing", None),
    ("kubectl get inferencejobs -n nowhere", None),
    ("kubectl get somethings", None),
    ("kubectl create namespace tenant", None),
    ("kubectl apply -f - --namespace elsewhere", Some(ELSEWHERE)),
    // changes
    ("kubectl apply --dry-run=server -o yaml -f -", Some(WAITING)),
    ("kubectl apply -f -", Some(WAITING)),
    ("kubectl get inferencejobs waiting", None),
    ("kubectl describe inferencejob waiting", None),
    ("kubectl patch inferencejob waiting --type=merge -p {\"spec\":{\"backoffLimit\":4}}", None),
    (
        "kubectl patch inferencejob waiting --type=json -p [{\"op\":\"test\",\"path\":\"/spec/backoffLimit\",\"value\":3}]",
        None,
    ),
    ("kubectl patch inferencejob waiting --type=strategic -p {\"spec\":{\"backoffLimit\":4}}", None),
    ("kubectl patch inferencejob waiting --type=merge -p {\"spec\":{\"parallelism\":\"x\"}}", None),
    ("kubectl label inferencejob waiting tier=gold", None),
    ("kubectl annotate inferencejob waiting note=later", None),
    ("kubectl get inferencejobs -l team=a,tier=gold -o name", None),
    ("kubectl get inferencejobs --field-selector metadata.name=waiting -o name", None),
    ("kubectl get inferencejobs --field-selector spec.suspend=true", None),
    ("kubectl scale inferencejob waiting --replicas=2", None),
    ("kubectl rollout status inferencejob/waiting", None),
    ("kubectl apply --server-side --field-manager=other -f -", Some(OWNED)),
    ("kubectl apply --server-side --field-manager=other --force-conflicts -f -", Some(OWNED)),
    ("kubectl get inferencejob waiting -o yaml --show-managed-fields", None),
    ("kubectl delete inferencejob waiting", None),
    ("kubectl wait --for=delete inferencejob/waiting --timeout=$DEADLINE", None),
    // a batch
    ("kubectl apply -f examples/digits/model.yaml", None),
    ("kubectl wait --for=condition=Ready modelartifact/digits --timeout=$DEADLINE", None),
    ("kubectl apply -f examples/batch", None),
    ("kubectl wait --for=condition=Complete inferencejob/batch --timeout=$DEADLINE", None),
    (
        "kubectl get inferencejob batch -o jsonpath={.status.completedIndexes}/{.status.succeeded}/{.status.progress}",
        None,
    ),
    ("kubectl get inferencejobs --sort-by=.metadata.name", None),
    ("kubectl edit inferencejob batch", None),
    ("kubectl get inferencejob batch -o jsonpath={.spec.parallelism}", None),
    // what cannot run
    ("kubectl apply -f examples/too-big/model.yaml", None),
    ("kubectl wait --for=condition=Ready modelartifact/too-big --timeout=$DEADLINE", None),
    ("kubectl apply -f examples/too-big/job.yaml", None),
    ("kubectl get inferencejobs too-big -o wide", None),
    ("kubectl describe inferencejob too-big", None),
    ("kubectl wait --for=condition=Complete inferencejob/too-big --timeout=1s", None),
    // the end
    ("kubectl apply -f -", Some(ELSEWHERE)),
    ("kubectl delete namespace tenant", None),
    ("kubectl get inferencejobs -n tenant", None),
    ("kubectl delete -f examples/voice", None),
    ("kubectl delete inferencejobs --all", None),
    ("kubectl wait --for=delete inferencejob/too-big --timeout=$DEADLINE", None),
    ("kubectl delete modelartifacts --all", None),
    ("kubectl get inferencejobs,modelartifacts", None),
    ("kubectl get all", None),
];

/// Every answer of a place.
pub fn run(place: &Place) -> Vec<Answer> {
    let nodes = place.ok(&["get", "computenodes", "-o", "jsonpath={.items[*].metadata.name}"]);
    let mut nodes: Vec<String> = nodes.split(' ').map(String::from).collect();
    // One name may begin with another.
    nodes.sort_by_key(|name| std::cmp::Reverse(name.len()));
    let normalise = Normaliser::new(&nodes);
    let deadline = format!("{}s", DEADLINE.as_secs());
    let answer = |(command, input): &(&'static str, Option<&'static str>)| {
        if let Some((_, what, words)) = UNTIL.iter().find(|(of, ..)| of == command) {
            place.ok(&["wait", &format!("--for=jsonpath={words}"), what, &format!("--timeout={deadline}")]);
        }
        let words: Vec<String> = command
            .split(' ')
            .skip(1)
            .map(|word| word.replace("$NODE", &nodes[0]).replace("$DEADLINE", &deadline))
            .collect();
        let output = place.run(&words.iter().map(String::as_str).collect::<Vec<_>>(), *input);
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            text = format!("{}\n(exit {})", text.trim_end(), output.status.code().unwrap_or(-1));
        }
        Answer { command, input: *input, text: normalise.text(&text) }
    };
    STEPS.iter().map(answer).collect()
}

/// Takes out what differs between any two runs on any one home.
struct Normaliser(Vec<(Regex, &'static str)>);

impl Normaliser {
    fn new(nodes: &[String]) -> Self {
        let nodes = nodes.iter().map(|name| regex::escape(name)).collect::<Vec<_>>().join("|");
        let rules = [
            (nodes.as_str(), "NODE"),
            (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
            (r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", "TIME"),
            (r#"(resourceVersion: |Resource Version: +)"?\d+"?"#, "${1}N"),
            (r"127\.0\.0\.1:\d+", "ADDRESS"),
            (r"\b\d+(\.\d+)?(Ki|Mi|Gi)\b", "SIZE"),
            (r"\b\d+\.\d{3,12}\b", "POINTS"),
            (r"\b(\d+d)?(\d+h)?(\d+m)?\d+(\.\d+)?(ms|s)\b", "AGE"),
            (r"\b\d+m\b", "AGE"),
            // measured, or earned by the node that happened to work
            (r"((Item|Network) Milliseconds|Gigaflops|(Load|Memory) Bandwidth|Cores|Slots): +\d+", "$1: N"),
            (r"Model: +\S.* .*", "Model: PROCESSOR"),
            (r"\b0( +AGE)", "POINTS$1"),
            (r"Earned: +\S+", "Earned: POINTS"),
            (r"(True +)\S+( +POINTS +AGE)", "${1}FRACTION$2"),
            (r#"([Rr]eputation: +)"?[0-9.]+"?"#, "${1}FRACTION"),
            (r" \(x\d+ over AGE\)", ""),
            (r"(?m) +$", ""),
            // columns are as wide as their widest word
            (r"(\S)  +", "$1  "),
            (r"-----*", "----"),
        ];
        Self(rules.map(|(pattern, with)| (Regex::new(pattern).unwrap(), with)).into())
    }

    fn text(&self, text: &str) -> String {
        let all =
            |text: String, (pattern, with): &(Regex, &'static str)| pattern.replace_all(&text, *with).into_owned();
        let text = self.0.iter().fold(text.to_string(), all);
        // The real server lists a spec's faults in no order: they come out of a map.
        let mut lines: Vec<&str> = text.trim_end().lines().collect();
        for faults in lines.split_mut(|line| !line.starts_with("* spec")) {
            faults.sort_unstable();
        }
        lines.join("\n")
    }
}
