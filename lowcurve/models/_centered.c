/* Centered softplus s0 and its derivatives, in one pass over memory each, by one thread. fused.py decides when it is used.

   Torch operations need nine passes for the value (1) and four for the gradients (2). With a = |beta x| and t = exp(-a),
   where exp(-a) - 1 is computed without cancellation:

     (1)  s0(x) = max(x, 0) + log(1 + (t - 1) / 2) / beta
     (2)  g s0'(x), where s0'(x) = 1 / (1 + t) for x >= 0 and t / (1 + t) for x < 0;
          sum g (x s0' - s0), which is beta times the derivative in beta

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
#define LOWEST -87.0f       /* below this, exp(-a) is negligible beside 1 and close to underflow */

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

INLINED float slope(float x, float beta) {
  float scale, rest;
  exponential(-size(beta * x), &scale, &rest);
  float t = scale + scale * rest, over = 1 / (1 + t);
  return x < 0 ? t * over : over;
}

/* Sums of blocks in single precision are added in double precision. */
INLINED double slopes(const float *g, const float *x, const float *value, float *out, Py_ssize_t n, float beta) {
  double total = 0;
  for (Py_ssize_t block = 0; block < n; block += 4096) {
    Py_ssize_t end = block + 4096 < n ? block + 4096 : n;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Py_ssize_t i = block; i < end; i++) {
      float s = slope(x[i], beta);
      out[i] = g[i] * s;
      sum += g[i] * (x[i] * s - value[i]);
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
VERSIONS(slopes, double,
         (const float *g, const float *x, const float *value, float *out, Py_ssize_t n, float beta),
         return slopes(g, x, value, out, n, beta))

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

static PyObject *centered_slopes(PyObject *module, PyObject *arguments) {
  Address g, x, value, out, beta, total;
  Py_ssize_t n;
  (void)module;
  if (!PyArg_ParseTuple(arguments, "KKKKnKK", &g, &x, &value, &out, &n, &beta, &total)) return NULL;
  Py_BEGIN_ALLOW_THREADS;
  float b = *(const float *)(uintptr_t)beta;
  double found = CHOSEN(slopes)((const float *)(uintptr_t)g, (const float *)(uintptr_t)x,
                                (const float *)(uintptr_t)value, (float *)(uintptr_t)out, n, b);
  *(float *)(uintptr_t)total = (float)(found / b);
  Py_END_ALLOW_THREADS;
  Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"values", centered_values, METH_VARARGS, "values(x, out, n, beta): addresses of n floats and of one"},
    {"slopes", centered_slopes, METH_VARARGS, "slopes(g, x, value, out, n, beta, total): likewise"},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_centered", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__centered(void) { return PyModule_Create(&definition); }
