// A libnvrtc for tests: compiles the kernels with the C compiler behind SHIM into the folder FAKE_CACHE,
// and says that the path of the library is the PTX.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct program {
    char *source;
    char library[300];
    char log[256];
};
enum { SUCCESS = 0, COMPILATION = 6 };

int nvrtcVersion(int *major, int *minor) { *major = 13; *minor = 0; return SUCCESS; }

int nvrtcCreateProgram(struct program **program, const char *source, const char *name, int count, const char *const *headers, const char *const *names) {
    (void)name, (void)count, (void)headers, (void)names;
    *program = calloc(1, sizeof **program);
    (*program)->source = strdup(source);
    return SUCCESS;
}

static int has(int count, const char *const *options, const char *wanted) {
    for (int i = 0; i < count; i++)
        if (!strcmp(options[i], wanted)) return 1;
    return 0;
}

int nvrtcCompileProgram(struct program *program, int count, const char *const *options) {
    const char *needed[] = {"--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true", "--gpu-architecture=compute_90"};
    for (int i = 0; i < 5; i++)
        if (!has(count, options, needed[i])) {
            snprintf(program->log, sizeof program->log, "without %s the bits are others", needed[i]);
            return COMPILATION;
        }
    unsigned long long hash = 14695981039346656037ull;
    for (const char *c = program->source; *c; c++) hash = (hash ^ (unsigned char)*c) * 1099511628211ull;
    const char *cache = getenv("FAKE_CACHE");
    snprintf(program->library, sizeof program->library, "%s/%llx.so", cache, hash);
    if (!access(program->library, R_OK)) return SUCCESS;
    char source[300], made[300], command[1024];
    snprintf(source, sizeof source, "%s/%llx-%d.c", cache, hash, (int)getpid());
    snprintf(made, sizeof made, "%s/%llx-%d.so", cache, hash, (int)getpid());
    FILE *file = fopen(source, "w");
    if (!file) return COMPILATION;
    fputs(program->source, file);
    fclose(file);
    snprintf(command, sizeof command, "cc -DSHIM='\"%s\"' -O2 -march=native -ffp-contract=off -fno-strict-aliasing -fwrapv -fPIC -shared -w '%s' -o '%s' -lm", SHIM, source, made);
    return system(command) || rename(made, program->library) ? COMPILATION : SUCCESS;
}

int nvrtcGetPTXSize(struct program *program, size_t *size) { *size = strlen(program->library) + 1; return SUCCESS; }
int nvrtcGetPTX(struct program *program, char *ptx) { strcpy(ptx, program->library); return SUCCESS; }
int nvrtcGetProgramLogSize(struct program *program, size_t *size) { *size = strlen(program->log) + 1; return SUCCESS; }
int nvrtcGetProgramLog(struct program *program, char *log) { strcpy(log, program->log); return SUCCESS; }
int nvrtcDestroyProgram(struct program **program) { free((*program)->source); free(*program); *program = 0; return SUCCESS; }
