#include "model/packed_seal.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/mapped_file.h"
#include "base/status.h"
#include "model/gguf_file.h"
#include "model/gguf_format.h"
#include "model/gguf_model.h"
#include "model/model_file.h"

namespace braid {
namespace {

using Hashes = std::vector<std::string>;

std::string Sha256(std::span<const std::byte> bytes) {
  std::array<unsigned char, 32> hash;
  CHECK(EVP_Digest(bytes.data(), bytes.size(), hash.data(), nullptr, EVP_sha256(), nullptr) == 1);
  std::string hex;
  for (const unsigned char byte : hash) {
    hex += "0123456789abcdef"[byte >> 4];
    hex += "0123456789abcdef"[byte & 15];
  }
  return hex;
}

Hashes HashTensors(const std::vector<StoredTensor>& tensors, ThreadPool* pool,
                   const std::function<void(uint64_t done, uint64_t total)>& progress) {
  uint64_t done = 0, total = 0;
  for (const StoredTensor& tensor : tensors) total += tensor.data.size();
  Hashes hashes(tensors.size());
  const size_t together = 2 * static_cast<size_t>(pool->threads());  // so that progress is heard of now and then
  for (size_t first = 0; first < tensors.size(); first += together) {
    const size_t count = std::min(together, tensors.size() - first);
    pool->ParallelFor(static_cast<int>(count), 1, [&](int begin, int end) {
      for (size_t i = first + static_cast<size_t>(begin); i < first + static_cast<size_t>(end); ++i)
        hashes[i] = Sha256(tensors[i].data);
    });
    for (size_t i = first; i < first + count; ++i) done += tensors[i].data.size();
    progress(done, total);
  }
  return hashes;
}

// A file open for writing at places in it.
class Patch {
 public:
  explicit Patch(const std::string& path) : path_(path), fd_(open(path.c_str(), O_WRONLY | O_CLOEXEC)) {}
  ~Patch() {
    if (fd_ >= 0) close(fd_);
  }

  void Write(std::string_view text, uint64_t offset) {
    ok_ = ok_ && fd_ >= 0 &&
          pwrite(fd_, text.data(), text.size(), static_cast<off_t>(offset)) == static_cast<ssize_t>(text.size());
  }
  absl::Status Close() {
    ok_ = ok_ && fd_ >= 0 && fsync(fd_) == 0;
    return ok_ ? absl::OkStatus() : absl::UnavailableError(path_ + ": " + std::strerror(errno));
  }

 private:
  const std::string path_;
  const int fd_;
  bool ok_ = true;
};

}  // namespace

absl::Status SealPackedFile(const std::string& path, ThreadPool* pool) {
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> model, OpenGgufModel(path, DigestCheck::kUnsealed));
  ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> map, MappedFile::Open(path));
  ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Parse(map->bytes()));
  ASSIGN_OR_RETURN(const std::optional<std::string_view> digest, file.String(kDigestKey));
  ASSIGN_OR_RETURN(const auto hashes, file.Strings(kTensorHashesKey, file.tensors().size()));
  const Hashes actual = HashTensors(file.tensors(), pool, [](uint64_t, uint64_t) {});
  CHECK(digest && digest->size() == model->digest().size());
  CHECK(hashes && hashes->size() == actual.size());
  Patch patch(path);
  // The strings of a GgufFile are views into the file: they say where they stand.
  const auto put = [&](const std::string& text, std::string_view place) {
    CHECK_EQ(text.size(), place.size());
    patch.Write(text, static_cast<uint64_t>(place.data() - reinterpret_cast<const char*>(map->bytes().data())));
  };
  put(model->digest(), *digest);
  for (size_t i = 0; i < actual.size(); ++i) put(actual[i], (*hashes)[i]);
  return patch.Close();
}

absl::Status VerifyPackedFile(const std::string& path, ThreadPool* pool,
                              const std::function<void(uint64_t done, uint64_t total)>& progress) {
  RETURN_IF_ERROR(ModelFile::Open(path).status());
  ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> map, MappedFile::Open(path));
  ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Parse(map->bytes()));
  ASSIGN_OR_RETURN(const auto hashes, file.Strings(kTensorHashesKey, file.tensors().size()));
  if (!hashes || hashes->size() != file.tensors().size())
    return InvalidArgument(path + ": has no hashes of its tensors; packed files do (braid convert --format packed)");
  const Hashes actual = HashTensors(file.tensors(), pool, progress);
  std::string damaged;
  for (size_t i = 0; i < actual.size(); ++i)
    if (actual[i] != (*hashes)[i]) damaged += (damaged.empty() ? "'" : ", '") + file.tensors()[i].name + "'";
  if (damaged.empty()) return absl::OkStatus();
  return absl::DataLossError(path + ": damaged, pack the model again; not what they were: " + damaged);
}

}  // namespace braid
