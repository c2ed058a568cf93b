#pragma once

#include "kernels/cuda/device.h"

// Tensor cores (sm_80): a warp multiplies two small matrices that lie in its lanes' registers, bf16 two to a register,
// the lower column in the lower half. REQUIRES: all lanes are here.

namespace braid::gpu {

// D (16, 8) += A (16, 16) B (16, 8), in float, in an order of k that the hardware has chosen. Lane l holds, with
// g = l / 4 and c = 2 (l % 4):
//   a[0], a[1]: A[g], A[g + 8] at columns c, c + 1;  a[2], a[3]: the same rows at c + 8, c + 9
//   b[0]: B at rows c, c + 1 of column g;  b[1]: rows c + 8, c + 9
//   d[0], d[1]: D[g] at columns c, c + 1;  d[2], d[3]: D[g + 8]
__device__ __forceinline__ void MmaBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                        internal::Here at = internal::Here()) {
#ifdef BRAID_CUDA_EMULATOR
  simt::MmaBf16(d, a, b, at);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// D (16, 8) += A (16, 32) B (32, 8), of e4m3 bytes (sm_89; others trap). Lane l holds, with g = l / 4 and c = 4 (l %
// 4):
//   a[0], a[1]: A[g], A[g + 8] at columns c to c + 3, the lowest in the lowest byte;  a[2], a[3]: at c + 16 to c + 19
//   b[0]: B at rows c to c + 3 of column g;  b[1]: rows c + 16 to c + 19
//   d as above
__device__ __forceinline__ void MmaE4M3(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                        internal::Here at = internal::Here()) {
#ifdef BRAID_CUDA_EMULATOR
  simt::MmaE4M3(d, a, b, at);
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 890
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  asm volatile("trap;");
#endif
}

// Four matrices of 8 rows of 8 bf16 from shared memory. Lane 8 i + r gives the address of row r of matrix i, a
// multiple of 16 bytes. registers[i] of lane l are columns 2 (l % 4) and the next of row l / 4 of matrix i: four such
// are A of MmaBf16 if matrices 0 to 3 are its top left, bottom left, top right, bottom right.
__device__ __forceinline__ void LoadMatrices(uint32_t (&registers)[4], const void* row,
                                             internal::Here at = internal::Here()) {
#ifdef BRAID_CUDA_EMULATOR
  simt::LoadMatrices<false>(registers, row, at);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}

// The same of the matrices transposed: rows 2 (l % 4) and the next of column l / 4. Two of them are B of MmaBf16.
__device__ __forceinline__ void LoadMatricesTransposed(uint32_t (&registers)[4], const void* row,
                                                       internal::Here at = internal::Here()) {
#ifdef BRAID_CUDA_EMULATOR
  simt::LoadMatrices<true>(registers, row, at);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}

}  // namespace braid::gpu
