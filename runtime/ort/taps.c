/* Which taps of a kernel fall on the image. */
#include "kernel.h"

Range bnas_taps_inside(const BnasRun* run, int axis, int64_t position) {
    const BnasConv* conv = run->conv;
    const int64_t taps_of_axis = conv->kernel[axis], first = position * conv->strides[axis] - conv->pads[axis];
    if (first >= 0 && first + (taps_of_axis - 1) * conv->dilations[axis] < run->size[axis]) {
        return (Range){0, taps_of_axis}; /* most positions are no border */
    }
    Range taps = {0, 0};
    for (int64_t tap = 0; tap < taps_of_axis; ++tap) {
        const int64_t at = first + tap * conv->dilations[axis];
        if (at >= 0 && at < run->size[axis]) {
            taps = (Range){taps.end == 0 ? tap : taps.first, tap + 1};
        }
    }
    return taps;
}
