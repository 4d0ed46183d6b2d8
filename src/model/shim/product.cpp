// Products of the decoder's linear layers, with their adapters, as one node of the graph each. libtorch gives fp32 products
// on the CPU to MKL, which takes its slow path on processors that are not Intel's; oneDNN, in the same library, asks the
// processor what it can do: on a Zen 5 it is 2.2 times as fast.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstring>
#include <optional>
#include <string>

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::Variable;
using torch::autograd::variable_list;

namespace {
using Product = Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, std::string_view,
                       c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);

// oneDNN's product where it is the better one; chosen by the processor's maker, so that equal machines give equal bits
const c10::TypedOperatorHandle<Product>* one_dnn() {
  static const auto found = []() -> std::optional<c10::TypedOperatorHandle<Product>> {
#if defined(__x86_64__)
    unsigned top = 0, maker[3] = {0, 0, 0};
    if (!__get_cpuid(0, &top, &maker[0], &maker[2], &maker[1])) return std::nullopt;
    if (std::memcmp(maker, "GenuineIntel", 12) == 0) return std::nullopt;
    auto op = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (op) return op->typed<Product>();
#endif
    return std::nullopt;
  }();
  return found ? &*found : nullptr;
}

// x [m, k] times w [n, k] turned, plus bias; without a graph
Tensor product(const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias = {}) {
  auto* op = x.scalar_type() == at::kFloat ? one_dnn() : nullptr;
  // setting a product up costs more than a small one
  if (!op || x.size(0) * x.size(1) * w.size(0) < (1 << 20)) return at::linear(x, w, bias);
  at::AutoDispatchBelowADInplaceOrView below;
  return op->call(x, w, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

bool fits(const Tensor& t) {
  return t.device().is_cpu() && t.dim() == 2 && t.numel() > 0 &&
         (t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16);
}

using Maybe = std::optional<Tensor>;
Maybe maybe(Tensor* t) { return t ? Maybe(*t) : std::nullopt; }

struct Linear : Function<Linear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w, const Maybe& bias) {
    ctx->save_for_backward({w.requires_grad() ? x : Tensor(), w});
    ctx->saved_data["x"] = x.requires_grad();
    ctx->saved_data["bias"] = bias && bias->requires_grad();
    return product(x, w, bias);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    Tensor x = saved[0], w = saved[1], g = grads[0].contiguous(), dx, dw, db;
    if (ctx->saved_data["x"].toBool()) dx = product(g, w.t());
    if (x.defined()) dw = product(g.t().contiguous(), x.t());
    if (ctx->saved_data["bias"].toBool()) db = g.sum(0);
    return {dx, dw, db};
  }
};

// y = x w' + bias + scale (d a') b', where d is x, or x under dropout
struct Adapted : Function<Adapted> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Maybe& dropped, const Tensor& w, const Maybe& bias,
                        const Tensor& a, const Tensor& b, double scale) {
    const Tensor& d = dropped ? *dropped : x;
    Tensor inner = product(d, a.to(x.scalar_type())).mul_(scale);
    Tensor y = product(x, w, bias);
    y.addmm_(inner, b.to(x.scalar_type()).t());
    ctx->save_for_backward({d, w, a, b, inner});
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["x"] = x.requires_grad();
    ctx->saved_data["dropped"] = dropped && dropped->requires_grad();
    ctx->saved_data["apart"] = dropped.has_value();
    ctx->saved_data["a"] = a.requires_grad();
    ctx->saved_data["b"] = b.requires_grad();
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    Tensor d = saved[0], w = saved[1], inner = saved[4], g = grads[0].contiguous();
    Tensor a = saved[2].to(g.scalar_type()), b = saved[3].to(g.scalar_type());
    Tensor by_inner = product(g, b.t()).mul_(ctx->saved_data["scale"].toDouble());
    Tensor dx, dd, da, db;
    bool apart = ctx->saved_data["apart"].toBool();
    if (ctx->saved_data["x"].toBool()) {
      dx = product(g, w.t());
      if (!apart) dx.addmm_(by_inner, a);
    }
    if (ctx->saved_data["dropped"].toBool()) dd = by_inner.mm(a);
    if (ctx->saved_data["a"].toBool()) da = by_inner.t().mm(d).to(saved[2].scalar_type());
    if (ctx->saved_data["b"].toBool()) db = g.t().mm(inner).to(saved[3].scalar_type());
    return {dx, dd, Variable(), Variable(), da, db, Variable()};
  }
};

thread_local std::string g_product_error;
}  // namespace

#define TRY(...)                      \
  try {                               \
    *out = nullptr;                   \
    __VA_ARGS__                       \
  } catch (const std::exception& e) { \
    g_product_error = e.what();       \
    return -1;                        \
  }                                   \
  return 0;

extern "C" {
const char* bsm_product_error() { return g_product_error.c_str(); }

// *out stays null where a plain at::linear is as good
int bsm_linear(Tensor* x, Tensor* w, Tensor* bias, Tensor** out) {
  TRY(if (fits(*x) && fits(*w) && x->scalar_type() == at::kFloat && w->scalar_type() == at::kFloat && one_dnn())
        *out = new Tensor(Linear::apply(*x, *w, maybe(bias)));)
}

// `dropped` may be null: x itself
int bsm_adapted(Tensor* x, Tensor* dropped, Tensor* w, Tensor* bias, Tensor* a, Tensor* b, double scale, Tensor** out) {
  TRY(if (fits(*x) && fits(*w) && x->scalar_type() == w->scalar_type() && !w->requires_grad() &&
          !(bias && bias->requires_grad()))
        *out = new Tensor(Adapted::apply(*x, maybe(dropped), *w, maybe(bias), *a, *b, scale));)
}
}
