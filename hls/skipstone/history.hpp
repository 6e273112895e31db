// Bookkeeping of the KV history buffer: for positions below its capacity it holds the K and V words,
// with their exponents, that the last ATTEND covering the position in this chunk used; `held` is
// that ATTEND's layer.
//
// A later ATTEND needs version v, the last layer up to its own that stored the position: if
// v <= held, nothing newer was stored since, and the buffer has it. So it is exact for any pattern of
// skips, and no bit of any result depends on it.
#pragma once

#include "kv.hpp"

namespace skipstone {

struct Held {
    Int<8> held[MAX_CONTEXT];
    int limit = 0;  // positions below it have been covered in this chunk

    // A new chunk starts at layer 0, whose versions are not those held.
    void begin() { limit = 0; }
    // Positions that fit; each takes as many words as the model has head groups, rounded up to a
    // power of two.
    int capacity(const Geometry& g) const {
        int span = 1;
        while (span < g.head_groups()) span <<= 1;
        return HISTORY_WORDS / span;
    }
    bool has(int position, int version, const Geometry& g) const {
        return position < limit && position < capacity(g) && version <= int(held[position]);
    }
    // After the last walk of a token at `last` in `layer`: count what its words were, and hold them.
    void covered(const State& s, int last, int layer, Status& status) {
        const Geometry& g = s.geometry;
        UInt<32> hits = 0, fresh = 0;
        RankWalk walk;
        walk.begin();
    history_cover:
        for (int p = 0; p <= last; ++p) {
#pragma HLS pipeline II=1
            const int version = walk.step(s.versions[p], layer).layer;
            const bool hit = has(p, version, g);
            hits = hits + UInt<32>(hit);
            fresh = fresh + UInt<32>(!hit && version == layer);
            held[p] = layer;
        }
        limit = last + 1 > limit ? last + 1 : limit;
        const UInt<64> words = 2 * g.head_groups(), gaps = UInt<64>(last + 1) - hits - fresh;
        count_event(status, Counter::history_hits, words * hits);
        count_event(status, Counter::history_gaps, words * gaps);
        count_event(status, Counter::history_fresh, words * fresh);
    }
};

}  // namespace skipstone
