// Devices: how many, of what kind, which is the calling thread's, and what has failed.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/cuda_emulator/fake_runtime.h"
#include "tests/cuda_emulator/simt.h"

namespace fake {
namespace {

thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;

constexpr int kDriverVersion = CUDART_VERSION;

const char* Variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : nullptr;
}

}  // namespace

Settings SettingsOfEnvironment() {
  Settings settings;
  if (const char* devices = Variable("FAKE_CUDA_DEVICES"))
    settings.devices = std::clamp(std::atoi(devices), 0, kDevicesMax);
  if (const char* bytes = Variable("FAKE_CUDA_MEMORY")) settings.device_bytes = std::strtoull(bytes, nullptr, 10);
  if (const char* capability = Variable("FAKE_CUDA_CAPABILITY"))
    std::sscanf(capability, "%d.%d", &settings.major, &settings.minor);
  if (const char* operation = Variable("FAKE_CUDA_FAILS_AT")) settings.operation_fails_in = std::atoi(operation);
  settings.one_device = Variable("FAKE_CUDA_ONE_DEVICE") != nullptr;
  if (const char* seconds = Variable("FAKE_CUDA_WATCHDOG_S"))
    settings.watchdog = std::chrono::seconds(std::atoi(seconds));
  if (const char* error = Variable("FAKE_CUDA_ERROR"))
    settings.driver_error =
        std::strcmp(error, "insufficient_driver") == 0 ? cudaErrorInsufficientDriver : cudaErrorNoDevice;
  return settings;
}

Runtime::Runtime() { Reset(SettingsOfEnvironment()); }

// Leaked: threads may use it to the very end.
Runtime& runtime() {
  static Runtime* const runtime = new Runtime;
  return *runtime;
}

void Runtime::Reset(const Settings& fresh) {
  CloseMemory();
  settings = fresh;
  streams.clear();
  captures.clear();
  events.clear();
  ForgetGraphs();
  devices.clear();
  devices.resize(kDevicesMax);
  for (int i = 0; i < kDevicesMax; ++i) {
    devices[i].legacy = std::make_unique<Stream>();
    devices[i].legacy->device = i;
    devices[i].legacy->number = -1 - i;
    devices[i].legacy->slot = i;
    devices[i].legacy->legacy = true;
  }
  calls = {};
  used_device = -1;
  streams_made_ = 0;
  seed_ = ~uint64_t{0};
}

int Runtime::current_device() const { return fake::current_device; }

Call::Call(Needs needs) : lock_(runtime().mutex) {
  const Settings& settings = runtime().settings;
  if (needs == Needs::kNothing) return;
  if (in_operation) {  // as of a host function
    error_ = cudaErrorNotPermitted;
  } else if (settings.driver_error != cudaSuccess) {
    error_ = settings.driver_error;
  } else if (settings.devices == 0) {
    error_ = cudaErrorNoDevice;
  } else if (needs == Needs::kDevice) {
    error_ = runtime().devices[current_device].failed;
  }
  if (needs >= Needs::kContext) UseContext();
}

// A thread that never chose a device has the first one, and whatever it calls makes a context there, which takes half a
// gigabyte of its memory.
void Call::UseContext() {
  int& used = runtime().used_device;
  if (used == current_device || !runtime().settings.one_device) return;
  if (used >= 0) {
    std::fprintf(stderr, "fake CUDA: a process of device %d makes a context on device %d, too\n", used, current_device);
    runtime().settings.one_device = false;  // once is enough
  }
  used = current_device;
}

Call::~Call() {
  if (!runtime().running()) runtime().CloseMemory();
}

cudaError_t Call::Return(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

void Reset() {
  const Call call(Call::Needs::kNothing);
  Runtime& r = runtime();
  while (r.running()) r.changed.wait(const_cast<Call&>(call).lock());
  FreeEverything();
  r.Reset(SettingsOfEnvironment());
  current_device = 0;
  last_error = cudaSuccess;
}

void SetDevices(int count) {
  const Call call(Call::Needs::kNothing);
  runtime().settings.devices = std::clamp(count, 0, kDevicesMax);
}
void SetDeviceMemory(size_t bytes) {
  const Call call(Call::Needs::kNothing);
  runtime().settings.device_bytes = bytes;
}
void SetCapability(int major, int minor) {
  const Call call(Call::Needs::kNothing);
  runtime().settings.major = major;
  runtime().settings.minor = minor;
}
void SetDriverError(cudaError_t error) {
  const Call call(Call::Needs::kNothing);
  runtime().settings.driver_error = error;
}
void SetBackground(bool on) {
  const Call call(Call::Needs::kNothing);
  runtime().settings.background = on;
}
void SetStrict(bool on) {
  const Call call(Call::Needs::kNothing);
  runtime().settings.strict = on;
}
void SetWatchdog(std::chrono::milliseconds patience) {
  const Call call(Call::Needs::kNothing);
  runtime().settings.watchdog = patience;
}
std::string Failure(int device) {
  const Call call(Call::Needs::kNothing);
  return runtime().devices.at(device).failure;
}
Calls CallsSoFar() {
  const Call call(Call::Needs::kNothing);
  return runtime().calls;
}

}  // namespace fake

// ---- The API.

using fake::Call;
using fake::runtime;

cudaError_t cudaGetLastError() {
  const cudaError_t error = fake::last_error;
  fake::last_error = cudaSuccess;
  const Call call(Call::Needs::kNothing);
  const cudaError_t failed = runtime().devices[fake::current_device].failed;  // which no call forgets
  return failed != cudaSuccess ? failed : error;
}

cudaError_t cudaPeekAtLastError() {
  const Call call(Call::Needs::kNothing);
  const cudaError_t failed = runtime().devices[fake::current_device].failed;
  return failed != cudaSuccess ? failed : fake::last_error;
}

#define FAKE_ERRORS(E)                                                                                              \
  E(cudaSuccess, "no error")                                                                                        \
  E(cudaErrorInvalidValue, "invalid argument")                                                                      \
  E(cudaErrorMemoryAllocation, "out of memory")                                                                     \
  E(cudaErrorInitializationError, "initialization error")                                                           \
  E(cudaErrorInvalidPitchValue, "invalid pitch argument")                                                           \
  E(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy")                                           \
  E(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version")                    \
  E(cudaErrorNoDevice, "no CUDA-capable device is detected")                                                        \
  E(cudaErrorInvalidDevice, "invalid device ordinal")                                                               \
  E(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device")                    \
  E(cudaErrorInvalidResourceHandle, "invalid resource handle")                                                      \
  E(cudaErrorNotReady, "device not ready")                                                                          \
  E(cudaErrorIllegalAddress, "an illegal memory access was encountered")                                            \
  E(cudaErrorLaunchFailure, "unspecified launch failure")                                                           \
  E(cudaErrorHostMemoryAlreadyRegistered, "part or all of the requested memory range is already mapped")            \
  E(cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered memory region")                  \
  E(cudaErrorNotPermitted, "operation not permitted")                                                               \
  E(cudaErrorNotSupported, "operation not supported")                                                               \
  E(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")                          \
  E(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture")                   \
  E(cudaErrorStreamCaptureMerge, "operation would result in a merge of separate capture sequences")                 \
  E(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began")                        \
  E(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work")                                           \
  E(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream")                     \
  E(cudaErrorStreamCaptureImplicit, "operation would make the legacy stream depend on a capturing blocking stream") \
  E(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream")              \
  E(cudaErrorStreamCaptureWrongThread, "attempt to terminate a thread-local capture sequence from another thread")  \
  E(cudaErrorGraphExecUpdateFailure,                                                                                \
    "the graph update was not performed because it included changes which violated"                                 \
    " constraints specific to instantiated graph update")

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define FAKE_NAME(name, text) \
  case name:                  \
    return #name;
    FAKE_ERRORS(FAKE_NAME)
    default:
      return "unrecognized error code";
  }
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
#define FAKE_TEXT(name, text) \
  case name:                  \
    return text;
    FAKE_ERRORS(FAKE_TEXT)
    default:
      return "unrecognized error code";
  }
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  FAKE_CALL(Call::Needs::kDriver);
  *count = runtime().settings.devices;
  return call.Return(cudaSuccess);
}

cudaError_t cudaSetDevice(int device) {
  FAKE_CALL(Call::Needs::kDriver);
  if (device < 0 || device >= runtime().settings.devices) return call.Return(cudaErrorInvalidDevice);
  fake::current_device = device;
  call.UseContext();
  return call.Return(runtime().devices[device].failed);
}

cudaError_t cudaGetDevice(int* device) {
  FAKE_CALL(Call::Needs::kDriver);
  *device = fake::current_device;
  return call.Return(cudaSuccess);
}

cudaError_t cudaSetDeviceFlags(unsigned) {
  FAKE_CALL(Call::Needs::kDriver);
  return call.Return(cudaSuccess);
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  const Call call(Call::Needs::kNothing);
  *version = runtime().settings.driver_error == cudaErrorInsufficientDriver ? 0 : fake::kDriverVersion;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  FAKE_CALL(Call::Needs::kDriver);
  const fake::Settings& settings = runtime().settings;
  if (device < 0 || device >= settings.devices) return call.Return(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "Emulated GPU %d", device);
  properties->totalGlobalMem = settings.device_bytes;
  properties->sharedMemPerBlock = 48 << 10;
  properties->sharedMemPerBlockOptin = fake::SharedBytesMax(settings);
  properties->sharedMemPerMultiprocessor = fake::SharedBytesMax(settings) + (1 << 10);
  properties->reservedSharedMemPerBlock = 1 << 10;
  properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
  properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = 0x7FFFFFFF;
  properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
  properties->major = settings.major;
  properties->minor = settings.minor;
  properties->multiProcessorCount = 132;
  properties->l2CacheSize = 50 << 20;
  properties->concurrentKernels = 1;
  properties->asyncEngineCount = 3;
  properties->unifiedAddressing = 1;
  properties->canMapHostMemory = 1;
  properties->pciBusID = 1 + device;
  return call.Return(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, device); error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      break;
    case cudaDevAttrClockRate:
      *value = 1980000;
      break;
    case cudaDevAttrMemoryClockRate:
      *value = 2619000;
      break;
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = 5120;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(properties.sharedMemPerBlock);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(properties.sharedMemPerMultiprocessor);
      break;
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = properties.maxThreadsPerMultiProcessor;
      break;
    case cudaDevAttrWarpSize:
      *value = properties.warpSize;
      break;
    case cudaDevAttrL2CacheSize:
      *value = properties.l2CacheSize;
      break;
    case cudaDevAttrPciBusId:
      *value = properties.pciBusID;
      break;
    default: {
      const Call call(Call::Needs::kNothing);
      std::fprintf(stderr, "fake CUDA: attribute %d of a device is not known here\n", attribute);
      return const_cast<Call&>(call).Return(cudaErrorInvalidValue);
    }
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* id, int bytes, int device) {
  FAKE_CALL(Call::Needs::kDriver);
  if (device < 0 || device >= runtime().settings.devices) return call.Return(cudaErrorInvalidDevice);
  std::snprintf(id, bytes, "0000:%02X:00.0", 1 + device);
  return call.Return(cudaSuccess);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  FAKE_CALL();
  *least = 0;
  *greatest = -5;
  return call.Return(cudaSuccess);
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  FAKE_CALL();
  *can = 0;
  return call.Return(cudaSuccess);
}

// Dynamic shared memory beyond 48 KB is the one attribute that kernels need.
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  FAKE_CALL();
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return call.Return(cudaErrorNotSupported);
  if (value < 0 || static_cast<size_t>(value) > fake::SharedBytesMax(runtime().settings))
    return call.Return(cudaErrorInvalidValue);
  simt::AllowSharedBytes(kernel, value);
  return call.Return(cudaSuccess);
}
