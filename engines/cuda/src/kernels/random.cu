// Random draws: Philox4x32-10, see zoo-model/src/random.rs.

struct words {
    u32 word[4];
};

DEVICE struct words philox(u32 a, u32 b, u32 c, u32 d, u64 seed) {
    u32 low = (u32)seed, high = (u32)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u64 first = (u64)a * 0xD2511F53u, second = (u64)c * 0xCD9E8D57u;
        a = (u32)(second >> 32) ^ b ^ low;
        c = (u32)(first >> 32) ^ d ^ high;
        b = (u32)second;
        d = (u32)first;
        low += 0x9E3779B9u;
        high += 0xBB67AE85u;
    }
    const struct words words = {{a, b, c, d}};
    return words;
}
