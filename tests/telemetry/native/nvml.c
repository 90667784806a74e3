/* A libnvidia-ml.so.1 that answers as the device named by NVML_STUB does, under the real nvidia-ml-py.
 *
 *   orin      init, count and name; every measurement is not supported
 *   thor-old  name, temperature, power; a utilisation that is always 0; no clock event reasons
 *   thor-new  as thor-old, and a utilisation that counts
 *   laptop    a GeForce of a laptop: no energy counter, throttled by its power cap
 *   dgpu      a data-centre card: everything
 *   garbage   everything succeeds, and nothing of it is true
 *
 * While the file NVML_STUB_LOST exists the GPU is lost. Built with -DWITHOUT_EVENT_REASONS the library is of an older
 * driver, which lacks a symbol.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, LOST = 15 };
typedef struct { unsigned int gpu, memory; } Utilization;

static int is(const char *name) {
    const char *device = getenv("NVML_STUB");
    return device != NULL && strcmp(device, name) == 0;
}

static int lost(void) {
    const char *file = getenv("NVML_STUB_LOST");
    return file != NULL && access(file, F_OK) == 0;
}

static int thor(void) { return is("thor-old") || is("thor-new"); }
static int card(void) { return is("dgpu") || is("laptop") || is("garbage"); }

static int answer(int has, unsigned int *to, unsigned int value) {
    if (lost()) return LOST;
    if (!has) return NOT_SUPPORTED;
    *to = is("garbage") ? 0xFFFFFFFFu : value;
    return OK;
}

int nvmlInit_v2(void) { return lost() ? LOST : OK; }
int nvmlInitWithFlags(unsigned int flags) { return nvmlInit_v2(); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return "an error of the stub"; }

int nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = 1;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    if (lost()) return LOST;
    if (index != 0) return NOT_FOUND;
    *device = (void *)0x1;
    return OK;
}

int nvmlDeviceGetName(void *device, char *name, unsigned int length) {
    const char *text = is("orin") ? "Orin (nvgpu)" : thor() ? "NVIDIA Thor"
                     : is("laptop") ? "NVIDIA GeForce RTX 4060 Laptop GPU" : "NVIDIA H100 80GB HBM3";
    strncpy(name, text, length);
    return OK;
}

int nvmlDeviceGetUtilizationRates(void *device, Utilization *rates) {
    rates->memory = 0;
    return answer(thor() || card(), &rates->gpu, is("thor-old") ? 0 : is("thor-new") ? 62 : 40);
}

int nvmlDeviceGetClockInfo(void *device, int kind, unsigned int *mhz) { return answer(card(), mhz, 1980); }
int nvmlDeviceGetPowerUsage(void *device, unsigned int *mw) {
    return answer(thor() || card(), mw, thor() ? 11000 : is("laptop") ? 34500 : 312500);
}
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *celsius) {
    return answer(thor() || card(), celsius, thor() ? 55 : 61);
}
int nvmlDeviceGetTemperatureThreshold(void *device, int kind, unsigned int *celsius) {
    return answer(card(), celsius, 95);
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj) {
    if (lost()) return LOST;
    if (!is("dgpu") && !is("garbage")) return NOT_SUPPORTED;
    *mj = is("garbage") ? ~0ull : 123456789ull;
    return OK;
}

static int reasons(unsigned long long *bits) {
    if (lost()) return LOST;
    if (!card()) return NOT_SUPPORTED;
    *bits = is("garbage") ? ~0ull : is("laptop") ? 0x4ull : 0x1ull;
    return OK;
}

#ifndef WITHOUT_EVENT_REASONS
int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *bits) { return reasons(bits); }
#endif
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *bits) { return reasons(bits); }
