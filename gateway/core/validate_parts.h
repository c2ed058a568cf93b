#pragma once

#include <optional>
#include <string>
#include <vector>

#include "gateway/core/validate.h"

// The pieces of validate.cc. Each check returns the first thing that is wrong, or nothing.

namespace braid {

using MaybeError = std::optional<ApiError>;

ApiError Invalid(std::string param, std::string message, std::string code = "invalid_value");

// validate_params.cc: sampling and everything else that chat and completions share. Fills `call` with resolved values,
// all but the prompts.
MaybeError ResolveParams(const GenerationParams& params, const ServedModel& model, const CallContext& context,
                         PreparedCall* call);

// validate_chat.cc: messages and tools. Fills `input`, ready to render.
MaybeError ReadChat(const ChatRequest& request, ChatInput* input);

}  // namespace braid

// Returns the error of a check from the enclosing function.
#define RETURN_IF_INVALID(expr)                                                       \
  do {                                                                                \
    if (::braid::MaybeError invalid_macro = (expr)) return *std::move(invalid_macro); \
  } while (false)
