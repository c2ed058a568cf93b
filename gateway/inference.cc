#include "gateway/inference.h"

namespace braid {

const char* FinishReasonName(Finished::Reason reason) {
  switch (reason) {
    case Finished::Reason::kStop:
      return "stop";
    case Finished::Reason::kLength:
      return "length";
    case Finished::Reason::kToolCalls:
      return "tool_calls";
  }
  return "stop";
}

}  // namespace braid
