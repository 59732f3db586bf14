// The population engine on CUDA: one block per model, its parameters, gradients and activations in
// shared memory. Every sum runs in the order that reference.rs writes down and every operation is
// one that IEEE 754 defines, so that a model has the bits it has on the CPU.
//
// The files of this folder are one program, in the order in which source.rs lists them. Before them
// it defines the sizes of one network and the places of its arrays, in upper case, and among them a
// function for each layer and the two that go through all of them, `forward` and `backward`. The
// subset of C is one that a C compiler takes too: tests compile it with shim.h.
//
// Compiled without contraction: a multiply-add is one only where it says fmaf.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Items of a loop are dealt to the threads in turn.
#define EACH(i, count) (int i = (int)threadIdx.x; i < (count); i += THREADS)
