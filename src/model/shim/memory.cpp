// A limit on the memory of all CPU tensors. Without one, a process that grows past its share of a node is killed by the
// kernel with no word; with one, libtorch reports that it ran out of memory, and a training takes smaller passes.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <c10/util/Exception.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>

namespace {
std::atomic<int64_t> g_used{0};
std::atomic<int64_t> g_peak{0};
std::atomic<int64_t> g_limit{0};  // 0: none

// libtorch wants tensors aligned to 64 bytes: the size stands in 64 bytes of its own before them
constexpr size_t HEAD = 64;

void give_back(void* data) {
  if (!data) return;
  char* block = static_cast<char*>(data) - HEAD;
  int64_t bytes;
  std::memcpy(&bytes, block, sizeof bytes);
  g_used.fetch_sub(bytes);
  c10::free_cpu(block);
}

struct Limited final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    if (n == 0) return {nullptr, nullptr, &give_back, c10::Device(c10::DeviceType::CPU)};
    int64_t bytes = static_cast<int64_t>(n), limit = g_limit.load();
    int64_t used = g_used.fetch_add(bytes) + bytes;
    char* block = nullptr;
    try {
      if (limit > 0 && (bytes < 0 || used > limit)) {
        TORCH_CHECK(false, "can't allocate memory: ", n, " bytes for a tensor beside ", used - bytes,
                    " in use, and the limit is ", limit);
      }
      block = static_cast<char*>(c10::alloc_cpu(n + HEAD));
    } catch (...) {
      g_used.fetch_sub(bytes);
      throw;
    }
    int64_t peak = g_peak.load();
    while (used > peak && !g_peak.compare_exchange_weak(peak, used)) {
    }
    std::memcpy(block, &bytes, sizeof bytes);
    char* data = block + HEAD;
    return {data, data, &give_back, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* to, const void* from, size_t n) const override { default_copy_data(to, from, n); }
};
}  // namespace

extern "C" {
// Bytes that tensors made from here on may take together; 0 lifts the limit. Tensors that are there already do not count.
void bsm_memory_limit(int64_t bytes) {
  static Limited limited;
  static std::once_flag once;
  std::call_once(once, [] { c10::SetCPUAllocator(&limited, 255); });
  g_limit.store(bytes);
}

// What they take now, and the most they took since this was last asked.
void bsm_memory_counted(int64_t* used, int64_t* peak) {
  *used = g_used.load();
  *peak = g_peak.exchange(*used);
}
}
