#!/usr/bin/env bash
# Check the kernels of AVX-512 on a machine without AVX-512: tests/emulated/avx512.sh. They are linked with checks.cpp into a program
# that needs no system, and Bochs, an emulator of the whole machine, runs it from a CD. Takes some three minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
needed="bochs bochs-term isolinux syslinux-common xorriso"
for tool in bochs xorriso; do
    command -v $tool >/dev/null || { echo "this needs an emulator: apt-get install $needed" >&2; exit 1; }
done
build=build/emulated_avx512
rm -rf $build
mkdir -p $build/cd/isolinux
common="-std=c++20 -O2 -Icore -ffreestanding -fno-exceptions -fno-rtti -fno-stack-protector -fno-pic -fno-threadsafe-statics
    -fno-asynchronous-unwind-tables -fcf-protection=none -mno-red-zone -Wno-uninitialized -Wno-maybe-uninitialized"
isa=$(grep -o -- '"-mavx2;[^"]*avx512[^"]*"' CMakeLists.txt | tr -d '"' | tr ';' ' ')
objects=()
compile() {  # FLAGS FILE...
    for file in "${@:2}"; do
        ${CXX:-g++} $common $1 -c "$file" -o "$build/$(basename "$file").o"
        objects+=("$build/$(basename "$file").o")
    done
}
compile "" core/{rans16_scalar,planes,frequency_table,token_coder,crc32}.cpp tests/emulated/system.cpp tests/emulated/boot.S
compile "-DCHECKED=AVX512_KERNELS" tests/emulated/checks.cpp
compile "-include tests/emulated/bochs.hpp $isa" core/{rans16_avx512,token_coder_avx512,crc32_avx512,rans32_avx2,token_coder_avx2}.cpp
ld -nostdlib -static --no-warn-rwx-segments -T tests/emulated/link.ld -o $build/checks.elf "${objects[@]}"
objcopy -O elf32-i386 $build/checks.elf $build/cd/checks.elf  # what the loader takes; the code in it is of 64 bits

cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/{ldlinux,mboot,libcom32}.c32 $build/cd/isolinux
printf 'DEFAULT checks\nLABEL checks\n KERNEL mboot.c32\n APPEND /checks.elf\n' >$build/cd/isolinux/isolinux.cfg
xorriso -as mkisofs -quiet -o $build/cd.iso -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 \
    -boot-info-table $build/cd 2>/dev/null
cat >$build/bochsrc <<END
cpu: model=corei7_icelake_u, ips=100000000
memory: guest=64, host=64
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
ata0-master: type=cdrom, path=$build/cd.iso, status=inserted
boot: cdrom
port_e9_hack: enabled=1
display_library: term
plugin_ctrl: sb16=0, speaker=0, gameport=0, parallel=0
panic: action=fatal
log: $build/bochs.log
END
echo continue >$build/commands
# Bochs wants a terminal, which script gives it, and ends with an error when the program turns the machine off.
TERM=xterm script -qfc "bochs -q -rc $build/commands -f $build/bochsrc" /dev/null </dev/null >$build/output 2>&1 || true
tr -d '\r' <$build/output | sed -n '/^avx512/p; /^PASSED/p; /^FAILED/p; /^[a-z0-9]*: /p'
grep -q '^PASSED' $build/output
