// Memory of the fast engine: byte ranges that lie wherever they were mapped, so that an image file
// need not be copied.
#pragma once

#include <algorithm>
#include <vector>

#include "../skipstone/types.hpp"

namespace skipstone {

struct Segment {
    Address first, end;  // bytes of the core's memory
    std::uint8_t* data;
};

// Segments in order, without gaps.
struct Memory {
    std::vector<Segment> segments;

    const Segment& at(Address byte) const {
        for (const Segment& s : segments)
            if (byte < s.end) return s;
        return segments.back();
    }
    // f(pointer, count, offset) for each piece of [byte, byte + count).
    template <class F> void pieces(Address byte, Address count, F f) const {
        for (Address done = 0; done < count;) {
            const Segment& s = at(byte + done);
            const Address part = std::min(count - done, s.end - (byte + done));
            f(s.data + (byte + done - s.first), part, done);
            done += part;
        }
    }
    // The bytes as one piece: where they lie, or else copied into `spill`.
    const std::uint8_t* view(Address byte, Address count, std::vector<std::uint8_t>& spill) const {
        const Segment& s = at(byte);
        if (byte + count <= s.end) return s.data + (byte - s.first);
        spill.resize(count);
        pieces(byte, count, [&](const std::uint8_t* data, Address part, Address done) { std::memcpy(spill.data() + done, data, part); });
        return spill.data();
    }
};

inline void read_bytes(const Memory& memory, Address byte, int count, Byte* out) {
    memory.pieces(byte, count, [&](const std::uint8_t* data, Address part, Address done) { std::memcpy(out + done, data, part); });
}
inline void write_bytes(const Memory& memory, Address byte, int count, const Byte* data) {
    memory.pieces(byte, count, [&](std::uint8_t* out, Address part, Address done) { std::memcpy(out, data + done, part); });
}

}  // namespace skipstone
