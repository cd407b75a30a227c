"""Timings beside other libraries, on the layers of segmentation networks.

Run from the root of the repository, on an otherwise idle machine::

    python -m benchmarks.compare                          # the acceptance layers
    python -m benchmarks.compare --layers all --rounds 15
    python -m benchmarks.compare --layers 3x3_deep,1x1_256_256_128 --engines fastconv,torch
    python -m benchmarks.compare --layers network:fcn8s   # all distinct layers of a network
    python -m benchmarks.compare --engines fastconv,fastconv-avx2   # what AVX-512 brings
    python -m benchmarks.compare --device cuda            # on a GPU, see `benchmarks.gpu`
    python -m benchmarks.sweep                            # against map size and threads
    python -m benchmarks.scaling                          # a network against the picture's size
    python -m benchmarks.report FILE.json                 # text and plots of a result, again
    python -m benchmarks.startup                          # start-up alone
    python -m benchmarks.correlate                        # correlate2d beside SciPy's alone
    python -m benchmarks.peak                             # FMA peak and copy bandwidth alone
    pytest benchmarks                                     # our kernels alone, by pytest-benchmark

`compare` and `sweep` write every number as JSON below ``benchmarks/results/<machine>/`` (or to
``--out``), and Markdown text and SVG plots that are made from the JSON alone. ``pip install
'fastconv[bench]'`` brings the other libraries, and matplotlib; what is missing is left out and
named.

How it measures
    Each engine lives in a process of its own (`worker`), so that thread pools and OpenMP runtimes
    do not meet and every engine keeps its own best settings. Before anything is timed, each
    answer is compared with float64 (`check`), at the first call and after the warm-up. Ours must
    be right to a relative L2 error of 1e-4; the others are timed up to 1e-3, with a remark from
    1e-4 on. Labels must have scores that equal the best ones to the same precision. Then rounds
    alternate between all engines, in an order that moves on by one each round. A turn warms up,
    runs for a while, and ends when the process has come to rest: threads that still spin for work
    would slow down the next engine. A time is the median of the rounds, each of them the median
    of its calls; no round is dropped. Where a peer can be run in several ways (memory layouts,
    graph compilers), all of them take their turns and the fastest counts. Of fastconv only what
    it chooses by itself counts; its algorithms by name take turns, too, to judge that choice.

What is inside a time
    One inference: float32 in, float32 (or labels) out, bias and activation included. Weights are
    packed, graphs compiled, outputs allocated where the engine can, and the input lies in the
    layout that the engine itself prefers, all before the clock starts.

What is promised
    The rows of `table` form classes. A class has goals: how many times as long the fastest peer
    takes that multiplies out every product ("direct"), and the fastest of all. A goal is reached
    when every layer of the class reaches it.

To add a layer, add a row to `table.CLASSES`; to add a network, a row to `networks.NETWORKS`; to
add an engine, a file to `peers` and a row to `peers.PEERS`.
"""
