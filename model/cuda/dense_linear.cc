#include "model/cuda/dense_linear.h"

#include <cublasLt.h>

#include <string>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "base/status.h"

// Row-major y = x W^T is column-major y^T = W x^T: cuBLAS gets W as A, transposed, and x as B, both as they lie.

namespace braid::gpu {
namespace {

absl::Status CublasError(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(std::string(what) + ": " + cublasLtGetStatusString(status));
}

struct Product {
  int N, K, rows;
  DType y_type;
  friend bool operator==(const Product&, const Product&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const Product& p) {
    return H::combine(std::move(h), p.N, p.K, p.rows, p.y_type);
  }
};

struct Chosen {
  bool any = false;
  cublasLtMatmulDescOpaque_t product;
  cublasLtMatrixLayoutOpaque_t w, x, y;
  cublasLtMatmulAlgo_t algorithm;
};

class CublasLtLinear : public DenseLinear {
 public:
  explicit CublasLtLinear(cublasLtHandle_t handle) : handle_(handle) {}
  ~CublasLtLinear() override { (void)cublasLtDestroy(handle_); }

  void Bind(void* workspace) override { workspace_ = workspace; }

  absl::StatusOr<bool> Enqueue(const GroupedLinear& op, cudaStream_t stream) override {
    const bool plain = op.E == 1 && op.source == nullptr && !op.swiglu && op.places == nullptr;
    if (!plain || op.type != DType::kBF16 || op.w.type != DType::kBF16) return false;
    if (op.rows_max == 0) return true;
    ASSIGN_OR_RETURN(const Chosen* chosen, Choose({op.N, op.K, op.rows_max, op.y_type}));
    if (!chosen->any) return false;
    const float one = 1, zero = 0;
    RETURN_IF_ERROR(CublasError(cublasLtMatmul(handle_, const_cast<cublasLtMatmulDesc_t>(&chosen->product), &one,
                                               op.w.data, const_cast<cublasLtMatrixLayout_t>(&chosen->w), op.x,
                                               const_cast<cublasLtMatrixLayout_t>(&chosen->x), &zero, op.y,
                                               const_cast<cublasLtMatrixLayout_t>(&chosen->y), op.y,
                                               const_cast<cublasLtMatrixLayout_t>(&chosen->y), &chosen->algorithm,
                                               workspace_, kWorkspaceBytes, stream),
                                "cublasLtMatmul"));
    return true;
  }

 private:
  // Prefills have any number of rows: what is kept of them is bounded.
  static constexpr size_t kChosenMax = 4096;

  absl::StatusOr<const Chosen*> Choose(const Product& product) {
    const auto found = chosen_.find(product);
    if (found != chosen_.end()) return found->second.get();
    if (chosen_.size() >= kChosenMax) chosen_.clear();
    auto chosen = std::make_unique<Chosen>();
    RETURN_IF_ERROR(AskFor(product, chosen.get()));
    return (chosen_[product] = std::move(chosen)).get();
  }

  absl::Status AskFor(const Product& product, Chosen* chosen) {
    const auto K = static_cast<uint64_t>(product.K), N = static_cast<uint64_t>(product.N);
    const auto rows = static_cast<uint64_t>(product.rows);
    const cudaDataType_t y_type = product.y_type == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    RETURN_IF_ERROR(CublasError(cublasLtMatmulDescInit(&chosen->product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a product"));
    RETURN_IF_ERROR(CublasError(
        cublasLtMatmulDescSetAttribute(&chosen->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
        "a transposed matrix"));
    RETURN_IF_ERROR(CublasError(cublasLtMatrixLayoutInit(&chosen->w, CUDA_R_16BF, K, N, product.K), "a layout"));
    RETURN_IF_ERROR(CublasError(cublasLtMatrixLayoutInit(&chosen->x, CUDA_R_16BF, K, rows, product.K), "a layout"));
    RETURN_IF_ERROR(CublasError(cublasLtMatrixLayoutInit(&chosen->y, y_type, N, rows, product.N), "a layout"));
    cublasLtMatmulPreferenceOpaque_t preference;
    RETURN_IF_ERROR(CublasError(cublasLtMatmulPreferenceInit(&preference), "preferences"));
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      return CublasError(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof value),
                         "preferences");
    };
    RETURN_IF_ERROR(prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes));
    // Rows of activations begin at multiples of 16 bytes, whichever comes first.
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      RETURN_IF_ERROR(prefer(attribute, uint32_t{16}));
    cublasLtMatmulHeuristicResult_t result;
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_, &chosen->product, &chosen->w, &chosen->x, &chosen->y, &chosen->y, &preference, 1, &result, &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return absl::OkStatus();
    RETURN_IF_ERROR(CublasError(status, "choosing an algorithm"));
    chosen->any = count > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    chosen->algorithm = result.algo;
    return absl::OkStatus();
  }

  const cublasLtHandle_t handle_;
  void* workspace_ = nullptr;
  absl::flat_hash_map<Product, std::unique_ptr<Chosen>> chosen_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DenseLinear>> DenseLinear::Create() {
  cublasLtHandle_t handle = nullptr;
  RETURN_IF_ERROR(CublasError(cublasLtCreate(&handle), "cublasLtCreate"));
  return std::make_unique<CublasLtLinear>(handle);
}

}  // namespace braid::gpu
