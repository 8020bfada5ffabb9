#!/usr/bin/env bash
# Devices are 64-bit Arm. What can be known of them without one:
#
#   tests/aarch64.sh run      a bundle classifies a photograph on an Arm userland, with the answer that this machine gives
#   tests/aarch64.sh resolve  which aarch64 wheels pip chooses for the Pythons of JetPack 5, 6 and 7
#
# The userland is Debian's arm64 Python with the wheels that a device would install, under qemu's user-mode emulation: no
# root file system, no chroot, nothing installed. It is kept in build/aarch64. Where it can't be had, the test is skipped and
# says why. Latency means nothing here, and no GPU is emulated. PYTHON needs pip and what a bundle needs.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
artifacts=${ARTIFACTS:-build/test-artifacts}
home=$PWD/build/aarch64 # what `prepare` made, whole
wheels=(numpy Pillow onnxruntime)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

skip() {
  echo "64-bit Arm: skipped, $*"
  exit 0
}

# The platform tags that a glibc of version 2.$1 runs, as options of pip.
platforms() {
  echo "--platform manylinux2014_aarch64"
  for minor in $(seq 17 "$1"); do echo "--platform manylinux_2_${minor}_aarch64"; done
}

# apt-get for $1 (arm64, amd64), with lists and a cache of its own beside those of this machine.
apt_for() {
  local architecture=$1 state=$work/apt-$1
  shift
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
  : >>"$state/status"
  apt-get -qq -oAPT::Architecture="$architecture" -oAPT::Architectures="$architecture" -oDir::State::Lists="$state/lists" \
    -oDir::State::status="$state/status" -oDir::Cache="$state/cache" -oDebug::NoLocking=1 -oAPT::Sandbox::User="$(id -un)" \
    -oAcquire::Languages=none -oAcquire::Retries=2 -oAPT::Update::Error-Mode=any "$@"
}

# Fills $1 with qemu, root/ (Python and the libraries it needs) and site/ (the wheels).
prepare() {
  local into=$1 minor libc
  mkdir -p "$into/root" "$into/site"
  apt_for arm64 update
  apt_for arm64 install -y --no-install-recommends --download-only python3 libstdc++6 libgomp1
  for package in "$work"/apt-arm64/cache/archives/*.deb; do dpkg-deb -x "$package" "$into/root"; done
  if ! cp "$(command -v qemu-aarch64-static)" "$into/qemu" 2>/dev/null; then
    apt_for amd64 update
    (cd "$work" && apt_for amd64 download qemu-user-static)
    dpkg-deb --fsys-tarfile "$work"/qemu-user-static_*.deb | tar xO ./usr/bin/qemu-aarch64-static >"$into/qemu"
    chmod +x "$into/qemu"
  fi
  # onnxruntime 1.31 reads the processor's kind from /proc/cpuinfo, finds none of its own in that of an x86, and crashes
  # (qemu before 8.1 passes this machine's through). qemu takes files from root/ first. The cores are an Orin's, nearly.
  mkdir -p "$into/root/proc"
  for core in $(seq 0 $(($(nproc --all) - 1))); do
    printf 'processor\t: %d\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n' "$core"
  done >"$into/root/proc/cpuinfo"
  libc=$(echo "$work"/apt-arm64/cache/archives/libc6_2.*)
  minor=${libc##*/libc6_2.}
  # shellcheck disable=SC2046  # one word each
  "$python" -m pip download --quiet --only-binary=:all: --no-deps --python-version "$(arm_python "$into")" \
    $(platforms "${minor%%[!0-9]*}") --dest "$work/wheels" "${wheels[@]}"
  for wheel in "$work"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$into/site"; done
}

arm_python() {
  local minimal
  minimal=$(echo "$1"/root/usr/lib/python3.*/os.py)
  minimal=${minimal%/os.py}
  echo "${minimal##*/python}"
}

run() {
  [ "$(uname -sm)" = "Linux x86_64" ] || skip "this emulates it on Linux on x86-64, and here is $(uname -sm)"
  for tool in apt-get dpkg-deb; do
    command -v $tool >/dev/null || skip "there is no $tool here to fetch Debian's Python for it with"
  done
  if ! [ "$home/ready" -nt "$0" ]; then
    echo "64-bit Arm: fetching Python, ${wheels[*]} and qemu (once)"
    if ! tests/aarch64.sh prepare "$work/home" >"$work/log" 2>&1; then # a process of its own: in a condition, set -e sleeps
      skip "fetching it failed: $(grep -v '^WARNING' "$work/log" | tail -n 1)"
    fi
    mkdir -p "${home%/*}"
    rm -rf "$home"
    mv "$work/home" "$home"
    touch "$home/ready"
  fi

  photograph=$PWD/tests/data/corgi.jpg
  "$python" -m export.bundle --variant lite0 --precision fp32 --artifacts "$artifacts" >/dev/null
  tar xzf "$artifacts/lite0/lite0.fp32.bundle.tar.gz" -C "$work"
  cd "$work/lite0-fp32"
  sha256sum --quiet -c SHA256SUMS
  case $python in /*) ;; *) python=$OLDPWD/$python ;; esac
  env -i "$python" -m runtime.infer --backend onnxruntime --json "$photograph" >"$work/here"
  # A Cortex-A76 is the nearest to a Jetson Orin's A78AE that qemu knows.
  env -i PYTHONPATH="$home/site" "$home/qemu" -cpu cortex-a76 -L "$home/root" "$home/root/usr/bin/python$(arm_python "$home")" \
    -m runtime.infer --json "$photograph" >"$work/there"
  "$python" - "$work/here" "$work/there" <<'PYTHON'
import json
import sys

here, there = (json.load(open(path))["predictions"] for path in sys.argv[1:])
answers = [[(p["index"], round(p["probability"], 5)) for p in found] for found in (here, there)]
close = [p["index"] for p in here] == [p["index"] for p in there]
close = close and all(abs(a["probability"] - b["probability"]) < 1e-3 for a, b in zip(here, there))
if not close:
    sys.exit(f"64-bit Arm: WRONG: here {answers[0]}, there {answers[1]}")
print(f"64-bit Arm: a bundle on aarch64 answers as this machine does: {there[0]['label']} {there[0]['probability']:.2%}")
PYTHON
}

# name of the system, version of its Python, minor version of its glibc: Ubuntu 20.04, 22.04 and 24.04. "2014" stands for the
# pip 20.0 that Ubuntu 20.04 has: it knows no tags newer than manylinux2014.
systems="JetPack 5, its own pip|3.8|2014
JetPack 5, newer pip|3.8|31
JetPack 6|3.10|35
JetPack 7|3.12|39"

resolve() {
  pip_resolves --no-deps >"$work/log" 2>&1 || skip "pip finds no ${wheels[*]} even for this machine: $(tail -n 1 "$work/log")"
  echo "system                  Python  aarch64 wheels that pip chooses, with all that they need"
  status=0
  while IFS='|' read -r name version glibc; do
    if [ "$glibc" = 2014 ]; then tags="--platform manylinux2014_aarch64"; else tags=$(platforms "$glibc"); fi
    # shellcheck disable=SC2086  # one word each
    if found=$(pip_resolves --target "$work/nowhere" --python-version "$version" $tags 2>"$work/log"); then
      printf '%-22s  %-6s  %s\n' "$name" "$version" "$found"
    else
      printf '%-22s  %-6s  NONE: %s\n' "$name" "$version" "$(tail -n 1 "$work/log")"
      status=1
    fi
  done <<<"$systems"
  return $status
}

# "name version, ..." of what pip would install of the wheels, with the options given.
pip_resolves() {
  "$python" -m pip install --quiet --dry-run --ignore-installed --only-binary=:all: --report "$work/report" "$@" "${wheels[@]}" ||
    return 1
  "$python" -c 'import json, sys
print(", ".join("{name} {version}".format(**part["metadata"]) for part in json.load(open(sys.argv[1]))["install"]))' "$work/report"
}

case ${1:-run} in
  run) run ;;
  resolve) resolve ;;
  prepare) prepare "$2" ;;
  *)
    echo "usage: $0 [run|resolve]" >&2
    exit 2
    ;;
esac
