// What the fast engine has beside the core's state: threads, and room for them to work in.
#pragma once

#include "parallel.hpp"
#include "products.hpp"

namespace skipstone {

constexpr int MAX_UNIT = 2 * GROUP > 256 ? 2 * GROUP : 256;  // columns of a task, at least COLUMNS
constexpr int MAX_UNIT_COLUMNS = MAX_UNIT > COLUMNS ? MAX_UNIT : COLUMNS;

// What one thread needs for a task.
struct alignas(64) Bench {
    alignas(64) double sums[MAX_CHUNK][STRIP];
    alignas(64) Float y[MAX_CHUNK][MAX_UNIT_COLUMNS];
    alignas(64) Float h[MAX_UNIT_COLUMNS];
    alignas(64) Score scores[MAX_CONTEXT];
    alignas(64) Int<32> dots[MAX_CONTEXT], exponents[MAX_CONTEXT];
    alignas(64) Int<64> aligned[MAX_CONTEXT];
    alignas(64) float coarse[LANES][MAX_CONTEXT], fine[LANES][MAX_CONTEXT];
    alignas(64) float value[MAX_HEAD_DIM];
};

struct Workshop {
    Pool pool;
    Products products;
    Operands x;
    std::vector<Bench> benches;
    std::vector<Float> best;             // of each task and token
    std::vector<UInt<32>> argmax;
    std::vector<int> version;                // layer that each position's K and V are of
    std::vector<Address> row_at, exponent_at;  // of each position's version, behind the first word of them all
    std::vector<Float> attention;        // [token][MAX_QUERY]
    std::vector<std::uint8_t> spill;     // of a range of memory that lies in two segments
    std::atomic<bool> stop{false};

    Workshop(int threads, Products most)
        : pool(threads), products(most), benches(threads), version(MAX_CONTEXT), row_at(MAX_CONTEXT), exponent_at(MAX_CONTEXT),
          attention(std::size_t(MAX_CHUNK) * MAX_QUERY) {}

    // Small work is not worth waking anybody.
    template <class F> void each(int count, double work, const F& body) {
        if (work < 400e3)
            for (int n = 0; n < count; ++n) body(n, 0);
        else pool.each(count, body);
    }
};

}  // namespace skipstone
