// Products and sums that wait for nothing and read no memory: what the machine can do at most.
#if defined(__AVX512F__)
typedef float Floats __attribute__((vector_size(64)));
#elif defined(__AVX__)
typedef float Floats __attribute__((vector_size(32)));
#else
typedef float Floats __attribute__((vector_size(16)));
#endif

// Returns the floating-point operations done.
extern "C" double run(long turns) {
    constexpr int kChains = 12;  // more than latency times ports
    Floats x[kChains];
    for (int i = 0; i < kChains; ++i) x[i] = Floats{} + static_cast<float>(i);
    const Floats factor = Floats{} + 0.999F;
    const Floats term = Floats{} + 0.001F;
    for (long turn = 0; turn < turns; ++turn) {
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) x[i] = x[i] * factor + term;
    }
    float total = 0;
    for (const Floats& one : x) total += one[0];
    const double lanes = sizeof(Floats) / sizeof(float);
    return static_cast<double>(turns) * kChains * lanes * 2 + (total == 12345.0F ? 1 : 0);
}
