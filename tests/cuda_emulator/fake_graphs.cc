// Captures and graphs. While a stream captures, what it is given becomes a node, behind those that its stream's order
// and the events say, and nothing else. A launched graph runs its nodes one at a time in an order that the seed
// chooses among those that the edges allow.

#include <algorithm>
#include <cstdio>
#include <thread>

#include "tests/cuda_emulator/fake_runtime.h"
#include "tests/cuda_emulator/simt.h"

namespace fake {

struct Node {
  MakeOperation make;
  std::vector<int> after;
  int lane = 0;  // one for each stream that took part
};
using Nodes = std::vector<Node>;

class Capture {
 public:
  Capture(Stream* origin, cudaStreamCaptureMode mode, uint64_t id)
      : origin(origin), mode(mode), thread(std::this_thread::get_id()), id(id) {
    Join(*origin, {});
  }
  void Join(Stream& stream, const std::vector<int>& after) {
    const auto [member, joined] = members_.try_emplace(&stream, Member{{}, static_cast<int>(members_.size())});
    has_blocking_stream_ |= (stream.flags & cudaStreamNonBlocking) == 0;
    std::vector<int>& last = member->second.last;
    last.insert(last.end(), after.begin(), after.end());
    std::sort(last.begin(), last.end());
    last.erase(std::unique(last.begin(), last.end()), last.end());
  }
  void Add(Stream& stream, MakeOperation make) {
    Member& member = members_.at(&stream);
    nodes.push_back({std::move(make), member.last, member.lane});
    member.last = {static_cast<int>(nodes.size()) - 1};
  }
  const std::vector<int>& last(Stream& stream) const { return members_.at(&stream).last; }
  int lanes() const { return static_cast<int>(members_.size()); }
  bool has_blocking_stream() const { return has_blocking_stream_; }
  // Whether all that was captured comes before the origin's end.
  bool Joined() const {
    std::vector<bool> before(nodes.size());
    for (int node : members_.at(origin).last) before[node] = true;
    for (size_t i = nodes.size(); i-- > 0;) {
      if (!before[i]) return false;
      for (int node : nodes[i].after) before[node] = true;
    }
    return true;
  }

  Stream* const origin;
  const cudaStreamCaptureMode mode;
  const std::thread::id thread;
  const uint64_t id;
  bool invalid = false, over = false;
  Nodes nodes;

 private:
  struct Member {
    std::vector<int> last;  // what its next node comes after
    int lane;
  };
  std::map<const Stream*, Member> members_;
  bool has_blocking_stream_ = false;
};

namespace {

struct Graph {
  Nodes nodes;
  int lanes;
};

struct Executable {
  std::shared_ptr<const Nodes> nodes;
  std::vector<std::unique_ptr<Lane>> lanes;
  uint64_t launched = 0, completed = 0;  // a launch waits for the one before
  simt::SyncPoint done;
};

constexpr int kLaneSlots = 1000;  // of lanes beside the launching stream's

// One launch.
class Replay {
 public:
  explicit Replay(std::shared_ptr<Executable> graph)
      : graph_(std::move(graph)),
        nodes_(graph_->nodes),
        ticket_(graph_->launched++),
        random_(simt::Seed() * 0x30011 + ticket_),
        policy_(simt::PolicyOf(simt::Seed())),
        states_(nodes_->size()) {}

  Progress Advance(cudaError_t* error) {
    if (graph_->completed != ticket_) return Progress::kWaiting;
    if (left_ == states_.size() && !started_) Start();
    std::vector<size_t> ready;
    for (size_t i = 0; i < states_.size(); ++i)
      if (CanRun(i)) ready.push_back(i);
    while (!ready.empty()) {
      const size_t chosen = Choose(ready.size());
      if (Run(ready[chosen], error)) break;
      ready.erase(ready.begin() + chosen);
    }
    if (left_ == 0 || *error != cudaSuccess) {
      Finish();
      return Progress::kDone;
    }
    return ready.empty() ? Progress::kWaiting : Progress::kMoved;
  }

 private:
  struct State {
    std::unique_ptr<Operation> operation;  // once it has begun
    bool done = false;
    simt::SyncPoint sync;
  };

  bool CanRun(size_t i) const {
    if (states_[i].done) return false;
    const std::vector<int>& after = (*nodes_)[i].after;
    return std::all_of(after.begin(), after.end(), [this](int node) { return states_[node].done; });
  }
  size_t Choose(size_t n) {
    if (policy_ == simt::Policy::kAscending) return 0;
    if (policy_ == simt::Policy::kDescending) return n - 1;
    return random_.Below(static_cast<int>(n));
  }
  void Start() {
    started_ = true;
    const Seen seen;
    simt::Acquire(&graph_->done);
    simt::Release(&start_);
  }
  // Whether the node is done.
  bool Run(size_t i, cudaError_t* error) {
    const Node& node = (*nodes_)[i];
    State& state = states_[i];
    if (state.operation == nullptr) state.operation = std::make_unique<Operation>(node.make());
    std::exception_ptr thrown;
    const int slot = running_slot;
    if (node.lane > 0) running_slot = kLaneSlots + node.lane;
    graph_->lanes[node.lane]->Run([&] {
      simt::Acquire(&start_);
      for (int before : node.after) simt::Acquire(&states_[before].sync);
      {
        const Hidden hidden;
        try {
          state.done = state.operation->advance(error) == Progress::kDone;
        } catch (...) {
          thrown = std::current_exception();
        }
      }
      simt::Release(&state.sync);
    });
    running_slot = slot;
    if (thrown != nullptr) {
      Finish();
      std::rethrow_exception(thrown);
    }
    if (state.done) --left_;
    return state.done || *error != cudaSuccess;
  }
  void Finish() {
    ++graph_->completed;
    const Seen seen;
    for (State& state : states_) simt::Acquire(&state.sync);
    simt::Release(&graph_->done);
  }

  const std::shared_ptr<Executable> graph_;
  const std::shared_ptr<const Nodes> nodes_;
  const uint64_t ticket_;
  simt::Random random_;
  const simt::Policy policy_;
  std::vector<State> states_;
  size_t left_ = nodes_->size();
  bool started_ = false;
  simt::SyncPoint start_;
};

// All that there are, by their handles.
std::map<cudaGraph_t, Graph>& Graphs() {
  static auto* const graphs = new std::map<cudaGraph_t, Graph>;
  return *graphs;
}
std::map<cudaGraphExec_t, std::shared_ptr<Executable>>& Executables() {
  static auto* const executables = new std::map<cudaGraphExec_t, std::shared_ptr<Executable>>;
  return *executables;
}
uint64_t handles = 0x1000;

thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

cudaError_t Invalidate(Capture& capture, cudaError_t error) {
  capture.invalid = true;
  return error;
}

bool SameShape(const Nodes& a, const Nodes& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Node& x, const Node& y) { return x.after == y.after && x.lane == y.lane; });
}

}  // namespace

void ForgetGraphs() {
  Graphs().clear();
  Executables().clear();
  thread_mode = cudaStreamCaptureModeGlobal;
}

void Record(Stream& stream, MakeOperation make) { stream.capture->Add(stream, std::move(make)); }

void RecordEvent(Stream& stream, Event& event) {
  event.mark = nullptr;
  event.captured = stream.capture;
  event.nodes = stream.capture->last(stream);
}

cudaError_t WaitInCapture(Stream& stream, const Event& event) {
  if (event.captured == nullptr) {
    if (event.mark == nullptr) return cudaSuccess;
    return Invalidate(*stream.capture, cudaErrorStreamCaptureIsolation);
  }
  if (event.captured->over) return cudaErrorCapturedEvent;
  if (stream.capture != nullptr && stream.capture != event.captured) {
    Invalidate(*event.captured, cudaErrorStreamCaptureMerge);
    return Invalidate(*stream.capture, cudaErrorStreamCaptureMerge);
  }
  if (stream.legacy) return Invalidate(*event.captured, cudaErrorStreamCaptureImplicit);
  stream.capture = event.captured;
  stream.capture->Join(stream, event.nodes);
  return cudaSuccess;
}

cudaError_t RefuseDuringCapture(Stream* stream) {
  if (stream->capture != nullptr) return Invalidate(*stream->capture, cudaErrorStreamCaptureUnsupported);
  if (!stream->legacy) return cudaSuccess;
  for (const auto& capture : runtime().captures)
    if (capture->has_blocking_stream() && capture->origin->device == stream->device)
      return Invalidate(*capture, cudaErrorStreamCaptureImplicit);
  return cudaSuccess;
}

cudaError_t RefuseUnsafeCall() {
  if (thread_mode == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  for (const auto& capture : runtime().captures) {
    const bool own = capture->thread == std::this_thread::get_id();
    const bool refuse =
        own ? capture->mode != cudaStreamCaptureModeRelaxed
            : capture->mode == cudaStreamCaptureModeGlobal && thread_mode == cudaStreamCaptureModeGlobal;
    if (refuse) return Invalidate(*capture, cudaErrorStreamCaptureUnsupported);
  }
  return cudaSuccess;
}

}  // namespace fake

// ---- The API.

using fake::Call;
using fake::Capture;
using fake::runtime;
using fake::Stream;

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, fake::thread_mode);
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  FAKE_CALL();
  Stream* const stream = runtime().Find(handle);
  if (stream == nullptr) return call.Return(cudaErrorInvalidResourceHandle);
  if (stream->legacy) return call.Return(cudaErrorStreamCaptureUnsupported);
  if (stream->capture != nullptr) return call.Return(cudaErrorIllegalState);
  stream->capture = std::make_shared<Capture>(stream, mode, ++fake::handles);
  runtime().captures.push_back(stream->capture);
  return call.Return(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  FAKE_CALL();
  if (graph != nullptr) *graph = nullptr;
  Stream* const stream = runtime().Find(handle);
  if (stream == nullptr || graph == nullptr) return call.Return(cudaErrorInvalidValue);
  const std::shared_ptr<Capture> capture = stream->capture;
  if (capture == nullptr) return call.Return(cudaErrorIllegalState);
  if (capture->origin != stream) return call.Return(cudaErrorStreamCaptureUnmatched);
  if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id())
    return call.Return(cudaErrorStreamCaptureWrongThread);
  capture->over = true;
  for (const auto& member : runtime().streams)
    if (member->capture == capture) member->capture = nullptr;
  std::erase(runtime().captures, capture);
  if (capture->invalid) return call.Return(cudaErrorStreamCaptureInvalidated);
  if (!capture->Joined()) return call.Return(cudaErrorStreamCaptureUnjoined);
  *graph = reinterpret_cast<cudaGraph_t>(++fake::handles);
  fake::Graphs().emplace(*graph, fake::Graph{std::move(capture->nodes), capture->lanes()});
  return call.Return(cudaSuccess);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  FAKE_CALL();
  const Stream* stream = runtime().Find(handle);
  if (stream == nullptr) return call.Return(cudaErrorInvalidResourceHandle);
  *status = stream->capture == nullptr ? cudaStreamCaptureStatusNone
            : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                       : cudaStreamCaptureStatusActive;
  return call.Return(cudaSuccess);
}

// Of nodes and edges it tells nothing.
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t handle, cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t* graph, const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, size_t* count) {
  if (const cudaError_t error = cudaStreamIsCapturing(handle, status); error != cudaSuccess) return error;
  FAKE_CALL();
  if (graph != nullptr || dependencies != nullptr || edges != nullptr) return call.Return(cudaErrorNotSupported);
  const Stream* stream = runtime().Find(handle);
  if (id != nullptr) *id = stream->capture == nullptr ? 0 : stream->capture->id;
  if (count != nullptr) *count = 0;
  return call.Return(cudaSuccess);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* handle, cudaGraph_t graph, unsigned long long) {
  FAKE_CALL();
  if (handle == nullptr) return call.Return(cudaErrorInvalidValue);
  if (const cudaError_t refused = fake::RefuseUnsafeCall(); refused != cudaSuccess) return call.Return(refused);
  const auto found = fake::Graphs().find(graph);
  if (found == fake::Graphs().end()) return call.Return(cudaErrorInvalidValue);
  int& fails_in = runtime().settings.malloc_fails_in;  // it takes memory
  if (fails_in > 0 && --fails_in == 0) return call.Return(cudaErrorMemoryAllocation);
  auto executable = std::make_shared<fake::Executable>();
  executable->nodes = std::make_shared<const fake::Nodes>(found->second.nodes);
  for (int i = 0; i < found->second.lanes; ++i) executable->lanes.push_back(std::make_unique<fake::Lane>());
  *handle = reinterpret_cast<cudaGraphExec_t>(++fake::handles);
  fake::Executables().emplace(*handle, std::move(executable));
  return call.Return(cudaSuccess);
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* handle, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiate(handle, graph, flags);
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t handle, cudaGraph_t graph, cudaGraphExecUpdateResultInfo* result) {
  FAKE_CALL();
  const auto executable = fake::Executables().find(handle);
  const auto found = fake::Graphs().find(graph);
  if (executable == fake::Executables().end() || found == fake::Graphs().end() || result == nullptr)
    return call.Return(cudaErrorInvalidValue);
  const bool same = fake::SameShape(*executable->second->nodes, found->second.nodes);
  *result = {};
  result->result = same ? cudaGraphExecUpdateSuccess : cudaGraphExecUpdateErrorTopologyChanged;
  if (!same) return call.Return(cudaErrorGraphExecUpdateFailure);
  executable->second->nodes = std::make_shared<const fake::Nodes>(found->second.nodes);
  return call.Return(cudaSuccess);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream_handle) {
  FAKE_CALL();
  const auto found = fake::Executables().find(handle);
  Stream* const stream = runtime().Find(stream_handle);
  if (found == fake::Executables().end() || stream == nullptr) return call.Return(cudaErrorInvalidValue);
  ++runtime().calls.graph_launches;
  return call.Return(fake::EnqueueHere(stream, [executable = found->second] {
    auto replay = std::make_shared<fake::Replay>(executable);
    return fake::Operation{"a graph of " + std::to_string(executable->nodes->size()) + " nodes",
                           [replay](cudaError_t* error) { return replay->Advance(error); }};
  }));
}

cudaError_t cudaGraphUpload(cudaGraphExec_t handle, cudaStream_t) {
  FAKE_CALL();
  return call.Return(fake::Executables().count(handle) == 1 ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  FAKE_CALL();
  const auto found = fake::Graphs().find(graph);
  if (found == fake::Graphs().end()) return call.Return(cudaErrorInvalidValue);
  if (nodes != nullptr) return call.Return(cudaErrorNotSupported);
  *count = found->second.nodes.size();
  return call.Return(cudaSuccess);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  FAKE_CALL(Call::Needs::kContext);
  return call.Return(fake::Graphs().erase(graph) == 1 ? cudaSuccess : cudaErrorInvalidValue);
}

// What was launched goes on.
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t handle) {
  FAKE_CALL(Call::Needs::kContext);
  return call.Return(fake::Executables().erase(handle) == 1 ? cudaSuccess : cudaErrorInvalidValue);
}
