/* A stand-in for NVIDIA's management library, libnvidia-ml.so.1: a host of two GPUs, as far as Ray asks. */
#include <string.h>

int nvmlInitWithFlags(unsigned int flags) { return (void)flags, 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { return *count = 2, 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int place, void **device) { return *device = (char *)0 + place + 1, 0; }
int nvmlDeviceGetName(void *device, char *name, unsigned int size)
{
    (void)device;
    strncpy(name, "NVIDIA A100-SXM4-40GB", size);
    return 0;
}
