#!/usr/bin/env bash
# Packing against `tar | pigz -6`, and verifying against sha256sum, tar and another sha256sum, on a
# zoo of noise of about 220 MB; best of three, files in the page cache.
#   benches/archive.sh [MODELS]        # needs pigz
set -euo pipefail
cd "$(dirname "$0")/.."
models=${1:-430}
cargo build -q --release --workspace
cargo build -q --release -p zoo-pack --example synthetic_zoo
bin=$PWD/target/release
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"$bin/examples/synthetic_zoo" noise "$models"
size=$(du -sm noise | cut -f1)
threads=$(nproc)

# Seconds of the fastest of three runs.
best() {
    local best=
    for _ in 1 2 3; do
        local start end
        start=$(date +%s%N)
        bash -euc "$1"
        end=$(date +%s%N)
        local took=$((end - start))
        if [ -z "$best" ] || [ "$took" -lt "$best" ]; then best=$took; fi
    done
    awk "BEGIN { printf \"%.3f\", $best / 1e9 }"
}
ratio() { awk "BEGIN { printf \"%.2f\", $1 / $2 }"; }

tar_pigz=$(best "tar c noise | pigz -6 -p $threads > pigz.tar.gz")
pack=$(best "rm -f noise.tar.gz*; $bin/zoo-pack -q noise -o noise.tar.gz --threads $threads")
by_hand=$(best "rm -rf u && mkdir u && sha256sum -c --quiet noise.tar.gz.sha256 && tar xzf noise.tar.gz -C u && cd u/noise && sha256sum -c --quiet SHA256SUMS")
verify=$(best "$bin/zoo-verify -q noise.tar.gz --threads $threads")

echo "$(date +%F), $(lscpu | sed -n 's/^Model name: *//p'), $threads threads, zoo of $size MB ($models models)"
printf '%-52s %8s %6s\n' "" seconds ratio
printf '%-52s %8s\n' "tar c | pigz -6" "$tar_pigz"
printf '%-52s %8s %6s\n' "zoo-pack" "$pack" "$(ratio "$tar_pigz" "$pack")"
printf '%-52s %8s\n' "sha256sum -c, tar xzf, sha256sum -c" "$by_hand"
printf '%-52s %8s %6s\n' "zoo-verify, levels 1 to 4" "$verify" "$(ratio "$by_hand" "$verify")"
printf '%-52s %8s\n' "bytes: pigz, zoo-pack" "$(stat -c %s pigz.tar.gz) $(stat -c %s noise.tar.gz)"
