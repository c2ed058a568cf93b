// cublasLtMatmul for bf16 and float32, as an operation of the stream: D = alpha op(A) op(B) + beta C.
//
// Its sums are as good as cuBLAS's and of as little constancy: in how many parts the products are added up depends on
// the shape, so the bits of a column of D depend on how many others there are. Who wants the same bits for a token
// whatever its batch must not come here, and a test that compares bits shows who did.

#include <cublasLt.h>
#include <cuda_bf16.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <vector>

#include "tests/cuda_emulator/fake_order.h"
#include "tests/cuda_emulator/fake_streams.h"

namespace fake {
namespace {

// What lies in the header's opaque structs.
struct Layout {
  int32_t type, order;
  uint64_t rows, cols;
  int64_t ld, batch_stride;
  int32_t batches;
};
static_assert(sizeof(Layout) <= sizeof(cublasLtMatrixLayoutOpaque_t));

struct Description {
  int32_t compute_type, scale_type, pointer_mode, transpose_a, transpose_b, transpose_c;
  uint32_t epilogue;
};
static_assert(sizeof(Description) <= sizeof(cublasLtMatmulDescOpaque_t));

struct Preference {
  uint64_t workspace_bytes_max;
  uint32_t alignment[4];  // of A, B, C, D
};
static_assert(sizeof(Preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t));

// The same for any product of the shape.
struct Algorithm {
  uint64_t magic, m, n, k;
  uint32_t alignment[4];
  uint64_t workspace_bytes;
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));
constexpr uint64_t kMagic = 0xB1A5B1A5;
constexpr size_t kWorkspaceBytes = 1 << 10;

template <typename T, typename Opaque>
T Read(const Opaque* opaque) {
  T value;
  std::memcpy(&value, opaque, sizeof value);
  return value;
}
template <typename T, typename Opaque>
void Write(const T& value, Opaque* opaque) {
  std::memset(opaque, 0, sizeof *opaque);
  std::memcpy(opaque, &value, sizeof value);
}

cublasStatus_t Refuse(cublasStatus_t status, const char* format, ...) __attribute__((format(printf, 2, 3)));
cublasStatus_t Refuse(cublasStatus_t status, const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "fake cuBLASLt: %s (%s)\n", text, cublasLtGetStatusName(status));
  return status;
}

// One field of a descriptor, for the functions that set and get attributes.
struct Field {
  void* at;
  size_t bytes;
};
template <typename T>
Field FieldOf(T& field) {
  return {&field, sizeof field};
}

Field Find(Layout& layout, int attribute) {
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
      return FieldOf(layout.type);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
      return FieldOf(layout.order);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
      return FieldOf(layout.rows);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
      return FieldOf(layout.cols);
    case CUBLASLT_MATRIX_LAYOUT_LD:
      return FieldOf(layout.ld);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
      return FieldOf(layout.batches);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      return FieldOf(layout.batch_stride);
    default:
      return {};
  }
}
Field Find(Description& description, int attribute) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
      return FieldOf(description.compute_type);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
      return FieldOf(description.scale_type);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
      return FieldOf(description.pointer_mode);
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return FieldOf(description.transpose_a);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return FieldOf(description.transpose_b);
    case CUBLASLT_MATMUL_DESC_TRANSC:
      return FieldOf(description.transpose_c);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return FieldOf(description.epilogue);
    default:
      return {};
  }
}
Field Find(Preference& preference, int attribute) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return FieldOf(preference.workspace_bytes_max);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return FieldOf(preference.alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES]);
    default:
      return {};
  }
}

template <typename T, typename Opaque>
cublasStatus_t SetAttribute(Opaque* opaque, int attribute, const void* value, size_t bytes) {
  if (opaque == nullptr || value == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  T all = Read<T>(opaque);
  const Field field = Find(all, attribute);
  if (field.at == nullptr) return Refuse(CUBLAS_STATUS_NOT_SUPPORTED, "attribute %d is not known here", attribute);
  if (field.bytes != bytes)
    return Refuse(CUBLAS_STATUS_INVALID_VALUE, "attribute %d has %zu bytes, not %zu", attribute, field.bytes, bytes);
  std::memcpy(field.at, value, bytes);
  Write(all, opaque);
  return CUBLAS_STATUS_SUCCESS;
}

template <typename T, typename Opaque>
cublasStatus_t GetAttribute(const Opaque* opaque, int attribute, void* value, size_t bytes, size_t* written) {
  T all = Read<T>(opaque);
  const Field field = Find(all, attribute);
  if (field.at == nullptr || field.bytes > bytes) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(value, field.at, field.bytes);
  if (written != nullptr) *written = field.bytes;
  return CUBLAS_STATUS_SUCCESS;
}

size_t ElementBytes(int32_t type) { return type == CUDA_R_32F ? 4 : 2; }

// A matrix as the product sees it: transposed, if it is.
struct Matrix {
  char* data = nullptr;
  Layout layout{};
  bool transposed = false;

  uint64_t rows() const { return transposed ? layout.cols : layout.rows; }
  uint64_t cols() const { return transposed ? layout.rows : layout.cols; }
  bool by_column() const { return layout.order == CUBLASLT_ORDER_COL; }
  size_t bytes(bool one_batch) const {
    const uint64_t lines = by_column() ? layout.cols : layout.rows, along = by_column() ? layout.rows : layout.cols;
    const uint64_t elements = (lines - 1) * layout.ld + along;
    const uint64_t before = one_batch ? 0 : (layout.batches - 1) * layout.batch_stride;
    return (before + elements) * ElementBytes(layout.type);
  }
  char* at(uint64_t batch, uint64_t i, uint64_t j) const {
    if (transposed) std::swap(i, j);
    const uint64_t offset = by_column() ? i + j * layout.ld : i * layout.ld + j;
    return data + (batch * layout.batch_stride + offset) * ElementBytes(layout.type);
  }
  float Load(uint64_t batch, uint64_t i, uint64_t j) const {
    const char* p = at(batch, i, j);
    if (layout.type == CUDA_R_32F) return *reinterpret_cast<const float*>(p);
    return __bfloat162float(*reinterpret_cast<const __nv_bfloat16*>(p));
  }
  void Store(uint64_t batch, uint64_t i, uint64_t j, float value) const {
    char* p = at(batch, i, j);
    if (layout.type == CUDA_R_32F)
      *reinterpret_cast<float*>(p) = value;
    else
      *reinterpret_cast<__nv_bfloat16*>(p) = __float2bfloat16_rn(value);
  }
  // Its lines one by one: what lies between them is not its.
  template <typename Declare>
  void ForLines(const Declare& declare) const {
    const uint64_t lines = by_column() ? layout.cols : layout.rows, along = by_column() ? layout.rows : layout.cols;
    for (int32_t batch = 0; batch < layout.batches; ++batch)
      for (uint64_t line = 0; line < lines; ++line)
        declare(data + (batch * layout.batch_stride + line * layout.ld) * ElementBytes(layout.type),
                along * ElementBytes(layout.type));
  }
};

struct Product {
  Matrix a, b, c, d;
  float alpha, beta;
  char* workspace;
  size_t workspace_bytes;
};

cublasStatus_t CheckTypes(const Product& p, const Description& description) {
  const bool inputs =
      p.a.layout.type == p.b.layout.type && (p.a.layout.type == CUDA_R_16BF || p.a.layout.type == CUDA_R_32F);
  const bool outputs = p.c.layout.type == p.d.layout.type &&
                       (p.d.layout.type == CUDA_R_16BF || p.d.layout.type == CUDA_R_32F) &&
                       !(p.a.layout.type == CUDA_R_32F && p.d.layout.type != CUDA_R_32F);
  if (!inputs || !outputs)
    return Refuse(CUBLAS_STATUS_NOT_SUPPORTED, "types %d x %d -> %d", p.a.layout.type, p.b.layout.type,
                  p.d.layout.type);
  if (description.compute_type != CUBLAS_COMPUTE_32F || description.scale_type != CUDA_R_32F ||
      description.pointer_mode != CUBLASLT_POINTER_MODE_HOST || description.epilogue != CUBLASLT_EPILOGUE_DEFAULT ||
      description.transpose_c != CUBLAS_OP_N)
    return Refuse(CUBLAS_STATUS_NOT_SUPPORTED, "float32 sums, scales on the host and no epilogue are all it does here");
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t CheckShapes(const Product& p) {
  if (p.a.cols() != p.b.rows() || p.a.rows() != p.d.rows() || p.b.cols() != p.d.cols() || p.c.rows() != p.d.rows() ||
      p.c.cols() != p.d.cols())
    return Refuse(CUBLAS_STATUS_INVALID_VALUE, "op(A) %zu x %zu, op(B) %zu x %zu, C %zu x %zu, D %zu x %zu",
                  size_t{p.a.rows()}, size_t{p.a.cols()}, size_t{p.b.rows()}, size_t{p.b.cols()}, size_t{p.c.rows()},
                  size_t{p.c.cols()}, size_t{p.d.rows()}, size_t{p.d.cols()});
  for (const Matrix* matrix : {&p.a, &p.b, &p.c, &p.d}) {
    const Layout& layout = matrix->layout;
    if (layout.rows == 0 || layout.cols == 0 || layout.batches != p.d.layout.batches)
      return Refuse(CUBLAS_STATUS_INVALID_VALUE, "an empty matrix, or %d and %d batches", layout.batches,
                    p.d.layout.batches);
    if (layout.order != CUBLASLT_ORDER_COL && layout.order != CUBLASLT_ORDER_ROW)
      return Refuse(CUBLAS_STATUS_NOT_SUPPORTED, "order %d", layout.order);
    if (layout.ld < static_cast<int64_t>(matrix->by_column() ? layout.rows : layout.cols))
      return Refuse(CUBLAS_STATUS_INVALID_VALUE, "a leading dimension of %zd", ssize_t{layout.ld});
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t CheckMemory(const Product& p, const Algorithm& algorithm) {
  const Matrix* const matrices[] = {&p.a, &p.b, &p.c, &p.d};
  for (int i = 0; i < 4; ++i) {
    const Matrix& matrix = *matrices[i];
    if (i == 2 && p.beta == 0) continue;
    if (!IsDeviceMemory(matrix.data, matrix.bytes(false)))
      return Refuse(CUBLAS_STATUS_INVALID_VALUE, "%c, %zu bytes at %p, is not in one allocation of this device",
                    "ABCD"[i], matrix.bytes(false), static_cast<void*>(matrix.data));
    if (reinterpret_cast<uintptr_t>(matrix.data) % algorithm.alignment[i] != 0)
      return Refuse(CUBLAS_STATUS_INVALID_VALUE, "%c at %p: the algorithm was asked for with an alignment of %u",
                    "ABCD"[i], static_cast<void*>(matrix.data), algorithm.alignment[i]);
  }
  if (algorithm.workspace_bytes > p.workspace_bytes)
    return Refuse(CUBLAS_STATUS_INVALID_VALUE, "a workspace of %zu bytes, the algorithm needs %zu", p.workspace_bytes,
                  size_t{algorithm.workspace_bytes});
  if (algorithm.workspace_bytes > 0 && !IsDeviceMemory(p.workspace, p.workspace_bytes))
    return Refuse(CUBLAS_STATUS_INVALID_VALUE, "the workspace is not in one allocation of this device");
  return CUBLAS_STATUS_SUCCESS;
}

// Of K numbers each, in `parts` sums.
float Dot(const float* x, const float* y, uint64_t K, uint64_t parts) {
  float sum = 0;
  for (uint64_t part = 0; part < parts; ++part) {
    float partial = 0;
    for (uint64_t k = part; k < K; k += parts) partial += x[k] * y[k];
    sum += partial;
  }
  return sum;
}

void Multiply(const Product& p) {
  p.a.ForLines([](char* at, size_t bytes) { DeclareRead(at, bytes); });
  p.b.ForLines([](char* at, size_t bytes) { DeclareRead(at, bytes); });
  if (p.beta != 0) p.c.ForLines([](char* at, size_t bytes) { DeclareRead(at, bytes); });
  p.d.ForLines([](char* at, size_t bytes) { DeclareWrite(at, bytes); });
  DeclareWrite(p.workspace, p.workspace_bytes);
  std::memset(p.workspace, 0xFF, p.workspace_bytes);  // whoever shares it loses what was there
  const uint64_t M = p.d.rows(), N = p.d.cols(), K = p.a.cols();
  const uint64_t parts = 1 + (M + N) % 3;
  std::vector<float> a(M * K), b(N * K);
  for (int32_t batch = 0; batch < p.d.layout.batches; ++batch) {
    for (uint64_t k = 0; k < K; ++k) {
      for (uint64_t m = 0; m < M; ++m) a[m * K + k] = p.a.Load(batch, m, k);
      for (uint64_t n = 0; n < N; ++n) b[n * K + k] = p.b.Load(batch, k, n);
    }
    for (uint64_t n = 0; n < N; ++n) {
      for (uint64_t m = 0; m < M; ++m) {
        float sum = p.alpha * Dot(&a[m * K], &b[n * K], K, parts);
        if (p.beta != 0) sum += p.beta * p.c.Load(batch, m, n);
        p.d.Store(batch, m, n, sum);
      }
    }
  }
}

Product ProductOf(cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                  cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d) {
  const Description read = Read<Description>(description);
  Product product{};
  product.a = {nullptr, Read<Layout>(a), read.transpose_a != CUBLAS_OP_N};
  product.b = {nullptr, Read<Layout>(b), read.transpose_b != CUBLAS_OP_N};
  product.c = {nullptr, Read<Layout>(c), false};
  product.d = {nullptr, Read<Layout>(d), false};
  return product;
}

Algorithm ChooseAlgorithm(const Product& product, const Preference& preference) {
  Algorithm algorithm{kMagic, product.d.rows(), product.d.cols(), product.a.cols(), {}, 0};
  std::copy(std::begin(preference.alignment), std::end(preference.alignment), algorithm.alignment);
  if (preference.workspace_bytes_max >= kWorkspaceBytes) algorithm.workspace_bytes = kWorkspaceBytes;
  return algorithm;
}

constexpr Preference kDefaultPreference{0, {256, 256, 256, 256}};
// What any algorithm that is chosen for the pointers at hand can do.
constexpr Preference kLeastPreference{0, {16, 16, 16, 16}};

}  // namespace
}  // namespace fake

// ---- The API.

using fake::Algorithm;
using fake::Description;
using fake::Layout;
using fake::Preference;
using fake::Read;
using fake::Write;

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
      return "unrecognized status";
  }
}
const char* cublasLtGetStatusString(cublasStatus_t status) { return cublasLtGetStatusName(status); }

size_t cublasLtGetVersion() { return 130000; }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  int device;
  if (cudaGetDevice(&device) != cudaSuccess) return CUBLAS_STATUS_NOT_INITIALIZED;
  *handle = reinterpret_cast<cublasLtHandle_t>(new int(device));
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete reinterpret_cast<int*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t, cudaDataType type,
                                                 uint64_t rows, uint64_t cols, int64_t ld) {
  Write(Layout{type, CUBLASLT_ORDER_COL, rows, cols, ld, 0, 1}, layout);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
  *layout = new cublasLtMatrixLayoutOpaque_t;
  return cublasLtMatrixLayoutInit_internal(*layout, sizeof **layout, type, rows, cols, ld);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                size_t bytes) {
  return fake::SetAttribute<Layout>(layout, attribute, value, bytes);
}
cublasStatus_t cublasLtMatrixLayoutGetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, void* value, size_t bytes,
                                                size_t* written) {
  return fake::GetAttribute<Layout>(layout, attribute, value, bytes, written);
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t description, size_t, cublasComputeType_t compute,
                                               cudaDataType_t scale) {
  Write(Description{compute, scale, CUBLASLT_POINTER_MODE_HOST, CUBLAS_OP_N, CUBLAS_OP_N, CUBLAS_OP_N,
                    CUBLASLT_EPILOGUE_DEFAULT},
        description);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  *description = new cublasLtMatmulDescOpaque_t;
  return cublasLtMatmulDescInit_internal(*description, sizeof **description, compute, scale);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete description;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              size_t bytes) {
  return fake::SetAttribute<Description>(description, attribute, value, bytes);
}
cublasStatus_t cublasLtMatmulDescGetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t attribute, void* value, size_t bytes,
                                              size_t* written) {
  return fake::GetAttribute<Description>(description, attribute, value, bytes, written);
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t preference, size_t) {
  Write(fake::kDefaultPreference, preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return cublasLtMatmulPreferenceInit_internal(*preference, sizeof **preference);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
  return fake::SetAttribute<Preference>(preference, attribute, value, bytes);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int* count) {
  if (count != nullptr) *count = 0;
  if (handle == nullptr || description == nullptr || preference == nullptr || wanted < 1 || count == nullptr)
    return CUBLAS_STATUS_INVALID_VALUE;
  const fake::Product product = fake::ProductOf(description, a, b, c, d);
  if (const cublasStatus_t status = fake::CheckTypes(product, Read<Description>(description));
      status != CUBLAS_STATUS_SUCCESS)
    return status;
  if (const cublasStatus_t status = fake::CheckShapes(product); status != CUBLAS_STATUS_SUCCESS) return status;
  const Algorithm algorithm = fake::ChooseAlgorithm(product, Read<Preference>(preference));
  results[0] = {};
  Write(algorithm, &results[0].algo);
  results[0].workspaceSize = algorithm.workspace_bytes;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  results[0].wavesCount = 1;
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algo, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  if (handle == nullptr || description == nullptr || alpha == nullptr || beta == nullptr)
    return CUBLAS_STATUS_INVALID_VALUE;
  fake::Product product = fake::ProductOf(description, a_layout, b_layout, c_layout, d_layout);
  product.a.data = static_cast<char*>(const_cast<void*>(a));
  product.b.data = static_cast<char*>(const_cast<void*>(b));
  product.c.data = static_cast<char*>(const_cast<void*>(c));
  product.d.data = static_cast<char*>(d);
  product.alpha = *static_cast<const float*>(alpha);
  product.beta = *static_cast<const float*>(beta);
  product.workspace = static_cast<char*>(workspace);
  product.workspace_bytes = workspace == nullptr ? 0 : workspace_bytes;
  if (const cublasStatus_t status = fake::CheckTypes(product, Read<Description>(description));
      status != CUBLAS_STATUS_SUCCESS)
    return status;
  if (const cublasStatus_t status = fake::CheckShapes(product); status != CUBLAS_STATUS_SUCCESS) return status;
  const Algorithm algorithm =
      algo != nullptr ? Read<Algorithm>(algo) : fake::ChooseAlgorithm(product, fake::kLeastPreference);
  if (algorithm.magic != fake::kMagic || algorithm.m != product.d.rows() || algorithm.n != product.d.cols() ||
      algorithm.k != product.a.cols())
    return fake::Refuse(CUBLAS_STATUS_INVALID_VALUE, "the algorithm is that of another shape");
  if (const cublasStatus_t status = fake::CheckMemory(product, algorithm); status != CUBLAS_STATUS_SUCCESS)
    return status;
  const cudaError_t error = fake::Enqueue(stream, [product] {
    return fake::Operation{"cublasLtMatmul " + std::to_string(product.d.rows()) + " x " +
                               std::to_string(product.d.cols()) + " x " + std::to_string(product.a.cols()),
                           [product](cudaError_t*) {
                             fake::Multiply(product);
                             return fake::Progress::kDone;
                           }};
  });
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
