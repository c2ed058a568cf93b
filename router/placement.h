#pragma once

#include <optional>
#include <span>
#include <vector>

#include "base/ids.h"
#include "braid/v1/worker.pb.h"

namespace braid {

// Which workers hold which experts: experts differ from layer to layer in how much they are used, so each layer has a
// placement of its own. Which replica computes a row changes nothing in the result.
struct Placement {
  using Homes = std::vector<WorkerId>;     // at least one; in rank order
  std::vector<std::vector<Homes>> layers;  // (MoE layers, E); empty for a dense model

  // Experts, over all layers, that a worker holds here and not in `before`: what it has to read in. `before` may be
  // empty.
  int CountNew(const Placement& before) const;
  // Rows that the busiest worker of each layer computes over the mean, were load[l * E + e] rows to come: 1 is even.
  // What a step waits for.
  double Imbalance(std::span<const double> load, int workers) const;
  // REQUIRES: every home is among `ranks`.
  std::vector<v1::LayerPlacement> ToProto(std::span<const WorkerId> ranks) const;
};

struct PlacementProblem {
  struct Worker {
    WorkerId id;
    // Experts that it has memory for, over all layers; at most all. They are spread evenly: of no layer it gets more
    // than its share, rounded up, which is what a GPU has places for.
    int slots = 0;
  };
  int layers = 0, experts = 0;
  std::vector<Worker> workers;        // by rank
  const Placement* before = nullptr;  // what is in memory now, if anything
  std::span<const double> load;       // (layers, E) rows seen lately; empty: as if even
  int replicas_max = 0;               // experts that a worker may hold per layer beyond an even share
  int moves_max = 0;                  // per layer: experts read in for balance alone
};

// Whether the workers together have memory for all experts.
bool HaveMemory(const PlacementProblem& problem);

// Keeps what is where it is, as far as it goes; gives experts whose homes are gone to the least loaded workers; then
// moves or replicates experts of the busiest worker to the idlest while that helps, and drops replicas of experts that
// are not used more than others. The same problem gives the same placement. nullopt unless
// HaveMemory.
std::optional<Placement> PlaceExperts(const PlacementProblem& problem);

}  // namespace braid
