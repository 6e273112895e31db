#include "port.h"

namespace {
constexpr int64_t ONE_BEAT = 65536;
constexpr size_t EARLY_BEATS = 64;  // write data accepted ahead of its address
constexpr uint8_t DECERR = 3;
}  // namespace

Port::Port(unsigned index, unsigned ports, unsigned bytes, const PortPins &pins, uint64_t seed)
    : index_(index), ports_(ports), bytes_(bytes), pins_(pins), random_(seed) {
    size_log2_ = 0;
    while ((1u << size_log2_) < bytes) ++size_log2_;
    clear();
}

void Port::clear() {
    reads_.clear();
    write_addresses_.clear();
    write_beats_.clear();
    writes_.clear();
    read_beat_ = 0;
    read_shown_ = acknowledge_shown_ = false;
    credit_ = 0;
    dram_.clear();
    held_ar_.valid = held_aw_.valid = held_w_.valid = false;
    *pins_.arready = *pins_.rvalid = *pins_.rlast = *pins_.rresp = *pins_.rid = 0;
    *pins_.awready = *pins_.wready = *pins_.bvalid = *pins_.bresp = *pins_.bid = 0;
}

void Port::configure(const MemorySettings &wanted) {
    settings = wanted;
    dram_.settings = wanted.dram;
    dram_.refresh_phase = uint64_t(wanted.dram.refresh_interval) * index_ / ports_;
    dram_.clear();
}

void Port::fail(uint64_t now, const std::string &text) {
    if (failure.empty())
        failure = "port " + std::to_string(index_) + ", cycle " + std::to_string(now) + ": " + text;
}

void Port::drive(uint64_t now, const FlatMemory &memory) {
    const uint32_t stall = settings.stall;
    const bool moving = !dram_.refreshing(now);
    if (moving) credit_ += settings.bandwidth;
    // A fraction is kept: a beat leaves whenever a whole one has accrued, never two at once.
    const int64_t most = ONE_BEAT + settings.bandwidth % ONE_BEAT;
    if (credit_ > most) credit_ = most;

    *pins_.arready = !(hung & AR) && reads_.size() < settings.read_outstanding &&
                     !random_.chance(stall);
    *pins_.awready = !(hung & AW) &&
                     write_addresses_.size() + writes_.size() < settings.write_outstanding &&
                     !random_.chance(stall);
    *pins_.wready = !(hung & W) && moving && credit_ > 0 && write_beats_.size() < EARLY_BEATS &&
                    !random_.chance(stall);

    // A valid that is up stays up: stalls, faults and limits act on the next one.
    if (!read_shown_) {
        read_shown_ = !(hung & R) && !reads_.empty() && reads_.front().due <= now && moving &&
                      credit_ >= ONE_BEAT && dram_.turned(false, now) && !random_.chance(stall);
        *pins_.rvalid = read_shown_;
        if (read_shown_) {
            credit_ -= ONE_BEAT;
            load_beat(memory);
        }
    }
    if (!acknowledge_shown_) {
        acknowledge_shown_ = !(hung & B) && !writes_.empty() && writes_.front().burst.due <= now &&
                             !random_.chance(stall);
        *pins_.bvalid = acknowledge_shown_;
        if (acknowledge_shown_) acknowledge(memory);
    }
}

bool Port::locate(uint64_t address, const FlatMemory &memory, uint64_t &word) const {
    word = (address - base) >> size_log2_;
    return address >= base && word < memory.words;
}

uint8_t Port::response(bool write, bool inside, uint64_t word) {
    if (!inside) return DECERR;
    for (auto &fault : faults) {
        if (fault.write != write || word < fault.first || word > fault.last) continue;
        if (fault.response == 0) continue;
        const uint8_t given = fault.response;
        ++statistics.faults;
        if (fault.count && --fault.count == 0) fault.response = 0;
        return given;
    }
    return 0;
}

void Port::load_beat(const FlatMemory &memory) {
    uint64_t word;
    const uint64_t address = reads_.front().address + uint64_t(read_beat_) * bytes_;
    const bool inside = locate(address, memory, word);
    dram_.pass(address - base);
    *pins_.rresp = response(false, inside, word);
    if (inside)
        std::memcpy(pins_.rdata, memory.at(word, index_), bytes_);
    else
        std::memset(pins_.rdata, 0, bytes_);
    *pins_.rlast = read_beat_ + 1 == reads_.front().beats;
}

void Port::check_burst(uint64_t now, const char *channel, uint64_t address, unsigned beats,
                       unsigned size, unsigned burst) {
    const std::string name(channel);
    if (size != size_log2_)
        fail(now, name + "SIZE must be " + std::to_string(size_log2_) + ", not " +
                      std::to_string(size));
    if (burst != 1) fail(now, name + "BURST must be INCR (1), not " + std::to_string(burst));
    if (address & (bytes_ - 1))
        fail(now, name + "ADDR must be a multiple of a beat, not " + std::to_string(address));
    if (address >> 12 != (address + uint64_t(beats) * bytes_ - 1) >> 12)
        fail(now, name + " burst of " + std::to_string(beats) + " beats at " +
                      std::to_string(address) + " crosses 4 KiB");
}

void Port::check_held(uint64_t now, const char *channel, const Held &held, bool valid,
                      uint64_t address, uint8_t length) {
    if (!held.valid) return;
    if (!valid)
        fail(now, std::string(channel) + "VALID fell before " + channel + "READY");
    else if (address != held.address || length != held.length)
        fail(now, std::string(channel) + " changed before " + channel + "READY");
}

void Port::match_writes(uint64_t now) {
    while (!write_addresses_.empty() && write_beats_.size() >= write_addresses_.front().beats) {
        Write write{write_addresses_.front(), {}};
        write_addresses_.pop_front();
        for (unsigned i = 0; i < write.burst.beats; ++i) {
            if (write_beats_.front().last != (i + 1 == write.burst.beats))
                fail(now, "WLAST does not match AWLEN");
            write.beats.push_back(std::move(write_beats_.front()));
            write_beats_.pop_front();
        }
        write.burst.due += now + settings.latency;
        writes_.push_back(std::move(write));
    }
}

// Writes take effect when they are acknowledged: who reads back too early gets the old data.
void Port::acknowledge(const FlatMemory &memory) {
    const Write &write = writes_.front();
    uint8_t worst = 0;
    for (unsigned i = 0; i < write.burst.beats; ++i) {
        uint64_t word;
        const bool inside = locate(write.burst.address + uint64_t(i) * bytes_, memory, word);
        const uint8_t given = response(true, inside, word);
        if (given > worst) worst = given;
        if (given) continue;
        uint8_t *target = memory.at(word, index_);
        const Beat &beat = write.beats[i];
        for (unsigned b = 0; b < bytes_; ++b)
            if (beat.strobe[b >> 3] >> (b & 7) & 1) target[b] = beat.data[b];
    }
    *pins_.bresp = worst;
}

void Port::observe(uint64_t now) {
    const bool arvalid = *pins_.arvalid, awvalid = *pins_.awvalid, wvalid = *pins_.wvalid;

    check_held(now, "AR", held_ar_, arvalid, *pins_.araddr, *pins_.arlen);
    held_ar_.valid = arvalid && !*pins_.arready;
    held_ar_.address = *pins_.araddr;
    held_ar_.length = *pins_.arlen;
    if (arvalid && *pins_.arready) {
        const unsigned beats = *pins_.arlen + 1u;
        check_burst(now, "AR", *pins_.araddr, beats, *pins_.arsize, *pins_.arburst);
        const uint64_t later = dram_.arrive(*pins_.araddr - base, now);
        reads_.push_back({*pins_.araddr, beats, now + settings.latency + later});
        ++statistics.read_bursts;
    }

    check_held(now, "AW", held_aw_, awvalid, *pins_.awaddr, *pins_.awlen);
    held_aw_.valid = awvalid && !*pins_.awready;
    held_aw_.address = *pins_.awaddr;
    held_aw_.length = *pins_.awlen;
    bool matched = false;
    if (awvalid && *pins_.awready) {
        const unsigned beats = *pins_.awlen + 1u;
        check_burst(now, "AW", *pins_.awaddr, beats, *pins_.awsize, *pins_.awburst);
        write_addresses_.push_back({*pins_.awaddr, beats, dram_.arrive(*pins_.awaddr - base, now)});
        ++statistics.write_bursts;
        matched = true;
    }

    if (wvalid || held_w_.valid) {
        const auto *data = static_cast<const uint8_t *>(pins_.wdata);
        const auto *strobe = static_cast<const uint8_t *>(pins_.wstrb);
        if (held_w_.valid) {
            if (!wvalid)
                fail(now, "WVALID fell before WREADY");
            else if (std::memcmp(data, held_w_.data.data(), bytes_) ||
                     std::memcmp(strobe, held_w_.strobe.data(), bytes_ / 8) ||
                     bool(*pins_.wlast) != held_w_.last)
                fail(now, "W changed before WREADY");
        }
        held_w_.valid = wvalid && !*pins_.wready;
        if (held_w_.valid) {
            held_w_.data.assign(data, data + bytes_);
            held_w_.strobe.assign(strobe, strobe + bytes_ / 8);
            held_w_.last = *pins_.wlast;
        }
        if (wvalid && *pins_.wready) {
            write_beats_.push_back(
                {{data, data + bytes_}, {strobe, strobe + bytes_ / 8}, bool(*pins_.wlast)});
            credit_ -= ONE_BEAT;
            dram_.turned(true, now);
            ++statistics.write_beats;
            matched = true;
        }
    }
    if (matched) match_writes(now);

    if (read_shown_ && *pins_.rready) {
        ++statistics.read_beats;
        read_shown_ = false;
        if (++read_beat_ == reads_.front().beats) {
            reads_.pop_front();
            read_beat_ = 0;
        }
    }
    if (acknowledge_shown_ && *pins_.bready) {
        writes_.pop_front();
        acknowledge_shown_ = false;
    }
}
