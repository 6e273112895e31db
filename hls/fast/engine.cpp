// The fast engine behind a C interface: the core's sequencer and operations on a mapped image.
#include <new>

#include "../skipstone/core.hpp"

using namespace skipstone;

namespace {

struct Engine {
    State state{};
    History history;
    Status status{};
    Probe probe;
    Memory memory;
    Workshop workshop;

    Engine(int threads, Products most) : workshop(threads, most) {
        state.probe = &probe;
        state.workshop = &workshop;
    }
};

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// `most`: 0 plain products, 1 vectors, 2 tiles, if this machine has them. Null without memory.
void* skipstone_open(int threads, int most) {
    void* room = nullptr;
    if (posix_memalign(&room, 4096, sizeof(Engine)) != 0) return nullptr;
    const int available = int(available_products());
    try {
        return new (room) Engine(threads, Products(most < available ? most : available));
    } catch (...) {
        std::free(room);
        return nullptr;
    }
}

void skipstone_close(void* engine) {
    static_cast<Engine*>(engine)->~Engine();
    std::free(engine);
}

int skipstone_products(void* engine) { return int(static_cast<Engine*>(engine)->workshop.products); }

// The memory: `count` segments in order, without gaps.
void skipstone_attach(void* engine, const Segment* segments, int count) {
    static_cast<Engine*>(engine)->memory.segments.assign(segments, segments + count);
}

// End the run that another thread has begun, after the instruction at hand; or permit runs again.
void skipstone_stop(void* engine, int stop) { static_cast<Engine*>(engine)->workshop.stop = stop != 0; }

// Registers as for `skipstone_csim`.
void skipstone_run(void* handle, const unsigned* values, unsigned* status, unsigned long long* counters) {
    Engine& e = *static_cast<Engine*>(handle);
    const Registers registers{values[0], values[1], values[2], values[3], values[4], values[5], values[6], values[7]};
    run(e.memory, registers, e.state, e.history, e.status);
    const unsigned reported[] = {unsigned(e.status.error), e.status.pc, e.status.tokens_done, e.status.next_token,
                                 unsigned(VERSION), unsigned(CONFIG_HASH), unsigned(CONFIG_HASH >> 32), 0};
    std::memcpy(status, reported, sizeof reported);
    for (int n = 0; n < COUNTERS; ++n) counters[n] = e.status.counters[n];
}

// Read memory with all threads: what bandwidth there is.
unsigned long long skipstone_read(void* engine, const unsigned char* data, unsigned long long count) {
    constexpr std::size_t PIECE = 1 << 20;
    std::atomic<std::uint64_t> total{0};
    static_cast<Engine*>(engine)->workshop.pool.each(int(count / PIECE), [&](int n, int) {
        const std::uint64_t* words = reinterpret_cast<const std::uint64_t*>(data + n * PIECE);
        std::uint64_t sum = 0;
        for (std::size_t k = 0; k < PIECE / 8; ++k) sum += words[k];
        total += sum;
    });
    return total;
}

void skipstone_trace(void* engine, int on) { static_cast<Engine*>(engine)->probe.on = on != 0; }

// How many transfers were recorded; with `out`, moves them there.
unsigned long long skipstone_take(void* engine, Transfer* out) {
    std::vector<Transfer>& transfers = static_cast<Engine*>(engine)->probe.transfers;
    const std::size_t count = transfers.size();
    if (out != nullptr) {
        std::memcpy(out, transfers.data(), count * sizeof(Transfer));
        transfers.clear();
    }
    return count;
}

}  // extern "C"
#pragma GCC visibility pop
