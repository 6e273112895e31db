// A memory behind one AXI4 port: latency, bandwidth, outstanding limits, random stalls, faults, and
// checks of the protocol. Reference: Arm IHI 0022H, AMBA AXI and ACE protocol specification, A3.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "dram.h"
#include "verilated.h"

// The core's pins of one port, and its width.
struct PortPins {
    CData *arvalid, *arready, *arlen, *arsize, *arburst;
    QData *araddr;
    CData *rvalid, *rready, *rlast, *rresp, *rid;
    void *rdata;
    CData *awvalid, *awready, *awlen, *awsize, *awburst;
    QData *awaddr;
    CData *wvalid, *wready, *wlast;
    void *wdata, *wstrb;
    CData *bvalid, *bready, *bresp, *bid;
};

// How a memory behaves; a fraction is in 1/65536.
struct MemorySettings {
    uint32_t latency = 40;            // cycles from the address to the first beat, from WLAST to B
    uint32_t bandwidth = 65536;       // beats per cycle, reads and writes together
    uint32_t read_outstanding = 8;    // bursts accepted and not finished
    uint32_t write_outstanding = 32;
    uint32_t stall = 0;               // chance per cycle that a channel pauses
    DramSettings dram;                // what comes on top
};

// Channels, as bits of a mask.
enum Channel : uint32_t { AR = 1, R = 2, AW = 4, W = 8, B = 16 };

// Answers accesses to words first..last with a response, `count` times (0: always).
struct Fault {
    bool write;
    uint64_t first, last;
    uint8_t response;
    uint64_t count;
};

struct PortStatistics {
    uint64_t read_bursts = 0, read_beats = 0, write_bursts = 0, write_beats = 0, faults = 0;
};

// One buffer behind all ports: word w of port p is at byte w * stride + p * skip.
struct FlatMemory {
    uint8_t *data = nullptr;
    uint64_t words = 0;
    uint64_t stride = 0, skip = 0;

    uint8_t *at(uint64_t word, unsigned port) const { return data + word * stride + port * skip; }
};

// Small, fast and the same everywhere (xorshift64*).
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull + 0x1234567ull) {
        if (!state_) state_ = 1;
    }
    bool chance(uint32_t fraction) {
        if (!fraction) return false;
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return ((state_ * 0x2545F4914F6CDD1Dull) >> 48) < fraction;
    }

  private:
    uint64_t state_;
};

class Port {
  public:
    Port(unsigned index, unsigned ports, unsigned bytes, const PortPins &pins, uint64_t seed);

    MemorySettings settings;
    void configure(const MemorySettings &wanted);
    uint64_t base = 0;
    uint32_t hung = 0;  // mask of Channel
    std::vector<Fault> faults;
    PortStatistics statistics;
    std::string failure;  // the first broken rule

    // Forget everything in flight; the pins fall idle.
    void clear();
    // Set the pins that the core reads, from the state alone.
    void drive(uint64_t now, const FlatMemory &memory);
    // After the core has settled: note the transfers of the coming edge, check the rules.
    void observe(uint64_t now);

  private:
    struct Burst {
        uint64_t address;
        unsigned beats;
        uint64_t due;
    };
    struct Beat {
        std::vector<uint8_t> data, strobe;
        bool last;
    };
    struct Write {
        Burst burst;
        std::vector<Beat> beats;
    };
    struct Held {  // a payload that must not change until it is accepted
        bool valid = false;
        uint64_t address = 0;
        uint8_t length = 0;
        std::vector<uint8_t> data, strobe;
        bool last = false;
    };

    void fail(uint64_t now, const std::string &text);
    void check_burst(uint64_t now, const char *channel, uint64_t address, unsigned beats,
                     unsigned size, unsigned burst);
    void check_held(uint64_t now, const char *channel, const Held &held, bool valid,
                    uint64_t address, uint8_t length);
    // Word index of a byte address, and whether it lies in memory.
    bool locate(uint64_t address, const FlatMemory &memory, uint64_t &word) const;
    uint8_t response(bool write, bool inside, uint64_t word);
    void load_beat(const FlatMemory &memory);
    void match_writes(uint64_t now);
    void acknowledge(const FlatMemory &memory);

    unsigned index_, ports_, bytes_, size_log2_;
    Dram dram_;
    PortPins pins_;
    Random random_;
    int64_t credit_ = 0;

    std::deque<Burst> reads_;
    unsigned read_beat_ = 0;
    bool read_shown_ = false;

    std::deque<Burst> write_addresses_;
    std::deque<Beat> write_beats_;
    std::deque<Write> writes_;  // complete, waiting for their acknowledgement
    bool acknowledge_shown_ = false;

    Held held_ar_, held_aw_, held_w_;
};
