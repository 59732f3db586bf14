// What of CUDA the kernels use, for a C compiler: to run them without a GPU, in tests.
//
// A block's threads are contexts of one thread of the processor, which change at barriers. They take
// turns in the order that launch's caller chooses: where the kernels race, orders give different
// results. Shared memory begins as NaN, and a barrier that not all threads reach ends the program.
//
// With SHIM_THREADS they are threads of the processor, for a compiler that finds races.
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define DEVICE static inline
#define COLD static
#define CONSTANT static const
#define SHARED(name) float *name = (float *)shim_shared
#define INFINITE ((double)INFINITY)

typedef struct { float x, y; } float2;
typedef struct __attribute__((aligned(16))) { float x, y, z, w; } float4;
struct shim_index { unsigned x, y; };

static float __int_as_float(int bits) { float x; memcpy(&x, &bits, 4); return x; }
static unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
static double __longlong_as_double(long long bits) { double x; memcpy(&x, &bits, 8); return x; }
static long long __double_as_longlong(double x) { long long bits; memcpy(&bits, &x, 8); return bits; }
static int __float2int_rn(float x) { return x != x ? 0 : (int)rintf(x); }
static float __fdiv_rn(float a, float b) { return a / b; }
static float __fsqrt_rn(float a) { return sqrtf(a); }

#ifdef SHIM_THREADS
#include <pthread.h>

static _Thread_local struct shim_index threadIdx;
static struct shim_index blockIdx, gridDim;
static float4 *shim_shared;
static pthread_barrier_t shim_block;
static void (*shim_kernel)(const void *);
static const void *shim_arguments;

static void __syncthreads(void) { pthread_barrier_wait(&shim_block); }

static void *shim_enter(void *number) {
    threadIdx = (struct shim_index){(unsigned)(size_t)number, 0};
    shim_kernel(shim_arguments);
    return 0;
}

static void shim_launch(void (*kernel)(const void *), const void *arguments, unsigned x, unsigned y, int order) {
    (void)order;
    pthread_t threads[THREADS];
    shim_shared = aligned_alloc(16, sizeof(float) * SHARED_FLOATS);
    shim_kernel = kernel;
    shim_arguments = arguments;
    gridDim = (struct shim_index){x, y};
    pthread_barrier_init(&shim_block, 0, THREADS);
    for (unsigned block = 0; block < x * y; block++) {
        blockIdx = (struct shim_index){block % x, block / x};
        memset(shim_shared, 0xff, sizeof(float) * SHARED_FLOATS);
        for (size_t t = 0; t < THREADS; t++)
            if (pthread_create(&threads[t], 0, shim_enter, (void *)t)) abort();
        for (int t = 0; t < THREADS; t++) pthread_join(threads[t], 0);
    }
    free(shim_shared);
}

#else

enum { SHIM_STACK = 1 << 16 };
enum shim_state { SHIM_READY, SHIM_AT_BARRIER, SHIM_DONE };

static _Thread_local struct shim_index threadIdx, blockIdx, gridDim;
static _Thread_local float4 *shim_shared;
static _Thread_local struct shim_thread {
    enum shim_state state;
    jmp_buf place;
} shim_threads[THREADS];
static _Thread_local jmp_buf shim_scheduler;
static _Thread_local void (*shim_kernel)(const void *);
static _Thread_local const void *shim_arguments;

static void shim_yield(enum shim_state state) {
    struct shim_thread *me = &shim_threads[threadIdx.x];
    me->state = state;
    if (!_setjmp(me->place)) _longjmp(shim_scheduler, 1);
}

static void __syncthreads(void) { shim_yield(SHIM_AT_BARRIER); }

static void shim_enter(void) {
    shim_kernel(shim_arguments);
    shim_yield(SHIM_DONE);
}

// Resumes the threads that have reached what they wait for; 0 if there are none.
static int shim_release(void) {
    int waiting = 0, done = 0;
    for (int t = 0; t < THREADS; t++) {
        waiting += shim_threads[t].state == SHIM_AT_BARRIER;
        done += shim_threads[t].state == SHIM_DONE;
    }
    if (waiting == THREADS) {
        for (int t = 0; t < THREADS; t++) shim_threads[t].state = SHIM_READY;
        return 1;
    }
    if (done < THREADS) {
        fprintf(stderr, "deadlock: %d threads wait at a barrier, %d have ended\n", waiting, done);
        abort();
    }
    return 0;
}

// Order 0: threads take turns ascending, 1: descending, 2: mixed.
static void shim_launch(void (*kernel)(const void *), const void *arguments, unsigned x, unsigned y, int order) {
    char *stacks = malloc((size_t)THREADS * SHIM_STACK);
    shim_shared = aligned_alloc(16, sizeof(float) * SHARED_FLOATS);
    if (!stacks || !shim_shared) abort();
    shim_kernel = kernel;
    shim_arguments = arguments;
    gridDim = (struct shim_index){x, y};
    for (unsigned block = 0; block < x * y; block++) {
        blockIdx = (struct shim_index){block % x, block / x};
        memset(shim_shared, 0xff, sizeof(float) * SHARED_FLOATS);
        for (int t = 0; t < THREADS; t++) shim_threads[t].state = SHIM_READY;
        static _Thread_local int is_first;
        for (is_first = 1;; is_first = 0) {
            static _Thread_local int turn;
            for (turn = 0; turn < THREADS; turn++) {
                const int t = order == 0 ? turn : order == 1 ? THREADS - 1 - turn : (turn * 7 + 3) % THREADS;
                if (shim_threads[t].state != SHIM_READY) continue;
                threadIdx = (struct shim_index){(unsigned)t, 0};
                if (_setjmp(shim_scheduler)) continue;
                if (!is_first) _longjmp(shim_threads[t].place, 1);
                ucontext_t context;
                getcontext(&context);
                context.uc_stack.ss_sp = stacks + (size_t)t * SHIM_STACK;
                context.uc_stack.ss_size = SHIM_STACK;
                context.uc_link = 0;
                makecontext(&context, shim_enter, 0);
                setcontext(&context);
            }
            if (!shim_release()) break;
        }
    }
    free(stacks);
    free(shim_shared);
}

#endif

#define KERNEL(name, type)                                                                                 \
    static void name(const type arguments);                                                                \
    static void shim_##name(const void *arguments) { name(*(const type *)arguments); }                     \
    void launch_##name(const void *arguments, unsigned x, unsigned y, int order) {                         \
        shim_launch(shim_##name, arguments, x, y, order);                                                  \
    }                                                                                                      \
    static void name(const type arguments)
