/* A stand-in for NVIDIA's management library, libnvidia-ml.so.1: a host of two GPUs, as far as Ray and we ask.

   NVML_BROKEN: it refuses as after an update of the driver without a reboot; NVML_PID: a process computes on the second
   GPU; NVML_NOT_PERSISTENT; NVML_MIG: MIG divides both. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct process {
    unsigned int pid;
    unsigned long long memory;
    unsigned int gpu_instance, compute_instance;
};

static int number(void *device) { return (int)((char *)device - (char *)0) - 1; }

int nvmlInitWithFlags(unsigned int flags) { return (void)flags, getenv("NVML_BROKEN") ? 18 : 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 18 ? "Driver/library version mismatch" : "Unknown Error"; }
int nvmlSystemGetDriverVersion(char *version, unsigned int size) { return strncpy(version, "570.86.15", size), 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { return *count = 2, 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int place, void **device) { return *device = (char *)0 + place + 1, 0; }
int nvmlDeviceGetName(void *device, char *name, unsigned int size)
{
    (void)device;
    strncpy(name, "NVIDIA A100-SXM4-40GB", size);
    return 0;
}
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned int size)
{
    snprintf(uuid, size, "GPU-%d0000000-0000-0000-0000-000000000000", number(device));
    return 0;
}
int nvmlDeviceGetPersistenceMode(void *device, unsigned int *mode)
{
    (void)device;
    return *mode = !getenv("NVML_NOT_PERSISTENT"), 0;
}
int nvmlDeviceGetMigMode(void *device, unsigned int *mode, unsigned int *pending)
{
    (void)device;
    return *mode = *pending = getenv("NVML_MIG") != 0, 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, struct process *found)
{
    const char *pid = getenv("NVML_PID");
    *count = pid && number(device) == 1;
    if (*count)
        found[0] = (struct process){(unsigned int)atoi(pid), 1ULL << 30, ~0U, ~0U};
    return 0;
}
