// The instructions that C++ has no word for: asynchronous copies, matrix fragments, dependent launches.
// Not here: what they are used for (decode.cuh).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace pkv::cuda {

#ifdef __CUDA_ARCH__
inline constexpr std::int32_t kArch = __CUDA_ARCH__;
#else
inline constexpr std::int32_t kArch = 900;  // the host's pass: anything
#endif

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// K and V are read once: their lines leave the L2 first.
__device__ __forceinline__ std::uint64_t evict_first_policy() {
  std::uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

/// 16 bytes to shared memory; only the first `bytes` (0 or 16) are read, the rest become zero.
__device__ __forceinline__ void copy_async_16(std::uint32_t to, const void* from, std::uint32_t bytes,
                                              std::uint64_t policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(to), "l"(from), "r"(bytes),
               "l"(policy)
               : "memory");
}

/// kBytes, 4 or 16, likewise.
template <int kBytes>
__device__ __forceinline__ void copy_async(std::uint32_t to, const void* from, std::uint32_t bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(to), "l"(from), "r"(bytes), "n"(kBytes)
               : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ void load_matrices(std::uint32_t (&fragment)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&fragment)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(address)
               : "memory");
}

/// Transposes an 8 x 8 matrix of 16-bit elements held by a warp.
__device__ __forceinline__ std::uint32_t transpose_matrix(std::uint32_t fragment) {
  std::uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(fragment));
  return transposed;
}

template <typename T>
struct Element;

template <>
struct Element<__half> {
  static constexpr int kBits = 10;  // of the fraction
  using Pair = __half2;
  static __device__ __forceinline__ Pair round(float a, float b) { return __floats2half2_rn(a, b); }
  static __device__ __forceinline__ float2 widen(Pair pair) { return __half22float2(pair); }
  static __device__ __forceinline__ float widen(__half value) { return __half2float(value); }
  static __device__ __forceinline__ void mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};

template <>
struct Element<__nv_bfloat16> {
  static constexpr int kBits = 7;
  using Pair = __nv_bfloat162;
  static __device__ __forceinline__ Pair round(float a, float b) { return __floats2bfloat162_rn(a, b); }
  static __device__ __forceinline__ float2 widen(Pair pair) { return __bfloat1622float2(pair); }
  static __device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
  static __device__ __forceinline__ void mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};

template <>
struct Element<float> {
  static __device__ __forceinline__ float widen(float value) { return value; }
};

template <typename Pair>
__device__ __forceinline__ std::uint32_t bits_of(const Pair& pair) {
  static_assert(sizeof(Pair) == 4);
  return reinterpret_cast<const std::uint32_t&>(pair);
}

/// 2^x, relative error 2^-22; exp2(-inf) = 0.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Programmatic dependent launch: lets the next kernel start; waits until the kernel ahead has finished
/// and its writes are visible. Both do nothing in launches without the attribute.
__device__ __forceinline__ void start_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Words that other blocks write or read meanwhile: each is seen whole, in no order.
__device__ __forceinline__ float4 load_relaxed_4(const float* from) {
  float4 value;
  asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
               : "l"(from)
               : "memory");
  return value;
}
__device__ __forceinline__ float2 load_relaxed_2(const float* from) {
  float2 value;
  asm volatile("ld.relaxed.gpu.global.v2.f32 {%0, %1}, [%2];" : "=f"(value.x), "=f"(value.y) : "l"(from) : "memory");
  return value;
}
__device__ __forceinline__ void store_relaxed(float* to, const float4& value) {
  asm volatile("st.relaxed.gpu.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(value.x), "f"(value.y),
               "f"(value.z), "f"(value.w)
               : "memory");
}
__device__ __forceinline__ void store_relaxed(float* to, const float2& value) {
  asm volatile("st.relaxed.gpu.global.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(value.x), "f"(value.y) : "memory");
}

/// A barrier among the threads of one of kGroups groups. Ids are constants: of one in a register the compiler
/// reserves all 16, and racecheck loses sight of __syncthreads (id 0).
template <int kGroups, int kThreads>
__device__ __forceinline__ void barrier_of_group(int group) {
  if (group == kGroups - 1) {
    asm volatile("bar.sync %0, %1;" ::"n"(kGroups), "n"(kThreads) : "memory");
  } else if constexpr (kGroups > 1) {
    barrier_of_group<kGroups - 1, kThreads>(group);
  }
}

}  // namespace pkv::cuda
