// One thread, one value: gathering, picking, upsampling, rescaling and fusing whole maps.

__device__ inline long long thread_index() { return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; }

// The maps with these numbers, one after the other; total is how many values that makes.
extern "C" __global__ void __launch_bounds__(256)
    take(float* out, const float* maps, const long long* indices, long long size, long long total) {
    const long long i = thread_index();
    if (i < total) out[i] = maps[indices[i / size] * size + i % size];
}

// out[i] = probabilities[i, target]
#define PICK(name, Element)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                             \
        name(double* out, const Element* probabilities, int target, int classes, int count) {                     \
        const long long i = thread_index();                                                                       \
        if (i < count) out[i] = widened(probabilities[i * classes + target]);                                     \
    }

PICK(pick_float64, double)
PICK(pick_float32, float)
PICK(pick_float16, Half)
PICK(pick_bfloat16, Bfloat16)

#define UPSAMPLE(name, Float)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256)                                                             \
        name(Float* out, const Float* map, const Sample* samples_y, const Sample* samples_x, const Float* weights_y, \
             const Float* weights_x, int map_height, int map_width, int width, long long total) {                 \
        const long long i = thread_index();                                                                       \
        if (i >= total) return;                                                                                   \
        const int y = static_cast<int>(i / width), x = static_cast<int>(i % width);                               \
        out[i] = sampled(map, map_height, map_width, samples_y[y].first, weights_y[y], samples_x[x].first, weights_x[x]); \
    }

UPSAMPLE(upsample_float32, float)
UPSAMPLE(upsample_float64, double)

// (map − low) / (high − low), clipped to [0, 1]
extern "C" __global__ void __launch_bounds__(256)
    rescale(double* out, const double* map, double low, double high, long long total) {
    const long long i = thread_index();
    if (i >= total) return;
    const double value = (map[i] - low) / (high - low);
    out[i] = value < 0 ? 0 : value > 1 ? 1 : value;
}

// (fused + layer) ⊙ [layer >= threshold], or, with a width over 0, ⊙ σ((layer − threshold) / width)
extern "C" __global__ void __launch_bounds__(256)
    fuse(double* out, const double* fused, const double* layer, double threshold, double width, long long total) {
    const long long i = thread_index();
    if (i >= total) return;
    const double above = layer[i] - threshold;
    const double gate = width > 0 ? 1.0 / (1.0 + exp(-above / width)) : layer[i] >= threshold ? 1.0 : 0.0;
    out[i] = (fused[i] + layer[i]) * gate;
}
