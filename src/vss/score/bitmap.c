/* What bitmap.py and video.py do with bytes and bitmaps, in a fifth of numpy's time: the same words, the same counts.

A bitmap of height x width pixels is height rows of ceil(width / 64) words; pixel x is bit x % 64 of word x / 64. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

typedef uint64_t word;

/* Returns which of 64 pixels are equal in two rows. */
static word equal_64(const uint8_t *a, const uint8_t *b) {
    word found = 0;
#ifdef __SSE2__
    for (int part = 0; part < 4; part++) {
        __m128i one = _mm_loadu_si128((const __m128i *)a + part), other = _mm_loadu_si128((const __m128i *)b + part);
        found |= (word)(uint16_t)_mm_movemask_epi8(_mm_cmpeq_epi8(one, other)) << 16 * part;
    }
#else
    for (int x = 0; x < 64; x++) found |= (word)(a[x] == b[x]) << x;
#endif
    return found;
}

/* Writes which of `pixels` pixels of two rows are equal, or differ; the bits after them are 0. */
static void compare_row(const uint8_t *a, const uint8_t *b, int64_t pixels, int64_t words, int differ, word *out) {
    word flip = differ ? ~(word)0 : 0;
    for (int64_t at = 0; at < words; at++) {
        int64_t rest = pixels - 64 * at;
        if (rest >= 64) {
            out[at] = equal_64(a + 64 * at, b + 64 * at) ^ flip;
            continue;
        }
        out[at] = 0;
        for (int64_t x = 0; x < rest; x++) out[at] |= (word)((a[64 * at + x] == b[64 * at + x]) ^ differ) << x;
    }
}

/* bitmap.py `equal`. */
void equal_pixels(const uint8_t *a, const uint8_t *b, int64_t height, int64_t width, word *out) {
    int64_t words = (width + 63) / 64;
    for (int64_t y = 0; y < height; y++) compare_row(a + y * width, b + y * width, width, words, 0, out + y * words);
}

/* bitmap.py `changes`. */
void changed_pixels(const uint8_t *values, int64_t height, int64_t width, word *right, word *below) {
    int64_t words = (width + 63) / 64;
    for (int64_t y = 0; y < height; y++) {
        const uint8_t *row = values + y * width;
        compare_row(row, row + 1, width - 1, words, 1, right + y * words);
        compare_row(row, row + width, y + 1 < height ? width : 0, words, 1, below + y * words);
    }
}

/* bitmap.py `labelled`. */
void labelled_pixels(const uint8_t *truth, const uint8_t *labels, int64_t height, int64_t width, word *known,
                     word *right, uint8_t *seen) {
    int64_t words = (width + 63) / 64;
    uint8_t without[64];
    memset(without, 255, sizeof without);
    for (int64_t y = 0; y < height; y++, truth += width, labels += width, seen += width) {
        compare_row(truth, labels, width, words, 0, right + y * words);
        for (int64_t at = 0; at < words; at++) {
            int64_t rest = width - 64 * at < 64 ? width - 64 * at : 64;
            compare_row(truth + 64 * at, without, rest, 1, 1, known + y * words + at);
            right[y * words + at] &= known[y * words + at];
        }
        for (int64_t x = 0; x < width; x++) seen[x] = labels[x] | (uint8_t)-(truth[x] == 255);
    }
}

/* bitmap.py `widened`; returns 0, or 1 where there is no memory. */
int widened_bits(const word *bitmap, int64_t height, int64_t words, int64_t pixels, word *out) {
    int64_t beside = (pixels + 63) / 64, padded = words + 2 * beside, length = 2 * pixels;
    word *rows = calloc((height + length) * words, sizeof(word)), *row = malloc(padded * sizeof(word));
    if (!rows || !row) {
        free(rows), free(row);
        return 1;
    }
    memcpy(rows + pixels * words, bitmap, height * words * sizeof(word));
    /* Each step joins what was joined so far with what lies that far after it. */
    for (int64_t joined = 1, step; joined < length; joined += step) {
        step = joined < length - joined ? joined : length - joined;
        for (int64_t at = 0; at < (height + length - step) * words; at++) rows[at] |= rows[at + step * words];
    }
    for (int64_t y = 0; y < height; y++) {
        memset(row, 0, padded * sizeof(word));
        memcpy(row + beside, rows + y * words, words * sizeof(word));
        for (int64_t joined = 1, step; joined < length; joined += step) {
            step = joined < length - joined ? joined : length - joined;
            int64_t whole = step / 64, bits = step % 64;
            for (int64_t at = 0; at + whole < padded; at++) {
                word after = at + whole + 1 < padded ? row[at + whole + 1] : 0;
                row[at] |= bits ? row[at + whole] >> bits | after << (64 - bits) : row[at + whole];
            }
        }
        int64_t whole = pixels / 64, bits = pixels % 64;
        for (int64_t at = 0; at < words; at++) {
            const word *here = row + beside + at - whole;
            out[y * words + at] = bits ? here[0] << bits | here[-1] >> (64 - bits) : here[0];
        }
    }
    free(rows), free(row);
    return 0;
}

/* video.py `_labelled_pixels`: sums up the lengths of runs of equal pixels in rows, by pair and by bitmaps.

changed: which pixels differ from the one to their right, in the truth and in the labels. maps: `count` bitmaps.
pairs [most]: truth << 8 | label, as found. pixels [most, 2^count].
Returns how many pairs there are, or -1 where there are more than `most`. */
int64_t count_runs(const uint8_t *truth, const uint8_t *labels, int64_t height, int64_t width,
                   const word *const changed[2], const word *const *maps, int64_t count, int64_t most, uint16_t *pairs,
                   double *pixels) {
    int64_t words = (width + 63) / 64, found = 0;
    int16_t number[1 << 16]; /* of each pair, -1 for none yet */
    memset(number, -1, sizeof number);
    for (int64_t y = 0; y < height; y++) {
        double *run = NULL;
        int64_t begin = 0;
        for (int64_t at = 0; at < words; at++) {
            int64_t place = y * words + at;
            word edges = changed[0][place] | changed[1][place];
            word first = edges << 1 | (at ? (changed[0][place - 1] | changed[1][place - 1]) >> 63 : 1);
            for (int64_t map = 0; map < count; map++) {
                word bits = maps[map][place];
                first |= bits ^ (bits << 1 | (at ? maps[map][place - 1] >> 63 : bits & 1));
            }
            if (width - 64 * at < 64) first &= ((word)1 << (width - 64 * at)) - 1;
            for (; first; first &= first - 1) {
                int bit = __builtin_ctzll(first);
                int64_t x = 64 * at + bit, state = 0;
                if (run) *run += (double)(x - begin);
                begin = x;
                uint16_t pair = (uint16_t)(truth[y * width + x] << 8 | labels[y * width + x]);
                if (number[pair] < 0) {
                    if (found == most) return -1;
                    memset(pixels + (found << count), 0, sizeof(double) << count);
                    pairs[found] = pair;
                    number[pair] = (int16_t)found++;
                }
                for (int64_t map = 0; map < count; map++) state |= (int64_t)(maps[map][place] >> bit & 1) << map;
                run = pixels + ((int64_t)number[pair] << count) + state;
            }
        }
        if (run) *run += (double)(width - begin);
    }
    return found;
}
