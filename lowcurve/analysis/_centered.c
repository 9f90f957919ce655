/* Centered softplus s0 and its derivatives, in one pass over memory each, by one thread. fused.py decides when it is used.

   Torch operations need nine passes for the value (1) and as many as fifteen for the gradients (2). With a = |beta x|,
   t = exp(-a) and w = (1 - t) / (1 + t), where 1 - t is computed without cancellation:

     (1)  s0(x) = max(x, 0) + log(1 - (1 - t) / 2) / beta
     (2)  g s0'(x), where s0'(x) = 1 / (1 + t) for x >= 0 and t / (1 + t) for x < 0;
          sum g h / beta^2, the derivative in beta, where
          h = (log(1 - w^2) + a w) / 2 for small a and h = -log(1 - (1 - t) / 2) - a t / (1 + t) for large a

   The results are accurate to a few units in the last place for every beta x (tests/test_fused.py). */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define LOG2_E 1.44269504088896341f
#define LN2_HIGH 0.693145751953125f /* its low bits are 0, so its product with a small integer is exact */
#define LN2_LOW 1.42860682030941723212e-6f
#define ROUNDER 12582912.0f /* 1.5 * 2^23: adding and subtracting it rounds to an integer */
#define SWITCH 0.7f         /* value of w between the forms for small and large a, which are equally accurate there */
#define LOWEST -87.0f       /* below this, exp(-a) is negligible beside 1 and close to underflow */
#define BLOCK 256           /* terms summed in single precision, few enough for an error of a few units in the last place */

#define INLINED static inline __attribute__((always_inline))

/* exp(y) = scale (1 + rest) with y = n log 2 + r, and rest = exp(r) - 1 by a Taylor polynomial on |r| <= log(2) / 2. */
INLINED void exponential(float y, float *scale, float *rest) {
  y = y < LOWEST ? LOWEST : y;
  float shifted = y * LOG2_E + ROUNDER;
  float n = shifted - ROUNDER;
  float r = (y - n * LN2_HIGH) - n * LN2_LOW;
  int32_t bits = ((int32_t)n + 127) << 23;
  memcpy(scale, &bits, sizeof bits);
  float tail = 1.f / 6 + r * (1.f / 24 + r * (1.f / 120 + r * (1.f / 720 + r * (1.f / 5040))));
  *rest = r + r * r * (0.5f + r * tail);
}

/* log(1 + w) = 2 artanh(w / (2 + w)) for -1/2 <= w <= 0. */
INLINED float logarithm(float w) {
  float q = w / (2 + w), s = q * q;
  float series = 1.f / 3 + s * (1.f / 5 + s * (1.f / 7 + s * (1.f / 9 + s * (1.f / 11 + s * (1.f / 13)))));
  return 2 * q + 2 * q * s * series;
}

INLINED float size(float x) { return x < 0 ? -x : x; }

INLINED void values(const float *x, float *out, Py_ssize_t n, float beta) {
  float over = 1 / beta;
#pragma omp simd
  for (Py_ssize_t i = 0; i < n; i++) {
    float scale, rest;
    exponential(-size(beta * x[i]), &scale, &rest);
    float less = scale * rest + (scale - 1); /* exp(-a) - 1 */
    out[i] = (x[i] < 0 ? 0 : x[i]) + logarithm(0.5f * less) * over;
  }
}

INLINED void slopes(const float *g, const float *x, float *out, Py_ssize_t n, float beta) {
#pragma omp simd
  for (Py_ssize_t i = 0; i < n; i++) {
    float scale, rest;
    exponential(-size(beta * x[i]), &scale, &rest);
    float t = scale + scale * rest, over = 1 / (1 + t);
    out[i] = g[i] * (x[i] < 0 ? t * over : over);
  }
}

/* Also the sum. Blocks are summed in single precision and added in double precision. */
INLINED double slopes_and_sum(const float *g, const float *x, float *out, Py_ssize_t n, float beta) {
  double total = 0;
  float over_beta = 1 / beta;
  for (Py_ssize_t block = 0; block < n; block += BLOCK) {
    Py_ssize_t end = block + BLOCK < n ? block + BLOCK : n;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Py_ssize_t i = block; i < end; i++) {
      float scale, rest, a = size(beta * x[i]);
      a = a > -LOWEST ? -LOWEST : a;
      exponential(-a, &scale, &rest);
      float less = scale * rest + (scale - 1), t = scale + scale * rest, over = 1 / (1 + t), w = -less * over;
      out[i] = g[i] * (x[i] < 0 ? t * over : over);
      float log = logarithm(w < SWITCH ? -w * w : 0.5f * less);
      float h = w < SWITCH ? 0.5f * (log + a * w) : -log - a * (t * over);
      sum += g[i] * (h * over_beta * over_beta);
    }
    total += sum;
  }
  return total;
}

#if defined(__x86_64__)
#define VERSIONS(name, result, arguments, call)                                                                       \
  __attribute__((target("avx512f,fma"))) static result name##_512 arguments { call; }                                 \
  __attribute__((target("avx2,fma"))) static result name##_256 arguments { call; }                                    \
  static result name##_any arguments { call; }
#define CHOSEN(name)                                                                                                  \
  (__builtin_cpu_supports("avx512f") ? name##_512                                                                     \
   : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? name##_256                                     \
                                                                     : name##_any)
#else
#define VERSIONS(name, result, arguments, call) \
  static result name##_any arguments { call; }
#define CHOSEN(name) name##_any
#endif

VERSIONS(values, void, (const float *x, float *out, Py_ssize_t n, float beta), values(x, out, n, beta))
VERSIONS(slopes, void, (const float *g, const float *x, float *out, Py_ssize_t n, float beta),
         slopes(g, x, out, n, beta))
VERSIONS(slopes_and_sum, double, (const float *g, const float *x, float *out, Py_ssize_t n, float beta),
         return slopes_and_sum(g, x, out, n, beta))

typedef unsigned long long Address;

static PyObject *centered_values(PyObject *module, PyObject *arguments) {
  Address x, out, beta;
  Py_ssize_t n;
  (void)module;
  if (!PyArg_ParseTuple(arguments, "KKnK", &x, &out, &n, &beta)) return NULL;
  Py_BEGIN_ALLOW_THREADS;
  CHOSEN(values)((const float *)(uintptr_t)x, (float *)(uintptr_t)out, n, *(const float *)(uintptr_t)beta);
  Py_END_ALLOW_THREADS;
  Py_RETURN_NONE;
}

static PyObject *centered_derivatives(PyObject *module, PyObject *arguments) {
  Address g_at, x_at, out_at, beta_at, total_at;
  Py_ssize_t n;
  (void)module;
  if (!PyArg_ParseTuple(arguments, "KKKnKK", &g_at, &x_at, &out_at, &n, &beta_at, &total_at)) return NULL;
  Py_BEGIN_ALLOW_THREADS;
  const float *g = (const float *)(uintptr_t)g_at, *x = (const float *)(uintptr_t)x_at;
  float *out = (float *)(uintptr_t)out_at, *total = (float *)(uintptr_t)total_at;
  float beta = *(const float *)(uintptr_t)beta_at;
  if (total)
    *total = (float)CHOSEN(slopes_and_sum)(g, x, out, n, beta);
  else
    CHOSEN(slopes)(g, x, out, n, beta);
  Py_END_ALLOW_THREADS;
  Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"values", centered_values, METH_VARARGS, "values(x, out, n, beta): addresses of n floats and of one"},
    {"derivatives", centered_derivatives, METH_VARARGS,
     "derivatives(g, x, out, n, beta, total): likewise; without the sum if total is 0"},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_centered", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__centered(void) { return PyModule_Create(&definition); }
