// The packed KV store (skipstone.spec.layout.KvLayout): where K, V and exponents of a position lie,
// and appending to it. A position's version in layer m is that of the last layer up to m that stored
// it; its rank there is how many earlier positions that layer stored.
#pragma once

#include "state.hpp"

namespace skipstone {

struct Version {
    int layer, rank;
};

// Ranks by layer while walking the positions in order.
struct RankWalk {
    UInt<16> rank[MAX_LAYERS];

    void begin() {
        for (int l = 0; l < MAX_LAYERS; ++l) rank[l] = 0;
    }
    Version step(Map versions, int layer) {
        Version v{layer, 0};
        bool found = false;
    find_version:
        for (int l = MAX_LAYERS - 1; l >= 0; --l) {
#pragma HLS unroll
            if (l <= layer && !found && (UInt<64>(versions >> l) & 1) != 0) {
                found = true;
                v.layer = l;
            }
        }
        v.rank = int(rank[v.layer]);
    count_versions:
        for (int l = 0; l < MAX_LAYERS; ++l) {
#pragma HLS unroll
            if (l <= layer) rank[l] = rank[l] + UInt<16>(UInt<64>(versions >> l) & 1);
        }
        return v;
    }
};

// How many positions before `token` of the chunk layer l stored.
inline int rank_of(const State& s, int layer, int token) {
    int rank = int(s.stored[layer]);
    for (int n = 0; n < token; ++n)
        rank += int(UInt<64>(s.versions[int(s.position) + n] >> layer) & 1);
    return rank;
}

// Whether all banks of a layer lie in memory.
inline bool banks_within(const Geometry& g, int layer, UInt<32> memory_words) {
    return within(g.bank(layer, 0), Address(g.head_groups()) * g.bank_words(), memory_words);
}

// Append K or V of one head of a token, `rank` in its layer: BFP(8, head_dim) of `y`.
inline void store_kv(SKIPSTONE_MEMORY_PARAMETERS, const Geometry& g, int layer, int rank, int head, bool is_value, const Float* y) {
    KvMantissa mantissa[MAX_HEAD_DIM];
    Exponent exponent[1];
    quantize<KV_BITS>(y, g.head_dim, g.head_dim, mantissa, exponent);
    const int per = g.heads_per_word(), per_word = g.tokens_per_exponent_word(), lane = head % per;
    const Address bank = g.bank(layer, head / per);
    Byte bytes[MAX_HEAD_DIM], shared[1];
store_elements:
    for (int n = 0; n < g.head_dim; ++n) {
#pragma HLS pipeline II=1
        bytes[n] = Byte(mantissa[n]);
    }
    shared[0] = Byte(exponent[0]);
    const Address row = bank + rank + (is_value ? g.capacity : 0), word = bank + 2 * g.capacity + rank / per_word;
    write_bytes(SKIPSTONE_MEMORY, row * WORD_BYTES + lane * g.head_dim, g.head_dim, bytes);
    write_bytes(SKIPSTONE_MEMORY, word * WORD_BYTES + (rank % per_word) * 2 * per + (is_value ? per : 0) + lane, 1, shared);
}

// Which version of each position the KV history buffer holds: that of the last ATTEND in this chunk
// that covered the position. Another ATTEND that needs the same version need not read it, whatever
// was skipped in between.
struct HistoryIndex {
    Int<8> held[MAX_CONTEXT];  // the layer that stored it, or -1
    int hits, fresh, gaps;     // positions counted since `count`

    // A new chunk.
    void begin() {
    forget_positions:
        for (int p = 0; p < MAX_CONTEXT; ++p) held[p] = -1;
    }
    // Positions that fit: each takes as many words as the model has head groups, or the next power of two.
    static int room(const Geometry& g) {
        int words = 1;
        while (words < g.head_groups()) words *= 2;
        return HISTORY_WORDS / words;
    }
    bool has(int position, int version) const { return int(held[position]) == version; }
    void count() { hits = fresh = gaps = 0; }
    // A token that attends in `layer` has used this version of the position.
    void cover(int position, int version, int layer, int room) {
        if (has(position, version)) ++hits;
        else if (version == layer) ++fresh;
        else ++gaps;
        if (position < room) held[position] = version;
    }
    void report(const Geometry& g, Status& status) const {
        const int words = 2 * g.head_groups();
        count_event(status, Counter::history_hits, UInt<64>(words) * hits);
        count_event(status, Counter::history_fresh, UInt<64>(words) * fresh);
        count_event(status, Counter::history_gaps, UInt<64>(words) * gaps);
    }
};

}  // namespace skipstone
