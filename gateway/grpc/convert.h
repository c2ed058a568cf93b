#pragma once

#include <variant>
#include <vector>

#include "braid/v1/inference.pb.h"
#include "gateway/inference.h"

// Between braid.v1's messages and the requests and events of inference.h. Pure.

namespace braid {

std::variant<ApiError, ChatRequest> FromProto(const v1::ChatRequest& request);
std::variant<ApiError, CompletionRequest> FromProto(const v1::GenerateRequest& request);

// An event may be several messages or none (Accepted, Done's counterpart is Usage, ApiError is the call's status).
std::vector<v1::ChatResponse> ToChatResponses(const CallEvent& event);
std::vector<v1::GenerateResponse> ToGenerateResponses(const CallEvent& event);

}  // namespace braid
