// A pool of threads for loops whose iterations are independent. Between loops a thread looks for
// work for some microseconds, then it sleeps: nothing spins between runs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace skipstone {

inline void pause() {
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

class Pool {
  public:
    explicit Pool(int threads) {
        for (int n = 1; n < threads; ++n) workers.emplace_back([this, n] { work(n); });
    }
    ~Pool() {
        {
            std::lock_guard<std::mutex> lock{guard};
            ending = true;
            generation.fetch_add(1);
        }
        wake.notify_all();
        for (std::thread& worker : workers) worker.join();
    }
    int threads() const { return int(workers.size()) + 1; }

    // body(n, thread) for n in [0, count), in any order, on all threads.
    template <class F> void each(int count, const F& body) {
        if (count <= 1 || workers.empty()) {
            for (int n = 0; n < count; ++n) body(n, 0);
            return;
        }
        const std::function<void(int, int)> call = std::cref(body);
        {
            std::lock_guard<std::mutex> lock{guard};
            job = &call;
            limit = count;
            next.store(0, std::memory_order_relaxed);
            busy.store(int(workers.size()), std::memory_order_relaxed);
            generation.fetch_add(1, std::memory_order_release);
        }
        if (sleeping.load() > 0) wake.notify_all();
        take(call, 0);
        for (int spins = 0; busy.load(std::memory_order_acquire) != 0; ++spins) {
            if (spins < SPINS) {
                pause();
                continue;
            }
            std::unique_lock<std::mutex> lock{guard};
            idle.wait(lock, [this] { return busy.load() == 0; });
        }
    }

  private:
    static constexpr int SPINS = 1000;

    void take(const std::function<void(int, int)>& body, int thread) {
        for (int n; (n = next.fetch_add(1, std::memory_order_relaxed)) < limit;) body(n, thread);
    }

    void work(int thread) {
        std::uint64_t seen = 0;
        while (true) {
            for (int spins = 0; spins < SPINS && generation.load(std::memory_order_acquire) == seen; ++spins)
                pause();
            if (generation.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock{guard};
                sleeping.fetch_add(1);
                wake.wait(lock, [&] { return generation.load() != seen; });
                sleeping.fetch_sub(1);
            }
            seen = generation.load(std::memory_order_acquire);
            if (ending) return;
            take(*job, thread);
            if (busy.fetch_sub(1, std::memory_order_acq_rel) == 1) {
                std::lock_guard<std::mutex> lock{guard};
                idle.notify_one();
            }
        }
    }

    std::mutex guard;
    std::condition_variable wake, idle;
    std::atomic<std::uint64_t> generation{0};
    std::atomic<int> next{0}, busy{0}, sleeping{0};
    const std::function<void(int, int)>* job = nullptr;
    int limit = 0;
    bool ending = false;
    std::vector<std::thread> workers;
};

}  // namespace skipstone
