#!/bin/sh
# Writes an assembly file that embeds compiled kernels and the table that src/device/cuda/images.h declares.
#
#     tools/embed_cuda.sh OUT.S FILE...
#
# A FILE is named NAME.sm_90a.cubin or NAME.compute_75.ptx. No files: an empty table.
set -eu
out=$1
shift
{
    printf '    .section .rodata\n'
    i=0
    for file; do
        base=$(basename "$file")
        printf '    .balign 64\nimage_%d:\n    .incbin "%s"\nimage_%d_end:\n    .byte 0\n' "$i" "$file" "$i"
        printf 'image_%d_name:\n    .asciz "%s"\n' "$i" "${base%%.*}"
        i=$((i + 1))
    done
    printf '    .section .data.rel.ro,"aw"\n    .balign 8\n    .globl reef_cuda_images\n'
    printf '    .type reef_cuda_images, %%object\nreef_cuda_images:\n'
    i=0
    for file; do
        base=$(basename "$file")
        target=${base#*.}
        arch=$(printf '%s' "$target" | sed 's/^[a-z]*_\([0-9]*\).*/\1/')
        case $target in *.ptx) ptx=1 ;; *) ptx=0 ;; esac
        printf '    .quad image_%d_name, image_%d, image_%d_end\n    .long %s, %s\n' "$i" "$i" "$i" "$arch" "$ptx"
        i=$((i + 1))
    done
    printf '    .quad 0, 0, 0\n    .long 0, 0\n    .size reef_cuda_images, . - reef_cuda_images\n'
    printf '    .section .note.GNU-stack,"",%%progbits\n'
} >"$out"
