#!/usr/bin/env bash
# Helm at the versions that the chart is tested with, outside the checkout. Stdout is the program's path, nothing else.
#
#   scripts/helm.sh 3|4                the path; builds it with Go where it is missing (about 3 minutes on 2 cores)
#   scripts/helm.sh --if-present 3|4   the path, or exit 1 and one line on stderr; never builds
#
# Lies in ${XDG_CACHE_HOME:-~/.cache}/nightshift/helm-VERSION/. Go checks the modules against its checksum database.
set -euo pipefail

HELM3=3.22.0
HELM4=4.3.1

say() { printf 'helm: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

main() {
  local build=1 major version folder start=$SECONDS
  [ "${1:-}" != --if-present ] || { build=""; shift; }
  major=${1:-3}
  case $major in
    3) version=$HELM3 ;;
    4) version=$HELM4 ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) die "no Helm '$major'; there are 3 ($HELM3) and 4 ($HELM4)" ;;
  esac
  folder="${XDG_CACHE_HOME:-$HOME/.cache}/nightshift/helm-$version"
  if [ ! -x "$folder/helm" ]; then
    [ -n "$build" ] || die "$folder/helm is not there; type: scripts/helm.sh $major"
    command -v go >/dev/null || die "Helm $version is not there and there is no Go to build it: install Go from 1.26 on"
    say "Helm $version … building with $(go env GOVERSION)"
    mkdir -p "$folder"
    trap 'rm -rf "$folder/.tmp.'$$'"' EXIT
    CGO_ENABLED=0 GOBIN="$folder/.tmp.$$" go install -trimpath \
      -ldflags "-s -w -X helm.sh/helm/v$major/internal/version.version=v$version" "helm.sh/helm/v$major/cmd/helm@v$version" >&2 ||
      die "the build failed (above); it needs the Go module proxy"
    mv -f "$folder/.tmp.$$/helm" "$folder/helm"
    say "Helm $version … ok ($((SECONDS - start)) s)"
  fi
  printf '%s\n' "$folder/helm"
}

main "$@"
