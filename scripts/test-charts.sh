#!/usr/bin/env bash
# The Helm chart: lint, rendered objects against golden files, the values' schema, and, where a real Kubernetes API is
# built, install, upgrade and uninstall on it. Pods cannot start there (no kubelet), so nothing waits for them.
#
#   scripts/test-charts.sh             without Helm it says so and passes
#   UPDATE=1 scripts/test-charts.sh    write the golden files anew
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CHART=charts/nightshift
GOLDEN=$CHART/tests/golden
SETS="default minimal external monitoring"
KUBE=1.36.2 # what templates are told; the real API is of the same version
TMP=$(mktemp -d)
KEEPER=""
FAILED=0
PASSED=0

finish() {
  [ -z "$KEEPER" ] || { exec 9>&-; wait "$KEEPER" 2>/dev/null || true; } # its stdin ends, so it stops the API
  rm -rf "$TMP"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

pass() { PASSED=$((PASSED + 1)); }
fail() { FAILED=$((FAILED + 1)); printf 'charts: FAILED: %s\n' "$*" >&2; }
# check WHAT COMMAND...: its output is shown only if it fails
check() {
  local what=$1
  shift
  if "$@" >"$TMP/output" 2>&1; then pass; else fail "$what"; sed 's/^/    /' "$TMP/output" | head -n 40 >&2; fi
}

HELM=$(scripts/helm.sh --if-present 3 2>"$TMP/why") || { echo "charts: skipped, $(cat "$TMP/why")"; exit 0; }
HELMS=("$HELM")
if HELM4=$(scripts/helm.sh --if-present 4 2>/dev/null); then HELMS+=("$HELM4"); fi
# Helm shall see neither this user's clusters nor their settings.
export KUBECONFIG="$TMP/none" HELM_CACHE_HOME="$TMP/helm/cache" HELM_CONFIG_HOME="$TMP/helm/config" HELM_DATA_HOME="$TMP/helm/data"

render() { # HELM SET
  "$1" template nightshift "$CHART" --namespace nightshift --kube-version "$KUBE" --values "$CHART/ci/$2-values.yaml"
}
# CRDs, rules and dashboards are copies of files and checked as such; Helm 4 leaves other blank lines than Helm 3.
without_copies() { awk '/^# Source: /{ copy = /templates\/(crds|copies).yaml/ } !copy && NF' "$1"; }
# What the chart adds to a CRD: its first annotations and labels.
only_crds() {
  awk '/^# Source: /{ crd = /templates\/crds.yaml/; next } !crd || !NF || /^---$/ { next }
    /^metadata:$/ { print; head = 1; next }
    head && /^  name: / { head = 0 }
    !head' "$1"
}

same_crds() {
  cat crds/yaml/*.yaml >"$TMP/crds.want"
  only_crds "$1" >"$TMP/crds.got"
  diff -u "$TMP/crds.want" "$TMP/crds.got"
}

# Every rule and dashboard arrives whole: as many lines as in its file.
same_copies() {
  local file
  for file in deploy/prometheus/rules/*.yml deploy/grafana/*.json; do
    sed 's/^ *//' "$file" | grep . >"$TMP/want.flat"
    sed 's/^ *//' "$1" | grep . >"$TMP/got.flat"
    python3 -c 'import sys; want, got = (open(f).read() for f in sys.argv[1:3]); sys.exit(want not in got)' "$TMP/want.flat" "$TMP/got.flat" ||
      { echo "$file is not in what the chart renders"; return 1; }
  done
}

golden() { # SET
  local file=$GOLDEN/$1.yaml
  without_copies "$TMP/$1.yaml" >"$TMP/$1.golden"
  [ -z "${UPDATE:-}" ] || cp "$TMP/$1.golden" "$file"
  diff -u "$file" "$TMP/$1.golden" || { echo "if that is meant: UPDATE=1 scripts/test-charts.sh"; return 1; }
}

refuses() { # HELM WORDS ARGUMENT...
  local helm=$1 words=$2
  shift 2
  if "$helm" template nightshift "$CHART" --kube-version "$KUBE" --values "$CHART/ci/default-values.yaml" "$@" >"$TMP/refused" 2>&1; then
    echo "accepted: $*"
    return 1
  fi
  grep -F -- "$words" "$TMP/refused" || { cat "$TMP/refused"; return 1; }
}

static() {
  local helm name set
  for helm in "${HELMS[@]}"; do
    name=$("$helm" version --template '{{.Version}}')
    for set in $SETS; do
      check "helm lint $set ($name)" "$helm" lint --strict "$CHART" --values "$CHART/ci/$set-values.yaml"
      check "helm template $set ($name)" render "$helm" "$set"
      cp "$TMP/output" "$TMP/$set.yaml"
      check "golden file of $set ($name)" golden "$set"
    done
    check "CRDs as in crds/yaml ($name)" same_crds "$TMP/default.yaml"
    check "rules and dashboards as in deploy/ ($name)" same_copies "$TMP/monitoring.yaml"
    check "a typo is refused ($name)" refuses "$helm" "additional properties 'replica' not allowed" --set scheduler.replica=3
    check "a typo deep inside is refused ($name)" refuses "$helm" "additional properties 'nodeport' not allowed" --set join.service.nodeport=3
    check "a wrong word is refused ($name)" refuses "$helm" "value must be one of 'ClusterIP'" --set join.service.type=Loadbalancer
    check "no etcd is refused ($name)" refuses "$helm" "at '/etcd/endpoints': minItems" --set-json 'etcd.endpoints=[]'
    check "two schedulers without shared blobs are refused ($name)" refuses "$helm" "set scheduler.replicas=1" --set blobs.persistence.enabled=false
    check "two schedulers on a volume for one are refused ($name)" refuses "$helm" "cannot share it" --set blobs.persistence.accessMode=ReadWriteOnce
  done
}

kubectl() { "$ASSETS/kubectl" --kubeconfig "$TMP/kube/admin.kubeconfig" "$@"; }
with_kube() { local helm=$1; shift; KUBECONFIG="$TMP/kube/admin.kubeconfig" "$helm" "$@"; }

dry_run() { kubectl apply --server-side --dry-run=server --filename "$TMP/$1.yaml"; }

# may WHO VERB WHAT NAMESPACE yes|no
may() {
  local answer
  answer=$(kubectl auth can-i --as "$1" "$2" "$3" --namespace "$4" 2>/dev/null) || true
  [ "$answer" = "$5" ] || { echo "can $1 $2 $3 in $4: $answer, not $5"; return 1; }
}

rights() {
  local scheduler=system:serviceaccount:nightshift:nightshift-scheduler
  kubectl create namespace tenant --dry-run=client -o yaml | kubectl apply -f - >/dev/null
  kubectl create rolebinding viewer --clusterrole=view --user=viewer -n tenant --dry-run=client -o yaml | kubectl apply -f - >/dev/null
  kubectl create rolebinding editor --clusterrole=edit --user=editor -n tenant --dry-run=client -o yaml | kubectl apply -f - >/dev/null
  while read -r who verb what namespace answer; do
    check "$who: $verb $what in $namespace: $answer" may "${who/scheduler/$scheduler}" "$verb" "$what" "$namespace" "$answer"
  done <<'RIGHTS'
scheduler watch inferencejobs.nightshift.dev tenant yes
scheduler patch inferencejobs.nightshift.dev/status tenant yes
scheduler delete inferencejobs.nightshift.dev tenant yes
scheduler create inferencejobs.nightshift.dev tenant no
scheduler patch modelartifacts.nightshift.dev tenant no
scheduler delete computenodes.nightshift.dev tenant no
scheduler create tenantqueues.nightshift.dev tenant yes
scheduler patch tenantqueues.nightshift.dev tenant no
scheduler watch priorityclasses.scheduling.k8s.io tenant yes
scheduler get configmaps tenant yes
scheduler list configmaps tenant no
scheduler get secrets tenant no
scheduler get secrets/nightshift-scheduler nightshift yes
scheduler get secrets/another nightshift no
scheduler list secrets nightshift no
scheduler patch pods nightshift yes
scheduler create pods nightshift no
scheduler patch pods tenant no
scheduler create events.events.k8s.io tenant yes
viewer list inferencejobs.nightshift.dev tenant yes
viewer create inferencejobs.nightshift.dev tenant no
editor create inferencejobs.nightshift.dev tenant yes
editor get modelartifacts.nightshift.dev tenant yes
editor create modelartifacts.nightshift.dev tenant no
editor patch computenodes.nightshift.dev tenant no
editor create tenantqueues.nightshift.dev tenant no
RIGHTS
}

# Objects of the release, of every kind that can be listed.
objects() {
  kubectl api-resources --verbs=list -o name | sort -u | paste -sd, - >"$TMP/kinds"
  kubectl get "$(cat "$TMP/kinds")" --all-namespaces --ignore-not-found --selector app.kubernetes.io/instance=nightshift -o name 2>/dev/null | sort
}

pods_exist() { # COUNT: made by the controllers under the restricted pod security standard
  local end=$((SECONDS + 60)) found
  until found=$(kubectl get pods -n nightshift -l app.kubernetes.io/component=scheduler -o name | wc -l) && [ "$found" -eq "$1" ]; do
    [ "$SECONDS" -lt "$end" ] || { kubectl get events -n nightshift; echo "$found pods, not $1"; return 1; }
    sleep 0.3
  done
}

leftovers() {
  local end=$((SECONDS + 60)) left want
  want=$(printf '%s\n' customresourcedefinition.apiextensions.k8s.io/{computenodes,inferencejobs,modelartifacts,tenantqueues}.nightshift.dev persistentvolumeclaim/nightshift-blobs)
  until left=$(objects) && [ "$left" = "$want" ]; do
    [ "$SECONDS" -lt "$end" ] || { diff <(echo "$want") <(echo "$left"); return 1; }
    sleep 0.5
  done
}

on_a_cluster() {
  local helm name set before
  # A claim's class cannot be changed, nor can it shrink.
  local values=(-n nightshift --set blobs.persistence.storageClass=nfs --set blobs.persistence.size=1Ti)
  for set in $SETS; do
    [ "$set" = monitoring ] && [ -z "$OPERATOR_CRDS" ] || check "server-side dry run of $set" dry_run "$set"
  done
  for helm in "${HELMS[@]}"; do
    name=$("$helm" version --template '{{.Version}}')
    check "install ($name)" with_kube "$helm" install nightshift "$CHART" "${values[@]}" --values "$CHART/ci/external-values.yaml" --set scheduler.replicas=2
    check "the scheduler's pods pass the restricted standard ($name)" pods_exist 2
    check "a job is accepted ($name)" kubectl apply -f examples/voice/job.yaml
    rights
    check "upgrade ($name)" with_kube "$helm" upgrade nightshift "$CHART" "${values[@]}" --values "$CHART/ci/default-values.yaml"
    before=$(objects | wc -l)
    check "the release's objects are found ($name)" test "$before" -ge 20
    check "upgrade to the same makes nothing ($name)" with_kube "$helm" upgrade nightshift "$CHART" "${values[@]}" --values "$CHART/ci/default-values.yaml"
    check "as many objects as before ($name)" test "$(objects | wc -l)" -eq "$before"
    check "uninstall ($name)" with_kube "$helm" uninstall nightshift -n nightshift
    check "only CRDs and blobs are left ($name)" leftovers
    check "the job is left ($name)" kubectl get inferencejob voice
  done
}

static
if ASSETS=$(scripts/kubebuilder-assets.sh --if-present 2>"$TMP/why"); then
  mkfifo "$TMP/hold" "$TMP/told"
  scripts/kube-up.sh "$TMP/kube" <"$TMP/hold" >"$TMP/told" &
  KEEPER=$!
  exec 9>"$TMP/hold"
  read -r word _ <"$TMP/told" || true
  [ "${word:-}" = ready ] || { fail "no Kubernetes API"; exit 1; }
  kubectl create namespace nightshift >/dev/null
  kubectl label namespace nightshift pod-security.kubernetes.io/enforce=restricted >/dev/null
  OPERATOR_CRDS=$(scripts/helm.sh --if-present operator-crds 2>/dev/null) || OPERATOR_CRDS=""
  [ -z "$OPERATOR_CRDS" ] || kubectl create -f "$OPERATOR_CRDS" >/dev/null
  on_a_cluster
else
  echo "charts: not tried on a real Kubernetes API: $(cat "$TMP/why")"
fi
printf 'charts: %d checks passed, %d failed (%s)\n' "$PASSED" "$FAILED" "$(for helm in "${HELMS[@]}"; do "$helm" version --template 'Helm {{.Version}} '; done | sed 's/ $//')"
[ "$FAILED" -eq 0 ]
