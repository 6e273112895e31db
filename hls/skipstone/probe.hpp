// What leaves the epilogue, for `skipstone verify` to name the first instruction that differs; no
// hardware comes of it.
#pragma once

#include "state.hpp"

#ifndef SKIPSTONE_AP_INT
#include <vector>
#endif

namespace skipstone {

enum class ProbeKind : unsigned { RESIDUAL, QUERY, KEY, VALUE, SWIGLU, LOGITS, EMBED, ATTENTION };

#ifdef SKIPSTONE_AP_INT

inline void probe(const State&, ProbeKind, int, const Float*, int) {}

#else

struct Transfer {  // skipstone_sim.trace.TRANSFER
    std::uint32_t kind, token, index, value0, value1;
};

struct Probe {
    bool on = false;
    std::vector<Transfer> transfers;
};

// A whole vector of a token.
inline void probe(const State& s, ProbeKind kind, int token, const Float* y, int length) {
    if (s.probe == nullptr || !s.probe->on) return;
    for (int n = 0; n + 1 < length; n += 2)
        s.probe->transfers.push_back({unsigned(kind), unsigned(token), unsigned(n / 2), to_bits(y[n]), to_bits(y[n + 1])});
}

#endif

}  // namespace skipstone
