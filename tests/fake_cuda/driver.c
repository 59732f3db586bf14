// A libcuda for tests: GPUs whose kernels are libraries of the processor, which fake NVRTC makes.
//
// FAKE_GPUS (1), FAKE_VERSION (13000), FAKE_MEMORY (bytes, 1 GB) and FAKE_SHARED (bytes, 227 KB) say
// what there is; with FAKE_FAULT the kernels fail.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_IMAGE = 200, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700 };
typedef int result;
typedef unsigned long long address;

static long setting(const char *name, long otherwise) {
    const char *value = getenv(name);
    return value ? atol(value) : otherwise;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t used[8];

result cuDriverGetVersion(int *version) { *version = (int)setting("FAKE_VERSION", 13000); return SUCCESS; }
result cuInit(unsigned flags) { (void)flags; return setting("FAKE_GPUS", 1) ? SUCCESS : NO_DEVICE; }
result cuDeviceGetCount(int *count) { *count = (int)setting("FAKE_GPUS", 1); return SUCCESS; }
result cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < setting("FAKE_GPUS", 1) ? SUCCESS : 101; }
result cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "Fake %d", device); return SUCCESS; }
result cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 97 ? (int)setting("FAKE_SHARED", 227 << 10) : 0;
    return SUCCESS;
}
result cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)(size_t)(device + 1); return SUCCESS; }
result cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return SUCCESS; }
static _Thread_local void *current;
result cuCtxSetCurrent(void *context) { current = context; return SUCCESS; }
result cuCtxGetCurrent(void **context) { *context = current; return SUCCESS; }
result cuCtxSynchronize(void) { return SUCCESS; }
result cuCtxSetFlags(unsigned flags) { (void)flags; return SUCCESS; }
result cuGetErrorName(result error, const char **name) {
    *name = error == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR";
    return SUCCESS;
}
result cuGetErrorString(result error, const char **text) {
    *text = error == ILLEGAL_ADDRESS ? "an illegal memory access was encountered" : "something is wrong";
    return SUCCESS;
}

result cuMemGetInfo_v2(size_t *free, size_t *total) {
    *total = (size_t)setting("FAKE_MEMORY", 1 << 30);
    *free = *total - used[(size_t)current];
    return SUCCESS;
}
result cuMemAllocAsync(address *at, size_t bytes, void *stream) {
    (void)stream;
    if (!current) return INVALID_VALUE;
    pthread_mutex_lock(&lock);
    size_t *here = &used[(size_t)current];
    const int fits = *here + bytes <= (size_t)setting("FAKE_MEMORY", 1 << 30);
    if (fits) *here += bytes;
    pthread_mutex_unlock(&lock);
    if (!fits) return OUT_OF_MEMORY;
    size_t *memory = aligned_alloc(256, (bytes + 511) / 256 * 256);
    memset(memory, 0xab, bytes + 256);
    *memory = bytes;
    *at = (address)memory + 256;
    return SUCCESS;
}
result cuMemFreeAsync(address at, void *stream) {
    (void)stream;
    size_t *memory = (size_t *)(at - 256);
    pthread_mutex_lock(&lock);
    used[(size_t)current] -= *memory;
    pthread_mutex_unlock(&lock);
    free(memory);
    return SUCCESS;
}
result cuMemsetD8Async(address at, unsigned char byte, size_t count, void *stream) { (void)stream; memset((void *)at, byte, count); return SUCCESS; }
result cuMemcpyHtoDAsync_v2(address to, const void *from, size_t count, void *stream) { (void)stream; memcpy((void *)to, from, count); return SUCCESS; }
result cuMemcpyDtoHAsync_v2(void *to, address from, size_t count, void *stream) { (void)stream; memcpy(to, (void *)from, count); return SUCCESS; }
result cuMemcpyDtoDAsync_v2(address to, address from, size_t count, void *stream) { (void)stream; memcpy((void *)to, (void *)from, count); return SUCCESS; }

static _Thread_local int fault;
result cuStreamCreate(void **stream, unsigned flags) { (void)flags; *stream = malloc(1); return SUCCESS; }
result cuStreamDestroy_v2(void *stream) { free(stream); return SUCCESS; }
result cuStreamSynchronize(void *stream) { (void)stream; return fault ? ILLEGAL_ADDRESS : SUCCESS; }

// The image is the path of a library.
result cuModuleLoadData(void **module, const void *image) { *module = dlopen(image, RTLD_NOW); return *module ? SUCCESS : INVALID_IMAGE; }
result cuModuleUnload(void *module) { (void)module; return SUCCESS; }
struct function {
    void (*launch)(const void *, unsigned, unsigned, int);
    int shared;
};
result cuModuleGetFunction(void **function, void *module, const char *name) {
    char symbol[64];
    snprintf(symbol, sizeof symbol, "launch_%s", name);
    struct function *found = calloc(1, sizeof *found);
    *(void **)&found->launch = dlsym(module, symbol);
    *function = found;
    return found->launch ? SUCCESS : NOT_FOUND;
}
result cuFuncSetAttribute(struct function *function, int attribute, int value) {
    if (attribute == 8) function->shared = value;
    return value <= setting("FAKE_SHARED", 227 << 10) ? SUCCESS : INVALID_VALUE;
}
result cuLaunchKernel(struct function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                      unsigned bz, unsigned shared, void *stream, void **parameters, void **extra) {
    (void)stream, (void)extra, (void)bx;
    // More than 48 KB of shared memory must have been asked for.
    if (gz != 1 || by != 1 || bz != 1 || (shared > 48 << 10 && (int)shared > function->shared)) return INVALID_VALUE;
    if (setting("FAKE_FAULT", 0)) {
        fault = 1;
        return SUCCESS;
    }
    function->launch(parameters[0], gx, gy, 0);
    return SUCCESS;
}
