/* Which taps of a kernel fall on the image, and what constant channels add there. */
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

float bnas_offset_of(const BnasConv* conv, int64_t channel, Range rows, Range columns) {
    if (!conv->constants) {
        return conv->offset[channel];
    }
    const int64_t line = conv->kernel[1] + 1;
    const int32_t* corners = conv->constants + channel * (conv->kernel[0] + 1) * line;
    const int32_t *top = corners + rows.first * line, *bottom = corners + rows.end * line;
    return conv->offset[channel] +
           (float)(bottom[columns.end] - bottom[columns.first] - top[columns.end] + top[columns.first]);
}
