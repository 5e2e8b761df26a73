// SPDX-License-Identifier: Apache-2.0
//
// From a multiboot loader (32 bits, no paging) to main() in 64 bits with all vector registers on.
// The first GiB is mapped to itself.

    .set MULTIBOOT_MAGIC, 0x1BADB002
    .set MULTIBOOT_FLAGS, 0
    .section .multiboot, "a"
    .align 4
    .long MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

    .bss
    .align 4096
level4: .skip 4096
level3: .skip 4096
level2: .skip 4096
    .skip 1 << 20
stack_end:

    .section .rodata
    .align 8
segments:
    .quad 0, 0x00AF9A000000FFFF, 0x00CF92000000FFFF  // none, code of 64 bits, data
segments_end:
segments_pointer:
    .word segments_end - segments - 1
    .long segments

    .text
    .code32
    .globl _start
_start:
    cli
    mov $stack_end, %esp
    mov $level3 + 3, %eax  // present, writable
    mov %eax, level4
    mov $level2 + 3, %eax
    mov %eax, level3
    xor %ecx, %ecx
1:  mov %ecx, %eax
    shl $21, %eax
    or $0x83, %eax  // 2 MiB, present, writable
    mov %eax, level2(, %ecx, 8)
    inc %ecx
    cmp $512, %ecx
    jne 1b
    mov %cr4, %eax
    or $0x40620, %eax  // PAE, OSFXSR, OSXMMEXCPT, OSXSAVE
    mov %eax, %cr4
    mov $level4, %eax
    mov %eax, %cr3
    mov $0xC0000080, %ecx  // EFER: LME
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    and $~0xC, %eax  // no EM, no TS
    or $0x80000003, %eax  // PG, MP, PE
    mov %eax, %cr0
    lgdt segments_pointer
    ljmp $8, $start64

    .code64
start64:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %ecx, %ecx
    xor %edx, %edx
    mov $0xE7, %eax  // XCR0: x87, XMM, YMM, masks, ZMM
    xsetbv
    call main
    call power_off
1:  hlt
    jmp 1b
    .section .note.GNU-stack, "", @progbits
