/*
 * What stands between a layer's two products, part of forward.c. In float32, and as exact as PyTorch's own: results are
 * good to a unit or two in the last place, below zero to a few of them, where PyTorch's vanish.
 */
#define ALL _mm512_set1_ps

/* 2^x for x <= 0, to a unit in the last place: a minimax polynomial of degree 6 on [-1/2, 1/2]. NaN stays NaN. */
static inline __m512 exact_power_of_two(__m512 x) {
    x = _mm512_max_ps(ALL(-200.0f), x); /* of infinity there is no fraction */
    __m512 n = _mm512_roundscale_ps(x, 0), f = _mm512_sub_ps(x, n);
    __m512 p = _mm512_fmadd_ps(ALL(1.5353362e-4f), f, ALL(1.3398874e-3f));
    p = _mm512_fmadd_ps(p, f, ALL(9.618437e-3f));
    p = _mm512_fmadd_ps(p, f, ALL(5.5503324e-2f));
    p = _mm512_fmadd_ps(p, f, ALL(2.4022648e-1f));
    p = _mm512_fmadd_ps(p, f, ALL(6.931472e-1f));
    return _mm512_scalef_ps(_mm512_fmadd_ps(p, f, ALL(1.0f)), n);
}

/* 1 / x by one step of Newton's: a third of a division's time. x is from 1 to 20. */
static inline __m512 inverse(__m512 x) {
    __m512 r = _mm512_rcp14_ps(x);
    return _mm512_fmadd_ps(r, _mm512_fnmadd_ps(x, r, ALL(1.0f)), r);
}

/* x times e y where x is below zero, times 1 - e y elsewhere: the smaller share is the exact one, whatever its size. */
static inline __m512 share(__m512 x, __m512 e, __m512 y) {
    __mmask16 below = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_mul_ps(x, _mm512_mask_mul_ps(_mm512_fnmadd_ps(e, y, ALL(1.0f)), below, e, y));
}

/* x (1 + tanh u) / 2, u = sqrt(2/pi) (x + 0.044715 x^3): the smaller share is exp(-2|u|) / (1 + exp(-2|u|)). */
static inline __m512 gelu_tanh(__m512 x) {
    const float c = -2.0f * 0.7978845608028654f * 1.4426950408889634f;
    __m512 y = _mm512_fmadd_ps(_mm512_mul_ps(x, x), ALL(0.044715f * c), ALL(c));
    __m512 e = exact_power_of_two(_mm512_mul_ps(_mm512_abs_ps(x), y));
    return share(x, e, inverse(_mm512_add_ps(e, ALL(1.0f))));
}

/*
 * x (1 + erf(x / sqrt 2)) / 2: the smaller share is exp(-x^2 / 2) R(|x|), 2 R(a) = exp(a^2 / 2) erfc(a / sqrt 2), which
 * is smooth: a minimax polynomial in v = ka / (1 + ka), k = 0.29, has it to 6e-8 up to 13.2, where the product ends.
 */
static inline __m512 gelu_erf(__m512 x) {
    __m512 a = _mm512_min_ps(ALL(20.0f), _mm512_abs_ps(x)), v = _mm512_mul_ps(a, ALL(0.29f));
    v = _mm512_mul_ps(v, inverse(_mm512_add_ps(v, ALL(1.0f))));
    __m512 p = _mm512_fmadd_ps(ALL(0.03912951f), v, ALL(-0.12070476f));
    p = _mm512_fmadd_ps(p, v, ALL(0.055496402f));
    p = _mm512_fmadd_ps(p, v, ALL(0.1633108f));
    p = _mm512_fmadd_ps(p, v, ALL(0.024547137f));
    p = _mm512_fmadd_ps(p, v, ALL(-0.8830729f));
    p = _mm512_fmadd_ps(p, v, ALL(1.5969831f));
    p = _mm512_fmadd_ps(p, v, ALL(-1.3756621f));
    p = _mm512_fmadd_ps(p, v, ALL(0.5f));
    return share(x, exact_power_of_two(_mm512_mul_ps(_mm512_mul_ps(a, a), ALL(-0.72134752f))), p);
}

/* NaN stays NaN. */
static inline __m512 relu(__m512 x) { return _mm512_max_ps(_mm512_setzero_ps(), x); }

/* As model/kernels/native/structures.py numbers them. */
enum activation { GELU_TANH, GELU_ERF, RELU };

/* Of n values, a multiple of 16: for those who want to know how exact they are. */
void starcoder_activate(int64_t which, const float *x, float *out, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) {
        __m512 value = _mm512_loadu_ps(x + i);
        value = which == GELU_TANH ? gelu_tanh(value) : which == GELU_ERF ? gelu_erf(value) : relu(value);
        _mm512_storeu_ps(out + i, value);
    }
}
