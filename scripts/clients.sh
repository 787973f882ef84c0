#!/usr/bin/env bash
# Builds the example clients of the languages named on the command line, or of all, at the same time; quick when
# nothing has changed since. One that cannot be built is skipped with the reason, which in CI is a failure.
#
#   scripts/clients.sh [LANGUAGE...]
#   scripts/clients.sh status LANGUAGE      says why the client cannot be run; nothing if it can
set -uo pipefail
cd "$(dirname "$0")/.."
notes=$PWD/.tools/clients # for each language what was built, or why it was not, and the build's output
mkdir -p "$notes"

# Each has a function that says what the machine lacks, and one that builds, the way its page in clients/README.md does.

python_lacks() {
  python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    echo "python3 (3.10 or later) with venv is not installed"
}
python_build() {
  python3 -m venv .venv &&
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt &&
    .venv/bin/python -m grpc_tools.protoc -I ../../proto --python_out=. --pyi_out=. --grpc_python_out=. ../../proto/columba/v1/*.proto
}

go_lacks() {
  command -v go >/dev/null || { echo "go is not installed"; return; }
  command -v buf >/dev/null || echo "buf is not installed; scripts/tools.sh buf fetches it"
}
go_build() { buf generate && go build -o bin/client .; }

typescript_lacks() {
  node -e 'process.exit(Number(process.versions.node.split(".")[0] < 20))' 2>/dev/null ||
    { echo "node (20 or later) is not installed"; return; }
  command -v npm >/dev/null || echo "npm is not installed"
}
typescript_build() { npm ci --silent --no-fund --no-audit && npm run --silent build; }

java_lacks() {
  command -v javac >/dev/null || { echo "a JDK (17 or later) is not installed"; return; }
  command -v mvn >/dev/null || echo "mvn is not installed"
}
java_build() {
  # These flags suit a program that runs for seconds.
  MAVEN_OPTS="-XX:TieredStopAtLevel=1 -XX:+UseSerialGC" mvn --batch-mode --quiet --no-transfer-progress package
}

rust_lacks() { command -v cargo >/dev/null || echo "cargo is not installed"; }
rust_build() { CARGO_TARGET_DIR=target cargo build --quiet --locked; }

# What a build depends on, as a number.
sources() {
  find proto "clients/$1" scripts/clients.sh \
    \( -name .venv -o -name columba -path 'clients/*' -o -name gen -o -name node_modules -o -name dist -o -name target \
    -o -name bin -o -name __pycache__ \) -prune -o -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum
}

# It is built from what is there now, and runs: without arguments it tells how to use it.
current() {
  [ "$(cat "$notes/$1.built" 2>/dev/null)" = "$(sources "$1")" ] && [[ "$(clients/run "$1" 2>&1)" == *usage* ]]
}

build() {
  local lacks began=$SECONDS want
  current "$1" && return
  rm -f "$notes/$1".{built,why}
  lacks=$("$1_lacks")
  if [ -n "$lacks" ]; then echo "$lacks" > "$notes/$1.why"; return; fi
  want=$(sources "$1")
  if (cd "clients/$1" && "$1_build") > "$notes/$1.log" 2>&1; then
    echo "$want" > "$notes/$1.built"
    echo "$1: built in $((SECONDS - began)) s"
  else
    echo "its build failed, see .tools/clients/$1.log" > "$notes/$1.why"
  fi
}

why_not() {
  if [ -e "$notes/$1.why" ]; then cat "$notes/$1.why"
  elif ! current "$1"; then echo "it is not built; scripts/clients.sh $1 does that"
  fi
}

PATH=$PATH:$PWD/.tools/buf/node_modules/.bin
if [ "${1:-}" = status ]; then why_not "$2"; exit; fi
[ $# -gt 0 ] || set -- python go typescript java rust
./scripts/tools.sh buf
for language in "$@"; do build "$language" & done
wait
failed=0
for language in "$@"; do
  if [ -e "$notes/$language.why" ]; then
    echo "skipped: $language: $(cat "$notes/$language.why")"
    if [ "${CI:-}" = true ]; then tail -30 "$notes/$language.log" 2>/dev/null; failed=1; fi
  fi
done
exit $failed
