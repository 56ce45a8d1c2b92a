// depth.cu's kernel on a CPU, as a library.
#include <depth.cu>

extern "C" const char* launch(const Params* given, unsigned seed) {
    const Params p = *given;
    return emulated::run(BLOCKS, THREADS, RING_BYTES + SUMS_BYTES + MIXED_BYTES + 1024, seed, [&] { depth(p); });
}
