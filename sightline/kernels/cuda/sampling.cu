// Bilinear samples. Where they lie is computed on the host, in float64, once for every pair of sizes: GPU and CPU then
// blend the same pixels with the same weights.

struct Sample {
    int first;     // the source pixel before the sample; the one behind it is the next, if there is one
    float weight;  // how far the sample is on the way from the first to the next
};

// A flat map stays exactly flat.
template <class Float>
__device__ inline Float blend(Float first, Float second, Float weight) {
    return first + (second - first) * weight;
}

// One sample of a map: along x first, as the CPU does it.
template <class Float>
__device__ inline Float sampled(const Float* map, int height, int width, int y, Float weight_y, int x, Float weight_x) {
    const Float* top = map + static_cast<long long>(y) * width;
    const Float* bottom = y + 1 < height ? top + width : top;
    const int next = x + 1 < width ? x + 1 : x;
    return blend(blend(top[x], top[next], weight_x), blend(bottom[x], bottom[next], weight_x), weight_y);
}

// What a launch asked for; every kernel divides it up by itself.
extern __shared__ __align__(16) unsigned char shared_memory[];
