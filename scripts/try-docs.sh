#!/usr/bin/env bash
# Runs the ```sh blocks of pages, in order and in one shell for each page, in a directory and with a server of
# its own; a ```text or ```json block right after one is what it is said to print. What differs from run to run, such as
# times, is left out of the comparison.
#
#   scripts/try-docs.sh [PAGE...]      the README, and the pages of docs that tests/docs.rs runs, unless pages are given
#
# COLUMBA and GRPCURL name the programs; KEEP a directory for the outputs.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
columba=${COLUMBA:-$root/target/release/columba}
grpcurl=${GRPCURL:-$root/.tools/grpcurl-1.9.4/grpcurl}
for program in "$columba" "$grpcurl"; do
  [ -x "$program" ] || { echo "try-docs: $program is missing: run make tools and cargo build --release" >&2; exit 2; }
done

# A port that nobody listens on, below those that the system gives to clients.
free_port() {
  local port
  while port=$((RANDOM % 12000 + 20000)); do
    (: < "/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}

# Writes the blocks of a page to files: 01.sh, and 01.expected if its output is told.
split() {
  awk -v dir="$2" '
    /^```/ && file != "" { close(file); file = ""; next }
    /^```sh$/ { block++; file = sprintf("%s/%02d.sh", dir, block); told = 0; printf "" > file; next }
    /^```(text|json)$/ && block && !told { file = sprintf("%s/%02d.expected", dir, block); told = 1; printf "" > file; next }
    file != "" { print > file; next }
    NF { told = 1 }
  ' "$1"
}

# What is left of an output when what differs from run to run is taken out.
steady() {
  sed -E -e '/: +[0-9]+ Killed /d' -e 's/[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z/TIME/g' \
    -e 's/"ackId": *"[^"]*"/"ackId": ID/' -e 's/ in [0-9.]+ s, [0-9,]+ messages\/s//' \
    -e 's/(columba-dead-letter-time-micros": *)"[0-9]+"/\1MICROS/' -e 's/[ \t]+/ /g' -e 's/ +$//' "$1"
}

# Runs one page; says what differs.
try() {
  local page=$1 dir port failed=0 block
  dir=$(mktemp -d)
  mkdir "$dir/bin" "$dir/work"
  split "$page" "$dir"
  port=$(free_port)
  ln -s "$columba" "$dir/bin/columba"
  ln -s "$root/clients/run" "$dir/bin/client"
  printf '#!/usr/bin/env bash\nexec %q "${@//127.0.0.1:7171/127.0.0.1:%s}"\n' "$grpcurl" "$port" > "$dir/bin/grpcurl"
  chmod +x "$dir/bin/grpcurl"
  {
    echo 'trap "kill -9 \$(jobs -p) 2>/dev/null" EXIT'
    for block in "$dir"/*.sh; do
      echo ". $block > ${block%.sh}.out 2>&1 || echo \"$(basename "$block"): its last line failed\""
    done
  } > "$dir/all"
  (
    cd "$dir/work"
    export PATH="$dir/bin:$PATH" COLUMBA_LISTEN="127.0.0.1:$port" COLUMBA_ADMIN_LISTEN=127.0.0.1:0
    export COLUMBA_SERVER="127.0.0.1:$port"
    unset COLUMBA_CONFIG
    exec timeout 120 bash "$dir/all" > "$dir/log" 2>&1
  ) || { echo "$page: takes over two minutes"; failed=1; }
  for block in "$dir"/*.sh; do
    [ -e "${block%.sh}.expected" ] || ! grep "^$(basename "$block"):" "$dir/log" || { failed=1; cat "$block" "${block%.sh}.out"; }
  done
  for block in "$dir"/*.expected; do
    diff -u --label "$page, block $(basename "${block%.expected}")" --label "what it prints" \
      <(steady "$block") <(steady "${block%.expected}.out") || failed=1
  done
  if [ -n "${KEEP:-}" ]; then mkdir -p "$KEEP" && cp "$dir"/*.sh "$dir"/*.out "$KEEP"; fi
  rm -rf "$dir"
  [ "$failed" = 0 ] && echo "$page: works"
  return "$failed"
}

[ $# -gt 0 ] || set -- "$root"/README.md "$root"/docs/{queries,key-values,security}.md "$root"/docs/patterns/*.md
status=0
for page in "$@"; do try "$page" || status=1; done
exit "$status"
