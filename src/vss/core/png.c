/* What png.py does with the rows of a PNG of one byte per pixel. Label maps repeat themselves, so whole words of zeros
are most of what there is to undo. */

#include <stdint.h>
#include <string.h>

typedef uint64_t word;

static word load(const uint8_t *at) {
    word found;
    memcpy(&found, at, sizeof found);
    return found;
}

static void fill(uint8_t *at, uint8_t value) { memset(at, value, sizeof(word)); }

static uint8_t paeth(int left, int above, int corner) {
    int to_left = above - corner, to_above = left - corner, to_corner = to_left + to_above;
    to_left = to_left < 0 ? -to_left : to_left;
    to_above = to_above < 0 ? -to_above : to_above;
    to_corner = to_corner < 0 ? -to_corner : to_corner;
    if (to_left <= to_above && to_left <= to_corner) return (uint8_t)left;
    return (uint8_t)(to_above <= to_corner ? above : corner);
}

static void add_left(const uint8_t *row, int64_t width, uint8_t *out) {
    uint8_t left = 0;
    for (int64_t x = 0; x < width;) {
        if (x + 8 <= width && !load(row + x)) {
            fill(out + x, left);
            x += 8;
            continue;
        }
        left = out[x] = (uint8_t)(row[x] + left);
        x++;
    }
}

static void add_paeth(const uint8_t *row, const uint8_t *above, int64_t width, uint8_t *out) {
    out[0] = (uint8_t)(row[0] + above[0]);
    for (int64_t x = 1; x < width;) {
        if (x + 8 <= width && !load(row + x)) {
            /* Without differences, a pixel equal to the one above passes this on to the right, */
            if (out[x - 1] == above[x - 1]) {
                memcpy(out + x, above + x, 8);
                x += 8;
                continue;
            }
            /* and below a constant row a pixel repeats itself. */
            if (load(above + x) == load(above + x - 1)) {
                fill(out + x, out[x - 1]);
                x += 8;
                continue;
            }
        }
        out[x] = (uint8_t)(row[x] + paeth(out[x - 1], above[x], above[x - 1]));
        x++;
    }
}

/* Undoes the filters of PNG (its specification, section 9).

filtered [height, 1 + width]: the filter of each row and its bytes. out [1 + height, width]: the first row is zeros.
Returns 0, or 1 where a filter is none of PNG's. */
int unfilter_rows(const uint8_t *filtered, int64_t height, int64_t width, uint8_t *out) {
    for (int64_t y = 0; y < height; y++) {
        const uint8_t *row = filtered + y * (width + 1) + 1, *above = out + y * width;
        uint8_t *to = out + (y + 1) * width;
        switch (row[-1]) {
        case 0: memcpy(to, row, width); break;
        case 1: add_left(row, width, to); break;
        case 2:
            for (int64_t x = 0; x < width; x++) to[x] = (uint8_t)(row[x] + above[x]);
            break;
        case 3:
            for (int64_t x = 0; x < width; x++) to[x] = (uint8_t)(row[x] + ((x ? to[x - 1] : 0) + above[x]) / 2);
            break;
        case 4: add_paeth(row, above, width, to); break;
        default: return 1;
        }
    }
    return 0;
}
