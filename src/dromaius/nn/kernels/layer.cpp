// A decoder layer for the few tokens of a decoding step, in one call instead of twenty.
//
// Nothing is computed here. The parts are the kernels that the layer's modules call one by one
// (few_rows, few_tokens, quantized), given as addresses, so that results are theirs bit for bit.
// What is saved is the time between the calls, in which memory would rest.
//
// Legend: B rows, T tokens, N = B * T, C channels, H query heads, K key/value heads, S slots, D head
// dim, F channels between the feed-forward's products. Built by dromaius/nn/kernels; whoever changes
// a struct changes dromaius/nn/kernels/layer.py with it.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

struct Matrix {  // as few_rows.cpp has it
    const void *weight, *bias;
    void* y;
    int64_t out;
};

struct PackedMatrix {  // as quantized.cpp has it
    const void *packed, *scales, *lows, *bias;
    void* y;
    int64_t out, group, kind;
};

struct Kernels {  // those of one dtype
    void (*rms_norm)(const void* x, const void* weight, void* y, int64_t rows, int64_t size,
                     float eps);
    void (*rotate)(const void* x, const int64_t* stride, const void* cosines, const void* sines,
                   int64_t angle_stride, void* y, const int64_t* shape);
    void (*keep)(const void* x, const int64_t* stride, void* slots, const int64_t* slot_stride,
                 const int64_t* positions, const int64_t* shape);
    void (*attend)(const void* q, const int64_t* q_stride, const void* k, const int64_t* k_stride,
                   const void* v, const int64_t* v_stride, const void* mask,
                   const int64_t* mask_stride, void* y, const int64_t* shape, float scale,
                   int threads);
    void (*gate)(const void* gate, const void* up, void* y, int64_t count);
    void (*add)(const void* a, const void* b, void* y, int64_t count);
    void (*products)(const void* x, const Matrix* matrices, int64_t count, int64_t rows, int64_t in,
                     int threads);
    void (*packed_products)(int wide, const void* x, const PackedMatrix* matrices, int64_t count,
                            int64_t rows, int64_t in, int threads, int plain);
};

struct Linear {
    const void *weight, *bias, *scales, *lows;  // lows and scales: of a packed matrix
    int64_t out, group, kind;                   // kind: that of packing.py, -1 where not packed
};

struct Step {
    int64_t batch, tokens, channels, heads, shared, dim, slots;  // B, T, C, H, K, D, S
    int64_t bytes, threads, plain;  // of a number; plain: no AVX-512 in packed products
    const void* x;                  // [B,T,C]
    void* y;                        // [B,T,C]
    const void *cosines, *sines;    // [B or 1,T,D]
    int64_t angle_stride;           // of B
    void *keys, *values;            // [B,K,S,D], strides of B, K, S
    int64_t key_stride[3], value_stride[3];
    const int64_t* positions;  // [B,T]
    const void* mask;          // bool [B or 1,1,T,S], strides of B and T
    int64_t mask_stride[2];
    const void *norm_before, *norm_after;  // [C]
    Linear q, k, v, o, gate, up, down;
};

// Memory for what stands between the parts, cut off piece by piece; kept from call to call.
class Pieces {
   public:
    explicit Pieces(int64_t bytes) { lines().resize(size_t(bytes / 64 + PIECES)); }
    void* operator()(int64_t bytes) {
        void* piece = lines().data() + used;
        used += size_t((bytes + 63) / 64);
        return piece;
    }

   private:
    struct alignas(64) Line {
        unsigned char bytes[64];
    };
    static constexpr int64_t PIECES = 16;  // each may leave a part of a line
    static std::vector<Line>& lines() {
        static thread_local std::vector<Line> memory;
        return memory;
    }
    size_t used = 0;
};

// What `count` matrices make of the same x [N,in], in as few calls as can be.
void multiply(const Kernels& kernels, const Step& s, const void* x, int64_t in,
              const Linear* const* linears, void* const* y, int64_t count) {
    const int64_t rows = s.batch * s.tokens;
    Matrix matrices[3];
    PackedMatrix packed[3];
    int64_t some = 0, few_bits = 0;
    for (int64_t i = 0; i < count; ++i) {
        const Linear& l = *linears[i];
        if (l.kind < 0)
            matrices[some++] = {l.weight, l.bias, y[i], l.out};
        else
            packed[few_bits++] = {l.weight, l.scales, l.lows, l.bias, y[i], l.out, l.group, l.kind};
    }
    if (some) kernels.products(x, matrices, some, rows, in, int(s.threads));
    if (few_bits)
        kernels.packed_products(s.bytes == 4, x, packed, few_bits, rows, in, int(s.threads),
                                int(s.plain));
}

// The new tokens' attention over all visible slots, theirs among them: y [B,T,H,D].
void attend(const Kernels& kernels, const Step& s, const void* x, float scale, Pieces& piece,
            void* y) {
    const int64_t n = s.batch * s.tokens, query = s.heads * s.dim, key = s.shared * s.dim;
    void* const made[] = {piece(n * query * s.bytes), piece(n * key * s.bytes),
                          piece(n * key * s.bytes)};
    const Linear* const linears[] = {&s.q, &s.k, &s.v};
    multiply(kernels, s, x, s.channels, linears, made, 3);
    // Heads lie side by side behind each token: strides of B, H, T.
    const int64_t query_stride[] = {s.tokens * query, s.dim, query};
    const int64_t key_stride[] = {s.tokens * key, s.dim, key};
    const int64_t query_shape[] = {s.batch, s.heads, s.tokens, s.dim};
    const int64_t key_shape[] = {s.batch, s.shared, s.tokens, s.dim};
    void* const q = piece(n * query * s.bytes);
    void* const k = piece(n * key * s.bytes);
    kernels.rotate(made[0], query_stride, s.cosines, s.sines, s.angle_stride, q, query_shape);
    kernels.rotate(made[1], key_stride, s.cosines, s.sines, s.angle_stride, k, key_shape);
    kernels.keep(k, key_stride, s.keys, s.key_stride, s.positions, key_shape);
    kernels.keep(made[2], key_stride, s.values, s.value_stride, s.positions, key_shape);
    const int64_t shape[] = {s.batch, s.heads, s.shared, s.tokens, s.slots, s.dim};
    kernels.attend(q, query_stride, s.keys, s.key_stride, s.values, s.value_stride, s.mask,
                   s.mask_stride, y, shape, scale, int(s.threads));
}

// down(silu(gate(x)) * up(x)): y [B,T,C].
void feed_forward(const Kernels& kernels, const Step& s, const void* x, Pieces& piece, void* y) {
    const int64_t n = s.batch * s.tokens, inner = s.gate.out;
    void* const made[] = {piece(n * inner * s.bytes), piece(n * inner * s.bytes)};
    const Linear* const linears[] = {&s.gate, &s.up};
    multiply(kernels, s, x, s.channels, linears, made, 2);
    void* const gated = piece(n * inner * s.bytes);
    kernels.gate(made[0], made[1], gated, n * inner);
    const Linear* const down = &s.down;
    multiply(kernels, s, gated, inner, &down, &y, 1);
}

}  // namespace

// h = x + attention(norm(x)); y = h + mlp(norm(h)). The keys and values of the tokens are kept.
extern "C" void decoder_layer(const Kernels* kernels, const Step* step, float eps_before,
                              float eps_after, float scale) {
    const Step& s = *step;
    const int64_t n = s.batch * s.tokens, numbers = n * s.channels;
    const int64_t attention = 3 * s.heads * s.dim + 3 * s.shared * s.dim;
    Pieces piece(n * (4 * s.channels + attention + 3 * s.gate.out) * s.bytes);
    void* const normed = piece(numbers * s.bytes);
    void* const seen = piece(n * s.heads * s.dim * s.bytes);
    void* const made = piece(numbers * s.bytes);
    void* const h = piece(numbers * s.bytes);
    kernels->rms_norm(s.x, s.norm_before, normed, n, s.channels, eps_before);
    attend(*kernels, s, normed, scale, piece, seen);
    const Linear* const out = &s.o;
    multiply(*kernels, s, seen, s.heads * s.dim, &out, &made, 1);
    kernels->add(s.x, made, h, numbers);
    kernels->rms_norm(h, s.norm_after, normed, n, s.channels, eps_after);
    feed_forward(*kernels, s, normed, piece, made);
    kernels->add(h, made, s.y, numbers);
}
