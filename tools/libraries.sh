#!/usr/bin/env bash
# Checks that no library depends on the command line, and that zoo-engine depends on no device.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0
# forbidden CRATE DEPENDENCIES: says which of the crates it depends on without its default features.
forbidden() {
    local found
    found=$(cargo tree --locked --package "$1" --no-default-features --edges normal --prefix none --format '{p}' |
        { grep -oE "^($2) " || true; } | sort -u | tr '\n' ' ')
    if [ -n "$found" ]; then
        echo "$1 must not depend on: $found"
        failed=1
    fi
}
for manifest in zoo-{model,engine,data,train,sparsify,pack,verify,analyze} engines/{simd,cuda,population,dfdx}; do
    crate=$(sed -n 's/^name = "\(.*\)"/\1/p' "$manifest/Cargo.toml" | head -n 1)
    forbidden "$crate" "clap|indicatif|signal-hook|zoo-cli"
done
forbidden zoo-engine "cudarc|dfdx|libloading|zoo-engine-.*"
exit $failed
