// What depth.cu asks of a GPU, as PTX for compute capability 9.0 and newer. tests/engine/emulated_gpu has the same for a
// CPU, so that depth.cu is tested as it is.
#pragma once

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define DEVICE __device__ __forceinline__
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads, 1)
#define CONSTANT const __grid_constant__
#define SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]

DEVICE int thread_index() { return threadIdx.x; }
DEVICE int block_index() { return blockIdx.x; }

// ---- arithmetic

DEVICE float bits_float(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 float_bits(float x) { return __float_as_uint(x); }
DEVICE float rounded_product(float a, float b) { return __fmul_rn(a, b); }  // never contracted with a sum
DEVICE float rounded_sum(float a, float b) { return __fadd_rn(a, b); }
DEVICE float inverse_root(float x) { return rsqrtf(x); }

// Two floats as bfloat16, the first in the low half.
DEVICE u32 pack(float low, float high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

// c += a b of m16n8k16, where rows 8 to 15 of a are zeros.
DEVICE void mma(float (&c)[4], u32 a0, u32 a2, u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(0), "r"(a2), "r"(0), "r"(b0), "r"(b1));
}

// ---- threads of a warp and of a block

DEVICE void sync_warp() { __syncwarp(); }
DEVICE void sync_block() { __syncthreads(); }
DEVICE void sync_consumers() { asm volatile("bar.sync 1, 256;" ::: "memory"); }
DEVICE float from_lane(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
DEVICE int from_lane(int x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
DEVICE int warp_sum(int x) { return __reduce_add_sync(0xffffffffu, x); }

// ---- memory

// From L2 and never from L1: other blocks write what is read. Volatile, so that two loads stay two.
DEVICE uint4 load(const void* from) {
    uint4 x;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(from)
                 : "memory");
    return x;
}
DEVICE uint4 load_constant(const void* from) { return __ldg(static_cast<const uint4*>(from)); }

DEVICE void add_release(u32* to) { asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(to) : "memory"); }
DEVICE u32 add_acquire_release(u32* to) {
    u32 before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(to) : "memory");
    return before;
}
DEVICE u32 load_acquire(const u32* from) {
    u32 x;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(from) : "memory");
    return x;
}
DEVICE void add_bits(u32* to, u32 bits) { atomicOr(to, bits); }

// ---- copies into shared memory, and the barriers in it that count their bytes

DEVICE u32 shared_address(const void* at) { return static_cast<u32>(__cvta_generic_to_shared(at)); }
DEVICE void barrier_init(u64* barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// The initial values become visible to copies; a barrier of the block has to follow.
DEVICE void barriers_initialized() {
    asm volatile("fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;" ::: "memory");
}
DEVICE void barrier_arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
DEVICE void barrier_expect(u64* barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}
DEVICE bool barrier_passed(u64* barrier, u32 parity) {
    u32 passed;
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
        : "=r"(passed) : "r"(shared_address(barrier)), "r"(parity) : "memory");
    return passed != 0;
}
// Weights are read once a step and do not fit into L2, so they are the first to leave it.
DEVICE void copy_weights(void* to, const void* from, u32 bytes, u64* barrier) {
    u64 policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
            shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
        : "memory");
}

// ---- time

DEVICE u64 nanoseconds() {
    u64 now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    return now;
}
DEVICE void trap() { __trap(); }
