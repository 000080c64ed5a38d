// How a kernel's parts are shared out to threads.

#pragma once

#include <omp.h>

#include <atomic>
#include <cstdint>

namespace {

// part(p) for every p below `parts`. Each thread goes through a stretch of its own, one part behind
// the other, so that what it asks memory for ahead is what it needs next; whoever is done takes
// parts from the others' stretches, because a thread may have to wait for its processor.
template <typename Part>
void share_out(int64_t parts, int threads, const Part& part) {
    constexpr int MOST = 64;
    struct alignas(64) Stretch {
        std::atomic<int64_t> next;
        int64_t stop;
    } stretches[MOST];
    const int count = threads < 1 ? 1 : threads < MOST ? threads : MOST;
    for (int i = 0; i < count; ++i) {
        stretches[i].next.store(parts * i / count, std::memory_order_relaxed);
        stretches[i].stop = parts * (i + 1) / count;
    }
#pragma omp parallel num_threads(threads) if (parts > 2)
    for (int turn = 0, own = omp_get_thread_num(); turn < count; ++turn) {
        Stretch& from = stretches[(own + turn) % count];
        int64_t p;
        while ((p = from.next.fetch_add(1, std::memory_order_relaxed)) < from.stop) part(p);
    }
}

}  // namespace
