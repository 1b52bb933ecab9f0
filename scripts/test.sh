#!/usr/bin/env bash
# Format check, build, tests. The last line has the counts of all test binaries together: "N passed, N failed, N skipped".
#
#   scripts/test.sh [ARGUMENTS OF cargo test]     without any: --workspace
#
# Exits non-zero if anything failed, format included. A test binary that died before it could report, or a build that
# failed, counts as one failure.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.deps/bin:$PATH:$HOME/.cargo/bin"
[ $# -gt 0 ] || set -- --workspace
# What the chaos tests need: a `nightshift` that can be broken from within (docs/chaos.md).
HOOKS=()
[ "$*" = --workspace ] && HOOKS=(--features nightshift-cli/hooks)

LOG=$(mktemp)
trap 'rm -f "$LOG"' EXIT

# counts EXIT-CODE: the last line, from what cargo test printed.
counts() {
  awk -v code="$1" '
    { gsub(/\033\[[0-9;]*m/, "") }
    /^test result: / {
      for (i = 2; i <= NF; i++) {
        if ($i == "passed;") passed += $(i - 1)
        if ($i == "failed;") failed += $(i - 1)
        if ($i == "ignored;") skipped += $(i - 1)
      }
      if ($3 == "FAILED.") reported++
    }
    /^error: [0-9]+ targets? failed:/ { dead = $2 }
    END {
      if (dead > reported) failed += dead - reported
      if (code != 0 && failed == 0) failed = 1
      printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
    }' "$LOG"
}

code=0
printf '== cargo fmt --all --check\n'
cargo fmt --all --check || code=$?
formatted=$code
# Tests start the real binaries.
printf '== cargo build --workspace --bins\n'
cargo build --workspace --bins "${HOOKS[@]}" || {
  code=$?
  counts "$code"
  exit "$code"
}
if [ "$*" = --workspace ]; then
  printf '== scripts/test-charts.sh\n'
  scripts/test-charts.sh || code=$?
fi
printf '== cargo test --no-fail-fast %s\n' "$*"
cargo test --no-fail-fast "${HOOKS[@]}" "$@" 2>&1 | tee "$LOG"
tests=${PIPESTATUS[0]}
[ "$formatted" -eq 0 ] || echo "not formatted: run make fmt"
counts "$tests"
[ "$tests" -eq 0 ] || code=$tests
exit "$code"
