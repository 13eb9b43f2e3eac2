/*
 * The whole forward pass of a multi-query GPTBigCode on a CPU with AVX512-BF16, in one parallel region.
 *
 * Weights are bfloat16, products are summed in float32, and the residual stream stays in float32. A row's result
 * depends on its own tokens alone: whatever else is in the batch, its sums are formed in the same order.
 *
 * Layouts. A weight [N, K] lies as [N/16][K/2][16][2], so that one register holds a pair of inputs for 16 outputs and
 * VDPBF16PS needs no shuffles (as oneDNN's blocked formats do). The cache of a layer is [2, blocks, block_size, D].
 *
 * With int8 weights, as [N/16][K/4][16][4] with a scale for each output, a product's inputs are brought to 8 bits too,
 * each row by its own largest value, for VPDPBUSD. That instruction takes one side without sign: inputs are moved up by
 * 128, and what this adds, 128 times the sum of an output's weights, is taken off again.
 */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

typedef uint16_t bf16;

/* data: bfloat16, or int8 where there is a scale. bias may be NULL. shift: 128 * sum of an output's int8 weights. */
typedef struct {
    const void *data;
    const float *bias, *scale;
    const int32_t *shift;
} Weight;

typedef struct {
    const float *ln1_w, *ln1_b, *ln2_w, *ln2_b;
    Weight qkv, proj, fc, out;
} Layer;

typedef struct {
    int64_t layers, heads, head_dim, width, inner, vocab;
    double eps, scale;
    const bf16 *wte, *wpe;       /* [vocab, width], [positions, width] */
    const float *lnf_w, *lnf_b;
    Weight head;                 /* rows rounded up to 16 */
    const Layer *layer;
} Model;

typedef struct {
    int64_t tokens, rows;        /* T, R */
    const int64_t *ids, *positions, *slots; /* [T] */
    const int64_t *owner;        /* [T]: row of `tables` */
    const int64_t *tables;       /* [S, table_stride] */
    int64_t table_stride;
    const int64_t *logit_rows;   /* [R] */
    bf16 *cache;                 /* [layers, 2, blocks, block_size, head_dim] */
    int64_t blocks, block_size;
    float *logits;               /* [R, vocab rounded up to 16] */
    float *x;                    /* [T, width] */
    bf16 *h;                     /* [T, width] */
    bf16 *qkv;                   /* [T, width + 2 head_dim] */
    bf16 *mid;                   /* [T, inner] */
    uint8_t *q;                  /* [T, max(width, inner)], int8 weights only */
    float *q_scale;              /* [T] */
    int64_t *spent;              /* [PHASES]: nanoseconds of the first thread are added here, unless NULL */
} Step;

enum { LANES = 16, SPAN = 128, KEYS = 8 };
enum epilogue { TO_FLOAT, TO_BF16, TO_GELU, ADD };
enum phase { EMBED, NORM, QKV, WRITE, ATTEND, PROJ, FC, OUT, HEAD, PHASES };

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline __m512 widen(const bf16 *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}

static inline void narrow(bf16 *p, __m512 v) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(v)); }

/* 2^x to 4e-5, which bfloat16 does not see: Taylor's polynomial of degree 4 on [-1/2, 1/2]. */
static inline __m512 power_of_two(__m512 x) {
    __m512 n = _mm512_roundscale_ps(x, 0), f = _mm512_sub_ps(x, n);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(9.6181291e-3f), f, _mm512_set1_ps(5.5504109e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4022651e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9314718e-1f));
    return _mm512_scalef_ps(_mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f)), n);
}

/* x (1 + tanh u) / 2 = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3); the reciprocal to 2^-14. */
static inline __m512 gelu(__m512 x) {
    const float c = -2.0f * 0.7978845608028654f * 1.4426950408889634f;
    __m512 y = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.044715f * c), _mm512_set1_ps(c));
    __m512 e = power_of_two(_mm512_mul_ps(x, y));
    return _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(e, _mm512_set1_ps(1.0f))));
}

static inline __attribute__((always_inline)) void store(
    enum epilogue how, void *out, int64_t stride, int64_t row, int64_t column, __m512 sum, const float *bias
) {
    if (bias) sum = _mm512_add_ps(sum, _mm512_loadu_ps(bias + column));
    int64_t at = row * stride + column;
    if (how == TO_FLOAT) _mm512_storeu_ps((float *)out + at, sum);
    else if (how == TO_BF16) narrow((bf16 *)out + at, sum);
    else if (how == TO_GELU) narrow((bf16 *)out + at, gelu(sum));
    else _mm512_storeu_ps((float *)out + at, _mm512_add_ps(sum, _mm512_loadu_ps((float *)out + at)));
}

/* `rows` rows by `tiles` tiles of 16 outputs, all of K. Both are constants wherever this is inlined. */
static inline __attribute__((always_inline)) void micro(
    int rows, int tiles, const bf16 *x, int64_t x_stride, const bf16 *w, int64_t K, enum epilogue how, void *out,
    int64_t stride, int64_t row, int64_t column, const float *bias
) {
    __m512 sum[12][4]; /* constants tell the compiler how much of it there is: registers */
#pragma GCC unroll 16
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
        for (int t = 0; t < tiles; t++) sum[m][t] = _mm512_setzero_ps();
    int64_t tile = K * LANES;
    for (int64_t k = 0; k < K; k += 2) {
        __m512bh weight[4];
#pragma GCC unroll 4
        for (int t = 0; t < tiles; t++) weight[t] = (__m512bh)_mm512_loadu_si512(w + t * tile + k * LANES);
#pragma GCC unroll 16
        for (int m = 0; m < rows; m++) {
            int32_t pair;
            memcpy(&pair, x + m * x_stride + k, 4);
            __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
            for (int t = 0; t < tiles; t++) sum[m][t] = _mm512_dpbf16_ps(sum[m][t], weight[t], both);
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
        for (int t = 0; t < tiles; t++) store(how, out, stride, row + m, column + t * LANES, sum[m][t], bias);
}

#define MICRO(R, TILES)                                                                                               \
    case 8 * R + TILES: micro(R, TILES, x, xs, w, K, how, out, stride, row, column, bias); break;
#define WITH_TILES(R) MICRO(R, 1) MICRO(R, 2) MICRO(R, 3) MICRO(R, 4)

static inline __attribute__((always_inline)) void some(
    int rows, int tiles, const bf16 *x, int64_t xs, const bf16 *w, int64_t K, enum epilogue how, void *out,
    int64_t stride, int64_t row, int64_t column, const float *bias
) {
    switch (8 * rows + tiles) {
        WITH_TILES(1)
        WITH_TILES(2)
        WITH_TILES(3)
        WITH_TILES(4)
        WITH_TILES(5)
        WITH_TILES(6)
        MICRO(7, 1) MICRO(7, 2) MICRO(7, 3)
        MICRO(8, 1) MICRO(8, 2) MICRO(8, 3)
        MICRO(9, 1) MICRO(9, 2)
        MICRO(10, 1) MICRO(10, 2)
        MICRO(11, 1) MICRO(11, 2)
        MICRO(12, 1) MICRO(12, 2)
    }
}

/* The same with 8 bits: sums are exact, then scaled. */
static inline __attribute__((always_inline)) void micro8(
    int rows, int tiles, const uint8_t *x, int64_t x_stride, const float *x_scale, const int8_t *w, int64_t K,
    const float *scale, const int32_t *shift, enum epilogue how, void *out, int64_t stride, int64_t row, int64_t column,
    const float *bias
) {
    __m512i sum[12][4];
#pragma GCC unroll 16
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
        for (int t = 0; t < tiles; t++) sum[m][t] = _mm512_setzero_si512();
    int64_t tile = K * LANES;
    for (int64_t k = 0; k < K; k += 4) {
        __m512i weight[4];
#pragma GCC unroll 4
        for (int t = 0; t < tiles; t++) weight[t] = _mm512_loadu_si512(w + t * tile + k * LANES);
#pragma GCC unroll 16
        for (int m = 0; m < rows; m++) {
            int32_t four;
            memcpy(&four, x + m * x_stride + k, 4);
            __m512i all = _mm512_set1_epi32(four);
#pragma GCC unroll 4
            for (int t = 0; t < tiles; t++) sum[m][t] = _mm512_dpbusd_epi32(sum[m][t], all, weight[t]);
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
        for (int t = 0; t < tiles; t++) {
            int64_t at = column + t * LANES;
            __m512i exact = _mm512_sub_epi32(sum[m][t], _mm512_loadu_si512(shift + at));
            __m512 both = _mm512_mul_ps(_mm512_loadu_ps(scale + at), _mm512_set1_ps(x_scale[row + m]));
            store(how, out, stride, row + m, at, _mm512_mul_ps(_mm512_cvtepi32_ps(exact), both), bias);
        }
}

#define MICRO8(R, TILES)                                                                                              \
    case 8 * R + TILES:                                                                                               \
        micro8(R, TILES, x, xs, x_scale, w, K, scale, shift, how, out, stride, row, column, bias);                    \
        break;
#define WITH_TILES8(R) MICRO8(R, 1) MICRO8(R, 2) MICRO8(R, 3) MICRO8(R, 4)

static inline __attribute__((always_inline)) void some8(
    int rows, int tiles, const uint8_t *x, int64_t xs, const float *x_scale, const int8_t *w, int64_t K,
    const float *scale, const int32_t *shift, enum epilogue how, void *out, int64_t stride, int64_t row, int64_t column,
    const float *bias
) {
    switch (8 * rows + tiles) {
        WITH_TILES8(1)
        WITH_TILES8(2)
        WITH_TILES8(3)
        WITH_TILES8(4)
        WITH_TILES8(5)
        WITH_TILES8(6)
        MICRO8(7, 1) MICRO8(7, 2) MICRO8(7, 3)
        MICRO8(8, 1) MICRO8(8, 2) MICRO8(8, 3)
        MICRO8(9, 1) MICRO8(9, 2)
        MICRO8(10, 1) MICRO8(10, 2)
        MICRO8(11, 1) MICRO8(11, 2)
        MICRO8(12, 1) MICRO8(12, 2)
    }
}

/*
 * out [M, N] (row stride `stride`) from x [M, K]; to be called by every thread of the region. Ends in a barrier.
 * q, q_scale: the same rows in 8 bits, where the weights are.
 *
 * A tile of sums fills at most 24 of the 32 registers. While few rows share a weight, memory sets the pace, and all of
 * them are done in one pass over it; for more rows a pass of 6 rows finds the block of weights in the second cache.
 */
static inline __attribute__((always_inline)) void product(
    int64_t M, int64_t N, int64_t K, const bf16 *x, const uint8_t *q, const float *q_scale, const Weight *w,
    enum epilogue how, void *out, int64_t stride
) {
    int64_t tiles = (N + LANES - 1) / LANES, each = M <= 6 || M > 12 ? 4 : M <= 8 ? 3 : 2;
    int64_t blocks = (tiles + each - 1) / each, pass = M <= 12 ? M : 6;
#pragma omp for schedule(dynamic, 1)
    for (int64_t b = 0; b < blocks; b++) {
        int here = (int)(tiles - each * b < each ? tiles - each * b : each);
        int64_t column = b * each * LANES;
        for (int64_t row = 0; row < M;) {
            int rows = (int)(M - row < pass ? M - row : pass);
            if (w->scale)
                some8(rows, here, q + row * K, K, q_scale, (const int8_t *)w->data + column * K, K, w->scale, w->shift,
                      how, out, stride, row, column, w->bias);
            else
                some(rows, here, x + row * K, K, (const bf16 *)w->data + column * K, K, how, out, stride, row, column,
                     w->bias);
            row += rows;
        }
    }
}

/* A row in 8 bits: round(127 x / largest) + 128. */
static void quantise(const bf16 *x, uint8_t *q, float *scale, int64_t width) {
    __m512 largest = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += LANES) largest = _mm512_max_ps(largest, _mm512_abs_ps(widen(x + i)));
    float top = _mm512_reduce_max_ps(largest);
    *scale = top / 127.0f;
    __m512 factor = _mm512_set1_ps(top > 0 ? 127.0f / top : 0.0f);
    for (int64_t i = 0; i < width; i += LANES) {
        __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(widen(x + i), factor));
        _mm_storeu_si128((__m128i *)(q + i), _mm512_cvtepi32_epi8(_mm512_add_epi32(value, _mm512_set1_epi32(128))));
    }
}

static void norm(const float *x, bf16 *out, int64_t width, const float *w, const float *b, float eps) {
    __m512 sum = _mm512_setzero_ps(), square = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += LANES) sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + i));
    __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)width);
    for (int64_t i = 0; i < width; i += LANES) {
        __m512 d = _mm512_sub_ps(_mm512_loadu_ps(x + i), mean);
        square = _mm512_fmadd_ps(d, d, square);
    }
    float variance = _mm512_reduce_add_ps(square) / (float)width + eps;
    __m512 scale = _mm512_set1_ps(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(variance))));
    for (int64_t i = 0; i < width; i += LANES) {
        __m512 d = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i), mean), scale);
        narrow(out + i, _mm512_fmadd_ps(d, _mm512_loadu_ps(w + i), _mm512_loadu_ps(b + i)));
    }
}

/*
 * One query of up to 16 heads over its context: the heads are the lanes of the scores. Softmax is formed span by span
 * (Milakov and Gimelshein, arXiv:1805.02867), so that a long context needs no more room than a short one. `scale`
 * includes log2(e): the powers are of two.
 */
static void attend(
    const bf16 *query, int heads, int64_t D, const bf16 *keys, const bf16 *values, const int64_t *table,
    int64_t block_size, int64_t context, float scale, bf16 *out
) {
    int32_t packed[D / 2 * LANES] __attribute__((aligned(64)));
    float score[SPAN][LANES] __attribute__((aligned(64)));
    int32_t weight[SPAN / 2][LANES] __attribute__((aligned(64)));
    float sum[heads][D] __attribute__((aligned(64)));
    memset(packed, 0, sizeof packed);
    memset(sum, 0, sizeof sum);
    for (int h = 0; h < heads; h++)
        for (int64_t j = 0; j < D / 2; j++) memcpy(&packed[j * LANES + h], query + h * D + 2 * j, 4);
    __m512 best = _mm512_set1_ps(-1e30f), total = _mm512_setzero_ps();
    for (int64_t start = 0; start < context; start += SPAN) {
        int span = context - start < SPAN ? (int)(context - start) : SPAN;
        const bf16 *value[SPAN + 1];
        __m512 top = best;
        for (int p = 0; p < span; p += KEYS) {
            const bf16 *key[KEYS];
            __m512 s[KEYS];
            for (int i = 0; i < KEYS; i++) {
                int at = p + i < span ? p + i : span - 1;
                int64_t position = start + at;
                int64_t offset = (table[position / block_size] * block_size + position % block_size) * D;
                key[i] = keys + offset;
                value[at] = values + offset;
                s[i] = _mm512_setzero_ps();
            }
            for (int64_t j = 0; j < D / 2; j++) {
                __m512bh q = (__m512bh)_mm512_load_si512(packed + j * LANES);
#pragma GCC unroll 8
                for (int i = 0; i < KEYS; i++) {
                    int32_t pair;
                    memcpy(&pair, key[i] + 2 * j, 4);
                    s[i] = _mm512_dpbf16_ps(s[i], q, (__m512bh)_mm512_set1_epi32(pair));
                }
            }
            for (int i = 0; i < KEYS; i++) {
                s[i] = _mm512_mul_ps(s[i], _mm512_set1_ps(scale));
                top = _mm512_max_ps(top, s[i]);
                _mm512_store_ps(score[p + i], s[i]);
            }
        }
        float keep[LANES] __attribute__((aligned(64)));
        __m512 shrink = power_of_two(_mm512_sub_ps(best, top));
        _mm512_store_ps(keep, shrink);
        total = _mm512_mul_ps(total, shrink);
        best = top;
        for (int p = 0; p < span; p += 2) {
            __m512 a = power_of_two(_mm512_sub_ps(_mm512_load_ps(score[p]), top)), b = _mm512_setzero_ps();
            if (p + 1 < span) b = power_of_two(_mm512_sub_ps(_mm512_load_ps(score[p + 1]), top));
            total = _mm512_add_ps(total, _mm512_add_ps(a, b));
            __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(a));
            __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(b));
            _mm512_store_si512(weight[p / 2], _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
        value[span] = value[span - 1]; /* weight zero */
        for (int h = 0; h < heads; h += 4) {
            int group = heads - h < 4 ? heads - h : 4;
            for (int64_t d = 0; d < D; d += 64) {
                /* Two positions are interleaved within lanes of 128 bits: register 2i holds elements 0-3, 8-11, ... of
                   its 32, register 2i + 1 the others. `sum` is kept in that order. */
                __m512 acc[4][4];
                for (int g = 0; g < 4; g++)
                    for (int i = 0; i < 4; i++)
                        acc[g][i] = g < group ? _mm512_mul_ps(_mm512_loadu_ps(&sum[h + g][d + 16 * i]),
                                                              _mm512_set1_ps(keep[h + g]))
                                              : _mm512_setzero_ps();
                for (int p = 0; p < span; p += 2) {
                    __m512i a0 = _mm512_loadu_si512(value[p] + d), a1 = _mm512_loadu_si512(value[p] + d + 32);
                    __m512i b0 = _mm512_loadu_si512(value[p + 1] + d), b1 = _mm512_loadu_si512(value[p + 1] + d + 32);
                    __m512bh v[4] = {
                        (__m512bh)_mm512_unpacklo_epi16(a0, b0), (__m512bh)_mm512_unpackhi_epi16(a0, b0),
                        (__m512bh)_mm512_unpacklo_epi16(a1, b1), (__m512bh)_mm512_unpackhi_epi16(a1, b1)};
#pragma GCC unroll 4
                    for (int g = 0; g < 4; g++) {
                        /* lanes beyond `heads` hold weights of empty queries, and are not stored */
                        __m512bh w = (__m512bh)_mm512_set1_epi32(weight[p / 2][h + g]);
#pragma GCC unroll 4
                        for (int i = 0; i < 4; i++) acc[g][i] = _mm512_dpbf16_ps(acc[g][i], v[i], w);
                    }
                }
                for (int g = 0; g < group; g++)
                    for (int i = 0; i < 4; i++) _mm512_storeu_ps(&sum[h + g][d + 16 * i], acc[g][i]);
            }
        }
    }
    float totals[LANES] __attribute__((aligned(64)));
    _mm512_store_ps(totals, total);
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i second = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    for (int h = 0; h < heads; h++) {
        __m512 inverse = _mm512_set1_ps(1.0f / totals[h]);
        for (int64_t d = 0; d < D; d += 32) {
            __m512 low = _mm512_mul_ps(_mm512_loadu_ps(&sum[h][d]), inverse);
            __m512 high = _mm512_mul_ps(_mm512_loadu_ps(&sum[h][d + 16]), inverse);
            narrow(out + h * D + d, _mm512_permutex2var_ps(low, first, high));
            narrow(out + h * D + d + 16, _mm512_permutex2var_ps(low, second, high));
        }
    }
}

void starcoder_forward(const Model *m, const Step *s, int threads) {
    const int64_t T = s->tokens, W = m->width, D = m->head_dim, wide = W + 2 * D;
    const float eps = (float)m->eps;
    /* Heads in one call of `attend`: fewer than the lanes hold where a short batch would leave threads without work. */
    int64_t each = m->heads < LANES ? m->heads : LANES;
    if (T < threads) {
        int64_t share = (m->heads * T + threads - 1) / threads;
        if (share < each) each = share;
    }
    const int64_t groups = (m->heads + each - 1) / each;
#pragma omp parallel num_threads(threads)
    {
        int64_t last = 0;
        int timed = 0;
#pragma omp master
        if (s->spent) timed = 1, last = now();
#define LAP(phase)                                     \
    if (timed) {                                       \
        int64_t at = now();                            \
        s->spent[phase] += at - last;                  \
        last = at;                                     \
    }
#pragma omp for schedule(static)
        for (int64_t t = 0; t < T; t++) {
            const bf16 *token = m->wte + s->ids[t] * W, *position = m->wpe + s->positions[t] * W;
            for (int64_t i = 0; i < W; i += LANES)
                _mm512_storeu_ps(s->x + t * W + i, _mm512_add_ps(widen(token + i), widen(position + i)));
        }
        LAP(EMBED)
        for (int64_t n = 0; n < m->layers; n++) {
            const Layer *l = &m->layer[n];
            bf16 *keys = s->cache + n * 2 * s->blocks * s->block_size * D;
            bf16 *values = keys + s->blocks * s->block_size * D;
#pragma omp for schedule(static)
            for (int64_t t = 0; t < T; t++) {
                norm(s->x + t * W, s->h + t * W, W, l->ln1_w, l->ln1_b, eps);
                if (l->qkv.scale) quantise(s->h + t * W, s->q + t * W, s->q_scale + t, W);
            }
            LAP(NORM)
            product(T, wide, W, s->h, s->q, s->q_scale, &l->qkv, TO_BF16, s->qkv, wide);
            LAP(QKV)
#pragma omp for schedule(static)
            for (int64_t t = 0; t < T; t++) {
                memcpy(keys + s->slots[t] * D, s->qkv + t * wide + W, D * sizeof(bf16));
                memcpy(values + s->slots[t] * D, s->qkv + t * wide + W + D, D * sizeof(bf16));
            }
            LAP(WRITE)
#pragma omp for schedule(dynamic, 1)
            for (int64_t i = 0; i < T * groups; i++) {
                int64_t t = i / groups, first = i % groups * each;
                int here = (int)(m->heads - first < each ? m->heads - first : each);
                attend(s->qkv + t * wide + first * D, here, D, keys, values, s->tables + s->owner[t] * s->table_stride,
                       s->block_size, s->positions[t] + 1, (float)(m->scale * 1.4426950408889634), s->h + t * W + first * D);
            }
            LAP(ATTEND)
            if (l->proj.scale) {
#pragma omp for schedule(static)
                for (int64_t t = 0; t < T; t++) quantise(s->h + t * W, s->q + t * W, s->q_scale + t, W);
            }
            product(T, W, W, s->h, s->q, s->q_scale, &l->proj, ADD, s->x, W);
            LAP(PROJ)
#pragma omp for schedule(static)
            for (int64_t t = 0; t < T; t++) {
                norm(s->x + t * W, s->h + t * W, W, l->ln2_w, l->ln2_b, eps);
                if (l->fc.scale) quantise(s->h + t * W, s->q + t * W, s->q_scale + t, W);
            }
            LAP(NORM)
            product(T, m->inner, W, s->h, s->q, s->q_scale, &l->fc, TO_GELU, s->mid, m->inner);
            LAP(FC)
            if (l->out.scale) {
#pragma omp for schedule(static)
                for (int64_t t = 0; t < T; t++)
                    quantise(s->mid + t * m->inner, s->q + t * m->inner, s->q_scale + t, m->inner);
            }
            product(T, W, m->inner, s->mid, s->q, s->q_scale, &l->out, ADD, s->x, W);
            LAP(OUT)
        }
#pragma omp for schedule(static)
        for (int64_t r = 0; r < s->rows; r++) {
            norm(s->x + s->logit_rows[r] * W, s->h + r * W, W, m->lnf_w, m->lnf_b, eps);
            if (m->head.scale) quantise(s->h + r * W, s->q + r * W, s->q_scale + r, W);
        }
        LAP(NORM)
        int64_t padded = (m->vocab + LANES - 1) / LANES * LANES;
        product(s->rows, padded, W, s->h, s->q, s->q_scale, &m->head, TO_FLOAT, s->logits, padded);
        LAP(HEAD)
    }
}
