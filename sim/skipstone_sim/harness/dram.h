// Timing of one DRAM channel, seen from its AXI port. Simplified: commands are not scheduled one by
// one; what a burst meets on its way is.
//
// * A burst that arrives finds the row it begins in open, its bank closed, or another row open:
//   three latencies. Rows beyond the first of a burst, and whatever waits behind other data, are
//   opened in time.
// * A bank opens a row at most every `row_cycle` cycles, so bursts that keep changing the row of one
//   bank queue up.
// * Neighbouring pages lie in neighbouring banks.
// * Every `refresh_interval` cycles all rows are closed and for `refresh` cycles nothing moves; the
//   ports take turns.
// * After a change between reading and writing the bus rests for `turnaround` cycles.
#pragma once

#include <cstdint>
#include <vector>

// All in cycles of the core; `page_bytes` 0 means ideal memory.
struct DramSettings {
    uint32_t page_bytes = 0, banks = 0;
    uint32_t closed = 0, miss = 0;  // beyond the latency of a hit
    uint32_t row_cycle = 0;
    uint32_t refresh_interval = 0, refresh = 0;
    uint32_t turnaround = 0;
};

class Dram {
  public:
    DramSettings settings;
    uint64_t refresh_phase = 0;

    bool ideal() const { return settings.page_bytes == 0; }

    // Cycles by which the first beat of a burst comes later than a hit's.
    uint64_t arrive(uint64_t address, uint64_t now) {
        if (ideal()) return 0;
        banks_.resize(settings.banks);
        refresh_rows(now);
        const uint64_t page = address / settings.page_bytes;
        Bank &bank = banks_[page % settings.banks];
        if (bank.open && bank.page == page) return bank.ready > now ? bank.ready - now : 0;
        const uint64_t opening = bank.free > now ? bank.free : now;
        const uint64_t later = opening - now + (bank.open ? settings.miss : settings.closed);
        bank.open = true;
        bank.page = page;
        bank.free = opening + settings.row_cycle;
        bank.ready = now + later;
        return later;
    }

    // The burst goes on to this address: its row is open from now on.
    void pass(uint64_t address) {
        if (ideal() || address % settings.page_bytes) return;
        const uint64_t page = address / settings.page_bytes;
        banks_.resize(settings.banks);
        Bank &bank = banks_[page % settings.banks];
        if (bank.open && bank.page == page) return;
        bank.open = true;
        bank.page = page;
    }

    // Whether the channel is being refreshed.
    bool refreshing(uint64_t now) const {
        if (!settings.refresh) return false;
        return (now + refresh_phase) % settings.refresh_interval < settings.refresh;
    }

    // Whether the bus can move data of this direction; asking for the other one turns it round.
    bool turned(bool write, uint64_t now) {
        if (write != writing_) {
            writing_ = write;
            turned_ = now + settings.turnaround;
        }
        return now >= turned_;
    }

    void clear() {
        banks_.clear();
        turned_ = 0;
        writing_ = false;
    }

  private:
    struct Bank {
        bool open = false;
        uint64_t page = 0, free = 0, ready = 0;
    };

    void refresh_rows(uint64_t now) {
        if (!settings.refresh) return;
        const uint64_t count = (now + refresh_phase) / settings.refresh_interval;
        if (count == refreshes_) return;
        refreshes_ = count;
        for (auto &bank : banks_) bank.open = false;
    }

    std::vector<Bank> banks_;
    uint64_t refreshes_ = 0, turned_ = 0;
    bool writing_ = false;
};
