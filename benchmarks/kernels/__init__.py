"""Proof and timing of the Triton kernels on a GPU: `python -m benchmarks.kernels --json FILE`.

One module per operator (`peg.py`, `vq.py`, ...) defines one `OPERATION`, an `operation.Operation`; `registry.py` lists
them. To add an operator, write such a module and add it to the list:

    OPERATION = Operation(
        name="peg",
        operator=kernels.peg,                      # the dispatcher, which must have a "triton" form
        reference=reference.peg,                   # the definition: float64 truth, and the torch.compile baseline
        checked=(Case("odd", make), ...),          # small: output, every gradient, poison, streams, graphs, compile
        timed=(Case("image 256, B 16", make), ...),
        baselines={"conv3d": conv3d_path, ...},    # same keyword arguments as the operator
        gradients=("x", "weight", "bias", "past"),
    )

`make(generator)` returns the operator's keyword arguments, floats in float32 on the generator's device; the harness
casts them (bfloat16, float16, float32) except those named in `full_precision`. Bytes are counted from the
arguments: each input and output once, forward; inputs, the output's gradient and the inputs' gradients once, backward.

`accuracy.py` compares with float64, `behaviour.py` checks poison, streams, graphs and compilation, `timing.py` measures
with a cold L2, `__main__.py` runs all of it and prints one table.
"""
