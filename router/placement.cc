#include "router/placement.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/planted_bug.h"

namespace braid {
namespace {

constexpr double kWorthwhile = 0.02;  // of the busiest worker's load: smaller gains are noise
constexpr double kHot = 1.5;          // of the mean: only what is used more than this is worth memory twice

// One layer under construction. Ranks instead of ids; every home of an expert gets an equal share of its rows.
class Layer {
 public:
  Layer(int experts, std::vector<int> slots, std::vector<double> load)
      : slots_(std::move(slots)), load_(std::move(load)), homes_(static_cast<size_t>(experts)), held_(slots_.size()) {}

  void Add(int expert, int rank) {
    homes_[static_cast<size_t>(expert)].push_back(rank);
    ++held_[static_cast<size_t>(rank)];
  }
  void Remove(int expert, int rank) {
    std::erase(homes_[static_cast<size_t>(expert)], rank);
    --held_[static_cast<size_t>(rank)];
  }

  // REQUIRES: as many slots as experts, over all ranks.
  void HouseOrphans() {
    std::vector<int> orphans;
    for (int e = 0; e < experts(); ++e) {
      if (homes(e).empty()) orphans.push_back(e);
    }
    std::stable_sort(orphans.begin(), orphans.end(), [this](int a, int b) { return load(a) > load(b); });
    for (int expert : orphans) {
      const std::vector<double> loads = Loads();
      int best = -1;
      for (int rank = 0; rank < ranks(); ++rank) {
        if (held(rank) >= slots(rank)) continue;
        if (best < 0 || loads[static_cast<size_t>(rank)] < loads[static_cast<size_t>(best)]) best = rank;
      }
      if (best < 0) best = TakeAReplicasPlace();
      Add(expert, best);
    }
  }

  void DropColdReplicas() {
    const double mean = std::accumulate(load_.begin(), load_.end(), 0.0) / experts();
    for (int e = 0; e < experts(); ++e) {
      while (homes(e).size() > 1 && load(e) <= mean) Remove(e, Busiest(homes(e)));
    }
  }

  // One expert more on the idlest rank, so that the busiest has less to do. False if nothing helps.
  bool Relieve(int replicas_max) {
    const std::vector<double> loads = Loads();
    const int from = static_cast<int>(std::max_element(loads.begin(), loads.end()) - loads.begin());
    const int to = static_cast<int>(std::min_element(loads.begin(), loads.end()) - loads.begin());
    const double busiest = loads[static_cast<size_t>(from)], idlest = loads[static_cast<size_t>(to)];
    if (held(to) >= slots(to)) return false;
    const double hot = kHot * std::accumulate(load_.begin(), load_.end(), 0.0) / experts();
    const bool may_replicate = held(to) < (experts() + ranks() - 1) / ranks() + replicas_max;
    double best = busiest * (1 - kWorthwhile);
    int expert = -1;
    bool move = false;
    for (int e = 0; e < experts(); ++e) {
      if (!Contains(homes(e), from) || Contains(homes(e), to)) continue;
      const double n = static_cast<double>(homes(e).size()), share = load(e) / n, split = load(e) / (n + 1);
      const double moved = std::max(busiest - share, idlest + share);
      const double replicated = std::max(busiest - share + split, idlest + split);
      if (moved < best) best = moved, expert = e, move = true;
      // A replica costs memory: it has to be clearly better than moving.
      if (may_replicate && load(e) > hot && replicated < best * (1 - kWorthwhile))
        best = replicated, expert = e, move = false;
    }
    if (expert < 0) return false;
    Add(expert, to);
    if (move) Remove(expert, from);
    return true;
  }

  std::vector<Placement::Homes> Finish(const PlacementProblem& problem) {
    std::vector<Placement::Homes> result;
    for (std::vector<int>& ranks : homes_) {
      std::sort(ranks.begin(), ranks.end());
      Placement::Homes ids;
      for (int rank : ranks) ids.push_back(problem.workers[static_cast<size_t>(rank)].id);
      result.push_back(std::move(ids));
    }
    return result;
  }

 private:
  static bool Contains(const std::vector<int>& ranks, int rank) {
    return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
  }
  int experts() const { return static_cast<int>(homes_.size()); }
  int ranks() const { return static_cast<int>(slots_.size()); }
  int slots(int rank) const { return slots_[static_cast<size_t>(rank)]; }
  int held(int rank) const { return held_[static_cast<size_t>(rank)]; }
  double load(int expert) const { return load_[static_cast<size_t>(expert)]; }
  const std::vector<int>& homes(int expert) const { return homes_[static_cast<size_t>(expert)]; }

  std::vector<double> Loads() const {
    std::vector<double> loads(slots_.size());
    for (int e = 0; e < experts(); ++e) {
      for (int rank : homes(e)) loads[static_cast<size_t>(rank)] += load(e) / static_cast<double>(homes(e).size());
    }
    return loads;
  }
  int Busiest(const std::vector<int>& among) const {
    const std::vector<double> loads = Loads();
    return *std::max_element(among.begin(), among.end(), [&](int a, int b) {
      return loads[static_cast<size_t>(a)] < loads[static_cast<size_t>(b)];
    });
  }
  // All slots are taken while an expert is homeless: some expert has more than one home. Returns a rank with room.
  int TakeAReplicasPlace() {
    int victim = -1;
    for (int e = 0; e < experts(); ++e) {
      if (homes(e).size() > 1 && (victim < 0 || load(e) < load(victim))) victim = e;
    }
    CHECK_GE(victim, 0);
    const int rank = Busiest(homes(victim));
    Remove(victim, rank);
    return rank;
  }

  const std::vector<int> slots_;
  const std::vector<double> load_;
  std::vector<std::vector<int>> homes_;  // by expert
  std::vector<int> held_;                // by rank
};

// A worker's slots are spread evenly over the layers. What is left over of one worker goes to the layers after those
// that got what was left over of the one before, so that all layers get their share of the sum.
std::vector<int> SlotsOfLayer(const PlacementProblem& problem, int layer) {
  std::vector<int> slots;
  int first = 0;
  for (const PlacementProblem::Worker& worker : problem.workers) {
    const int rest = worker.slots % problem.layers;
    const bool one_more = (layer - first + problem.layers) % problem.layers < rest;
    slots.push_back(worker.slots / problem.layers + (one_more ? 1 : 0));
    first = (first + rest) % problem.layers;
  }
  return slots;
}

// A little for every expert, so that one that was not used lately is not taken to be free.
std::vector<double> LoadOfLayer(const PlacementProblem& problem, int layer) {
  const auto E = static_cast<size_t>(problem.experts);
  if (problem.load.empty()) return std::vector<double>(E, 1.0);
  const auto rows = problem.load.subspan(static_cast<size_t>(layer) * E, E);
  const double mean = std::accumulate(rows.begin(), rows.end(), 0.0) / static_cast<double>(E);
  std::vector<double> load;
  for (double r : rows) load.push_back(r + 0.05 * mean + 1e-9);
  return load;
}

}  // namespace

int Placement::CountNew(const Placement& before) const {
  int count = 0;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    for (size_t e = 0; e < layers[layer].size(); ++e) {
      for (WorkerId id : layers[layer][e]) {
        const bool there = layer < before.layers.size() &&
                           std::count(before.layers[layer][e].begin(), before.layers[layer][e].end(), id) > 0;
        count += there ? 0 : 1;
      }
    }
  }
  return count;
}

double Placement::Imbalance(std::span<const double> load, int workers) const {
  double busiest = 0, total = 0;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    std::vector<std::pair<WorkerId, double>> loads;
    for (size_t e = 0; e < layers[layer].size(); ++e) {
      const Homes& homes = layers[layer][e];
      const double rows = load[layer * layers[layer].size() + e];
      total += rows;
      for (WorkerId id : homes) {
        auto it = std::find_if(loads.begin(), loads.end(), [id](const auto& entry) { return entry.first == id; });
        if (it == loads.end()) it = loads.insert(it, {id, 0.0});
        it->second += rows / static_cast<double>(homes.size());
      }
    }
    double most = 0;
    for (const auto& [id, rows] : loads) most = std::max(most, rows);
    busiest += most;
  }
  return total > 0 ? busiest * workers / total : 1.0;
}

std::vector<v1::LayerPlacement> Placement::ToProto(std::span<const WorkerId> ranks) const {
  std::vector<v1::LayerPlacement> proto(layers.size());
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    for (const Homes& homes : layers[layer]) {
      proto[layer].add_replicas(static_cast<uint32_t>(homes.size()));
      for (WorkerId id : homes) {
        const auto rank = std::find(ranks.begin(), ranks.end(), id);
        CHECK(rank != ranks.end());
        proto[layer].add_ranks(static_cast<uint32_t>(rank - ranks.begin()));
      }
    }
  }
  return proto;
}

bool HaveMemory(const PlacementProblem& problem) {
  int64_t slots = 0;
  for (const PlacementProblem::Worker& worker : problem.workers) slots += worker.slots;
  return slots >= int64_t{problem.layers} * problem.experts;
}

std::optional<Placement> PlaceExperts(const PlacementProblem& problem) {
  CHECK(!problem.workers.empty());
  if (!HaveMemory(problem)) return std::nullopt;
  Placement placement;
  for (int l = 0; l < problem.layers; ++l) {
    const std::vector<int> slots = SlotsOfLayer(problem, l);
    Layer layer(problem.experts, slots, LoadOfLayer(problem, l));
    std::vector<int> left = slots;
    const bool known = problem.before != nullptr && static_cast<size_t>(l) < problem.before->layers.size();
    for (int e = 0; known && e < problem.experts; ++e) {
      for (WorkerId id : problem.before->layers[static_cast<size_t>(l)][static_cast<size_t>(e)]) {
        for (size_t rank = 0; rank < problem.workers.size(); ++rank) {
          if (problem.workers[rank].id != id || left[rank] == 0) continue;
          layer.Add(e, static_cast<int>(rank));
          --left[rank];
        }
      }
    }
    layer.DropColdReplicas();
    if (!Planted(Bug::kLeavesExpertHomeless) || !known) layer.HouseOrphans();
    // A worker without experts has just come: it takes its share however much there is to read in.
    const bool arrival = std::any_of(problem.workers.begin(), problem.workers.end(), [&](const auto& worker) {
      return known && left[static_cast<size_t>(&worker - problem.workers.data())] ==
                          slots[static_cast<size_t>(&worker - problem.workers.data())];
    });
    const int moves = arrival || !known ? problem.experts : problem.moves_max;
    for (int i = 0; i < moves && layer.Relieve(problem.replicas_max); ++i) {
    }
    placement.layers.push_back(layer.Finish(problem));
  }
  return placement;
}

}  // namespace braid
