"""Drivers of Winograd's algorithm: what a thread does for one block of tiles after the other.

`winograd` says which there are and plans them.
"""

from fastconv.cpu.intrinsics import Inlined, call, copy_bytes, store_int, zero_bytes
from fastconv.cpu.job import take


@Inlined
def locate(tile, ty_count, tx_count, dh, dw, size):
    """Image, row and column of a tile's first pixel, tiles `size` apart, and tiles left in its row.

    Those are each ``size * dw`` columns further, which is cheaper than to ask.
    """
    n, rest = divmod(tile, dh * dw * ty_count * tx_count)
    phase, rest = divmod(rest, ty_count * tx_count)
    py, px = divmod(phase, dw)
    ty, tx = divmod(rest, tx_count)
    return n, py + ty * size * dh, px + tx * size * dw, tx_count - tx


@Inlined
def input_tile(transform, reach, image, h, w, pixel, channels, dh, dw, y0, x0, target, product,
               group, patch):  # fmt: skip
    """Transform one tile of all channels, from (y0, x0), to `target`; `patch` is scratch."""
    last = reach - 1
    if y0 >= 0 and x0 >= 0 and y0 + last * dh < h and x0 + last * dw < w:
        start = image + (y0 * w + x0) * pixel
        call(transform, (start, dw * pixel, dh * w * pixel, channels, target, product, group))
        return
    for i in range(reach):
        row = y0 + i * dh
        for j in range(reach):
            to, column = patch + (i * reach + j) * pixel, x0 + j * dw
            if 0 <= row < h and 0 <= column < w:
                copy_bytes(to, image + (row * w + column) * pixel, pixel)
            else:
                zero_bytes(to, pixel)
    call(transform, (patch, pixel, reach * pixel, channels, target, product, group))


@Inlined
def forward_block(forward, step, reach, x, h, w, channels, item, work, lanes, top, left, dh, dw,
                  first, count, ty_count, tx_count, v, product_v, mr, patch):  # fmt: skip
    """Transform tiles first ... first + count to V[product][row block][channel group][mr][lane]."""
    groups = (channels + lanes - 1) // lanes
    vector, pixel = lanes * work, channels * item
    image, y0, x0, row = x, 0, 0, 0
    for t in range(count):
        if row == 0:
            n, y0, x0, row = locate(first + t, ty_count, tx_count, dh, dw, step)
            image, y0, x0 = x + n * h * w * pixel, y0 - top, x0 - left
        b, r = divmod(t, mr)
        to = v + b * mr * groups * vector + r * vector
        input_tile(forward, reach, image, h, w, pixel, channels, dh, dw, y0, x0, to, product_v,
                   mr * vector, patch)  # fmt: skip
        row -= 1
        x0 += step * dw


@Inlined
def output_tiles(inverse, finish, source, product, panel, panels, nr, lanes, apart, out, add, oh,
                 ow, cout, item, work, size, channel, side, dh, dw, n, y0, x0, most, bias, clamp,
                 slopes, patch):  # fmt: skip
    """Inverse transform of up to `most` tiles of a row to `out`; give their number.

    They are `apart` bytes apart, and have `panels` panels of channels, those that exist. The first
    is `channel`; `side` of the panels are side by side, and the last may overlap them.
    """
    pixel = cout * item
    to = out + ((n * oh + y0) * ow + x0) * pixel + channel * item
    last = size - 1
    right, down = dw * pixel, dh * ow * pixel
    room = ow - 1 - x0 - last * dw
    if finish == 0 and cout >= lanes and y0 + last * dh < oh and room >= 0:
        tiles, step = min(most, room // (size * dw) + 1), size * right
        if cout < nr:
            call(inverse, (source, product, panel, 1, cout * work, to, right, down, bias, clamp,
                           tiles, apart, step))  # fmt: skip
            return tiles
        shift = cout - nr - channel  # where the overlapping one begins
        call(inverse, (source, product, panel, side, nr * work, to, right, down, bias, clamp,
                       tiles, apart, step))  # fmt: skip
        if side < panels:
            call(inverse, (source + side * panel, product, panel, 1, nr * work, to + shift * item,
                           right, down, bias + shift * work, clamp, tiles, apart,
                           step))  # fmt: skip
        return tiles
    # A border tile, or fewer channels than a vector holds, or all to finish.
    valid = min(panels * nr, cout - channel)
    row = panels * nr * work
    call(inverse, (source, product, panel, side, nr * work, patch, row, size * row, bias, clamp,
                   1, 0, 0))  # fmt: skip
    if side < panels:
        shift = max(cout - nr - channel, 0)  # there may be fewer channels than one panel holds
        call(inverse, (source + side * panel, product, panel, 1, nr * work, patch + shift * work,
                       row, size * row, bias + shift * work, clamp, 1, 0, 0))  # fmt: skip
    height, width = min(size, (oh - y0 + dh - 1) // dh), min(size, (ow - x0 + dw - 1) // dw)
    if finish:
        call(finish, (patch, row, size * row, to, add, right, down, width, height, valid,
                      clamp + 2 * work, slopes))  # fmt: skip
        return 1
    for i in range(height):
        for j in range(width):
            at = to + (i * dh * ow + j * dw) * pixel
            copy_bytes(at, patch + (i * size + j) * row, valid * item)
    return 1


@Inlined
def output_block(inverse, finish, source, source_step, product, product_step, panel, panels, nr,
                 lanes, first, count, ty_count, tx_count, out, add, oh, ow, cout, item, work, size,
                 channel, side, dh, dw, bias, clamp, slopes, patch):  # fmt: skip
    """Inverse transform of tiles first ... first + count to `out`, in runs.

    From one tile to the next, `source` or `product` moves on by its step; the other's is 0.
    """
    t = 0
    while t < count:
        n, y0, x0, row = locate(first + t, ty_count, tx_count, dh, dw, size)
        row += t
        while t < min(row, count):
            done = output_tiles(
                inverse, finish, source + t * source_step, product + t * product_step, panel,
                panels, nr, lanes, source_step + product_step, out, add, oh, ow, cout, item, work,
                size, channel, side, dh, dw, n, y0, x0, min(row, count) - t, bias, clamp, slopes,
                patch,
            )  # fmt: skip
            t += done
            x0 += done * size * dw


@Inlined
def product_block(v, weights, m, gemm, inverse, finish, products, mr, nr, group, panels, depth,
                  block, product_v, product_m, ahead, lines, first, count, ty_count, tx_count, out,
                  add, oh, ow, cout, size, dh, dw, bias, clamp, slopes, item, work, lanes, start,
                  stop, patch):  # fmt: skip
    """From V to the output, for the panels start ... stop, `group` of them at a time."""
    product_u = (depth + lanes - 1) // lanes * lanes * work * nr
    panel_u = products * product_u
    panel_m = block * nr * work
    blocks = (count + mr - 1) // mr
    for panel in range(start, stop, group):
        some = min(group, stop - panel)
        call(gemm, (v, depth, weights + panel * panel_u, m, blocks, products, some, product_v,
                    product_u, product_m, panel_u, panel_m, ahead, lines))  # fmt: skip
        channel = min(panel * nr, max(cout - nr, 0))  # of a last panel that is alone
        side = min(some, (cout - channel) // nr)
        output_block(inverse, finish, m, nr * work, product_m, 0, panel_m, some, nr, lanes, first,
                     count, ty_count, tx_count, out, add, oh, ow, cout, item, work, size, channel,
                     side, dh, dw, bias + channel * work, clamp, slopes + channel * work,
                     patch)  # fmt: skip
        lines = 0  # the next block's pixels are on their way


@Inlined
def next_pixels(ahead, products, x, h, w, channels, item, step, reach, top, left, dh, dw, tile,
                ty_count, tx_count, block):  # fmt: skip
    """Where the pixels of the block at `tile` begin, a share for each product, and cache lines.

    They are the rows below those that the row of tiles above has read. It does not matter where
    exactly a row ends, nor that a row of interleaved tiles reads only some of its pixels.
    """
    n, y0, x0, _ = locate(tile, ty_count, tx_count, dh, dw, step)
    pixel = channels * item
    share = block * step * dw * pixel * step // products
    for xi in range(products):
        row, part = divmod(xi * step, products)
        y = min(y0 + (reach - step + row) * dh - top, h - 1)
        at = x + ((n * h + y) * w + max(x0 - left, 0)) * pixel
        store_int(ahead + 8 * xi, at + part * share // step)
    return share // 64


def fused(thread, counter, x, out, scratch, add, scratch_bytes, patch_bytes, m_bytes, gemm,
          forward, inverse, finish, step, reach, products, mr, nr, group, panels, depth, block, far,
          product_v, product_m, tiles, ty_count, tx_count, h, w, channels, top, left, dh, dw, oh,
          ow, cout, size, weights, bias, clamp, slopes, item, work, lanes):  # fmt: skip
    """Driver: a task is a block of tiles, through all panels; `far` images are not in the L2."""
    patch = scratch + thread * scratch_bytes
    ahead = patch + patch_bytes
    m = ahead + 8 * products
    v = patch + m_bytes
    tasks = (tiles + block - 1) // block
    first = take(counter, thread, tasks) * block
    while first < tiles:
        count = min(block, tiles - first)
        forward_block(forward, step, reach, x, h, w, channels, item, work, lanes, top, left, dh, dw,
                      first, count, ty_count, tx_count, v, product_v, mr, patch)  # fmt: skip
        # Taken now, so that its pixels can come from memory during the products.
        following = take(counter, thread, tasks) * block
        lines = 0
        if far and following < tiles:
            lines = next_pixels(ahead, products, x, h, w, channels, item, step, reach, top, left,
                                dh, dw, following, ty_count, tx_count, block)  # fmt: skip
        product_block(v, weights, m, gemm, inverse, finish, products, mr, nr, group, panels, depth,
                      block, product_v, product_m, ahead, lines, first, count, ty_count, tx_count,
                      out, add, oh, ow, cout, size, dh, dw, bias, clamp, slopes, item, work, lanes,
                      0, panels, patch)  # fmt: skip
        first = following


def few(thread, counter, x, out, scratch, add, scratch_bytes, patch_bytes, forward, inverse, finish,
        step, reach, products, nr, panels, panel_u, block, product_v, tiles, ty_count, tx_count, h,
        w, channels, top, left, dh, dw, oh, ow, cout, size, weights, bias, clamp, slopes, item,
        work):  # fmt: skip
    """Driver: a task is a block of tiles, whose V[tile][product][channel] is multiplied at once."""
    patch = scratch + thread * scratch_bytes
    v = patch + patch_bytes
    tile_v = products * product_v
    tasks = (tiles + block - 1) // block
    side = cout // nr
    while True:
        first = take(counter, thread, tasks) * block
        if first >= tiles:
            break
        count = min(block, tiles - first)
        forward_block(forward, step, reach, x, h, w, channels, item, work, tile_v // work, top,
                      left, dh, dw, first, count, ty_count, tx_count, v, product_v, 1,
                      patch)  # fmt: skip
        output_block(inverse, finish, weights, 0, v, tile_v, panel_u, panels, nr, nr, first, count,
                     ty_count, tx_count, out, add, oh, ow, cout, item, work, size, 0, side, dh, dw,
                     bias, clamp, slopes, patch)  # fmt: skip


def phase_forward(thread, counter, x, out, scratch, add, scratch_bytes, shared_bytes, forward, step,
                  reach, mr, block, block_bytes, product_v, tiles, ty_count, tx_count, h, w,
                  channels, top, left, dh, dw, item, work, lanes):  # fmt: skip
    """Driver: transform all tiles into the shared V, which the private scratch follows."""
    patch = scratch + shared_bytes + thread * scratch_bytes
    groups = (channels + lanes - 1) // lanes
    vector, pixel = lanes * work, channels * item
    some = 4
    tasks = (tiles + some - 1) // some
    while True:
        first = take(counter, thread, tasks) * some
        if first >= tiles:
            break
        for tile in range(first, min(first + some, tiles)):
            n, y0, x0, _ = locate(tile, ty_count, tx_count, dh, dw, step)
            j, t = divmod(tile, block)
            b, r = divmod(t, mr)
            v = scratch + j * block_bytes + b * mr * groups * vector + r * vector
            input_tile(forward, reach, x + n * h * w * pixel, h, w, pixel, channels, dh, dw,
                       y0 - top, x0 - left, v, product_v, mr * vector, patch)  # fmt: skip


def phase_products(thread, counter, x, out, scratch, add, scratch_bytes, shared_bytes, patch_bytes,
                   gemm, inverse, finish, products, mr, nr, group, panels, depth, block,
                   block_bytes, product_v, product_m, tiles, ty_count, tx_count, dh, dw, oh, ow,
                   cout, size, weights, bias, clamp, slopes, item, work, lanes):  # fmt: skip
    """Driver: a task is one block of tiles and one group of panels of output channels."""
    patch = scratch + shared_bytes + thread * scratch_bytes
    ahead = patch + patch_bytes
    m = ahead + 8 * products
    parts = (tiles + block - 1) // block
    tasks = parts * ((panels + group - 1) // group)
    while True:
        task = take(counter, thread, tasks)
        if task >= tasks:
            break
        which, j = divmod(task, parts)
        first, start = j * block, which * group
        product_block(scratch + j * block_bytes, weights, m, gemm, inverse, finish, products, mr,
                      nr, group, panels, depth, block, product_v, product_m, ahead, 0, first,
                      min(block, tiles - first), ty_count, tx_count, out, add, oh, ow, cout, size,
                      dh, dw, bias, clamp, slopes, item, work, lanes, start,
                      min(start + group, panels), patch)  # fmt: skip
