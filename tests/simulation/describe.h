#pragma once

#include <string>

#include "braid/v1/worker.pb.h"

namespace braid::simulation {

// One line for the log.
std::string Describe(const v1::AttachRequest& message);
std::string Describe(const v1::AttachResponse& message);

}  // namespace braid::simulation
