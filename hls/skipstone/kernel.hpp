// The kernel's interface. Its body, with a pragma for each port, is generated: kernel.cpp.
#pragma once

#include "core.hpp"

namespace skipstone {

// ERROR_CODE, ERROR_PC, TOKENS_DONE, NEXT_TOKEN, VERSION, CONFIG_HASH_LOW, CONFIG_HASH_HIGH
constexpr int STATUS_REGISTERS = 8;

}  // namespace skipstone

#define SKIPSTONE_KERNEL_PORT(p) skipstone::Beat *port_##p,

extern "C" void skipstone_core(SKIPSTONE_FOR_PORTS(SKIPSTONE_KERNEL_PORT) skipstone::UInt<32> program_address, skipstone::UInt<32> program_length,
                               skipstone::UInt<32> position, skipstone::UInt<32> chunk_tokens, skipstone::UInt<32> steps,
                               skipstone::UInt<32> eos_token, skipstone::UInt<32> mode, skipstone::UInt<32> memory_words,
                               skipstone::UInt<32> status[skipstone::STATUS_REGISTERS],
                               skipstone::UInt<64> counters[skipstone::COUNTERS]);
