"""Shared by the implicit-GEMM drivers: which inputs the rows of a register tile read.

A tile is `mr` consecutive output pixels in (n, row, column) order; tiles run over row ends and
image ends, so small maps fill them as well as large ones. Each row is the address of its first
input; the kernel adds the same segment offsets to every row. Where a pixel's receptive field
leaves the image, all rows of the tile are gathered into zero-padded patches instead: the
activation as a whole is never copied.
"""

from fastconv.cpu.intrinsics import Inlined, copy_bytes, store_int, store_sequence, zero_bytes


@Inlined
def gather(patch, image, iy, ix, h, w, pixel, run, kh, kw, dh, dw):
    """Copy the receptive field at (iy, ix) to `patch`, `run` bytes a tap, zeros outside."""
    for p in range(kh):
        row = iy + p * dh
        if row < 0 or row >= h:
            zero_bytes(patch, kw * run)
        elif dw == 1 and run == pixel:  # the taps of a row touch: copy those inside at once
            first, last = min(max(-ix, 0), kw), max(min(w - ix, kw), 0)
            zero_bytes(patch, first * run)
            if first < last:
                source = image + (row * w + ix + first) * pixel
                copy_bytes(patch + first * run, source, (last - first) * run)
            last = max(first, last)
            zero_bytes(patch + last * run, (kw - last) * run)
        else:
            for q in range(kw):
                column = ix + q * dw
                if 0 <= column < w:
                    copy_bytes(patch + q * run, image + (row * w + column) * pixel, run)
                else:
                    zero_bytes(patch + q * run, run)
        patch += kw * run


@Inlined
def origin(first, m, window, pixels, oh, ow, sh, sw, top, left):
    """Image, row and column of the first input that row m of a tile reads."""
    n, rest = divmod(min(first + m // window, pixels - 1), oh * ow)
    oy, ox = divmod(rest, ow)
    if window == 4:
        k = m & 3
        oy, ox = 2 * oy + (k >> 1), 2 * ox + (k & 1)
    return n, oy * sh - top, ox * sw - left


@Inlined
def fill_tiles(rows, tables, segments, patch_segments, first, tiles, mr, pixels, pool, x, offset, h,
               w, pixel, oh, ow, kh, kw, sh, sw, dh, dw, top, left, patches, run):  # fmt: skip
    """Write the addresses of the rows of `tiles` tiles, and for each which table of segments holds.

    The outputs of tile `first` are number `first` times the outputs of a tile and those that
    follow; with `pool` each of them has four rows, the window of a 2x2 pool. Rows beyond the last
    output repeat it: same sums, same place. `pixel` is the size of a pixel in bytes; `offset` and
    `run` select a group's channels in it.
    """
    window, side = (4, 2) if pool else (1, 1)
    count = mr // window
    reach_y = (side - 1) * sh + (kh - 1) * dh
    step, down = sw * pixel, sh * w * pixel
    n, rest = divmod(first * count, oh * ow)
    oy, ox = divmod(rest, ow)
    t = 0
    while t < tiles:
        own = rows + t * mr * 8
        y0, x0 = oy * side * sh - top, ox * side * sw - left
        some = 0  # tiles from here on that stay in the output row and read nothing but the image
        if x0 >= 0 and y0 >= 0 and y0 + reach_y < h:
            fit = ((w - 1 - (kw - 1) * dw - x0) // sw + 1) // side
            some = min(min(fit, ow - ox) // count, tiles - t)
        if some > 0:
            base = x + ((n * h + y0) * w + x0) * pixel + offset
            if pool:
                for i in range(some * count):
                    at, corner = own + i * 32, base + i * 2 * step
                    store_int(at, corner)
                    store_int(at + 8, corner + step)
                    store_int(at + 16, corner + down)
                    store_int(at + 24, corner + down + step)
            else:
                store_sequence(own, base, step, some * count)
            store_sequence(tables + 8 * t, segments, 0, some)
        else:
            some = 1
            inside = fill_rows(own, (first + t) * count, mr, window, pixels, x, offset, h, w, pixel,
                               oh, ow, kh, kw, sh, sw, dh, dw, top, left,
                               patches + t * mr * kh * kw * run, run)  # fmt: skip
            store_int(tables + 8 * t, segments if inside else patch_segments)
        t += some
        ox += some * count
        while ox >= ow:
            ox -= ow
            oy += 1
            if oy == oh:
                oy = 0
                n += 1


@Inlined
def fill_rows(rows, first, mr, window, pixels, x, offset, h, w, pixel, oh, ow, kh, kw, sh, sw, dh,
              dw, top, left, patch, run):  # fmt: skip
    """The rows of any one tile; True when they point into `x`, not into patches."""
    reach_y, reach_x = (kh - 1) * dh, (kw - 1) * dw
    inside = True
    for m in range(mr):
        n, iy, ix = origin(first, m, window, pixels, oh, ow, sh, sw, top, left)
        if iy < 0 or ix < 0 or iy + reach_y >= h or ix + reach_x >= w:
            inside = False
        store_int(rows + 8 * m, x + ((n * h + iy) * w + ix) * pixel + offset)
    if inside:
        return True
    for m in range(mr):
        n, iy, ix = origin(first, m, window, pixels, oh, ow, sh, sw, top, left)
        own = patch + m * kh * kw * run
        gather(own, x + n * h * w * pixel + offset, iy, ix, h, w, pixel, run, kh, kw, dh, dw)
        store_int(rows + 8 * m, own)
    return False
