// The decoder's elementwise operations in one pass each, forwards and backwards, for fp32 and bf16 on the CPU: libtorch
// makes them of five to eighteen passes and keeps what lies between for the backward pass. Statistics are fp32; bf16 is
// rounded where transformers rounds. A caller whose tensors do not qualify (device, type, layout) gets *out = nullptr.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// the same loops for three instruction sets, chosen when the program is loaded
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define WIDE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDE
#endif
#define INLINE inline __attribute__((always_inline))

namespace {
INLINE uint32_t bits_of(float v) { uint32_t b; std::memcpy(&b, &v, 4); return b; }
INLINE float float_of(uint32_t b) { float v; std::memcpy(&v, &b, 4); return v; }

struct F32 {
  using T = float;
  static INLINE float get(const T* p, int64_t i) { return p[i]; }
  static INLINE void put(T* p, int64_t i, float v) { p[i] = v; }
  static INLINE float round(float v) { return v; }
};
struct B16 {
  using T = uint16_t;
  static INLINE float get(const T* p, int64_t i) { return float_of(uint32_t(p[i]) << 16); }
  // to nearest, ties to even; a NaN stays one
  static INLINE uint32_t near(float v) {
    uint32_t b = bits_of(v);
    uint32_t r = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
    return v != v ? 0x7fc0 : r;
  }
  static INLINE void put(T* p, int64_t i, float v) { p[i] = uint16_t(near(v)); }
  static INLINE float round(float v) { return float_of(near(v) << 16); }
};

// e^x by 2^n times a polynomial (Cephes), 1 ulp or so over the range that a float has
INLINE float exp_of(float x) {
  x = x > 88.0f ? 88.0f : (x < -87.0f ? -87.0f : x);
  float n = x * 1.44269504f + 12582912.0f;  // rounds to nearest by losing the fraction
  int32_t whole = int32_t(bits_of(n)) - 0x4b400000;
  n -= 12582912.0f;
  float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * float_of(uint32_t(whole + 127) << 23);
}
INLINE float sigmoid(float x) { return 1.0f / (1.0f + exp_of(-x)); }

template <class K>
INLINE void norm_rows(const typename K::T* x, const typename K::T* w, typename K::T* y, float* inverse, int64_t first,
                      int64_t last, int64_t n, float eps) {
  for (int64_t r = first; r < last; r++) {
    const typename K::T* a = x + r * n;
    typename K::T* b = y + r * n;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) { float v = K::get(a, i); sum += v * v; }
    float s = 1.0f / std::sqrt(sum / float(n) + eps);
    inverse[r] = s;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) K::put(b, i, K::round(K::get(a, i) * s) * K::get(w, i));
  }
}
template <class K>
INLINE void norm_back(const typename K::T* x, const typename K::T* w, const typename K::T* g, const float* inverse,
                      typename K::T* out, int64_t first, int64_t last, int64_t n) {
  for (int64_t r = first; r < last; r++) {
    const typename K::T* a = x + r * n;
    const typename K::T* d = g + r * n;
    typename K::T* o = out + r * n;
    float dot = 0, s = inverse[r];
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < n; i++) dot += K::get(d, i) * K::get(w, i) * K::get(a, i);
    float m = dot / float(n) * s * s * s;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) K::put(o, i, K::get(d, i) * K::get(w, i) * s - K::get(a, i) * m);
  }
}
template <class K>
INLINE void gate_rows(const typename K::T* g, const typename K::T* u, typename K::T* y, int64_t first, int64_t last) {
#pragma omp simd
  for (int64_t i = first; i < last; i++) {
    float a = K::get(g, i);
    K::put(y, i, K::round(a * sigmoid(a)) * K::get(u, i));
  }
}
template <class K>
INLINE void gate_back(const typename K::T* g, const typename K::T* u, const typename K::T* d, typename K::T* dg,
                      typename K::T* du, int64_t first, int64_t last) {
#pragma omp simd
  for (int64_t i = first; i < last; i++) {
    float a = K::get(g, i), b = K::get(u, i), up = K::get(d, i);
    float s = sigmoid(a);
    K::put(du, i, up * a * s);
    K::put(dg, i, up * b * s * (1.0f + a * (1.0f - s)));
  }
}
// rows of `heads` heads of `2 half` numbers; `sign` -1 turns back
template <class K>
INLINE void turn_rows(const typename K::T* x, const typename K::T* cos, const typename K::T* sin, typename K::T* y,
                      int64_t first, int64_t last, int64_t length, int64_t heads, int64_t half, float sign) {
  for (int64_t r = first; r < last; r++) {
    const typename K::T* c = cos + (r % length) * half;
    const typename K::T* s = sin + (r % length) * half;
    for (int64_t h = 0; h < heads; h++) {
      const typename K::T* a = x + (r * heads + h) * 2 * half;
      typename K::T* b = y + (r * heads + h) * 2 * half;
#pragma omp simd
      for (int64_t i = 0; i < half; i++) {
        float p = K::get(a, i), q = K::get(a, i + half), co = K::get(c, i), si = sign * K::get(s, i);
        K::put(b, i, K::round(p * co) - K::round(q * si));
        K::put(b, i + half, K::round(q * co) + K::round(p * si));
      }
    }
  }
}

// Cross-entropy of each row's label; the row becomes `factor` times its derivative
WIDE double loss_rows(float* x, const int64_t* label, int64_t first, int64_t last, int64_t n, float factor) {
  double total = 0;
  for (int64_t r = first; r < last; r++) {
    float* a = x + r * n;
    float top = a[0];
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < n; i++) top = a[i] > top ? a[i] : top;
    float said = a[label[r]];
    double sum = 0;
    for (int64_t from = 0; from < n; from += 1024) {
      int64_t to = from + 1024 < n ? from + 1024 : n;
      float part = 0;
#pragma omp simd reduction(+ : part)
      for (int64_t i = from; i < to; i++) { float e = exp_of(a[i] - top); a[i] = e; part += e; }
      sum += part;
    }
    float share = float(factor / sum);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) a[i] *= share;
    a[label[r]] -= factor;
    total += std::log(sum) + double(top) - double(said);
  }
  return total;
}

#define BOTH(NAME, PARAMS_F, PARAMS_B, CALL)        \
  WIDE void NAME##_f PARAMS_F { CALL(F32); }        \
  WIDE void NAME##_b PARAMS_B { CALL(B16); }

#define NORM(K) norm_rows<K>(x, w, y, s, a, b, n, eps)
BOTH(norm, (const float* x, const float* w, float* y, float* s, int64_t a, int64_t b, int64_t n, float eps),
     (const uint16_t* x, const uint16_t* w, uint16_t* y, float* s, int64_t a, int64_t b, int64_t n, float eps), NORM)
#define NORM_BACK(K) norm_back<K>(x, w, g, s, o, a, b, n)
BOTH(norm_back, (const float* x, const float* w, const float* g, const float* s, float* o, int64_t a, int64_t b, int64_t n),
     (const uint16_t* x, const uint16_t* w, const uint16_t* g, const float* s, uint16_t* o, int64_t a, int64_t b, int64_t n),
     NORM_BACK)
#define GATE(K) gate_rows<K>(g, u, y, a, b)
BOTH(gate, (const float* g, const float* u, float* y, int64_t a, int64_t b),
     (const uint16_t* g, const uint16_t* u, uint16_t* y, int64_t a, int64_t b), GATE)
#define GATE_BACK(K) gate_back<K>(g, u, d, dg, du, a, b)
BOTH(gate_back, (const float* g, const float* u, const float* d, float* dg, float* du, int64_t a, int64_t b),
     (const uint16_t* g, const uint16_t* u, const uint16_t* d, uint16_t* dg, uint16_t* du, int64_t a, int64_t b), GATE_BACK)
#define TURN(K) turn_rows<K>(x, c, s, y, a, b, length, heads, half, sign)
BOTH(turn, (const float* x, const float* c, const float* s, float* y, int64_t a, int64_t b, int64_t length, int64_t heads, int64_t half, float sign),
     (const uint16_t* x, const uint16_t* c, const uint16_t* s, uint16_t* y, int64_t a, int64_t b, int64_t length, int64_t heads, int64_t half, float sign),
     TURN)

bool fits(const Tensor& t) {
  return t.device().is_cpu() && t.is_contiguous() && (t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16);
}
bool fits_labels(const Tensor& t) {
  return t.device().is_cpu() && t.is_contiguous() && t.scalar_type() == at::kLong;
}
bool wide(const Tensor& t) { return t.scalar_type() == at::kFloat; }
const float* f(const Tensor& t) { return static_cast<const float*>(t.const_data_ptr()); }
float* fm(const Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }
const uint16_t* h(const Tensor& t) { return static_cast<const uint16_t*>(t.const_data_ptr()); }
uint16_t* hm(const Tensor& t) { return static_cast<uint16_t*>(t.mutable_data_ptr()); }

struct RmsNorm : Function<RmsNorm> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w, double eps) {
    int64_t n = w.numel(), rows = x.numel() / n;
    Tensor y = at::empty_like(x), s = at::empty({rows}, x.options().dtype(at::kFloat));
    at::parallel_for(0, rows, 64, [&](int64_t a, int64_t b) {
      if (wide(x)) norm_f(f(x), f(w), fm(y), fm(s), a, b, n, float(eps));
      else norm_b(h(x), h(w), hm(y), fm(s), a, b, n, float(eps));
    });
    ctx->save_for_backward({x, w, s});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    Tensor x = saved[0], w = saved[1], s = saved[2], g = grads[0].contiguous(), out, by_weight;
    int64_t n = w.numel(), rows = x.numel() / n;
    if (ctx->needs_input_grad(0)) {
      out = at::empty_like(x);
      at::parallel_for(0, rows, 64, [&](int64_t a, int64_t b) {
        if (wide(x)) norm_back_f(f(x), f(w), f(g), f(s), fm(out), a, b, n);
        else norm_back_b(h(x), h(w), h(g), f(s), hm(out), a, b, n);
      });
    }
    if (ctx->needs_input_grad(1)) {
      Tensor unit = x.view({rows, n}).to(at::kFloat) * s.unsqueeze(1);
      by_weight = (unit * g.view({rows, n})).sum(0).to(w.scalar_type()).view_as(w);
    }
    return {out, by_weight, Variable()};
  }
};

struct Gated : Function<Gated> {
  static Tensor forward(AutogradContext* ctx, const Tensor& g, const Tensor& u) {
    Tensor y = at::empty_like(g);
    at::parallel_for(0, g.numel(), 32768, [&](int64_t a, int64_t b) {
      if (wide(g)) gate_f(f(g), f(u), fm(y), a, b);
      else gate_b(h(g), h(u), hm(y), a, b);
    });
    ctx->save_for_backward({g, u});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    Tensor g = saved[0], u = saved[1], d = grads[0].contiguous();
    Tensor dg = at::empty_like(g), du = at::empty_like(u);
    at::parallel_for(0, g.numel(), 32768, [&](int64_t a, int64_t b) {
      if (wide(g)) gate_back_f(f(g), f(u), f(d), fm(dg), fm(du), a, b);
      else gate_back_b(h(g), h(u), h(d), hm(dg), hm(du), a, b);
    });
    return {dg, du};
  }
};

// x [rows, length, heads, 2 half], contiguous
Tensor turned(const Tensor& x, const Tensor& cos, const Tensor& sin, float sign) {
  Tensor y = at::empty_like(x);
  int64_t length = x.size(1), heads = x.size(2), half = x.size(3) / 2;
  at::parallel_for(0, x.size(0) * length, 32, [&](int64_t a, int64_t b) {
    if (wide(x)) turn_f(f(x), f(cos), f(sin), fm(y), a, b, length, heads, half, sign);
    else turn_b(h(x), h(cos), h(sin), hm(y), a, b, length, heads, half, sign);
  });
  return y;
}
struct Rotate : Function<Rotate> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& cos, const Tensor& sin) {
    ctx->save_for_backward({cos, sin});
    return turned(x, cos, sin, 1.0f);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    return {turned(grads[0].contiguous(), saved[0], saved[1], -1.0f), Variable(), Variable()};
  }
};

thread_local std::string g_fused_error;
}  // namespace

#define TRY(...)                      \
  try {                               \
    *out = nullptr;                   \
    __VA_ARGS__                       \
  } catch (const std::exception& e) { \
    g_fused_error = e.what();         \
    return -1;                        \
  }                                   \
  return 0;

extern "C" {
const char* bsm_fused_error() { return g_fused_error.c_str(); }

int bsm_rms_norm(Tensor* x, Tensor* w, double eps, Tensor** out) {
  TRY(if (fits(*x) && fits(*w) && x->scalar_type() == w->scalar_type() && x->dim() > 0 && w->dim() == 1 &&
          x->size(-1) == w->numel() && x->numel() > 0)
        *out = new Tensor(RmsNorm::apply(*x, *w, eps));)
}

int bsm_swiglu(Tensor* gate, Tensor* up, Tensor** out) {
  TRY(if (fits(*gate) && fits(*up) && gate->scalar_type() == up->scalar_type() && gate->sizes() == up->sizes())
        *out = new Tensor(Gated::apply(*gate, *up));)
}

// logits [rows, n] fp32 become `factor` times the derivative of the sum of their rows' cross-entropies; that sum goes to
// `loss`. 1: not for these tensors, nothing was done.
int bsm_softmax_loss(Tensor* logits, Tensor* labels, double factor, double* loss) {
  if (!fits(*logits) || !wide(*logits) || logits->dim() != 2 || !fits_labels(*labels) ||
      labels->numel() != logits->size(0)) return 1;
  try {
    int64_t rows = logits->size(0), n = logits->size(1);
    const int64_t* label = labels->const_data_ptr<int64_t>();
    for (int64_t r = 0; r < rows; r++) TORCH_CHECK(label[r] >= 0 && label[r] < n, "label ", label[r], " of ", n);
    std::vector<double> by_row(rows);
    float* x = fm(*logits);
    // one sum per row: the same whatever the number of threads
    at::parallel_for(0, rows, 4, [&](int64_t a, int64_t b) {
      for (int64_t r = a; r < b; r++) by_row[r] = loss_rows(x, label, r, r + 1, n, float(factor));
    });
    *loss = 0;
    for (double l : by_row) *loss += l;
    return 0;
  } catch (const std::exception& e) {
    g_fused_error = e.what();
    return -1;
  }
}

// x [rows, heads, length, 2 half], a transposed view of [rows, length, heads, 2 half]; cos, sin [length, half]
int bsm_rotate(Tensor* x, Tensor* cos, Tensor* sin, Tensor** out) {
  TRY(if (x->dim() == 4) {
        Tensor flat = x->transpose(1, 2);
        bool good = fits(flat) && fits(*cos) && fits(*sin) && cos->dim() == 2 && cos->sizes() == sin->sizes() &&
                    cos->scalar_type() == x->scalar_type() && sin->scalar_type() == x->scalar_type() &&
                    cos->size(0) == x->size(2) && 2 * cos->size(1) == x->size(3) && !cos->requires_grad();
        if (good) *out = new Tensor(Rotate::apply(flat, *cos, *sin).transpose(1, 2));
      })
}
}
