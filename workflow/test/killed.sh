#!/usr/bin/env bash
# The same zoo from one process, and from the workflow while jobs are killed: equal archives.
#
#   workflow/test/killed.sh FOLDER PROFILE [OPTION...]
#
# PROFILE is a folder of workflow/profiles, OPTIONs are Snakemake's. Needs Snakemake and the stages on the PATH.
set -euo pipefail
work=${1:?name an empty folder}
profile=${2:?name a profile}
shift 2
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$work"
work=$(cd "$work" && pwd)
make_zoo() {
    snakemake -s "$here/Snakefile" --profile "$here/profiles/$profile" --directory "$work" "$@" \
        --config manifests="$work/zoo.toml" root="$work/many" shards=8 plan=no
}
cat > "$work/zoo.toml" <<'TOML'
[zoo]
name = "killed"
[data]
dataset = "digits"
train = 1000
val = 297
[model]
architecture = "cnn-s"
[grid]
activation = ["tanh", "relu"]
init = "kaiming_uniform"
optimizer = ["adam", "sgd"]
learning-rate = 1e-3
seed = { range = [1, 32] }
[train]
epochs = 10
[[sparsify]]
method = "magnitude"
sparsity = 0.8
epochs = 3
TOML
zoo run "$work/zoo.toml" --root "$work/one" -q

# Kills one job every half second, until six are killed.
(
    for _ in $(seq 6); do
        until pid=$(pgrep -f -o "^zoo-(train|sparsify) .*$work/many.*--shard"); do sleep 0.1; done
        kill -KILL "$pid" 2>/dev/null && echo killed >> "$work/kills"
        sleep 0.5
    done
) &
killer=$!
trap 'kill $killer 2>/dev/null || true' EXIT
make_zoo "$@" > "$work/log" 2>&1 || { tail -50 "$work/log"; exit 1; }

for archive in "$work"/one/archives/*.tar.gz; do
    cmp "$archive" "$work/many/archives/$(basename "$archive")"
done
[ "$(wc -l < "$work/kills")" -ge 3 ] || { echo "too few jobs were killed to tell"; exit 1; }
again=$(make_zoo "$@" -n 2>&1)
grep -q "Nothing to be done" <<< "$again" || { echo "$again"; exit 1; }
echo "$(wc -l < "$work/kills") jobs killed: equal archives"
