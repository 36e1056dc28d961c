"""Convolutions and their gradients of every order, with a lowering for each platform.

- primitives.py: `conv`, `conv_transpose`, their Flax modules, and the JAX primitives that they call.
- forms.py: the arithmetic that the lowerings share, and XLA's own convolutions.
- cpu.py: the lowering for CPU, with Winograd's algorithm in tiles.py.
- plain.py: XLA's convolutions in place of the primitives, for a program that is exported.
- grouped.py: the lowering for GPU: images of few channels by phases, and groups split over devices.

In the arithmetic x is the input, w the kernel and y the output of a convolution; the name of the one that is computed
from the other two is `blank`.
"""
