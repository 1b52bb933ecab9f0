#!/usr/bin/env bash
# The end-to-end suite on a real Kubernetes API, under the chart's RBAC, and the same kubectl commands on both homes.
#
#   scripts/conformance.sh                builds what is missing first: kube-apiserver and the like, Helm (15 minutes, once)
#   scripts/conformance.sh --if-present   says so and passes where they are not built
#
# UPDATE=1 writes docs/conformance.md anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.deps/bin:$PATH:$HOME/.cargo/bin"

for part in "kubebuilder-assets.sh" "helm.sh 3"; do
  read -r script argument <<<"$part"
  # shellcheck disable=SC2086 # no argument is no argument
  if ! why=$("scripts/$script" ${1:+"$1"} $argument 2>&1 >/dev/null | tee /dev/stderr | tail -n1); then
    [ "${1:-}" = --if-present ] || exit 1
    echo "conformance: skipped, $why"
    exit 0
  fi
done
cargo build --package nightshift-cli --package nightshift-agent --bins
cargo test --package nightshift-cli --test conformance -- --ignored --test-threads=1
