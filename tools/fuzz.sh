#!/usr/bin/env bash
# Runs every fuzz target for SECONDS each, two at a time: tools/fuzz.sh SECONDS [TARGET...]
#
# The Rust targets are built by `cargo fuzz` (cargo install cargo-fuzz) with the stable compiler; the Python package's
# readers need a Python with atheris, PyTorch and the package; $PYTHON names it. New inputs are added to fuzz/corpus;
# an input that crashes is left in fuzz/artifacts, and the script fails.
set -euo pipefail
seconds=${1:?usage: tools/fuzz.sh SECONDS [TARGET...]}
shift
cd "$(dirname "$0")/../fuzz"
export RUSTC_BOOTSTRAP=1 CARGO_INCREMENTAL=0
mapfile -t targets < <([ $# -gt 0 ] && printf '%s\n' "$@" || { cargo fuzz list; grep -oP '^def read_\K\w+' readers.py | sed 's/^/readers-/'; })

cargo fuzz build --sanitizer none
programs=target/$(rustc -vV | sed -n 's/^host: //p')/release

one() {
    local target=$1 program=("$programs/$1") options=(-max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096)
    if [[ $target = readers-* ]]; then
        program=("${PYTHON:-python3}" readers.py "${target#readers-}")
    fi
    mkdir -p "corpus/$target" "artifacts/$target"
    if "${program[@]}" "${options[@]}" -artifact_prefix="artifacts/$target/" "corpus/$target" "seeds/$target" \
        >"artifacts/$target/log" 2>&1; then
        printf '%-20s %s\n' "$target" "$(grep -oP '^#\K\d+(?=\s+DONE)' "artifacts/$target/log") executions"
    else
        printf '%-20s CRASHED\n' "$target"
        grep -vP '^#\d' "artifacts/$target/log" | tail -n 30
        return 1
    fi
}
export -f one
export seconds programs
printf '%s\n' "${targets[@]}" | xargs -P "${JOBS:-2}" -I{} bash -c 'one {}'
