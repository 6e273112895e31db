// A board whose only way to the outside is a serial line, behind a C interface; no callback per cycle.
#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

#include "Vtop.h"
#include "verilated.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

struct Board {
    VerilatedContext context;
    std::unique_ptr<Vtop> top;
    unsigned divisor;  // cycles per bit
    uint64_t cycles = 0;

    // To the board: ten bits of the byte under way, lowest first.
    std::deque<uint8_t> sending;
    unsigned frame = 0, frame_bits = 0, send_timer = 0;
    // From it: bits are sampled in their middle.
    std::vector<uint8_t> received;
    unsigned byte = 0, bits_left = 0, receive_timer = 0;

    explicit Board(unsigned divisor) : divisor(divisor) {
        context.randSeed(1);
        top = std::make_unique<Vtop>(&context, "top");
        top->clk_25mhz = 0;
        top->ftdi_txd = 1;
        top->btn_pwr_n = 1;
        top->eval();
    }

    ~Board() { top->final(); }

    void drive() {
        if (send_timer) {
            --send_timer;
            return;
        }
        if (!frame_bits && !sending.empty()) {
            frame = 0x200u | unsigned(sending.front()) << 1;
            frame_bits = 10;
            sending.pop_front();
        }
        if (frame_bits) {
            top->ftdi_txd = frame & 1;
            frame >>= 1;
            --frame_bits;
            send_timer = divisor - 1;
        } else {
            top->ftdi_txd = 1;
        }
    }

    void sample() {
        bool line = top->ftdi_rxd;
        if (!bits_left) {
            if (!line) {
                bits_left = 10;
                receive_timer = divisor / 2;
            }
        } else if (receive_timer) {
            --receive_timer;
        } else {
            receive_timer = divisor - 1;
            if (bits_left > 1 && bits_left < 10) byte = byte >> 1 | unsigned(line) << 7;
            if (--bits_left == 0 && line) received.push_back(uint8_t(byte));
        }
    }

    void run(uint64_t count) {
        for (uint64_t end = cycles + count; cycles < end; ++cycles) {
            drive();
            top->clk_25mhz = 0;
            top->eval();
            top->clk_25mhz = 1;
            top->eval();
            sample();
        }
    }
};

Board *board(void *handle) { return static_cast<Board *>(handle); }

}  // namespace

EXPORT void *board_create(unsigned divisor) { return new Board(divisor); }

EXPORT void board_destroy(void *handle) { delete board(handle); }

EXPORT void board_send(void *handle, const uint8_t *data, uint64_t count) {
    auto &queue = board(handle)->sending;
    queue.insert(queue.end(), data, data + count);
}

// Bytes that wait to be sent.
EXPORT uint64_t board_pending(void *handle) {
    return board(handle)->sending.size() + (board(handle)->frame_bits != 0);
}

// Move at most `room` received bytes to `out`; how many they were.
EXPORT uint64_t board_take(void *handle, uint8_t *out, uint64_t room) {
    auto &received = board(handle)->received;
    uint64_t count = std::min<uint64_t>(room, received.size());
    std::copy_n(received.begin(), count, out);
    received.erase(received.begin(), received.begin() + long(count));
    return count;
}

EXPORT void board_run(void *handle, uint64_t cycles) { board(handle)->run(cycles); }

EXPORT uint64_t board_cycles(void *handle) { return board(handle)->cycles; }

// Press the board's power button, which resets it, for some cycles.
EXPORT void board_press(void *handle, uint64_t cycles) {
    board(handle)->top->btn_pwr_n = 0;
    board(handle)->run(cycles);
    board(handle)->top->btn_pwr_n = 1;
}
