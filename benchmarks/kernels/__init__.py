"""Checks and timing of the Triton kernels on a GPU: `python -m benchmarks.kernels --json FILE`.

One module per operator (`peg.py`, `vq.py`, ...) defines an `operation.Operation`, and `registry.py` lists them. To add
an operator, write such a module and add it to the list:

    OPERATION = Operation(
        operator=kernels.peg,                      # with a triton implementation
        checked=(Case("odd", make), ...),          # small: output, every gradient, poison, streams, graphs, compile
        timed=(Case("image 256, B 16", make), ...),
        baselines={"conv3d": conv3d_path, ...},    # same keyword arguments as the operator
        gradients=("x", "weight", "bias", "past"),
    )

`make(generator)` returns the operator's keyword arguments, floats in float32 on the generator's device. The harness
casts them to the dtype under test, except those in `full_precision`. Forward, bytes are each input and output once;
backward, the inputs, the output's gradient and the inputs' gradients once.

`accuracy.py` compares with float64, `behaviour.py` checks poison, streams, graphs and compilation, `timing.py` measures
with a cold L2, `__main__.py` runs them and prints one table.
"""
