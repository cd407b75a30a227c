"""Timings beside other libraries, on the layers of segmentation networks.

Run from the root of the repository, on an otherwise idle machine::

    python -m benchmarks.compare                          # the acceptance layers, then start-up
    python -m benchmarks.compare --layers all --rounds 15
    python -m benchmarks.compare --layers 3x3_512_512_32,1x1_256_256_128 --engines fastconv,torch
    python -m benchmarks.compare --threads 1
    python -m benchmarks.startup                          # start-up alone
    pytest benchmarks                                     # our kernels alone, by pytest-benchmark

`compare` prints a Markdown table and writes it, with every number behind it as JSON, below
``benchmarks/results/<machine>/`` (or to ``--out``). ``pip install 'fastconv[bench]'`` brings the
other libraries; one that is missing is left out and named.

How it measures
    Each engine lives in a process of its own (`worker`), so that thread pools and OpenMP runtimes
    do not meet and every engine keeps its own best settings. Before anything is timed, each
    answer is compared with float64 (`check`), at the first call and after the warm-up. Ours must
    be right to a relative L2 error of 1e-4; the others are timed up to 1e-3, with a remark from
    1e-4 on. Then rounds alternate between all engines, in an order that moves on by one each
    round. A turn warms up, runs for a while, and ends when the process has come to rest: threads
    that still spin for work would slow down the next engine. A time is the median of the rounds,
    each of them the median of its calls; no round is dropped. Where an engine can be run in
    several ways (memory layouts, graph compilers), all of them take their turns and the fastest
    counts.

What is inside a time
    One inference: float32 in, float32 out, bias and activation included. Weights are packed,
    graphs compiled, outputs allocated where the engine can, and the input lies in the layout that
    the engine itself prefers, all before the clock starts.

To add a layer, add a row to `layers.LAYERS`; to add an engine, a file to `peers` and a row to
`peers.PEERS`.
"""
