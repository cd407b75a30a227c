"""The same layers on a GPU beside cuDNN: ``python -m benchmarks.compare --device cuda``.

Needs ``pip install 'fastconv[bench-gpu]'``, and a PyTorch for CUDA in the same environment: on
Linux that is what ``pip install torch`` gives; https://pytorch.org/get-started/locally has others.
``make bench-gpu`` does the first. Results are JSON, Markdown and plots below
``benchmarks/results/<GPU>/``, a set for each precision: float32 (PyTorch's TF32 off), tf32 (on),
bfloat16 and float16.

How it measures
    Everything lies on the GPU, in tensors of PyTorch that both sides read where they are: ours by
    ``__cuda_array_interface__``, PyTorch as channels_last. Inputs and results take turns in as many
    buffers as are twice the L2 cache together, so none of them is still there when it is used
    again; weights may be. A turn of a variant is a series of calls between two events; before the
    first one the GPU is kept busy until the host has asked for all of them, so that the time is the
    GPU's alone. What the host takes is recorded, too, and remarked where it is more. Rounds
    alternate between all variants, as on the CPU, and the median of the rounds counts.

What is verified
    Before anything is timed, the first call's answer and one after the warm-up; ours in memory that
    held NaN before (those of networks are in new memory). A batch repeats two pictures, whose
    float64 answers all images are compared with. Ours must be within `fastconv.bounds` in every
    number of the first image, and right to a limit of the precision in the L2 norm of all (labels
    and whole networks: that alone). Peers are timed if they are right to ten times that limit, and
    their error is recorded.

What counts
    Of fastconv what it chooses by itself, in "tf32" the algorithm of that name where it can serve.
    Of PyTorch the faster one of its modules, with cudnn.benchmark on, and of TorchScript's
    optimize_for_inference, which joins convolution and ReLU. Networks run node by node on both
    sides, concatenations, sums and crops by PyTorch.
"""
