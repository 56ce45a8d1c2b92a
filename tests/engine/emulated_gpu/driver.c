// A driver of a GPU with 132 multiprocessors, which tells the calls that it gets on stderr.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

enum { MULTIPROCESSORS = 16, SHARED_MEMORY = 97 };  // attributes of a device

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int* version) { return *version = 12090, 0; }
int cuCtxGetDevice(int* device) { return *device = 0, 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    *value = attribute == MULTIPROCESSORS ? 132 : attribute == SHARED_MEMORY ? 232448 : -1;
    return 0;
}
int cuModuleLoadData(void** module, const char* image) {
    fprintf(stderr, "load %s\n", image);
    return *module = (void*)1, 0;
}
int cuModuleGetFunction(void** kernel, void* module, const char* name) {
    fprintf(stderr, "kernel %s of %zu\n", name, (size_t)module);
    return *kernel = (void*)2, 0;
}
int cuFuncSetAttribute(void* kernel, int attribute, int value) {
    fprintf(stderr, "attribute %d of %zu is %d\n", attribute, (size_t)kernel, value);
    return 0;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* kernel, int threads, size_t shared_bytes) {
    fprintf(stderr, "occupancy of %zu with %d threads, %zu bytes\n", (size_t)kernel, threads, shared_bytes);
    return *blocks = 1, 0;
}
int cuLaunchCooperativeKernel(void* kernel, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                              unsigned threads_z, unsigned shared_bytes, void* stream, void** arguments) {
    const int* numbers = arguments[0];
    fprintf(stderr, "launch %zu: %u %u %u blocks of %u %u %u, %u bytes, stream %zu, %d %d\n", (size_t)kernel, x, y, z, threads,
           threads_y, threads_z, shared_bytes, (size_t)stream, numbers[0], numbers[1]);
    return numbers[0] == 7 ? 0 : 720;  // too large for a cooperative launch
}
int cuGetProcAddress_v2(const char* name, void** address, int version, unsigned long long flags, int* status) {
    void* self = dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_NOW);
    *address = self ? dlsym(self, name) : 0;
    if (status) *status = !*address;
    return *address ? 0 : 500;
}
