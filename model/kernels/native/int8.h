/* Inputs in 8 bits and back, part of forward.c, whose head tells what is multiplied. */
enum { INT8_PADDING = 64 }; /* as ROW_PADDING, of a row in 8 bits */

/* A row in 8 bits: round(127 x / largest) + 128. */
static void quantise(const act *x, uint8_t *q, float *scale, int64_t width) {
    __m512 largest = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += LANES) largest = _mm512_max_ps(largest, _mm512_abs_ps(get(x + i)));
    float top = _mm512_reduce_max_ps(largest);
    *scale = top / 127.0f;
    __m512 factor = _mm512_set1_ps(top > 0 ? 127.0f / top : 0.0f);
    for (int64_t i = 0; i < width; i += LANES) {
        __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(get(x + i), factor));
        _mm_storeu_si128((__m128i *)(q + i), _mm512_cvtepi32_epi8(_mm512_add_epi32(value, _mm512_set1_epi32(128))));
    }
}

/* Sums [rows][tiles] of 32-bit integers become what they stand for. scales: of the rows. */
static inline void from_int8(
    __m512 *sums, int rows, int tiles, const float *scales, const Weight *w, int64_t column
) {
    for (int i = 0; i < rows * tiles; i++) {
        int64_t at = column + i % tiles * LANES;
        __m512i exact = _mm512_sub_epi32(_mm512_castps_si512(sums[i]), _mm512_loadu_si512(w->shift + at));
        __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(w->scale + at), _mm512_set1_ps(scales[i / tiles]));
        sums[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(exact), scale);
    }
}
