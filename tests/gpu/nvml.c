/*
 * A stand-in for NVIDIA's libnvidia-ml.so.1: it is loaded as the real one is, and tells what a file says, read anew at
 * each call, so that a test can make a GPU hot while the server runs.
 *
 * GPU_FIGURES names the file, which is replaced whole; a line each, and what is missing has its value from below:
 *
 *   count N         GPUs
 *   temperature N   of all of them, in degrees
 *   memory N        per cent of 16 GiB in use
 *   error N         every question about a GPU is answered by this nvmlReturn_t
 *   init_error N    so is nvmlInit_v2
 *   block 1         every question blocks for a minute, or until this is gone
 *
 * Built with -DOLD, what drivers before 510 did not have is missing; with -DANCIENT, the very first call is, too.
 * Layouts are those of nvml.h of CUDA 12.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7 };

static long figure(const char *name, long otherwise)
{
    const char *path = getenv("GPU_FIGURES");
    FILE *file = path ? fopen(path, "r") : NULL;
    char known[32];
    long value;
    if (!file)
        return otherwise;
    while (fscanf(file, "%31s %ld", known, &value) == 2)
        if (strcmp(known, name) == 0)
            otherwise = value;
    fclose(file);
    return otherwise;
}

static int asked(void)
{
    for (int tenths = 0; tenths < 600 && figure("block", 0); tenths++)
        usleep(100 * 1000);
    return (int)figure("error", SUCCESS);
}

static int put(char *text, unsigned len, const char *name, long number)
{
    return (unsigned)snprintf(text, len, "%s%ld", name, number) < len ? SUCCESS : INSUFFICIENT_SIZE;
}

#ifndef ANCIENT
int nvmlInit_v2(void)
{
    return (int)figure("init_error", SUCCESS);
}
#endif

int nvmlShutdown(void)
{
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *text, unsigned len)
{
    return put(text, len, "550.54.", 15);
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = (unsigned)figure("count", 1);
    return asked();
}

/* A handle is the number of its GPU, from 1. */
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
    if ((long)index >= figure("count", 1))
        return INVALID_ARGUMENT;
    *device = (void *)(size_t)(index + 1);
    return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *text, unsigned len)
{
    int answer = asked();
    return answer ? answer : put(text, len, "Stand-in ", (long)(size_t)device);
}

int nvmlDeviceGetUUID(void *device, char *text, unsigned len)
{
    int answer = asked();
    return answer ? answer : put(text, len, "GPU-", (long)(size_t)device);
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *degrees)
{
    (void)device;
    *degrees = (unsigned)figure("temperature", 50);
    return sensor == 0 ? asked() : INVALID_ARGUMENT;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts)
{
    (void)device;
    *milliwatts = 123000;
    return asked();
}

struct rates { unsigned gpu, memory; };

int nvmlDeviceGetUtilizationRates(void *device, struct rates *rates)
{
    (void)device;
    *rates = (struct rates){ .gpu = 97, .memory = 40 };
    return asked();
}

#ifndef OLD
struct memory { unsigned version; unsigned long long total, reserved, free, used; };

int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory *memory)
{
    (void)device;
    if (memory->version != (sizeof(struct memory) | 2u << 24))
        return INVALID_ARGUMENT;
    memory->total = 16ull << 30;
    memory->reserved = 0;
    memory->used = memory->total / 1000 * (unsigned long long)figure("memory", 40) * 10;
    memory->free = memory->total - memory->used;
    return asked();
}

struct process { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; };

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process *processes)
{
    int answer = asked();
    unsigned room = *count;
    (void)device;
    *count = 1;
    if (answer || room < 1)
        return answer ? answer : INSUFFICIENT_SIZE;
    processes[0] = (struct process){ .pid = 4242, .memory = 6ull << 30, .gpu_instance = ~0u, .compute_instance = ~0u };
    return SUCCESS;
}
#endif
