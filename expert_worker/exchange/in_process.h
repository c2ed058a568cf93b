#pragma once

#include <memory>

#include "expert_worker/exchange/exchange.h"

namespace braid {

// Peers are threads of this process (`braid serve`, tests): a message is a pointer handed over, nothing is copied.
// Addresses name mailboxes in a hub shared by the whole process.
std::unique_ptr<HostExchangeFactory> MakeInProcessExchangeFactory();

}  // namespace braid
