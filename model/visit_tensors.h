#pragma once

#include "model/tensors.h"

namespace braid {

// Calls visit(const TensorView&) for each matrix and vector of a model, in a fixed order; a tied head is not visited
// apart from the embedding.
template <typename Visit>
void VisitTensors(const ModelTensors& model, Visit&& visit) {
  const auto visit_set = [&](const TensorView& tensor) {
    if (!tensor.empty()) visit(tensor);
  };
  const auto visit_ffn = [&](const FfnTensors& ffn) {
    for (const TensorView* tensor : {&ffn.gate, &ffn.up, &ffn.down}) visit_set(*tensor);
  };
  visit_set(model.embedding);
  visit_set(model.final_norm);
  if (model.head.data != model.embedding.data) visit_set(model.head);
  for (const LayerTensors& layer : model.layers) {
    for (const TensorView* tensor :
         {&layer.operator_norm, &layer.ffn_norm, &layer.conv_in, &layer.conv_kernel, &layer.conv_out, &layer.q,
          &layer.k, &layer.v, &layer.attn_out, &layer.q_norm, &layer.k_norm, &layer.router, &layer.expert_bias})
      visit_set(*tensor);
    visit_ffn(layer.dense);
    for (const FfnTensors& expert : layer.experts) visit_ffn(expert);
  }
}

// Calls visit(TensorView&), const if the model is, for each matrix that activations are multiplied with, routers aside:
// those that can be in panels. A tied head is not visited apart from the embedding.
template <typename Model, typename Visit>
void VisitMatrices(Model& model, Visit&& visit) {
  const auto visit_set = [&](auto& tensor) {
    if (!tensor.empty()) visit(tensor);
  };
  const auto visit_ffn = [&](auto& ffn) {
    for (auto* tensor : {&ffn.gate, &ffn.up, &ffn.down}) visit_set(*tensor);
  };
  const bool tied = model.head.data == model.embedding.data;
  visit_set(model.embedding);
  if (!tied) visit_set(model.head);
  for (auto& layer : model.layers) {
    for (auto* tensor : {&layer.conv_in, &layer.conv_out, &layer.q, &layer.k, &layer.v, &layer.attn_out})
      visit_set(*tensor);
    visit_ffn(layer.dense);
    for (auto& expert : layer.experts) visit_ffn(expert);
  }
}

}  // namespace braid
