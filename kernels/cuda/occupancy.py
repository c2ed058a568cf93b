"""How many blocks of a kernel an SM runs at once: what registers, shared memory and places for warps leave room for.

The rules are those of NVIDIA's cuda_occupancy.h; tests/cuda_registers_test.py compares them with it.
"""
import re

WARPS, BLOCKS, REGISTERS = 64, 32, 65536  # of an SM, on all of these
SHARED = {"sm_80": 164 << 10, "sm_90a": 228 << 10, "sm_100a": 228 << 10}  # bytes of an SM
RESERVED = 1 << 10  # of each block's, for the system

# Shared memory that a launch asks for beside what nvcc knows of, in bytes, for LFM2-8B-A1B: 2,048 columns in slices of
# 64, 32 experts, a vocabulary of 65,536.
DYNAMIC = [(r"WideLinearKernel<\w+, Bf16Stages>", 3 * (128 + 128) * 64 * 2),
           (r"WideLinearKernel<\w+, Fp8Stages>", 3 * 128 * 64 * (2 + 1) + 2048 // 128 * 128 * 2),
           (r"WideFp8ByFp8LinearKernel<\w+>", 3 * (128 + 128) * 128),
           (r"GroupRowsKernel<(\d+)>", lambda warps: (int(warps) + 1) * 32 * 4),
           (r"DrawTokensKernel<true>", 2048 * 8), (r"DrawTokensKernel<false>", 65536 // 256 * 8)]


def dynamic(kernel):
    for pattern, size in DYNAMIC:
        match = re.fullmatch(pattern, kernel)
        if match:
            return size(*match.groups()) if callable(size) else size
    return 0


def round_up(n, unit):
    return (n + unit - 1) // unit * unit


def blocks(arch, threads, registers, shared):
    """Registers are given out to a warp in units of 8 for each of its 32 threads, by one of four parts of the SM."""
    warps = (threads + 31) // 32
    by_warps = WARPS // warps
    by_registers = REGISTERS // 4 // (32 * round_up(registers, 8)) * 4 // warps
    by_shared = SHARED[arch] // round_up(shared + RESERVED, 128)
    return min(BLOCKS, by_warps, by_registers, by_shared)
