// All codes of a frame in one kernel, for up to four rows: the first head on the backbone's state, then the depth decoder
// of every other codebook with its head, and all sampling. The same arithmetic as CsmModel._codes in bfloat16.
//
// One block an SM, all of them at once (a cooperative launch). In each, one thread of the last warp streams the block's
// share of the weights into a ring in shared memory. It never looks at an activation, so it runs on while the others wait
// for the grid. The other eight warps, the consumers, multiply: they pass activations between blocks through L2, behind
// barriers of the whole grid, four a layer.
//
// A slot of the ring is a tile: 8 outputs by HIDDEN inputs, of which each warp takes an eighth (packing.py). Tokens are
// the first 8 rows of a product's first operand, so a product costs the same for one row as for four, and a row's sums
// have the same order among any others: nothing is added atomically.
//
// Sizes are macros: HIDDEN, HEADS, KV_HEADS, INTERMEDIATE, LAYERS (of the depth decoder), WIDE (of the backbone),
// CODEBOOKS, VOCAB, AUDIO_VOCAB, RECORD (8-byte words of a row's record, see row_record.py), RING (slots).
#include <primitives.cuh>

constexpr int ROWS = 4, TOKENS = 8, POSITIONS = 32;
constexpr int WARPS = 8, CONSUMERS = 32 * WARPS, THREADS = CONSUMERS + 32;
constexpr int UNITS = HIDDEN / 32 / WARPS;  // a lane has 8 inputs of each
constexpr int HEAD_DIM = HIDDEN / HEADS, GROUP = HEADS / KV_HEADS, HEAD_UNITS = HEAD_DIM / 32;
constexpr int BLOCKS = HIDDEN / 8, TILE = 8 * HIDDEN;
constexpr int QKV_TILES = (HEADS + 2 * KV_HEADS) * HEAD_DIM / 8;
constexpr int GATE_UP_SLOTS = INTERMEDIATE / 4 / BLOCKS, DOWN_SLOTS = INTERMEDIATE / HIDDEN;
constexpr int HEAD_SLOTS = VOCAB / 8 / BLOCKS, PARTS = WIDE / HIDDEN, OPENING_SLOTS = (HEAD_SLOTS + 1) * PARTS;
constexpr int LOGITS = VOCAB / CONSUMERS;  // of a thread, one after the other
constexpr int SUM_SLOTS = GATE_UP_SLOTS > HEAD_SLOTS + 1 ? GATE_UP_SLOTS : HEAD_SLOTS + 1;
constexpr int AHEAD = DOWN_SLOTS < 4 ? DOWN_SLOTS : 4;  // slots whose activations are on their way
constexpr int MIXED_STRIDE = HIDDEN + 8;
static_assert(GROUP == 4 && ROWS * KV_HEADS <= WARPS && CODEBOOKS <= POSITIONS && SUM_SLOTS >= 2, "");
static_assert(UNITS >= 1 && HEAD_UNITS >= 1 && LOGITS % 4 == 0 && QKV_TILES <= 2 * BLOCKS && RING <= 16, "");

enum Fault { NO_FREE_SLOT = 1, NO_FULL_SLOT = 2, GRID_INCOMPLETE = 4 };

struct Params {  // depth.py's Params
    // Weights, packed, and tables
    const u16* opening;  // (BLOCKS, OPENING_SLOTS, TILE): the first head's tiles and one of the projection, PARTS each
    const u16* layers;   // (BLOCKS, layer_slots, TILE)
    const u16* heads;    // (CODEBOOKS - 1, BLOCKS, HEAD_SLOTS, TILE)
    const u16* norms;    // (2 * LAYERS + 1, HIDDEN)
    const u16* cos;      // (CODEBOOKS, HEAD_DIM)
    const u16* sin;      // the same; the first half is negated
    const u16* inputs;   // (CODEBOOKS - 1, AUDIO_VOCAB, HIDDEN), see CsmModel.depth_inputs
    const u16* backbone_norm;  // (WIDE,)
    // The frame: the backbone's residual stream and fields of the rows' records
    const u16* backbone;  // (rows, WIDE)
    const i64* seed;
    const i64* frame;
    const i64* top_k;
    const i64* unconditional;
    const i64* sampler;
    const float* temperature_first;
    const float* temperature;
    const float* guidance;
    // Written
    i64* codes;     // (rows, CODEBOOKS)
    u16* first;     // (ROWS, HIDDEN): the depth decoder's first input
    u16* q;         // (TOKENS, HIDDEN)
    u16* keys;      // (LAYERS, ROWS, KV_HEADS, POSITIONS, HEAD_DIM)
    u16* values;    // (LAYERS, ROWS, KV_HEADS, HEAD_DIM, POSITIONS), see `value_place`; never NaN
    u16* attended;  // (TOKENS, HIDDEN): attention's update of the residual stream
    u16* gated;     // (TOKENS, INTERMEDIATE)
    u16* updated;   // (TOKENS, HIDDEN): the MLP's
    float* logits;  // (CODEBOOKS, ROWS, VOCAB)
    u32* arrivals;  // at the grid's barriers; zero before a launch and after it
    u32* leavers;   // blocks that are done; the same
    u32* fault;     // what was waited for in vain
    u64 patience;   // nanoseconds of any wait
    float backbone_eps, eps, attention_scale;
    int rows;
    int layer_slots;  // of a block in `layers`
    int fatal;      // a wait in vain is an error of the launch; otherwise all go on and the result is wrong
};

struct Shared {
    u64 full[16], empty[16];
    float squares[WARPS][TOKENS];
    int counts[2][WARPS];
    float best[ROWS][WARPS];
    int best_at[ROWS][WARPS];
    volatile int abandoned;  // nobody waits any more
};

static_assert(sizeof(Shared) <= 1024, "depth.py reserves no more");

constexpr int SUMS_BYTES = SUM_SLOTS * WARPS * TOKENS * 8 * 4, MIXED_BYTES = TOKENS * MIXED_STRIDE * 2;
constexpr int RING_BYTES = RING * TILE * 2;

struct Thread {
    const Params& p;
    unsigned char* ring;
    float* sums;  // (SUM_SLOTS, WARPS, TOKENS, 8): each warp's part of each output
    u16* mixed;   // (TOKENS, MIXED_STRIDE): attention's output
    Shared& shared;
    int index, warp, lane, block;
    int token, part;  // of a product's operands: lane / 4, lane % 4
    int slot;         // the next one of the ring,
    u32 parity;       // and of its phase
    u32 expected;     // arrivals at the grid's barrier when all blocks have come
};

DEVICE float low(u32 both) { return bits_float(both << 16); }
DEVICE float high(u32 both) { return bits_float(both & 0xffff0000u); }
DEVICE u16 bfloat16(float x) { return static_cast<u16>(pack(x, 0.f)); }
DEVICE float widened(u16 x) { return low(x); }
DEVICE float infinity() { return bits_float(0x7f800000u); }
DEVICE float rounded(float x) { return low(pack(x, 0.f)); }

// ---- waiting

template <class Condition> DEVICE void wait(const Thread& t, Fault fault, Condition condition) {
    if (condition()) return;
    const u64 since = nanoseconds();
    while (!condition()) {
        if (t.shared.abandoned) return;
        if (nanoseconds() - since > t.p.patience) {
            t.shared.abandoned = 1;
            add_bits(t.p.fault, fault);
            if (t.p.fatal) trap();
            return;
        }
    }
}

// Wait for all blocks: what any has written before is there for all.
DEVICE void sync_grid(Thread& t) {
    sync_consumers();
    t.expected += BLOCKS;
    if (t.index == 0) {
        add_release(t.p.arrivals);
        wait(t, GRID_INCOMPLETE, [&] { return load_acquire(t.p.arrivals) >= t.expected; });
    }
    sync_warp();
    sync_consumers();
}

DEVICE void next_slot(Thread& t) {
    if (++t.slot == RING) {
        t.slot = 0;
        t.parity ^= 1;
    }
}

// ---- the stream of weights

// More tiles of QKV than blocks: some blocks take a second one, others of them in the next layer.
DEVICE int qkv_rank(int block, int layer) { return (block + layer * (BLOCKS / 2)) % BLOCKS; }
DEVICE int qkv_slots(int block, int layer) { return qkv_rank(block, layer) + BLOCKS < QKV_TILES ? 2 : 1; }

DEVICE void stream(Thread& t, const u16* tiles, int count) {
    for (int n = 0; n < count; ++n) {
        u64* empty = &t.shared.empty[t.slot];
        u64* full = &t.shared.full[t.slot];
        wait(t, NO_FREE_SLOT, [&] { return barrier_passed(empty, t.parity ^ 1); });
        if (t.shared.abandoned) return;
        barrier_expect(full, TILE * 2);
        copy_weights(t.ring + t.slot * TILE * 2, tiles + static_cast<u64>(n) * TILE, TILE * 2, full);
        next_slot(t);
    }
}

DEVICE void stream_all(Thread& t) {
    int slots = 0;
    for (int layer = 0; layer < LAYERS; ++layer) slots += qkv_slots(t.block, layer) + 1 + GATE_UP_SLOTS + DOWN_SLOTS;
    stream(t, t.p.opening + static_cast<u64>(t.block) * OPENING_SLOTS * TILE, OPENING_SLOTS);
    for (int step = 0; step < CODEBOOKS - 1; ++step) {
        stream(t, t.p.layers + static_cast<u64>(t.block) * t.p.layer_slots * TILE, slots);
        stream(t, t.p.heads + (static_cast<u64>(step) * BLOCKS + t.block) * HEAD_SLOTS * TILE, HEAD_SLOTS);
    }
}

// ---- products

DEVICE void clear(float (&sum)[2][4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[0][i] = sum[1][i] = 0.f;
}

// The next tile by this warp's eighth of the activations, added to `sum`: two chains, which do not wait for each other.
DEVICE void multiply(Thread& t, const uint4 (&a)[UNITS], float (&sum)[2][4]) {
    u64* full = &t.shared.full[t.slot];
    wait(t, NO_FULL_SLOT, [&] { return barrier_passed(full, t.parity); });
    sync_warp();
    const uint4* tile = reinterpret_cast<const uint4*>(t.ring + t.slot * TILE * 2) + t.warp * UNITS * 32 + t.lane;
    uint4 w[UNITS];
#pragma unroll
    for (int u = 0; u < UNITS; ++u) w[u] = tile[u * 32];
#pragma unroll
    for (int u = 0; u < UNITS; ++u) {
        mma(sum[u & 1], a[u].x, a[u].y, w[u].x, w[u].y);
        mma(sum[u & 1], a[u].z, a[u].w, w[u].z, w[u].w);
    }
    sync_warp();  // all lanes have read the tile
    if (t.lane == 0) barrier_arrive(&t.shared.empty[t.slot]);
    next_slot(t);
}

// This warp's sums of a slot's 8 outputs, to where `total` finds those of all warps behind a barrier.
DEVICE void put(const Thread& t, int slot, const float (&sum)[2][4]) {
    float* to = t.sums + ((slot * WARPS + t.warp) * TOKENS + t.token) * 8 + 2 * t.part;
    to[0] = sum[0][0] + sum[1][0];
    to[1] = sum[0][1] + sum[1][1];
}
DEVICE float total(const Thread& t, int slot, int token, int output) {
    const float* from = t.sums + (slot * WARPS * TOKENS + token) * 8 + output;
    float sum = 0.f;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) sum += from[warp * TOKENS * 8];
    return sum;
}
DEVICE void multiply_and_put(Thread& t, int slot, const uint4 (&a)[UNITS]) {
    float sum[2][4];
    clear(sum);
    multiply(t, a, sum);
    put(t, slot, sum);
}

DEVICE int place(const Thread& t, int unit) { return t.warp * UNITS * 32 + unit * 32 + t.part * 8; }  // of 8 inputs

// Outputs block * 8 to + 7 of each token, from the first slot's sums.
DEVICE void store_tile(const Thread& t, u16* to, int tokens) {
    const int token = t.index >> 3, output = t.index & 7;
    if (token < tokens) to[token * HIDDEN + t.block * 8 + output] = bfloat16(total(t, 0, token, output));
}
// The logits of each row's last token, from `HEAD_SLOTS` slots' sums.
DEVICE void store_logits(const Thread& t, int codebook, int per_row) {
    for (int i = t.index; i < HEAD_SLOTS * 8 * t.p.rows; i += CONSUMERS) {
        const int output = i % (HEAD_SLOTS * 8), row = i / (HEAD_SLOTS * 8);
        t.p.logits[(codebook * ROWS + row) * VOCAB + t.block * HEAD_SLOTS * 8 + output] =
            rounded(total(t, output >> 3, row * per_row + per_row - 1, output & 7));
    }
}

// ---- norms

DEVICE u32 add(u32 a, u32 b) { return pack(low(a) + low(b), high(a) + high(b)); }
DEVICE float square(u32 a) { return low(a) * low(a) + high(a) * high(a); }
DEVICE float square(uint4 a) { return square(a.x) + square(a.y) + square(a.z) + square(a.w); }
DEVICE u32 scale(u32 x, float by, u32 gain) {  // rounded before the gain and after it
    return pack(low(gain) * rounded(low(x) * by), high(gain) * rounded(high(x) * by));
}
DEVICE uint4 scale(uint4 x, float by, uint4 gain) {
    return {scale(x.x, by, gain.x), scale(x.y, by, gain.y), scale(x.z, by, gain.z), scale(x.w, by, gain.w)};
}

// 1 / rms of this lane's token. squares: the sum over this lane's inputs.
DEVICE float inverse_rms(const Thread& t, float squares, int size, float eps) {
    squares += from_lane(squares, 1);
    squares += from_lane(squares, 2);
    if (t.part == 0) t.shared.squares[t.warp][t.token] = squares;
    sync_consumers();
    float sum = 0.f;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) sum += t.shared.squares[warp][t.token];
    return inverse_root(sum / size + eps);
}

// x += update, if there is one; then the norm of x. x: this lane's part of the residual stream, which every block has.
DEVICE void norm(const Thread& t, uint4 (&x)[UNITS], const u16* update, int tokens, int index, uint4 (&a)[UNITS]) {
    uint4 gain[UNITS];
#pragma unroll
    for (int u = 0; u < UNITS; ++u) gain[u] = load_constant(t.p.norms + index * HIDDEN + place(t, u));
    float squares = 0.f;
#pragma unroll
    for (int u = 0; u < UNITS; ++u) {
        if (update && t.token < tokens) {
            const uint4 by = load(update + t.token * HIDDEN + place(t, u));
            x[u] = {add(x[u].x, by.x), add(x[u].y, by.y), add(x[u].z, by.z), add(x[u].w, by.w)};
        }
        squares += square(x[u]);
    }
    const float by = inverse_rms(t, squares, HIDDEN, t.p.eps);
#pragma unroll
    for (int u = 0; u < UNITS; ++u) a[u] = scale(x[u], by, gain[u]);
}

// ---- attention

// Where a position's value lies: a lane's of both operands of PV are 16 bytes.
DEVICE int value_place(int position) { return ((position >> 1) & 3) * 8 + (position >> 3) * 2 + (position & 1); }

// Rotate a QKV tile's outputs and write them where attention reads them. A tile has 4 outputs of a head's first half, and
// those that they are rotated with.
DEVICE void store_qkv(const Thread& t, int layer, int slots, int start, int per_row) {
    const int output = t.index & 7, token = (t.index >> 3) % TOKENS, slot = (t.index >> 3) / TOKENS;
    const int row = token / per_row, position = start + token % per_row;
    if (t.warp >= slots * 2) return;  // whole warps: 8 outputs of 8 tokens are two
    float y = rounded(total(t, slot, token, output));
    const float other = from_lane(y, 4);
    if (row >= t.p.rows) return;
    const int tile = qkv_rank(t.block, layer) + slot * BLOCKS, head = tile / (HEAD_DIM / 8);
    const int dim = (output < 4 ? 0 : HEAD_DIM / 2) + tile % (HEAD_DIM / 8) * 4 + (output & 3);
    if (head < HEADS + KV_HEADS) {
        const int angle = position * HEAD_DIM + dim;
        y = rounded_sum(rounded(rounded_product(y, widened(t.p.cos[angle]))),
                        rounded(rounded_product(other, widened(t.p.sin[angle]))));
    }
    const int cached = (layer * ROWS + row) * KV_HEADS;
    if (head < HEADS)
        t.p.q[token * HIDDEN + head * HEAD_DIM + dim] = bfloat16(y);
    else if (head < HEADS + KV_HEADS)
        t.p.keys[((cached + head - HEADS) * POSITIONS + position) * HEAD_DIM + dim] = bfloat16(y);
    else
        t.p.values[((cached + head - HEADS - KV_HEADS) * HEAD_DIM + dim) * POSITIONS + value_place(position)] = bfloat16(y);
}

// Attention of one row and KV head by each warp, into `mixed`: its 4 heads of one or two tokens are a product's 8 tokens.
DEVICE void attend(Thread& t, int layer, int start, int per_row) {
    const int row = t.warp / KV_HEADS, kv_head = t.warp % KV_HEADS, length = start + per_row;
    if (row >= t.p.rows) return;
    const int head = kv_head * GROUP + (t.token & 3), number = t.token >> 2, token = row * per_row + number;
    const bool mine = number < per_row;
    const int cached = ((layer * ROWS + row) * KV_HEADS + kv_head) * POSITIONS * HEAD_DIM;
    const u16 *keys = t.p.keys + cached, *values = t.p.values + cached;
    const uint4 zero = {0, 0, 0, 0};
    // All loads first: L2 is far.
    uint4 q[HEAD_UNITS], k[POSITIONS / 8][HEAD_UNITS], v[HEAD_UNITS][4];
#pragma unroll
    for (int u = 0; u < HEAD_UNITS; ++u)
        q[u] = mine ? load(t.p.q + token * HIDDEN + head * HEAD_DIM + u * 32 + t.part * 8) : zero;
#pragma unroll
    for (int m = 0; m < POSITIONS / 8; ++m)
#pragma unroll
        for (int u = 0; u < HEAD_UNITS; ++u) {
            const bool there = 8 * m + t.token < length;
            k[m][u] = there ? load(keys + (8 * m + t.token) * HEAD_DIM + u * 32 + t.part * 8) : zero;
        }
#pragma unroll
    for (int u = 0; u < HEAD_UNITS; ++u)
#pragma unroll
        for (int j = 0; j < 4; ++j) {  // 8 dimensions, two in each quarter of the unit: a lane's results are neighbours
            const int dim = u * 32 + (t.token >> 1) * 8 + j * 2 + (t.token & 1);
            v[u][j] = load(values + dim * POSITIONS + t.part * 8);
        }


    float weights[POSITIONS / 8][4], most = -infinity(), sum = 0.f;
#pragma unroll
    for (int m = 0; m < POSITIONS / 8; ++m) {  // 8 positions
        float(&scores)[4] = weights[m];
        scores[0] = scores[1] = scores[2] = scores[3] = 0.f;
#pragma unroll
        for (int u = 0; u < HEAD_UNITS; ++u) {
            mma(scores, q[u].x, q[u].y, k[m][u].x, k[m][u].y);
            mma(scores, q[u].z, q[u].w, k[m][u].z, k[m][u].w);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int position = 8 * m + 2 * t.part + i;
            scores[i] = position <= start + number ? scores[i] * t.p.attention_scale : -infinity();
            most = scores[i] > most ? scores[i] : most;
        }
    }
#pragma unroll
    for (int mask = 1; mask < 4; mask *= 2) {
        const float other = from_lane(most, mask);
        most = other > most ? other : most;
    }
#pragma unroll
    for (int m = 0; m < POSITIONS / 8; ++m)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            weights[m][i] = expf(weights[m][i] - most);
            sum += weights[m][i];
        }
    sum += from_lane(sum, 1);
    sum += from_lane(sum, 2);

    u32 w[POSITIONS / 8];
#pragma unroll
    for (int m = 0; m < POSITIONS / 8; ++m) w[m] = pack(weights[m][0], weights[m][1]);
#pragma unroll
    for (int u = 0; u < HEAD_UNITS; ++u) {
        u32 out[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            float y[4] = {0.f, 0.f, 0.f, 0.f};
            mma(y, w[0], w[1], v[u][j].x, v[u][j].y);
            mma(y, w[2], w[3], v[u][j].z, v[u][j].w);
            out[j] = pack(y[0] / sum, y[1] / sum);
        }
        if (mine)
            *reinterpret_cast<uint4*>(t.mixed + token * MIXED_STRIDE + head * HEAD_DIM + u * 32 + t.part * 8) =
                {out[0], out[1], out[2], out[3]};
    }
}

// ---- the model

// The logits of the first codebook, and the projection of the backbone's state.
DEVICE void open(Thread& t) {
    uint4 x[PARTS][UNITS];
    float squares = 0.f;
#pragma unroll
    for (int half = 0; half < PARTS; ++half)
#pragma unroll
        for (int u = 0; u < UNITS; ++u) {
            x[half][u] = {0, 0, 0, 0};
            if (t.token < t.p.rows) x[half][u] = load(t.p.backbone + t.token * WIDE + half * HIDDEN + place(t, u));
            squares += square(x[half][u]);
        }
    const float by = inverse_rms(t, squares, WIDE, t.p.backbone_eps);
#pragma unroll
    for (int half = 0; half < PARTS; ++half)
#pragma unroll
        for (int u = 0; u < UNITS; ++u)
            x[half][u] = scale(x[half][u], by, load_constant(t.p.backbone_norm + half * HIDDEN + place(t, u)));
    for (int s = 0; s < HEAD_SLOTS + 1; ++s) {
        float sum[2][4];
        clear(sum);
#pragma unroll
        for (int half = 0; half < PARTS; ++half) multiply(t, x[half], sum);
        put(t, s, sum);
    }
    sync_consumers();
    store_logits(t, 0, 1);
    for (int i = t.index; i < 8 * t.p.rows; i += CONSUMERS)
        t.p.first[(i >> 3) * HIDDEN + t.block * 8 + (i & 7)] = bfloat16(total(t, HEAD_SLOTS, i >> 3, i & 7));
}

// Down's activations for one slot.
DEVICE void load_gated(const Thread& t, int slot, int tokens, uint4 (&a)[UNITS]) {
#pragma unroll
    for (int u = 0; u < UNITS; ++u) {
        a[u] = {0, 0, 0, 0};
        if (t.token < tokens) a[u] = load(t.p.gated + t.token * INTERMEDIATE + slot * HIDDEN + place(t, u));
    }
}

// The logits of a codebook from 1 on. per_row: tokens, two in the first step, which begins with the backbone's state.
DEVICE void step(Thread& t, uint4 (&x)[UNITS], int codebook) {
    const Params& p = t.p;
    const int per_row = codebook == 1 ? 2 : 1, start = codebook + 1 - per_row, tokens = p.rows * per_row;
    uint4 a[UNITS];
    for (int layer = 0; layer < LAYERS; ++layer) {
        norm(t, x, layer ? p.updated : nullptr, tokens, 2 * layer, a);
        const int slots = qkv_slots(t.block, layer);
        for (int s = 0; s < slots; ++s) multiply_and_put(t, s, a);
        sync_consumers();
        store_qkv(t, layer, slots, start, per_row);
        sync_grid(t);

        attend(t, layer, start, per_row);
        sync_consumers();
#pragma unroll
        for (int u = 0; u < UNITS; ++u) {
            a[u] = {0, 0, 0, 0};
            if (t.token < tokens) a[u] = *reinterpret_cast<const uint4*>(t.mixed + t.token * MIXED_STRIDE + place(t, u));
        }
        multiply_and_put(t, 0, a);
        sync_consumers();
        store_tile(t, p.attended, tokens);
        sync_grid(t);

        norm(t, x, p.attended, tokens, 2 * layer + 1, a);
        for (int s = 0; s < GATE_UP_SLOTS; ++s) multiply_and_put(t, s, a);
        sync_consumers();
        for (int i = t.index; i < GATE_UP_SLOTS * 4 * tokens; i += CONSUMERS) {  // a tile: 4 of gate, the same of up
            const int output = i % (GATE_UP_SLOTS * 4), token = i / (GATE_UP_SLOTS * 4);
            const float gate = rounded(total(t, output >> 2, token, output & 3));
            const float up = rounded(total(t, output >> 2, token, (output & 3) + 4));
            p.gated[token * INTERMEDIATE + t.block * GATE_UP_SLOTS * 4 + output] =
                bfloat16(rounded(gate / (1.f + expf(-gate))) * up);
        }
        sync_grid(t);

        float sum[2][4];
        clear(sum);
        uint4 ahead[AHEAD][UNITS];
#pragma unroll
        for (int s = 0; s < AHEAD; ++s) load_gated(t, s, tokens, ahead[s]);
#pragma unroll
        for (int s = 0; s < DOWN_SLOTS; ++s) {
            multiply(t, ahead[s % AHEAD], sum);
            if (s + AHEAD < DOWN_SLOTS) load_gated(t, s + AHEAD, tokens, ahead[s % AHEAD]);
        }
        put(t, 0, sum);
        sync_consumers();
        store_tile(t, p.updated, tokens);
        sync_grid(t);
    }
    norm(t, x, p.updated, tokens, 2 * LAYERS, a);
    for (int s = 0; s < HEAD_SLOTS; ++s) multiply_and_put(t, s, a);
    sync_consumers();
    store_logits(t, codebook, per_row);
}

// ---- sampling, as sampling.sample does it. Every block samples all rows for itself.

DEVICE u64 mix(u64 x) {
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

DEVICE float gumbel_noise(u64 key, u32 number) {
    u64 bits = key + number * 0x9E3779B97F4A7C15ull;
    for (int round = 0; round < 2; ++round) bits = (bits ^ (bits >> 32)) * 0xD6E8FEB86659FD93ull;
    const float drawn = static_cast<float>(static_cast<int>(bits >> 32));
    constexpr float spread = static_cast<float>((0.5 - 1.0 / (1 << 24)) / 2147483648.0);
    return -logf(-logf(rounded_sum(rounded_product(drawn, spread), 0.5f)));
}

DEVICE u32 ordered(float x) {  // integers in the same order
    const u32 bits = float_bits(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

DEVICE void load_logits(const Thread& t, int codebook, i64 row, float (&z)[LOGITS]) {
    const float* from = t.p.logits + (codebook * ROWS + row) * VOCAB + t.index * LOGITS;
#pragma unroll
    for (int i = 0; i < LOGITS; i += 4) {
        const uint4 four = load(from + i);
        z[i] = bits_float(four.x), z[i + 1] = bits_float(four.y);
        z[i + 2] = bits_float(four.z), z[i + 3] = bits_float(four.w);
    }
}

// The k-th largest of all threads' z, as an integer of the same order: its bits from `lowest` on. A count for each bit
// replaces a sort.
DEVICE u32 kth_largest(const Thread& t, const float (&z)[LOGITS], int k, int lowest) {
    u32 edge = 0;
    for (int bit = 31; bit >= lowest; --bit) {
        int(&counts)[WARPS] = t.shared.counts[bit & 1];
        int count = 0;
#pragma unroll
        for (int i = 0; i < LOGITS; ++i) count += ordered(z[i]) >= (edge | 1u << bit);
        count = warp_sum(count);
        if (t.lane == 0) counts[t.warp] = count;
        sync_consumers();
        count = 0;
#pragma unroll
        for (int warp = 0; warp < WARPS; ++warp) count += counts[warp];
        if (count >= k) edge |= 1u << bit;
    }
    return edge;
}

// After a barrier of the consumers `chosen` finds the row's code.
DEVICE void sample(const Thread& t, int codebook, int row) {
    const Params& p = t.p;
    const i64 drawn = p.sampler[row * RECORD], at = drawn * RECORD;
    const float weight = p.guidance[2 * at], temperature = (codebook ? p.temperature : p.temperature_first)[2 * at];
    const u64 key = mix(mix(static_cast<u64>(p.seed[at])) + static_cast<u64>(p.frame[at]));
    const int k = p.top_k[at] < VOCAB ? static_cast<int>(p.top_k[at]) : VOCAB;
    float z[LOGITS];
    load_logits(t, codebook, drawn, z);
    if (weight != 0.f) {
        float other[LOGITS];
        load_logits(t, codebook, p.unconditional[at], other);
#pragma unroll
        for (int i = 0; i < LOGITS; ++i)
            z[i] = rounded_sum(z[i], rounded_product(weight, rounded_sum(z[i], -other[i])));
    }
#pragma unroll
    for (int i = 0; i < LOGITS; ++i) z[i] = z[i] == 0.f ? 0.f : z[i];  // -0 ties with 0
    const u32 edge = kth_largest(t, z, k, weight == 0.f ? 16 : 0);     // without guidance they are bfloat16 numbers
    float best = -infinity();
    int best_at = t.index * LOGITS;
#pragma unroll
    for (int i = 0; i < LOGITS; ++i) {
        const u32 number = codebook * VOCAB + t.index * LOGITS + i;
        const float noise = temperature == 0.f ? 0.f : rounded_product(gumbel_noise(key, number), temperature);
        const float y = ordered(z[i]) < edge ? -infinity() : rounded_sum(z[i], noise);
        if (y > best) {
            best = y;
            best_at = t.index * LOGITS + i;
        }
    }
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2) {
        const float other = from_lane(best, mask);
        const int other_at = from_lane(best_at, mask);
        if (other > best || (other == best && other_at < best_at)) {
            best = other;
            best_at = other_at;
        }
    }
    if (t.lane == 0) {
        t.shared.best[row][t.warp] = best;
        t.shared.best_at[row][t.warp] = best_at;
    }
}

DEVICE int chosen(const Thread& t, int row) {
    int best = 0;
    for (int warp = 1; warp < WARPS; ++warp)  // warps are in the order of tokens, so the first of equals is kept
        if (t.shared.best[row][warp] > t.shared.best[row][best]) best = warp;
    return t.shared.best_at[row][best];
}

// From a codebook's logits to its codes, and to the next step's residual stream.
DEVICE void finish(Thread& t, uint4 (&x)[UNITS], int codebook) {
    sync_grid(t);
    for (int row = 0; row < t.p.rows; ++row) sample(t, codebook, row);
    sync_consumers();
    if (t.block == 0 && t.index < t.p.rows) t.p.codes[t.index * CODEBOOKS + codebook] = chosen(t, t.index);
    if (codebook == CODEBOOKS - 1) return;
    const int row = codebook ? t.token : t.token >> 1;
#pragma unroll
    for (int u = 0; u < UNITS; ++u) x[u] = {0, 0, 0, 0};
    if (row < t.p.rows) {
        const bool first = codebook == 0 && (t.token & 1) == 0;
        const u64 code = first ? 0 : chosen(t, row);
        const u16* input = t.p.inputs + (static_cast<u64>(codebook) * AUDIO_VOCAB + code) * HIDDEN;
#pragma unroll
        for (int u = 0; u < UNITS; ++u)
            x[u] = first ? load(t.p.first + row * HIDDEN + place(t, u)) : load_constant(input + place(t, u));
    }
    sync_warp();
}

DEVICE void generate(Thread& t) {
    uint4 x[UNITS];
    for (int codebook = 0; codebook < CODEBOOKS; ++codebook) {
        if (codebook == 0)
            open(t);
        else
            step(t, x, codebook);
        finish(t, x, codebook);
    }
    if (t.index == 0 && add_acquire_release(t.p.leavers) == BLOCKS - 1) {  // all have passed every barrier
        *t.p.arrivals = 0;
        *t.p.leavers = 0;
    }
}

KERNEL(THREADS) depth(CONSTANT Params p) {
    SHARED_MEMORY(memory);
    unsigned char* behind = memory + RING_BYTES;
    Shared& shared = *reinterpret_cast<Shared*>(behind + SUMS_BYTES + MIXED_BYTES);
    const int index = thread_index(), lane = index & 31;
    Thread t = {p, memory, reinterpret_cast<float*>(behind), reinterpret_cast<u16*>(behind + SUMS_BYTES), shared,
                index, index >> 5, lane, block_index(), lane >> 2, lane & 3, 0, 0, 0};
    if (index == 0) {
        for (int slot = 0; slot < RING; ++slot) {
            barrier_init(&shared.full[slot], 1);
            barrier_init(&shared.empty[slot], WARPS);
        }
        shared.abandoned = 0;
        barriers_initialized();
    }
    sync_block();
    if (t.warp < WARPS)
        generate(t);
    else if (lane == 0)
        stream_all(t);
}
