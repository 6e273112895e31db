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

}  // namespace skipstone
