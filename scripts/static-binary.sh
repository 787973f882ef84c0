#!/usr/bin/env bash
# The program as the image has it: linked statically, so that it runs where there is nothing else.
#
#   scripts/static-binary.sh build [PROFILE]   builds it (profile: release, unless given), says where it is
#   scripts/static-binary.sh check [PROFILE]   builds it, shows that it is static, and runs it as a pod would:
#                                              in an empty, read-only root, as nobody, with one writable folder
#
# With glibc, not musl: all tests and figures are of a program with glibc's allocator and resolver. Since 2.34 its
# resolver needs no plug-ins for /etc/hosts and DNS.
set -euo pipefail
me=$(realpath "$0")
cd "$(dirname "$me")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
profile=${2:-release}
user=65532
binary=${CARGO_TARGET_DIR:-target}/$host/${profile/#dev/debug}/columba

say() { echo "static-binary: $*"; }
die() { say "$*" >&2; exit 1; }

build() {
  # With --target, the flags are not for build scripts and macros, which cannot be static. The crate getrandom
  # looks its function up at run time, finds none in a static program, and would need /dev/urandom.
  local flags='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"'
  RUSTFLAGS="${RUSTFLAGS:-} $flags" CARGO_PROFILE_RELEASE_STRIP=debuginfo \
    cargo build --locked --profile "$profile" --target "$host" --bin columba
  say "built $binary, $(($(stat -c %s "$binary") / 1048576)) MiB"
}

# No interpreter, no libraries.
is_static() {
  command -v readelf >/dev/null || die "readelf is missing; install binutils"
  ! readelf -lW "$binary" | grep INTERP || die "$binary wants an interpreter"
  ! readelf -dW "$binary" | grep NEEDED || die "$binary wants libraries"
  say "no interpreter, no shared libraries"
}

# Runs in namespaces of its own, so that nothing it mounts is seen outside and its ports are free.
in_empty_root() {
  local work=$1 root=$1/root server
  mount --bind "$root" "$root"
  mount --bind "$root/var/lib/columba" "$root/var/lib/columba"
  mount -o remount,bind,ro "$root"
  ip link set lo up
  ! touch "$root/written" 2>/dev/null || die "the root can be written to"

  columba() {
    COLUMBA_SERVER=columba.test:7171 setpriv --no-new-privs chroot --userspec=$user:$user "$root" /columba "$@"
  }
  serve() { # where its output goes
    setpriv --no-new-privs chroot --userspec=$user:$user "$root" /columba serve --insecure \
      --listen 0.0.0.0:7171 --admin-listen 0.0.0.0:7172 --data-dir /var/lib/columba/data >"$1" &
    server=$!
    for _ in $(seq 600); do
      if grep ' serving ' "$1"; then return; fi
      kill -0 "$server" 2>/dev/null || die "the server did not start"
      sleep 0.1
    done
    die "the server did not start within a minute"
  }

  serve "$work/first"
  [ "$(stat -c %u "/proc/$server")" = $user ] || die "the server does not run as $user"
  # By name, which takes the resolver.
  columba health
  columba topic create orders >/dev/null
  columba publish orders hello
  kill -9 "$server"
  wait "$server" || true
  serve "$work/second"
  [ "$(columba read orders | cut -f3)" = hello ] || die "the message is lost"
  kill -TERM "$server"
  wait "$server" || die "SIGTERM ended the server with status $?"
  say "served in an empty, read-only root as user $user, lost nothing to kill -9, and stopped when told"
}

check() {
  local tool
  for tool in unshare setpriv chroot ip mount; do
    command -v $tool >/dev/null || die "$tool is missing; install util-linux, coreutils and iproute2"
  done
  [ "$(id -u)" = 0 ] || die "an empty root of its own takes root; run this as root"
  build
  is_static
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  chmod 755 "$work"
  mkdir -p "$work/root/etc" "$work/root/var/lib/columba"
  cp "$binary" "$work/root/columba"
  # What Kubernetes puts there.
  echo '127.0.0.1 localhost columba.test' >"$work/root/etc/hosts"
  chown $user:$user "$work/root/var/lib/columba"
  unshare --mount --net --pid --fork --kill-child --mount-proc "$me" in-empty-root "$profile" "$work"
}

case ${1:-} in
  build) build ;;
  check) check ;;
  in-empty-root) in_empty_root "$3" ;;
  *) sed -n '2,7p' "$me" | cut -c3-; exit 2 ;;
esac
