/* A driver library without a device: memory is malloc, copies are memcpy, a CUDA graph is a list of copies.
 * It is strict where the real one is: work without a current context, a pointer that was not allocated or was freed
 * already, an unbalanced pop are errors with the real codes. fake_count tells what was not given back.
 *
 * Environment: FAKE_CUDA_FAIL=<function> makes that function fail with FAKE_CUDA_CODE (default 999; below 0: dies by
 * that signal), FAKE_CUDA_DRIVER=<version> (default 12060). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>

typedef int CUresult;
typedef struct { int capturing; int used; } Stream;
typedef struct { void *to; const void *from; size_t size; void (*call)(void *); } Work;
typedef struct { Work works[64]; int used; } Graph;

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
       INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_SUPPORTED = 801, UNKNOWN = 999 };

static int initialised;
static int primary;             /* the address of this is the primary context */
static int retained;
static _Thread_local int depth; /* this thread's context stack: only one context exists */
static _Thread_local Graph *recording;
static struct { void *at; size_t size; int host; } blocks[256];
static int streams, graphs, executables, depths;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int told_to_fail(const char *name, CUresult *code) {
    const char *wanted = getenv("FAKE_CUDA_FAIL"), *number = getenv("FAKE_CUDA_CODE");
    if (!wanted || strcmp(wanted, name)) return 0;
    *code = number ? atoi(number) : UNKNOWN;
    if (*code < 0) raise(-*code);
    return 1;
}
#define ENTER { CUresult code_; if (told_to_fail(__func__, &code_)) return code_; if (!initialised) return NOT_INITIALIZED; }
#define IN_CONTEXT ENTER if (!depth || !retained) return INVALID_CONTEXT;

int fake_count(const char *what) {
    int n = 0, host = !strcmp(what, "host"), device = !strcmp(what, "device");
    if (!strcmp(what, "streams")) return streams;
    if (!strcmp(what, "graphs")) return graphs + executables;
    if (!strcmp(what, "retained")) return retained;
    if (!strcmp(what, "pushed")) return depths;
    for (int i = 0; i < 256; i++) if (blocks[i].at && (host ? blocks[i].host : device && !blocks[i].host)) n++;
    return n;
}

CUresult cuInit(unsigned flags) {
    CUresult code;
    if (told_to_fail("cuInit", &code)) return code;
    initialised = 1;
    return OK;
}
CUresult cuDriverGetVersion(int *version) {
    const char *told = getenv("FAKE_CUDA_DRIVER");
    *version = told ? atoi(told) : 12060;
    return OK;
}
CUresult cuDeviceGetCount(int *count) { ENTER *count = 1; return OK; }
CUresult cuDeviceGet(int *device, int ordinal) { ENTER if (ordinal) return INVALID_DEVICE; *device = 0; return OK; }
CUresult cuDeviceGetName(char *name, int size, int device) { ENTER snprintf(name, size, "Fake GPU"); return OK; }
CUresult cuDeviceTotalMem_v2(size_t *size, int device) { ENTER *size = 1u << 30; return OK; }
CUresult cuDeviceGetAttribute(int *value, int attribute, int device) {
    ENTER
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : 0;
    return OK;
}
CUresult cuDevicePrimaryCtxRetain(void **context, int device) { ENTER retained++; *context = &primary; return OK; }
CUresult cuDevicePrimaryCtxRelease_v2(int device) { ENTER if (!retained) return INVALID_CONTEXT; retained--; return OK; }
CUresult cuDevicePrimaryCtxRelease(int device) { return cuDevicePrimaryCtxRelease_v2(device); }
CUresult cuCtxPushCurrent_v2(void *context) {
    ENTER
    if (context != &primary) return INVALID_CONTEXT;
    depth++;
    __sync_fetch_and_add(&depths, 1);
    return OK;
}
CUresult cuCtxPopCurrent_v2(void **context) {
    ENTER
    if (!depth) return INVALID_CONTEXT;
    depth--;
    __sync_fetch_and_sub(&depths, 1);
    *context = &primary;
    return OK;
}
CUresult cuCtxGetCurrent(void **context) { ENTER *context = depth ? &primary : 0; return OK; }
CUresult cuCtxGetDevice(int *device) { IN_CONTEXT *device = 0; return OK; }

static CUresult take(void **at, size_t size, int host) {
    if (!size) return INVALID_VALUE;
    if (size > (size_t)1 << 30) return OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 256; i++)
        if (!blocks[i].at) {
            blocks[i].at = *at = malloc(size);
            memset(*at, 0xAA, size);
            blocks[i].size = size;
            blocks[i].host = host;
            pthread_mutex_unlock(&lock);
            return OK;
        }
    pthread_mutex_unlock(&lock);
    return OUT_OF_MEMORY;
}
static CUresult give(void *at, int host) {
    CUresult code = INVALID_VALUE;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 256; i++)
        if (at && blocks[i].at == at && blocks[i].host == host) { free(at); blocks[i].at = 0; code = OK; }
    pthread_mutex_unlock(&lock);
    return code;
}
static int inside(const void *at, size_t size, int host) {
    for (int i = 0; i < 256; i++) {
        const char *start = blocks[i].at;
        if (start && blocks[i].host == host && (char *)at >= start && (char *)at + size <= start + blocks[i].size) return 1;
    }
    return 0;
}
CUresult cuMemAlloc_v2(uint64_t *at, size_t size) {
    void *block = 0;
    IN_CONTEXT
    CUresult code = take(&block, size, 0);
    *at = (uint64_t)block;
    return code;
}
CUresult cuMemFree_v2(uint64_t at) { IN_CONTEXT return give((void *)at, 0); }
CUresult cuMemHostAlloc(void **at, size_t size, unsigned flags) { IN_CONTEXT return take(at, size, 1); }
CUresult cuMemFreeHost(void *at) { IN_CONTEXT return give(at, 1); }

CUresult cuStreamCreate(void **stream, unsigned flags) {
    IN_CONTEXT
    *stream = calloc(1, sizeof(Stream));
    __sync_fetch_and_add(&streams, 1);
    return OK;
}
CUresult cuStreamDestroy_v2(void *stream) { IN_CONTEXT free(stream); __sync_fetch_and_sub(&streams, 1); return OK; }
CUresult cuStreamSynchronize(void *stream) { IN_CONTEXT return ((Stream *)stream)->capturing ? 900 : OK; }

static CUresult copy(void *to, const void *from, size_t size, Stream *stream) {
    if (stream && stream->capturing) {
        Work *next = &recording->works[recording->used++];
        next->to = to, next->from = from, next->size = size;
    } else memcpy(to, from, size);
    return OK;
}
CUresult cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) {
    IN_CONTEXT
    if (!inside((void *)to, size, 0) || !inside(from, size, 1)) return INVALID_VALUE;
    return copy((void *)to, from, size, stream);
}
CUresult cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
    IN_CONTEXT
    if (!inside((void *)from, size, 0) || !inside(to, size, 1)) return INVALID_VALUE;
    return copy(to, (void *)from, size, stream);
}

/* The stand-in for TensorRT queues its work by this. */
CUresult cuLaunchHostFunc(void *stream, void (*call)(void *), void *data) {
    IN_CONTEXT
    if (((Stream *)stream)->capturing) {
        Work *next = &recording->works[recording->used++];
        next->call = call, next->to = data;
    } else call(data);
    return OK;
}

CUresult cuStreamBeginCapture_v2(void *stream, int mode) {
    IN_CONTEXT
    ((Stream *)stream)->capturing = 1;
    recording = calloc(1, sizeof(Graph));
    __sync_fetch_and_add(&graphs, 1);
    return OK;
}
CUresult cuStreamEndCapture(void *stream, void **graph) {
    IN_CONTEXT
    if (!((Stream *)stream)->capturing) return 901;
    ((Stream *)stream)->capturing = 0;
    *graph = recording;
    return OK;
}
CUresult cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
    IN_CONTEXT
    *executable = malloc(sizeof(Graph));
    memcpy(*executable, graph, sizeof(Graph));
    __sync_fetch_and_add(&executables, 1);
    return OK;
}
CUresult cuGraphLaunch(void *executable, void *stream) {
    IN_CONTEXT
    Graph *graph = executable;
    for (int i = 0; i < graph->used; i++) {
        Work *work = &graph->works[i];
        if (work->call) work->call(work->to);
        else memcpy(work->to, work->from, work->size);
    }
    return OK;
}
CUresult cuGraphExecDestroy(void *executable) { IN_CONTEXT free(executable); __sync_fetch_and_sub(&executables, 1); return OK; }
CUresult cuGraphDestroy(void *graph) { IN_CONTEXT free(graph); __sync_fetch_and_sub(&graphs, 1); return OK; }

/* How cuda-bindings finds everything else: the newest variant of a function that the version asked for has. */
CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status) {
    Dl_info self;
    char name[128];
    dladdr((void *)&cuGetProcAddress_v2, &self);
    void *library = dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    snprintf(name, sizeof name, strcmp(symbol, "cuGraphInstantiate") ? "%s_v2" : "%sWithFlags", symbol);
    *function = dlsym(library, name);
    if (!*function) *function = dlsym(library, symbol);
    dlclose(library);
    if (status) *status = *function ? 0 : 1;
    return *function ? OK : 500;
}

static const char *name_of(int code) {
    return code == OK ? "CUDA_SUCCESS" : code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
         : code == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : code == INVALID_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT" : "CUDA_ERROR";
}
CUresult cuGetErrorName(CUresult code, const char **text) { *text = name_of(code); return OK; }
CUresult cuGetErrorString(CUresult code, const char **text) { *text = name_of(code); return OK; }
