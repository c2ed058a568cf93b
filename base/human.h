#pragma once

#include <cstdint>
#include <string>

// Numbers as people read them: powers of 1000, three digits.

namespace braid {

std::string HumanBytes(uint64_t bytes);        // 4,734,976 as "4.73 MB"
std::string HumanQuantity(uint64_t quantity);  // 8,467,856,128 as "8.47 B"

}  // namespace braid
