/* Paged attention, part of forward.c: heads that share a key, of one token or several, are the lanes of its scores. */

/* A query of one head: where it is, how many positions it sees, and where its answer goes. */
typedef struct {
    const bf16 *query;
    act *out;
    int64_t context;
} Query;

/*
 * Up to 16 `registers` queries over one sequence's cache: they are the lanes of the scores, heads of one token or of
 * several that follow each other. Softmax is formed span by span (Milakov and Gimelshein, arXiv:1805.02867), so that a
 * long context needs no more room than a short one. `scale` includes log2(e): the powers are of two. stride: from one
 * position's key to the next one's. cold: nobody has just read this context.
 */
static inline __attribute__((always_inline)) void attend(
    const int registers, const Query *queries, int count, int64_t D, const bf16 *keys, const bf16 *values,
    int64_t stride, const int64_t *table, int64_t block_size, float scale, int cold
) {
    const int lanes = registers * LANES;
    packed query[D / PACK * lanes] __attribute__((aligned(64)));
    /* Scores, then in their place the weights. A row more, since the last queries are taken GROUP at a time. */
    float score[(SPAN + 1) * lanes] __attribute__((aligned(64)));
    float sum[count][D] __attribute__((aligned(64)));
    float room[KEYS * D] __attribute__((aligned(64)));
    float keep[3 * LANES] __attribute__((aligned(64)));
    int32_t sees[3 * LANES] __attribute__((aligned(64)));
    memset(query, 0, sizeof query);
    memset(sum, 0, sizeof sum);
    int64_t context = 0, by_all = INT64_MAX;
    for (int h = 0; h < lanes; h++) sees[h] = INT32_MAX;
    for (int h = 0; h < count; h++) {
        pack_query(query + h, lanes, queries[h].query, D);
        sees[h] = (int32_t)queries[h].context;
        if (queries[h].context > context) context = queries[h].context;
        if (queries[h].context < by_all) by_all = queries[h].context;
    }
    __m512 best[3], total[3];
    for (int r = 0; r < registers; r++) best[r] = _mm512_set1_ps(-1e30f), total[r] = _mm512_setzero_ps();
    for (int64_t start = 0; start < context; start += SPAN) {
        int span = context - start < SPAN ? (int)(context - start) : SPAN;
        /* Where the span's keys and values are. Blocks lie anywhere, so the processor cannot guess what comes next. */
        const bf16 *key_at[SPAN + KEYS], *value[SPAN + 1];
        for (int p = 0; p < span;) {
            int64_t offset = (start + p) % block_size, stop = p + block_size - offset;
            const int64_t base = (table[(start + p) / block_size] * block_size + offset) * stride;
            for (int64_t i = 0; p < span && p < stop; p++, i += stride) {
                key_at[p] = keys + base + i;
                value[p] = values + base + i;
                for (int64_t d = 0; cold && d < D; d += 32) {
                    _mm_prefetch(key_at[p] + d, _MM_HINT_T0);
                    _mm_prefetch(value[p] + d, _MM_HINT_T0);
                }
            }
        }
        for (int p = span; p < span + KEYS; p++) key_at[p] = key_at[span - 1];
        __m512 top[3];
        for (int r = 0; r < registers; r++) top[r] = best[r];
        for (int p = 0; p < span; p += KEYS) {
            __m512 s[KEYS][3];
            int in_one_block = (start + p) / block_size == (start + p + KEYS - 1) / block_size;
            score_keys(registers, query, key_at + p, in_one_block ? stride : 0, D, room, s);
            int some_do_not_see = start + p + KEYS > by_all;
            UNROLLED for (int at = 0; at < KEYS; at++) UNROLLED for (int r = 0; r < registers; r++) {
                __m512 scaled = _mm512_mul_ps(s[at][r], _mm512_set1_ps(scale));
                if (some_do_not_see) {
                    __mmask16 seen = _mm512_cmpgt_epi32_mask(
                        _mm512_load_si512(sees + r * LANES), _mm512_set1_epi32((int32_t)(start + p + at)));
                    scaled = _mm512_mask_blend_ps(seen, _mm512_set1_ps(-1e30f), scaled);
                }
                top[r] = _mm512_max_ps(top[r], scaled);
                _mm512_store_ps(score + (p + at) * lanes + r * LANES, scaled);
            }
        }
        for (int r = 0; r < registers; r++) {
            __m512 shrink = power_of_two(_mm512_sub_ps(best[r], top[r]));
            _mm512_store_ps(keep + r * LANES, shrink);
            total[r] = _mm512_mul_ps(total[r], shrink);
            best[r] = top[r];
        }
        for (int p = 0; p < span; p += 2)
            for (int r = 0; r < registers; r++) {
                const float *at = score + p * lanes + r * LANES;
                __m512 a = power_of_two(_mm512_sub_ps(_mm512_load_ps(at), top[r])), b = _mm512_setzero_ps();
                if (p + 1 < span) b = power_of_two(_mm512_sub_ps(_mm512_load_ps(at + lanes), top[r]));
                total[r] = _mm512_add_ps(total[r], _mm512_add_ps(a, b));
                put_weights(score, p, lanes, r, a, b);
            }
        value[span] = value[span - 1]; /* weight zero */
        mix_values(score, lanes, value, span, count, D, keep, &sum[0][0]);
    }
    float totals[3 * LANES] __attribute__((aligned(64)));
    for (int r = 0; r < registers; r++) _mm512_store_ps(totals + r * LANES, total[r]);
    for (int h = 0; h < count; h++) {
        __m512 inverse = _mm512_set1_ps(1.0f / totals[h]);
        for (int64_t d = 0; d < D; d += 32) {
            __m512 low = _mm512_mul_ps(_mm512_loadu_ps(&sum[h][d]), inverse);
            __m512 high = _mm512_mul_ps(_mm512_loadu_ps(&sum[h][d + 16]), inverse);
            in_order(&low, &high);
            put(queries[h].out + d, low);
            put(queries[h].out + d + LANES, high);
        }
    }
}

typedef void (*Attend)(
    const Query *, int, int64_t, const bf16 *, const bf16 *, int64_t, const int64_t *, int64_t, float, int);
#define ATTEND(REGISTERS)                                                                                             \
    static __attribute__((noinline)) void attend_##REGISTERS(                                                         \
        const Query *queries, int count, int64_t D, const bf16 *keys, const bf16 *values, int64_t stride,             \
        const int64_t *table, int64_t block_size, float scale, int cold                                               \
    ) {                                                                                                               \
        attend(REGISTERS, queries, count, D, keys, values, stride, table, block_size, scale, cold);                   \
    }
ATTEND(1) ATTEND(2) ATTEND(3)
static const Attend ATTENDS[] = {NULL, attend_1, attend_2, attend_3};
