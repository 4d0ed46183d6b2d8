// Thin C ABI over the few libtorch facilities that tch does not expose. Links only libtorch_cpu and libc10, so that the
// same binary runs with and without the CUDA half. Every function returns 0, or -1 with the words in bsm_error().
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

#include <string>
#include <vector>

using at::Tensor;

static thread_local std::string g_error;

#define TRY(...)                   \
  try {                            \
    __VA_ARGS__                    \
  } catch (const std::exception& e) { \
    g_error = e.what();            \
    return -1;                     \
  } catch (...) {                  \
    g_error = "unknown C++ exception"; \
    return -1;                     \
  }                                \
  return 0;

static std::vector<Tensor> list(Tensor** p, int n) {
  std::vector<Tensor> v;
  v.reserve(n);
  for (int i = 0; i < n; i++) v.push_back(*p[i]);
  return v;
}

extern "C" {

const char* bsm_error() { return g_error.c_str(); }

const char* bsm_cpu_capability() {
  static const std::string s = at::get_cpu_capability();
  return s.c_str();
}

// One fused AdamW step (decoupled weight decay). `step` holds one fp32 scalar per parameter, counted up here.
int bsm_fused_adamw(Tensor** p, Tensor** g, Tensor** m, Tensor** v, Tensor** step, int n, double lr, double beta1,
                    double beta2, double weight_decay, double eps) {
  TRY(at::NoGradGuard no_grad;
      auto P = list(p, n); auto G = list(g, n); auto M = list(m, n); auto V = list(v, n); auto S = list(step, n);
      for (auto& s : S) s.add_(1);
      at::_fused_adamw_(P, G, M, V, {}, S, lr, beta1, beta2, weight_decay, eps, false, false);)
}

// Global L2 norm of the gradients into `norm`; scales them when it exceeds `max` (as torch.nn.utils.clip_grad_norm_).
int bsm_clip_grad_norm(Tensor** g, int n, double max, double* norm) {
  TRY(at::NoGradGuard no_grad; auto G = list(g, n);
      double total = at::stack(at::_foreach_norm(G, 2)).norm().item<double>();
      *norm = total;
      if (max > 0 && total > max) at::_foreach_mul_(G, max / (total + 1e-6));)
}

int bsm_backward(Tensor** t, Tensor** g, int n, int keep_graph) {
  TRY(torch::autograd::backward(list(t, n), list(g, n), keep_graph != 0, false);)
}

int bsm_set_grad(Tensor* t, Tensor* g) { TRY(t->mutable_grad() = g ? *g : Tensor();) }

int bsm_rng_get(Tensor** out) {
  TRY(auto g = at::detail::getDefaultCPUGenerator(); std::lock_guard<std::mutex> lock(g.mutex());
      *out = new Tensor(g.get_state());)
}

int bsm_rng_set(Tensor* state) {
  TRY(auto g = at::detail::getDefaultCPUGenerator(); std::lock_guard<std::mutex> lock(g.mutex());
      g.set_state(*state);)
}

// Whether operations are recorded from here on, on this thread; gives what was so before.
int bsm_recording(int on) {
  bool before = at::GradMode::is_enabled();
  at::GradMode::set_enabled(on != 0);
  return before ? 1 : 0;
}

int bsm_deterministic(int on) { TRY(at::globalContext().setDeterministicAlgorithms(on != 0, false);) }

int bsm_empty_cache() { TRY(at::accelerator::emptyCache();) }

// Bytes on the current accelerator: allocated now, most ever allocated, reserved from the driver.
int bsm_memory(int64_t* current, int64_t* peak, int64_t* reserved) {
  TRY(auto s = at::accelerator::getDeviceStats(at::accelerator::getDeviceIndex());
      *current = s.allocated_bytes[0].current; *peak = s.allocated_bytes[0].peak;
      *reserved = s.reserved_bytes[0].current;)
}

// packed [blocks, 32] uint8, scale [blocks] fp32, code: 16 values; out [blocks, 64] in fp32, fp16 or bf16. CPU, contiguous.
int bsm_nf4_unpack(Tensor* packed, Tensor* scale, const float* code, Tensor* out) {
  TRY(const uint8_t* from = packed->const_data_ptr<uint8_t>(); const float* scales = scale->const_data_ptr<float>();
      TORCH_CHECK(out->numel() == 64 * scale->numel() && packed->numel() == 32 * scale->numel(), "nf4: sizes differ");
      AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, out->scalar_type(), "nf4", [&] {
        scalar_t* to = out->mutable_data_ptr<scalar_t>();
        at::parallel_for(0, scale->numel(), 1024, [&](int64_t first, int64_t last) {
          for (int64_t b = first; b < last; b++) {
            scalar_t value[16];
            for (int i = 0; i < 16; i++) value[i] = static_cast<scalar_t>(code[i] * scales[b]);
            for (int i = 0; i < 32; i++) {
              uint8_t two = from[32 * b + i];
              to[64 * b + 2 * i] = value[two >> 4];
              to[64 * b + 2 * i + 1] = value[two & 15];
            }
          }
        });
      });)
}

void* bsm_inference_on() { return new c10::InferenceMode(true); }
void bsm_inference_off(void* guard) { delete static_cast<c10::InferenceMode*>(guard); }

// What a callback that gives -1 wants said.
static thread_local std::string g_host_words;
void bsm_host_failed(const char* words, size_t n) { g_host_words.assign(words, n); }

// An autograd node whose backward calls the host language. The callback sets *grad_in to a new Tensor (or leaves it).
typedef int (*bsm_backward_fn)(void* ctx, Tensor* grad_out, Tensor** grad_in);
typedef void (*bsm_free_fn)(void* ctx);
}

namespace {
struct HostNode : public torch::autograd::Node {
  bsm_backward_fn call = nullptr;
  bsm_free_fn drop = nullptr;
  void* ctx = nullptr;

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    Tensor* grad_in = nullptr;
    Tensor grad_out = grads[0];
    if (call(ctx, &grad_out, &grad_in) != 0) throw std::runtime_error("in the backward pass: " + g_host_words);
    torch::autograd::variable_list result;
    if (grad_in) {
      result.push_back(*grad_in);
      delete grad_in;
    } else {
      result.emplace_back();
    }
    return result;
  }
  ~HostNode() override { drop(ctx); }
};
}  // namespace

// Wraps `output` (computed without a graph) so that its gradient goes through `call` to `input`. Takes `ctx` over.
extern "C" int bsm_host_node(Tensor* input, Tensor* output, bsm_backward_fn call, bsm_free_fn drop, void* ctx,
                             Tensor** out) {
  TRY(if (!at::GradMode::is_enabled()) { drop(ctx); *out = new Tensor(*output); return 0; }
      auto node = std::shared_ptr<HostNode>(new HostNode(), torch::autograd::deleteNode);
      node->call = call; node->drop = drop; node->ctx = ctx;
      node->set_next_edges(torch::autograd::collect_next_edges(*input));
      Tensor o = output->detach();
      // set_history adds the output's metadata itself; adding it again would shift the gradient into slot 1
      torch::autograd::set_history(o, node);
      *out = new Tensor(o);)
}
