#!/usr/bin/env bash
# Checks the examples in an empty folder: what make builds, rebuilds and does not rebuild.
#   examples/check.sh FOLDER        # the zoo binaries on PATH, numpy and safetensors for python3
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" && cd "$1"
cp "$here/small.toml" .
run() { make -s -f "$here/Makefile" "$@"; }
sum() { (cd "$1" && find . -type f | sort | xargs sha256sum) | sha256sum; }
expect() { [ "$2" = "$3" ] || { echo "examples: $1: expected $3, found $2" >&2; exit 1; }; }

run
first=$(sum archives)
expect "a second make" "$(make -n -f "$here/Makefile")" "make: Nothing to be done for 'all'."

sleep 1
touch small.toml
run > log
expect "stages that found their outputs up to date" "$(grep -c 'up to date' log)" 5
expect "a touched manifest gives the same archives" "$(sum archives)" "$first"
expect "a make after that" "$(make -n -f "$here/Makefile")" "make: Nothing to be done for 'all'."

sleep 1
before=$(sum zoos/small/models)
sed -i 's/^sparsity = 0.8/sparsity = 0.8\nscope = "layer"/' small.toml
run
expect "other twins leave their parents alone" "$(sum zoos/small/models)" "$before"
[ "$(sum archives)" != "$first" ] || { echo "examples: the twins were not rebuilt" >&2; exit 1; }

rm -rf zoos/small-magnitude-80 archives/small-magnitude-80* small-magnitude-80.verified
run CUSTOM=1
grep -q random-by-magnitude zoos/small-magnitude-80/models/000000/params.json
echo "examples: ok"
