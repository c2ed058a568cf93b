// What the fake cuBLASLt promises.

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <gmock/gmock.h>

#include <cmath>
#include <vector>

#include "tests/cuda_emulator/fake_fixture.h"

namespace fake {
namespace {

struct Shape {
  int m, n, k;
  bool transpose_a = false, transpose_b = false;
  int batches = 1;
};

float Value(int i) { return static_cast<float>((i * 37 + 11) % 23 - 11) / 8; }

class FakeCublas : public FakeCudaTest {
 protected:
  FakeCublas() {
    EXPECT_EQ(cublasLtCreate(&handle_), CUBLAS_STATUS_SUCCESS);
    workspace_ = Device<char>(kWorkspaceBytes);
  }
  ~FakeCublas() override { EXPECT_EQ(cublasLtDestroy(handle_), CUBLAS_STATUS_SUCCESS); }

  template <typename T>
  static T* Numbers(int n) {
    std::vector<T> host(n);
    for (int i = 0; i < n; ++i) host[i] = static_cast<T>(Value(i));
    T* const device = Device<T>(n);
    EXPECT_CUDA(cudaMemcpy(device, host.data(), n * sizeof(T), cudaMemcpyHostToDevice));
    return device;
  }
  template <typename T>
  static std::vector<float> Fetch(const T* device, int n) {
    std::vector<T> host(n);
    EXPECT_CUDA(cudaMemcpy(host.data(), device, n * sizeof(T), cudaMemcpyDeviceToHost));
    std::vector<float> values;
    for (T value : host) values.push_back(static_cast<float>(value));
    return values;
  }

  static cublasLtMatrixLayout_t Layout(cudaDataType type, int rows, int cols, int batches) {
    cublasLtMatrixLayout_t layout;
    EXPECT_EQ(cublasLtMatrixLayoutCreate(&layout, type, rows, cols, rows), CUBLAS_STATUS_SUCCESS);
    const int64_t stride = int64_t{rows} * cols;
    EXPECT_EQ(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batches, sizeof batches),
              CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(
        cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride),
        CUBLAS_STATUS_SUCCESS);
    return layout;
  }

  // D = 0.5 op(A) op(B), + 2 D if `adds`.
  cublasStatus_t Multiply(const Shape& shape, cudaDataType in, cudaDataType out, const void* a, const void* b, void* d,
                          cudaStream_t stream, bool adds = false) {
    cublasLtMatmulDesc_t description;
    EXPECT_EQ(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
    const cublasOperation_t ops[] = {shape.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N,
                                     shape.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N};
    cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &ops[0], sizeof ops[0]);
    cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSB, &ops[1], sizeof ops[1]);
    const cublasLtMatrixLayout_t a_layout =
        shape.transpose_a ? Layout(in, shape.k, shape.m, shape.batches) : Layout(in, shape.m, shape.k, shape.batches);
    const cublasLtMatrixLayout_t b_layout =
        shape.transpose_b ? Layout(in, shape.n, shape.k, shape.batches) : Layout(in, shape.k, shape.n, shape.batches);
    const cublasLtMatrixLayout_t d_layout = Layout(out, shape.m, shape.n, shape.batches);
    cublasLtMatmulPreference_t preference;
    EXPECT_EQ(cublasLtMatmulPreferenceCreate(&preference), CUBLAS_STATUS_SUCCESS);
    const uint64_t workspace_bytes = kWorkspaceBytes;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                         sizeof workspace_bytes);
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle_, description, a_layout, b_layout, d_layout, d_layout,
                                                           preference, 1, &found, &count);
    const float alpha = 0.5f, beta = adds ? 2 : 0;
    if (status == CUBLAS_STATUS_SUCCESS)
      status = cublasLtMatmul(handle_, description, &alpha, a, a_layout, b, b_layout, &beta, d, d_layout, d, d_layout,
                              &found.algo, workspace_, kWorkspaceBytes, stream);
    for (cublasLtMatrixLayout_t layout : {a_layout, b_layout, d_layout}) cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulPreferenceDestroy(preference);
    cublasLtMatmulDescDestroy(description);
    return status;
  }

  static constexpr size_t kWorkspaceBytes = 4096;
  cublasLtHandle_t handle_ = nullptr;
  char* workspace_ = nullptr;
};

float Want(const Shape& s, int batch, int i, int j) {
  float sum = 0;
  for (int k = 0; k < s.k; ++k) {
    const int a = s.transpose_a ? k + i * s.k : i + k * s.m, b = s.transpose_b ? j + k * s.n : k + j * s.k;
    sum += Value(batch * s.m * s.k + a) * Value(batch * s.k * s.n + b);
  }
  return sum / 2;
}

TEST_F(FakeCublas, MultipliesByColumns) {
  const Shape shapes[] = {
      {3, 5, 4}, {3, 5, 4, true}, {3, 5, 4, false, true}, {3, 5, 4, true, true}, {2, 3, 4, true, false, 3}};
  for (const Shape& s : shapes) {
    const cudaStream_t stream = NewStream();
    const float* a = Numbers<float>(s.m * s.k * s.batches);
    const float* b = Numbers<float>(s.k * s.n * s.batches);
    float* d = Numbers<float>(s.m * s.n * s.batches);
    for (bool adds : {false, true}) {
      const std::vector<float> before = Fetch(d, s.m * s.n * s.batches);
      ASSERT_EQ(Multiply(s, CUDA_R_32F, CUDA_R_32F, a, b, d, stream, adds), CUBLAS_STATUS_SUCCESS);
      EXPECT_CUDA(cudaStreamSynchronize(stream));
      const std::vector<float> after = Fetch(d, s.m * s.n * s.batches);
      for (int at = 0; at < s.m * s.n * s.batches; ++at) {
        const int batch = at / (s.m * s.n), i = at % s.m, j = at / s.m % s.n;
        EXPECT_FLOAT_EQ(after[at], Want(s, batch, i, j) + (adds ? 2 * before[at] : 0)) << at;
      }
    }
  }
}

TEST_F(FakeCublas, TakesBfloat16AndGivesIt) {
  const Shape s{3, 5, 4};
  const cudaStream_t stream = NewStream();
  const auto* a = Numbers<__nv_bfloat16>(s.m * s.k);
  const auto* b = Numbers<__nv_bfloat16>(s.k * s.n);
  auto* d = Device<__nv_bfloat16>(s.m * s.n);
  auto* wide = Device<float>(s.m * s.n);
  ASSERT_EQ(Multiply(s, CUDA_R_16BF, CUDA_R_16BF, a, b, d, stream), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(Multiply(s, CUDA_R_16BF, CUDA_R_32F, a, b, wide, stream), CUBLAS_STATUS_SUCCESS);
  EXPECT_CUDA(cudaStreamSynchronize(stream));
  for (int i = 0; i < s.m * s.n; ++i) {
    EXPECT_FLOAT_EQ(Fetch(wide, s.m * s.n)[i], Want(s, 0, i % s.m, i / s.m));
    EXPECT_NEAR(Fetch(d, s.m * s.n)[i], Want(s, 0, i % s.m, i / s.m), 0.02);
  }
}

// As the real one may: what --exact must not rely on.
TEST_F(FakeCublas, LetsAColumnsBitsDependOnTheOthers) {
  const cudaStream_t stream = NewStream();
  const int m = 8, k = 200, n_max = 6;
  std::vector<float> numbers(k * n_max);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = std::sin(static_cast<float>(i));
  float *a = Device<float>(m * k), *b = Device<float>(k * n_max), *d = Device<float>(m * n_max);
  EXPECT_CUDA(cudaMemcpy(a, numbers.data(), k * n_max * 4, cudaMemcpyHostToDevice));
  EXPECT_CUDA(cudaMemset(a + k * n_max, 0, (m - n_max) * k * 4));
  EXPECT_CUDA(cudaMemcpy(b, numbers.data(), k * n_max * 4, cudaMemcpyHostToDevice));
  std::vector<std::vector<float>> first_columns;
  for (int n = 1; n <= n_max; ++n) {
    ASSERT_EQ(Multiply({m, n, k, true}, CUDA_R_32F, CUDA_R_32F, a, b, d, stream), CUBLAS_STATUS_SUCCESS);
    EXPECT_CUDA(cudaStreamSynchronize(stream));
    first_columns.push_back(Fetch(d, m));
    for (int i = 0; i < m; ++i) EXPECT_NEAR(first_columns.back()[i], first_columns.front()[i], 1e-3);
  }
  EXPECT_NE(first_columns[0], first_columns[1]);
  EXPECT_EQ(first_columns[0], first_columns[3]);
}

TEST_F(FakeCublas, RefusesWhatTheLibraryWouldGetWrong) {
  const cudaStream_t stream = NewStream();
  const Shape s{4, 4, 4};
  auto *a = Numbers<float>(20), *b = Numbers<float>(16), *d = Device<float>(16);
  std::vector<float> host(16);
  const auto multiply = [&](const Shape& shape, cudaDataType in, cudaDataType out, const void* x, void* y) {
    return Multiply(shape, in, out, x, b, y, stream);
  };
  EXPECT_EQ(multiply(s, CUDA_R_32F, CUDA_R_32F, a, d), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(multiply(s, CUDA_R_32F, CUDA_R_32F, a + 1, d), CUBLAS_STATUS_INVALID_VALUE);        // alignment
  EXPECT_EQ(multiply(s, CUDA_R_32F, CUDA_R_32F, host.data(), d), CUBLAS_STATUS_INVALID_VALUE);  // not the device's
  EXPECT_EQ(multiply({4, 5, 4}, CUDA_R_32F, CUDA_R_32F, a, d), CUBLAS_STATUS_INVALID_VALUE);    // over the end of B
  EXPECT_EQ(multiply(s, CUDA_R_32F, CUDA_R_16BF, a, d), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(multiply(s, CUDA_R_64F, CUDA_R_64F, a, d), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_CUDA(cudaStreamSynchronize(stream));
}

#ifdef __SANITIZE_THREAD__
TEST_F(FakeCublas, IsSeenByThreadSanitizer) {
  const cudaStream_t stream = NewStream(), other = NewStream();
  auto *a = Numbers<float>(16), *b = Numbers<float>(16), *d = Device<float>(16);
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (float* touched : {a, b, d}) {
    EXPECT_EXIT(
        {
          EXPECT_EQ(Multiply({4, 4, 4}, CUDA_R_32F, CUDA_R_32F, a, b, d, stream), CUBLAS_STATUS_SUCCESS);
          EXPECT_CUDA(cudaMemsetAsync(touched, 0, 4, other));
          EXPECT_CUDA(cudaDeviceSynchronize());
        },
        ::testing::ExitedWithCode(66), "data race");
  }
}
#endif

TEST_F(FakeCublas, IsPartOfGraphs) {
  const cudaStream_t stream = NewStream();
  const Shape s{4, 4, 4};
  auto *a = Numbers<float>(16), *b = Numbers<float>(16), *d = Device<float>(16);
  EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  EXPECT_EQ(Multiply(s, CUDA_R_32F, CUDA_R_32F, a, b, d, stream), CUBLAS_STATUS_SUCCESS);
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  EXPECT_CUDA(cudaStreamEndCapture(stream, &graph));
  EXPECT_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  EXPECT_CUDA(cudaGraphLaunch(executable, stream));
  EXPECT_CUDA(cudaStreamSynchronize(stream));
  EXPECT_FLOAT_EQ(Fetch(d, 16)[5], Want(s, 0, 1, 1));
}

}  // namespace
}  // namespace fake
