// The primitives of engine/model/persistent for a CPU: enough of a GPU to run its kernels from the same source.
//
// Each thread is a fiber, all of them on one thread of the operating system. Warps take turns in an order of chance, so
// that a missing barrier shows. What a warp does as one waits for its 32 lanes. A copy into shared memory fills its target
// with NaN at once and arrives some turns later. Memory is sequentially consistent: missing fences do not show.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
struct uint4 {
    u32 x, y, z, w;
};

#define DEVICE static inline
#define KERNEL(threads) static void
#define CONSTANT const
#define SHARED_MEMORY(name) unsigned char* name = emulated::current->block->memory

namespace emulated {

struct Copy {
    void* to;
    const void* from;
    u32 bytes;
    u64* barrier;
    int delay;  // turns
};
struct Warp {
    u64 arrived = 0;
    u64 words[2][32][4];  // of the lanes, for two operations in turn
};
struct Block {
    unsigned char* memory;
    int index;
    u64 all = 0, consumers = 0;  // arrivals at the block's barriers
    std::vector<Warp> warps;
    std::vector<Copy> copies;
};
struct Fiber {
    Block* block;
    Warp* warp;
    int index;
    ucontext_t start;
    jmp_buf place;
    bool begun = false, done = false;
    const u64* counter = nullptr;  // runnable once it has reached `target`
    u64 target = 0, operations = 0, all = 0, consumers = 0;
};

static Fiber* current;
static ucontext_t origin;
static jmp_buf scheduler;
static std::function<void()> body;
static u64 progress;
static u32 chance_state;

static u32 chance() { return (chance_state = chance_state * 1664525u + 1013904223u) >> 16; }
[[noreturn]] static void fail(const char* what) {
    fprintf(stderr, "emulated GPU: %s\n", what);
    abort();
}
static void yield() {
    if (!_setjmp(current->place)) _longjmp(scheduler, 1);
}
static void wait_for(const u64& counter, u64 target) {
    ++progress;
    if (counter >= target) return;
    current->counter = &counter;
    current->target = target;
    yield();
}
// Every lane gives four words; then all may read those of all.
static u64 (*exchange(u64 a, u64 b = 0, u64 c = 0, u64 d = 0))[4] {
    Fiber* fiber = current;
    u64(*words)[4] = fiber->warp->words[fiber->operations & 1];
    u64* mine = words[fiber->index & 31];
    mine[0] = a, mine[1] = b, mine[2] = c, mine[3] = d;
    ++fiber->warp->arrived;
    wait_for(fiber->warp->arrived, ++fiber->operations * 32);
    return words;
}
static void run_body() {
    body();
    current->done = true;
    ++progress;
    for (;;) yield();
}
static void resume(Fiber& fiber) {
    current = &fiber;
    if (_setjmp(scheduler)) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    swapcontext(&origin, &fiber.start);
}

// mbarrier's 64 bits
struct Mbarrier {
    int bytes;
    unsigned char pending, arrivals, phase, unused;
};
static Mbarrier& mbarrier(u64* barrier) { return *reinterpret_cast<Mbarrier*>(barrier); }
static void complete(Mbarrier& barrier) {
    if (barrier.pending || barrier.bytes) return;
    barrier.phase ^= 1;
    barrier.pending = barrier.arrivals;
    ++progress;
}
static void deliver(Block& block) {
    for (size_t i = 0; i < block.copies.size();) {
        Copy& copy = block.copies[i];
        ++progress;
        if (copy.delay-- > 0) {
            ++i;
            continue;
        }
        memcpy(copy.to, copy.from, copy.bytes);
        mbarrier(copy.barrier).bytes -= copy.bytes;
        complete(mbarrier(copy.barrier));
        block.copies.erase(block.copies.begin() + i);
    }
}

// Returns an empty text, or what went wrong.
static const char* run(int blocks, int threads, int shared_bytes, u32 seed, std::function<void()> kernel) {
    constexpr size_t stack = 32768;
    body = kernel, chance_state = seed;
    const size_t count = static_cast<size_t>(blocks) * threads;
    auto* stacks = static_cast<unsigned char*>(
        mmap(nullptr, count * stack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks == MAP_FAILED) return "no memory for stacks";
    std::vector<Block> all(blocks);
    std::vector<Fiber> fibers(count);
    for (int b = 0; b < blocks; ++b) {
        all[b].index = b;
        all[b].warps.resize(threads / 32);
        all[b].memory = static_cast<unsigned char*>(aligned_alloc(128, (shared_bytes + 127) / 128 * 128));
        memset(all[b].memory, 0xff, shared_bytes);
        for (int i = 0; i < threads; ++i) {
            Fiber& fiber = fibers[static_cast<size_t>(b) * threads + i];
            fiber.block = &all[b], fiber.warp = &all[b].warps[i / 32], fiber.index = i;
            getcontext(&fiber.start);
            fiber.start.uc_stack = {stacks + (static_cast<size_t>(b) * threads + i) * stack, 0, stack};
            fiber.start.uc_link = nullptr;
            makecontext(&fiber.start, run_body, 0);
        }
    }
    size_t left = count;
    const char* fault = "";
    for (int idle = 0; left && !*fault;) {
        const u64 before = progress;
        const u32 first = chance();
        for (int b = 0; b < blocks; ++b) {
            Block& block = all[(b + first) % blocks];
            for (int warp = 0; warp < threads / 32; ++warp) {
                if (chance() % 4 == 0) continue;
                Fiber* lanes = &fibers[static_cast<size_t>(block.index) * threads + warp * 32];
                for (bool again = true, spun = false; again; spun = true) {  // for as long as lanes wait for one another
                    again = false;
                    for (int lane = 0; lane < 32; ++lane) {
                        Fiber& fiber = lanes[lane];
                        if (fiber.done || (fiber.counter ? *fiber.counter < fiber.target : spun)) continue;
                        fiber.counter = nullptr;
                        resume(fiber);
                        left -= fiber.done;
                        again = again || fiber.counter;
                    }
                }
            }
            deliver(block);
        }
        idle = progress == before ? idle + 1 : 0;
        if (idle > 100) fault = "all threads wait for one another";
    }
    for (Block& block : all) {
        if (!*fault && !block.copies.empty()) fault = "a block has ended before its copies";
        free(block.memory);
    }
    munmap(stacks, count * stack);
    return fault;
}

}  // namespace emulated

DEVICE int thread_index() { return emulated::current->index; }
DEVICE int block_index() { return emulated::current->block->index; }

DEVICE float bits_float(u32 bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
DEVICE u32 float_bits(float x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    return bits;
}
DEVICE float rounded_product(float a, float b) { return a * b; }  // compiled without contraction
DEVICE float rounded_sum(float a, float b) { return a + b; }
DEVICE float inverse_root(float x) { return 1.f / sqrtf(x); }
DEVICE u32 pack(float low, float high) {
    const auto half = [](float x) {
        const u32 bits = float_bits(x);
        return x != x ? 0x7fffu : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    };
    return half(low) | half(high) << 16;
}

DEVICE void sync_warp() { emulated::exchange(0); }
DEVICE void sync_block() {
    emulated::Fiber& fiber = *emulated::current;
    ++fiber.block->all;
    emulated::wait_for(fiber.block->all, ++fiber.all * fiber.block->warps.size() * 32);
}
DEVICE void sync_consumers() {
    emulated::Fiber& fiber = *emulated::current;
    ++fiber.block->consumers;
    emulated::wait_for(fiber.block->consumers, ++fiber.consumers * 256);
}
DEVICE float from_lane(float x, int mask) {
    const int lane = thread_index() & 31;
    return bits_float(static_cast<u32>(emulated::exchange(float_bits(x))[lane ^ mask][0]));
}
DEVICE int from_lane(int x, int mask) {
    const int lane = thread_index() & 31;
    return static_cast<int>(emulated::exchange(static_cast<u32>(x))[lane ^ mask][0]);
}
DEVICE int warp_sum(int x) {
    u64(*words)[4] = emulated::exchange(static_cast<u32>(x));
    int sum = 0;
    for (int lane = 0; lane < 32; ++lane) sum += static_cast<int>(words[lane][0]);
    return sum;
}
// Operands are spread over the lanes as PTX has it for m16n8k16: lane (g, t) has columns 2t, 2t + 1, 2t + 8, 2t + 9 of the
// first operand's row g, as many rows of the second one's column g, and columns 2t, 2t + 1 of the result's row g.
DEVICE void mma(float (&c)[4], u32 a0, u32 a2, u32 b0, u32 b1) {
    u64(*words)[4] = emulated::exchange(a0, a2, b0, b1);
    const int lane = thread_index() & 31, row = lane >> 2;
    for (int i = 0; i < 2; ++i) {
        const int column = 2 * (lane & 3) + i;
        float sum = 0.f;
        for (int t = 0; t < 4; ++t)
            for (int half = 0; half < 2; ++half) {
                const u32 a = static_cast<u32>(words[row * 4 + t][half]);
                const u32 b = static_cast<u32>(words[column * 4 + t][2 + half]);
                sum += bits_float(a << 16) * bits_float(b << 16);
                sum += bits_float(a & 0xffff0000u) * bits_float(b & 0xffff0000u);
            }
        c[i] += sum;
    }
}

DEVICE uint4 load(const void* from) {
    if (reinterpret_cast<u64>(from) % 16) emulated::fail("a load of 16 bytes is not aligned");
    uint4 x;
    memcpy(&x, from, 16);
    return x;
}
DEVICE uint4 load_constant(const void* from) { return load(from); }
DEVICE u32 add_acquire_release(u32* to) {
    ++emulated::progress;
    return (*to)++;
}
DEVICE void add_release(u32* to) { add_acquire_release(to); }
DEVICE u32 load_acquire(const u32* from) {
    const u32 x = *const_cast<const volatile u32*>(from);
    emulated::yield();
    return x;
}
DEVICE void add_bits(u32* to, u32 bits) { *to |= bits; }

DEVICE void barrier_init(u64* barrier, u32 arrivals) {
    const unsigned char count = static_cast<unsigned char>(arrivals);
    emulated::mbarrier(barrier) = {0, count, count, 0, 0};
}
DEVICE void barriers_initialized() {}
DEVICE void barrier_arrive(u64* barrier) {
    emulated::Mbarrier& found = emulated::mbarrier(barrier);
    if (found.pending == 0) emulated::fail("an arrival too many");
    --found.pending;
    emulated::complete(found);
}
DEVICE void barrier_expect(u64* barrier, u32 bytes) {
    emulated::mbarrier(barrier).bytes += static_cast<int>(bytes);
    barrier_arrive(barrier);
}
DEVICE bool barrier_passed(u64* barrier, u32 parity) {
    if (emulated::mbarrier(barrier).phase == parity) emulated::yield();
    return emulated::mbarrier(barrier).phase != parity;
}
DEVICE void copy_weights(void* to, const void* from, u32 bytes, u64* barrier) {
    if (reinterpret_cast<u64>(to) % 16 || reinterpret_cast<u64>(from) % 16) emulated::fail("a copy is not aligned");
    memset(to, 0xff, bytes);
    emulated::current->block->copies.push_back({to, from, bytes, barrier, static_cast<int>(emulated::chance() % 4)});
    ++emulated::progress;
}

DEVICE u64 nanoseconds() { return 0; }  // waits in vain are found by the scheduler
DEVICE void trap() { emulated::fail("trap"); }
