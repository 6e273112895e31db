// The core with its memories and a control master, behind a C interface; no callback per cycle.
//
// `pins.h` is generated for each configuration: PORTS, PORT_BYTES, PROBE (whether there are probe_*
// ports) and BIND_PORTS(bind).
#include <memory>
#include <string>
#include <vector>

#include "Vtop.h"
#include "pins.h"
#include "port.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_fst_c.h"
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

enum Status : int { INTERRUPT = 0, BUDGET = 1, FAILED = 2 };

// A pair that left the epilogue.
struct Transfer {
    uint32_t kind, token, index, value[2];
};

constexpr unsigned CONTROL_CYCLES = 10000;  // a register access that takes longer has hung

struct Simulation {
    VerilatedContext context;
    std::unique_ptr<Vtop> top;
    FlatMemory memory;
    std::vector<Port> ports;
    std::string message;
    uint64_t cycles = 0;
    bool probing = false;
    std::vector<Transfer> transfers;
#if VM_TRACE
    std::unique_ptr<VerilatedFstC> trace;
    uint64_t trace_first = 0, trace_last = 0;
#endif

    explicit Simulation(uint64_t seed) {
#if VM_TRACE
        context.traceEverOn(true);
#endif
        context.randSeed(int(seed & 0x7fffffff) + 1);
        top = std::make_unique<Vtop>(&context, "top");
        ports.reserve(PORTS);
#define BIND(p, name)                                                                             \
    {                                                                                             \
        PortPins pins{&top->name##_arvalid, &top->name##_arready, &top->name##_arlen,             \
                      &top->name##_arsize,  &top->name##_arburst, &top->name##_araddr,            \
                      &top->name##_rvalid,  &top->name##_rready,  &top->name##_rlast,             \
                      &top->name##_rresp,   &top->name##_rid,     &top->name##_rdata,             \
                      &top->name##_awvalid, &top->name##_awready, &top->name##_awlen,             \
                      &top->name##_awsize,  &top->name##_awburst, &top->name##_awaddr,            \
                      &top->name##_wvalid,  &top->name##_wready,  &top->name##_wlast,             \
                      &top->name##_wdata,   &top->name##_wstrb,   &top->name##_bvalid,            \
                      &top->name##_bready,  &top->name##_bresp,   &top->name##_bid};              \
        ports.emplace_back(p, PORTS, PORT_BYTES, pins, seed * PORTS + p);                         \
    }
        BIND_PORTS(BIND)
#undef BIND
        reset(4);
    }

    ~Simulation() {
        trace_close();
        top->final();
    }

    void dump(unsigned phase) {
#if VM_TRACE
        if (trace && cycles >= trace_first && cycles <= trace_last)
            trace->dump(cycles * 10 + phase);
#endif
    }

    void trace_close() {
#if VM_TRACE
        if (trace) trace->close();
        trace.reset();
#endif
    }

    // One rising edge. The wrapper around the core registers every pin that the core reads, so what is
    // set before an edge is what the core sees after it, and nothing is evaluated twice.
    void edge() {
        top->clk = 0;
        top->eval();
        dump(0);
        top->clk = 1;
        top->eval();
        dump(5);
        ++cycles;
    }

    // One clock cycle: take its transfers, prepare the pins of the next; false when a protocol rule
    // was broken.
    bool step() {
        for (auto &port : ports) port.observe(cycles);
        control_settled();
        if (probing) probe();
        for (auto &port : ports) port.drive(cycles + 1, memory);
        edge();
        for (auto &port : ports)
            if (!port.failure.empty()) {
                message = port.failure;
                return false;
            }
        return true;
    }

    void probe() {
#if PROBE
        if (top->probe_valid)
            transfers.push_back({top->probe_kind, top->probe_token, top->probe_index,
                                 {uint32_t(top->probe_value), uint32_t(top->probe_value >> 32)}});
#endif
    }

    // The control channels of the current cycle: a channel that is done is silent in the next.
    bool aw_done = false, w_done = false, b_done = false, ar_done = false, r_done = false;
    uint32_t r_data = 0;
    unsigned control_response = 0;

    void control_settled() {
        auto &t = *top;
        aw_done = aw_shown && t.s_axi_control_awready;
        w_done = w_shown && t.s_axi_control_wready;
        ar_done = ar_shown && t.s_axi_control_arready;
        b_done = b_shown && t.s_axi_control_bvalid;
        r_done = r_shown && t.s_axi_control_rvalid;
        if (aw_done) t.s_axi_control_awvalid = 0;
        if (w_done) t.s_axi_control_wvalid = 0;
        if (ar_done) t.s_axi_control_arvalid = 0;
        if (b_done) {
            t.s_axi_control_bready = 0;
            control_response = t.s_axi_control_bresp;
        }
        if (r_done) {
            t.s_axi_control_rready = 0;
            r_data = t.s_axi_control_rdata;
            control_response = t.s_axi_control_rresp;
        }
        show_control();
    }

    // What the core sees of the control pins after the next edge.
    bool aw_shown = false, w_shown = false, b_shown = false, ar_shown = false, r_shown = false;

    void show_control() {
        aw_shown = top->s_axi_control_awvalid;
        w_shown = top->s_axi_control_wvalid;
        b_shown = top->s_axi_control_bready;
        ar_shown = top->s_axi_control_arvalid;
        r_shown = top->s_axi_control_rready;
    }

    void reset(unsigned count) {
        auto &t = *top;
        t.s_axi_control_awvalid = t.s_axi_control_wvalid = t.s_axi_control_arvalid = 0;
        t.s_axi_control_bready = t.s_axi_control_rready = 0;
        for (auto &port : ports) {
            port.clear();
            port.failure.clear();
        }
        message.clear();
        t.rst = 1;
        show_control();
        // Not `step`: during reset the memories neither answer nor check.
        for (unsigned i = 0; i < count; ++i) edge();
        t.rst = 0;
        edge();
    }

    int control_failure(const char *what, unsigned offset, const char *why) {
        message = std::string("control ") + what + " at " + std::to_string(offset) + " " + why;
        return FAILED;
    }

    int write(unsigned offset, uint32_t value) {
        auto &t = *top;
        t.s_axi_control_awaddr = offset;
        t.s_axi_control_awprot = 0;
        t.s_axi_control_wdata = value;
        t.s_axi_control_wstrb = 15;
        t.s_axi_control_awvalid = t.s_axi_control_wvalid = t.s_axi_control_bready = 1;
        for (unsigned i = 0; i < CONTROL_CYCLES; ++i) {
            if (!step()) return FAILED;
            if (b_done) {
                if (control_response) return control_failure("write", offset, "was refused");
                return INTERRUPT;
            }
        }
        t.s_axi_control_awvalid = t.s_axi_control_wvalid = t.s_axi_control_bready = 0;
        return control_failure("write", offset, "was not answered");
    }

    int read(unsigned offset, uint32_t *value) {
        auto &t = *top;
        t.s_axi_control_araddr = offset;
        t.s_axi_control_arprot = 0;
        t.s_axi_control_arvalid = t.s_axi_control_rready = 1;
        for (unsigned i = 0; i < CONTROL_CYCLES; ++i) {
            if (!step()) return FAILED;
            if (r_done) {
                *value = r_data;
                if (control_response) return control_failure("read", offset, "was refused");
                return INTERRUPT;
            }
        }
        t.s_axi_control_arvalid = t.s_axi_control_rready = 0;
        return control_failure("read", offset, "was not answered");
    }

    // Verilator prefixes names that are reserved words of some C++ compiler.
    bool interrupt() const { return top->__SYM__interrupt; }

    int run(uint64_t limit) {
        for (uint64_t i = 0; i < limit; ++i) {
            if (interrupt()) return INTERRUPT;
            if (!step()) return FAILED;
        }
        return interrupt() ? INTERRUPT : BUDGET;
    }
};

Simulation *simulation(void *handle) { return static_cast<Simulation *>(handle); }

}  // namespace

EXPORT void *harness_create(uint64_t seed) { return new Simulation(seed); }

EXPORT void harness_destroy(void *handle) { delete simulation(handle); }

EXPORT unsigned harness_ports() { return PORTS; }

EXPORT unsigned harness_port_bytes() { return PORT_BYTES; }

// Memory of `words` words; `shared` if all ports see the same, else each has its own, interleaved.
EXPORT void harness_memory(void *handle, uint8_t *data, uint64_t words, unsigned shared) {
    const uint64_t stride = shared ? PORT_BYTES : PORTS * PORT_BYTES;
    simulation(handle)->memory = {data, words, stride, uint64_t(shared ? 0 : PORT_BYTES)};
}

EXPORT void harness_settings(void *handle, unsigned port, const MemorySettings *settings) {
    simulation(handle)->ports[port].configure(*settings);
}

EXPORT void harness_base(void *handle, unsigned port, uint64_t base) {
    simulation(handle)->ports[port].base = base;
}

EXPORT void harness_reset(void *handle, unsigned cycles) { simulation(handle)->reset(cycles); }

EXPORT int harness_write(void *handle, unsigned offset, uint32_t value) {
    return simulation(handle)->write(offset, value);
}

EXPORT int harness_read(void *handle, unsigned offset, uint32_t *value) {
    return simulation(handle)->read(offset, value);
}

EXPORT int harness_run(void *handle, uint64_t cycles) { return simulation(handle)->run(cycles); }

EXPORT uint64_t harness_cycles(void *handle) { return simulation(handle)->cycles; }

EXPORT const char *harness_message(void *handle) { return simulation(handle)->message.c_str(); }

EXPORT void harness_fault(void *handle, unsigned port, unsigned write, uint64_t first,
                          uint64_t last, unsigned response, uint64_t count) {
    simulation(handle)->ports[port].faults.push_back(
        {write != 0, first, last, uint8_t(response), count});
}

EXPORT void harness_hang(void *handle, unsigned port, uint32_t channels) {
    simulation(handle)->ports[port].hung = channels;
}

EXPORT void harness_clear_faults(void *handle) {
    for (auto &port : simulation(handle)->ports) {
        port.faults.clear();
        port.hung = 0;
    }
}

EXPORT void harness_statistics(void *handle, unsigned port, PortStatistics *out) {
    *out = simulation(handle)->ports[port].statistics;
}

EXPORT int harness_interrupt(void *handle) { return simulation(handle)->interrupt(); }

// Record what the probe shows, from now on or no longer; -1 if this build has none.
EXPORT int harness_probe(void *handle, int on) {
    simulation(handle)->probing = PROBE && on;
    return PROBE ? 0 : -1;
}

EXPORT uint64_t harness_probe_count(void *handle) { return simulation(handle)->transfers.size(); }

// Move the recorded transfers to `out`, which has room for all of them.
EXPORT void harness_probe_take(void *handle, Transfer *out) {
    auto &transfers = simulation(handle)->transfers;
    std::memcpy(out, transfers.data(), transfers.size() * sizeof(Transfer));
    transfers.clear();
}

// Record cycles first..last; -1 if this build cannot.
EXPORT int harness_trace(void *handle, const char *path, uint64_t first, uint64_t last) {
#if VM_TRACE
    auto *s = simulation(handle);
    s->trace_close();
    s->trace = std::make_unique<VerilatedFstC>();
    s->top->trace(s->trace.get(), 99);
    s->trace->open(path);
    s->trace_first = first;
    s->trace_last = last;
    return s->trace->isOpen() ? 0 : -1;
#else
    return -1;
#endif
}

EXPORT void harness_trace_close(void *handle) { simulation(handle)->trace_close(); }
