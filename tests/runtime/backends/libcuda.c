/* A stand-in for NVIDIA's driver library, with its exported names and C signatures (tests/data/cuda_driver.tsv), for tests of what
   only a real library shows: that ctypes passes what C takes, and how commands end where the driver refuses.

   gcc -shared -fPIC -Wl,-soname,libcuda.so.1 -o libcuda.so.1 libcuda.c

   STANDIN_CUDA="cuInit=999,cuMemAlloc_v2=2" makes those functions return those codes; STANDIN_SM=87 is its GPU's compute
   capability, STANDIN_INTEGRATED=1 that it shares the CPU's memory. Work is done at once, memory is the host's, and all
   handles and addresses have more than 32 bits. It counts what is alive in standin_alive(). */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult, CUdevice, CUdevice_attribute, CUstreamCaptureMode;
typedef unsigned long long CUdeviceptr;
typedef struct thing { struct thing *graph; int works; void *work[64][2]; size_t size[64]; float when; } thing;
typedef thing *CUcontext, *CUstream, *CUevent, *CUgraph, *CUgraphExec;

static int alive;
static float clock_ms;
static __thread CUcontext stack[16];
static __thread int depth;
static struct thing primary;

int standin_alive(void) { return alive; }

static CUresult refused(const char *function) {
    const char *wanted = getenv("STANDIN_CUDA"), *found = wanted ? strstr(wanted, function) : NULL;
    size_t length = strlen(function);
    return found && found[length] == '=' ? atoi(found + length + 1) : 0;
}
static CUresult in_context(const char *function) {
    CUresult code = refused(function);
    return code ? code : depth ? 0 : 201;
}
#define REFUSED { CUresult code_ = refused(__func__); if (code_) return code_; }
#define CONTEXT { CUresult code_ = in_context(__func__); if (code_) return code_; }

static CUresult make(thing **handle) { *handle = calloc(1, sizeof(thing)); alive++; return 0; }
static CUresult drop(void *handle) { if (!handle) return 1; free(handle); alive--; return 0; }
static CUresult copy(CUstream stream, void *target, void *source, size_t size) {
    thing *graph = stream->graph;
    if (!graph) { memcpy(target, source, size); return 0; }
    graph->work[graph->works][0] = target, graph->work[graph->works][1] = source, graph->size[graph->works++] = size;
    return 0;
}

CUresult cuInit(unsigned int flags) { REFUSED return flags ? 1 : 0; }
CUresult cuDriverGetVersion(int *version) { REFUSED *version = 12020; return 0; }
CUresult cuDeviceGetCount(int *count) { REFUSED *count = 1; return 0; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { REFUSED *device = ordinal; return ordinal ? 101 : 0; }
CUresult cuDeviceGetName(char *name, int size, CUdevice device) { REFUSED snprintf(name, size, "NVIDIA Stand-in"); return 0; }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    REFUSED
    const char *sm = getenv("STANDIN_SM"), *integrated = getenv("STANDIN_INTEGRATED");
    int number = sm ? atoi(sm) : 89;
    *value = attribute == 75 ? number / 10 : attribute == 76 ? number % 10 : attribute == 18 ? integrated != NULL : 1;
    return 0;
}
CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) { REFUSED *bytes = (size_t)24 << 30; return 0; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) { REFUSED *context = &primary; return 0; }
CUresult cuCtxPushCurrent_v2(CUcontext context) { REFUSED if (context != &primary) return 201; stack[depth++] = context; return 0; }
CUresult cuCtxPopCurrent_v2(CUcontext *context) { CONTEXT *context = stack[--depth]; return 0; }
CUresult cuMemGetInfo_v2(size_t *left, size_t *total) { CONTEXT *left = (size_t)23 << 30; *total = (size_t)24 << 30; return 0; }
CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t size) { CONTEXT *address = (uintptr_t)malloc(size); alive++; return 0; }
CUresult cuMemFree_v2(CUdeviceptr address) { CONTEXT return drop((void *)(uintptr_t)address); }
CUresult cuMemHostAlloc(void **address, size_t size, unsigned int flags) {
    CONTEXT
    if (flags != 0 && flags != 2) return 1;
    *address = malloc(size); alive++;
    return 0;
}
CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *address, void *host, unsigned int flags) { CONTEXT *address = (uintptr_t)host; return 0; }
CUresult cuMemFreeHost(void *address) { CONTEXT return drop(address); }
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr target, const void *source, size_t size, CUstream stream) {
    CONTEXT return copy(stream, (void *)(uintptr_t)target, (void *)source, size);
}
CUresult cuMemcpyDtoHAsync_v2(void *target, CUdeviceptr source, size_t size, CUstream stream) {
    CONTEXT return copy(stream, target, (void *)(uintptr_t)source, size);
}
CUresult cuStreamCreate(CUstream *stream, unsigned int flags) { CONTEXT return flags == 1 ? make(stream) : 1; }
CUresult cuStreamDestroy_v2(CUstream stream) { CONTEXT return drop(stream); }
CUresult cuStreamSynchronize(CUstream stream) { CONTEXT return stream->graph ? 900 : 0; }
CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode) { CONTEXT return mode == 1 ? make(&stream->graph) : 1; }
CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) { CONTEXT *graph = stream->graph; stream->graph = NULL; return 0; }
CUresult cuEventCreate(CUevent *event, unsigned int flags) { CONTEXT return make(event); }
CUresult cuEventDestroy_v2(CUevent event) { CONTEXT return drop(event); }
CUresult cuEventRecord(CUevent event, CUstream stream) { CONTEXT event->when = clock_ms += 1.5f; return stream->graph ? 900 : 0; }
CUresult cuEventElapsedTime(float *spent, CUevent start, CUevent end) { CONTEXT *spent = end->when - start->when; return 0; }
CUresult cuGraphInstantiateWithFlags(CUgraphExec *ready, CUgraph graph, unsigned long long flags) {
    CONTEXT
    if (flags) return 1;
    make(ready);
    **ready = *graph;
    return 0;
}
CUresult cuGraphDestroy(CUgraph graph) { CONTEXT return drop(graph); }
CUresult cuGraphExecDestroy(CUgraphExec ready) { CONTEXT return drop(ready); }
CUresult cuGraphLaunch(CUgraphExec ready, CUstream stream) {
    CONTEXT
    for (int i = 0; i < ready->works; i++) copy(stream, ready->work[i][0], ready->work[i][1], ready->size[i]);
    return 0;
}
