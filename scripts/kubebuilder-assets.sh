#!/usr/bin/env bash
# A real Kubernetes API for `make conformance` and the chart's tests: kube-apiserver, kube-controller-manager, kubectl
# and etcd in one folder, whose name is the only line on stdout.
#
#   scripts/kubebuilder-assets.sh                the folder; builds what is missing (about 20 minutes on 2 cores)
#   scripts/kubebuilder-assets.sh --if-present   the folder, or exit 1 and one line on stderr; never builds
#
# Which folder: $KUBEBUILDER_ASSETS where it is set and holds all four, else ${XDG_CACHE_HOME:-~/.cache}/nightshift/
# kube-VERSION, outside the checkout. Versions and hashes stand in scripts/kube-assets/{go.mod,go.sum}. Stopped at any
# moment, the next run goes on where this one was: Go keeps every compiled package.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
MODULE="$ROOT/scripts/kube-assets"
VERSION=$(sed -n 's|^require k8s.io/kubernetes v||p; s|^\tk8s.io/kubernetes v\([^ ]*\).*|\1|p' "$MODULE/go.mod" | head -n1)
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/nightshift/kube-$VERSION"
BUILT="kube-apiserver kubectl kube-controller-manager"

say() { printf 'kube-assets: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# missing FOLDER: what it lacks, on one line.
missing() {
  local name
  for name in $BUILT etcd; do [ -x "$1/$name" ] || printf '%s ' "$name"; done
}

build() { # NAME
  local start=$SECONDS minor=${VERSION#1.}
  local x=k8s.io/component-base/version
  say "$1 $VERSION … building with $(go env GOVERSION)"
  # Kubernetes' own release build sets the same variables; without them the server calls itself v0.0.0-master.
  (cd "$MODULE" && CGO_ENABLED=0 GOFLAGS="-mod=readonly" go build -v -trimpath \
    -ldflags "-s -w -X $x.gitVersion=v$VERSION -X $x.gitMajor=1 -X $x.gitMinor=${minor%%.*} -X $x.gitTreeState=clean" \
    -o "$CACHE/.tmp.$$.$1" "k8s.io/kubernetes/cmd/$1") 2>&1 | progress "$1" >&2
  [ "${PIPESTATUS[0]}" -eq 0 ] || die "$1: the build failed (above); it needs Go from 1.26 on and the Go module proxy"
  mv -f "$CACHE/.tmp.$$.$1" "$CACHE/$1"
  say "$1 … ok ($((SECONDS - start)) s)"
}

# Go names each package as it compiles it; a line for every 200th is enough. Anything else passes.
progress() {
  awk -v name="$1" '
    /^[A-Za-z0-9_.~\/-]+$/ { if (++n % 200 == 0) { printf "kube-assets: %s … %d packages compiled\n", name, n; fflush() } next }
    /^go: downloading/ { next }
    { print; fflush() }'
}

link_etcd() {
  local found
  [ -x "$ROOT/.deps/bin/etcd" ] || "$ROOT/scripts/deps.sh" etcd >&2
  found=$(readlink -f "$ROOT/.deps/bin/etcd")
  case $found in
    "$ROOT"/*) cp -f "$found" "$CACHE/etcd" ;; # the checkout may go away, the cache stays
    *) ln -sfn "$found" "$CACHE/etcd" ;;
  esac
}

main() {
  local mode=${1:-build} lacks name
  case $mode in
    build | --if-present) ;;
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) die "no option '$mode'; there is: --if-present" ;;
  esac
  if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    lacks=$(missing "$KUBEBUILDER_ASSETS")
    [ -n "$lacks" ] || { printf '%s\n' "$KUBEBUILDER_ASSETS"; exit 0; }
    say "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS lacks: $lacks; using $CACHE"
  fi
  lacks=$(missing "$CACHE")
  [ -n "$lacks" ] || { printf '%s\n' "$CACHE"; exit 0; }
  [ "$mode" = build ] || die "$CACHE lacks: $lacks; type: scripts/kubebuilder-assets.sh"
  mkdir -p "$CACHE"
  trap 'rm -f "$CACHE/.tmp.$$".*' EXIT
  trap 'exit 130' INT TERM HUP
  [ -x "$CACHE/etcd" ] || link_etcd
  for name in $BUILT; do
    [ -x "$CACHE/$name" ] && continue
    command -v go >/dev/null || die "$name $VERSION is not there and there is no Go to build it; install Go from 1.26 on, or set KUBEBUILDER_ASSETS"
    build "$name"
  done
  printf '%s\n' "$CACHE"
}

main "$@"
