/* Which taps of a kernel fall on the image. */
#include "kernel.h"

Range bnas_taps_inside(const BnasRun* run, int axis, int64_t position) {
    const BnasConv* conv = run->conv;
    Range taps = {0, 0};
    for (int64_t tap = 0; tap < conv->kernel[axis]; ++tap) {
        const int64_t at = position * conv->strides[axis] + tap * conv->dilations[axis] - conv->pads[axis];
        if (at >= 0 && at < run->size[axis]) {
            taps = (Range){taps.end == 0 ? tap : taps.first, tap + 1};
        }
    }
    return taps;
}
