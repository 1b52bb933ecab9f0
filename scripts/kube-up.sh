#!/usr/bin/env bash
# A real Kubernetes API with RBAC on free loopback ports: etcd, kube-apiserver, and the controllers that need no machines
# (garbage collection, namespaces, deployments …). There is no kubelet: pods stay Pending.
#
#   scripts/kube-up.sh FOLDER [--if-present]
#
# Prints "ready FOLDER/admin.kubeconfig" and runs until its stdin ends or a signal comes; then everything it started is
# gone, however the one who started it ended. Logs are in FOLDER. --if-present: exit 3 where the binaries are not built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

DIR=${1:?usage: scripts/kube-up.sh FOLDER [--if-present]}
ASSETS=$(scripts/kubebuilder-assets.sh ${2:+"$2"}) || exit 3
command -v openssl >/dev/null || { echo "kube-up: openssl is missing (it makes the key of service accounts)" >&2; exit 1; }
umask 077
mkdir -p "$DIR"
DIR=$(cd "$DIR" && pwd)
PIDS=()

stop() {
  trap - EXIT INT TERM HUP
  local pid
  # Last started first: nobody retries against what is gone already.
  for ((i = ${#PIDS[@]} - 1; i >= 0; i--)); do
    pid=${PIDS[i]}
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
}
trap stop EXIT
trap 'exit 130' INT TERM HUP

# start NAME COMMAND...: in the background, its output in a log, its stdin not ours.
start() {
  local name=$1
  shift
  "$@" >"$DIR/$name.log" 2>&1 </dev/null &
  PIDS+=($!)
}

died() {
  echo "kube-up: $1 ended; the end of $DIR/$1.log:" >&2
  tail -n 8 "$DIR/$1.log" >&2
  exit 1
}

# until_ok NAME PID COMMAND...
until_ok() {
  local name=$1 pid=$2 end=$((SECONDS + 180))
  shift 2
  until "$@" >/dev/null 2>&1; do
    kill -0 "$pid" 2>/dev/null || died "$name"
    [ "$SECONDS" -lt "$end" ] || died "$name" # alive, but not ready in three minutes
    sleep 0.2
  done
}

read -r CLIENT PEER API < <(python3 - <<'PY'
import socket
sockets = [socket.socket() for _ in range(3)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))
PY
)
TOKEN=$(openssl rand -hex 16)
openssl genrsa -out "$DIR/sa.key" 2048 2>/dev/null
# What service accounts ask for, so that a test can compare it with their rights.
cat >"$DIR/audit.yaml" <<'AUDIT'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: Metadata, userGroups: ["system:serviceaccounts"]}
  - {level: None}
AUDIT
echo "$TOKEN,admin,admin,system:masters" >"$DIR/tokens.csv"

start etcd "$ASSETS/etcd" --name kube --data-dir "$DIR/etcd" --unsafe-no-fsync \
  --listen-client-urls "http://127.0.0.1:$CLIENT" --advertise-client-urls "http://127.0.0.1:$CLIENT" \
  --listen-peer-urls "http://127.0.0.1:$PEER" --initial-advertise-peer-urls "http://127.0.0.1:$PEER" \
  --initial-cluster "kube=http://127.0.0.1:$PEER" --log-level error
start kube-apiserver "$ASSETS/kube-apiserver" --etcd-servers="http://127.0.0.1:$CLIENT" \
  --bind-address=127.0.0.1 --secure-port="$API" --cert-dir="$DIR/certificates" --token-auth-file="$DIR/tokens.csv" \
  --authorization-mode=RBAC --service-cluster-ip-range=10.96.0.0/16 --endpoint-reconciler-type=none \
  --service-account-issuer=https://kubernetes.default.svc --service-account-signing-key-file="$DIR/sa.key" \
  --service-account-key-file="$DIR/sa.key" --audit-policy-file="$DIR/audit.yaml" --audit-log-path="$DIR/audit.log" --v=1
APISERVER=${PIDS[1]}

# Its certificate file ends with the CA that it made for itself.
until_ok kube-apiserver "$APISERVER" test -s "$DIR/certificates/apiserver.crt"
cat >"$DIR/admin.kubeconfig" <<KUBECONFIG
apiVersion: v1
kind: Config
clusters:
  - name: kube
    cluster: {server: "https://127.0.0.1:$API", certificate-authority: "$DIR/certificates/apiserver.crt"}
users:
  - name: admin
    user: {token: "$TOKEN"}
contexts:
  - name: kube
    context: {cluster: kube, user: admin, namespace: default}
current-context: kube
KUBECONFIG
until_ok kube-apiserver "$APISERVER" "$ASSETS/kubectl" --kubeconfig "$DIR/admin.kubeconfig" get --raw /readyz
start kube-controller-manager "$ASSETS/kube-controller-manager" --kubeconfig="$DIR/admin.kubeconfig" --leader-elect=false \
  --secure-port=0 --service-account-private-key-file="$DIR/sa.key" --root-ca-file="$DIR/certificates/apiserver.crt" \
  --controllers=garbage-collector-controller,namespace-controller,serviceaccount-controller,root-ca-certificate-publisher-controller,deployment-controller,replicaset-controller,daemonset-controller,disruption-controller,clusterrole-aggregation-controller \
  --v=1
# Made by a controller: with it, all of them run.
until_ok kube-controller-manager "${PIDS[2]}" "$ASSETS/kubectl" --kubeconfig "$DIR/admin.kubeconfig" get -n default serviceaccount default

echo "ready $DIR/admin.kubeconfig"
# Until whoever started this closes the pipe, or ends; or until a part of it does.
while kill -0 "${PIDS[@]}" 2>/dev/null; do
  code=0
  read -r -t 1 _ || code=$?
  [ "$code" -eq 0 ] || [ "$code" -gt 128 ] || exit 0 # above 128: nothing came within the second
done
NAMES=(etcd kube-apiserver kube-controller-manager)
for i in 0 1 2; do kill -0 "${PIDS[i]}" 2>/dev/null || died "${NAMES[i]}"; done
