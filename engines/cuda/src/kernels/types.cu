// Types and loops.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Items of a loop are dealt to the threads in turn.
#define EACH(i, count) (int i = (int)threadIdx.x; i < (count); i += THREADS)
