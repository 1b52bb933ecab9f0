#!/usr/bin/env bash
# What the chart is tested with, pinned, outside the checkout: Helm, and the CRDs of the Prometheus operator. Stdout is the
# path of the program or the folder, nothing else.
#
#   scripts/helm.sh 3|4|operator-crds                the path; fetched with Go where it is missing (Helm: 3 minutes on 2 cores)
#   scripts/helm.sh --if-present 3|4|operator-crds   the path, or exit 1 and one line on stderr; fetches nothing
#
# Lies in ${XDG_CACHE_HOME:-~/.cache}/nightshift/NAME-VERSION/. Go checks the modules against its checksum database.
set -euo pipefail

HELM3=3.22.0
HELM4=4.3.1
OPERATOR=0.85.0
TMP=""

say() { printf 'helm: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

build_helm() { # MAJOR VERSION FOLDER
  local start=$SECONDS package flags="-s -w -X helm.sh/helm/v$1/internal/version.version=v$2"
  say "Helm $2 … building with $(go env GOVERSION)"
  # Helm's own release build sets the same variables; Helm 3 without them believes in Kubernetes 1.20.
  for package in chartutil lint/rules; do
    flags="$flags -X helm.sh/helm/v3/pkg/$package.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/$package.k8sVersionMinor=36"
  done
  CGO_ENABLED=0 GOBIN="$TMP" go install -trimpath -ldflags "$flags" "helm.sh/helm/v$1/cmd/helm@v$2" >&2 ||
    die "the build failed (above); it needs the Go module proxy"
  mv -f "$TMP/helm" "$3/helm"
  say "Helm $2 … ok ($((SECONDS - start)) s)"
}

fetch_crds() { # FOLDER
  local module
  say "CRDs of the Prometheus operator $OPERATOR … downloading"
  # Those of the kinds that the chart makes.
  module=$(cd "$TMP" && go mod download -json "github.com/prometheus-operator/prometheus-operator@v$OPERATOR" | sed -n 's/.*"Dir": "\(.*\)",*$/\1/p')
  [ -d "$module" ] || die "the download failed; it needs the Go module proxy"
  cp "$module"/example/prometheus-operator-crd/monitoring.coreos.com_{servicemonitors,scrapeconfigs,prometheusrules}.yaml "$TMP/"
  chmod u+w "$TMP"/*.yaml
  mv -f "$TMP"/*.yaml "$1/"
}

main() {
  local fetch=1 cache="${XDG_CACHE_HOME:-$HOME/.cache}/nightshift" folder path
  [ "${1:-}" != --if-present ] || { fetch=""; shift; }
  case ${1:-3} in
    3) folder="$cache/helm-$HELM3" path="$cache/helm-$HELM3/helm" ;;
    4) folder="$cache/helm-$HELM4" path="$cache/helm-$HELM4/helm" ;;
    operator-crds) folder="$cache/prometheus-operator-$OPERATOR" path="$folder" ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) die "nothing is called '$1'; there are: 3 4 operator-crds" ;;
  esac
  if [ ! -x "$folder/helm" ] && [ ! -e "$folder/monitoring.coreos.com_servicemonitors.yaml" ]; then
    [ -n "$fetch" ] || die "$path is not there; type: scripts/helm.sh ${1:-3}"
    command -v go >/dev/null || die "$path is not there and there is no Go to fetch it with: install Go from 1.26 on"
    mkdir -p "$folder"
    TMP="$folder/.tmp.$$"
    mkdir -p "$TMP"
    trap 'rm -rf "$TMP"' EXIT
    case ${1:-3} in
      3) build_helm 3 "$HELM3" "$folder" ;;
      4) build_helm 4 "$HELM4" "$folder" ;;
      operator-crds) fetch_crds "$folder" ;;
    esac
  fi
  printf '%s\n' "$path"
}

main "$@"
