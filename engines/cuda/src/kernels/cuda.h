// What the kernels need besides CUDA's own built-ins; for a C compiler, SHIM names what stands in for
// them.
#ifdef __CUDACC__
#define DEVICE static __device__ __forceinline__
#define COLD static __device__ __noinline__
#define CONSTANT static __constant__ const
#define KERNEL(name, type) extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) name(const __grid_constant__ type arguments)
#define SHARED(name) extern __shared__ float4 shared_memory[]; float *name = (float *)shared_memory
#define INFINITE __longlong_as_double(0x7ff0000000000000ll)
#else
#include SHIM
#endif
