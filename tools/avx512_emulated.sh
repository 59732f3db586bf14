#!/usr/bin/env bash
# Runs tests of vector code on an emulated processor with AVX-512, for machines whose
# processor lacks it. Usage, on Debian or a derivative, as root if packages have to be installed:
#
#   tools/avx512_emulated.sh [TEST FILTER...]
#
# Without filters: all tests of vector code. Boots Debian's kernel in Bochs with only the test
# binaries to run, prints the console output, and succeeds if all tests pass.
set -euo pipefail
cd "$(dirname "$0")/.."
filters=("$@")
((${#filters[@]})) || filters=(every_instruction_set functions::tests::special random::tests reference::tests)

packages=(bochs bochs-term bochsbios vgabios busybox-static cpio grub-common grub-pc-bin mtools xorriso)
dpkg -s "${packages[@]}" >/dev/null 2>&1 || apt-get install -y --no-install-recommends "${packages[@]}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The test binaries of zoo-engine-simd and of the population engine, without shared libraries.
target=x86_64-unknown-linux-gnu
mapfile -t tests < <(RUSTFLAGS="-C target-feature=+crt-static" \
    cargo test -p zoo-engine-simd -p zoo-engine-population --lib --release --no-run --target $target --message-format json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')

# The kernel.
kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
(cd "$work" && apt-get download -q "$kernel" && dpkg -x ./*.deb kernel)

# Its root file system.
mkdir -p "$work"/{root/{bin,proc,tmp},image/boot/grub}
cp /bin/busybox "$work/root/bin/"
((${#tests[@]} == 2)) # One for each crate.
for i in "${!tests[@]}"; do
    strip -o "$work/root/tests-$i" "${tests[i]}"
done
cat >"$work/root/init" <<END
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
for filter in ${filters[*]}; do
    for tests in /tests-*; do
        /bin/busybox grep -q avx512dq /proc/cpuinfo && \$tests --include-ignored --test-threads=1 \$filter || failed=1
    done
done
echo "ALL DONE, failed: \${failed:-0}"
/bin/busybox sleep 1
/bin/busybox poweroff -f
END
chmod +x "$work/root/init"

# XSAVES and protection keys, which Bochs 2.7 describes inconsistently, would make Linux disable
# all vector instructions.
options="console=ttyS0,115200 loglevel=1 mitigations=off nokaslr tsc=reliable nosmp noapic panic=-1"
cat >"$work/image/boot/grub/grub.cfg" <<END
set timeout=0
linux /boot/vmlinuz $options clearcpuid=pku,xsaves,xsavec
initrd /boot/initrd
boot
END
cp "$work"/kernel/boot/vmlinuz-* "$work/image/boot/vmlinuz"
(cd "$work/root" && find . | cpio -o -H newc --quiet) >"$work/image/boot/initrd"
grub-mkrescue -o "$work/disc" "$work/image" 2>"$work/mkrescue.log"

cat >"$work/bochsrc" <<END
display_library: term
cpu: model=corei7_skylake_x, ips=100000000, reset_on_triple_fault=0
memory: guest=512, host=512
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
ata0-master: type=cdrom, path=$work/disc, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/console
clock: sync=none
speaker: enabled=0
log: $work/bochs.log
panic: action=fatal
error: action=ignore
END
# Debian's Bochs stops in its debugger; powering off is a panic to it.
echo c >"$work/debugger"
touch "$work/console"
tail -f "$work/console" &
tail=$!
TERM=xterm script -qfc "bochs -q -f $work/bochsrc -rc $work/debugger" "$work/screen" </dev/null >"$work/script.log" 2>&1 || true
sleep 1
kill $tail
grep -q '^ALL DONE, failed: 0' "$work/console"
