"""The right-hand side with small dense dynamics on CUDA: a step, or its gradient, is one kernel.

A program takes :data:`~flows.continuous.kernels.on_cuda.evaluator.ROWS` points through all stages
of an attempted step. In the order of reading:

==============  ===================================================================
network         a layer and its nonlinearity, in registers; states in memory
step            an attempted step
pull            its gradient
evaluator       the solver's right-hand side made of these; torch's tensors in and out
proof           for what they are made, and whether they agree with torch on a device
==============  ===================================================================

All that :func:`covers` says no to is torch's (:class:`flows.continuous.ode.dense.DenseEvaluator`),
and so is the gradient of steps with several probes, with regularisers, or without velocities. The
kernels agree with it to rounding, to which they are held in Triton's interpreter by the tests, and
on each device before they are used there. They need Triton.
"""

from flows.continuous.kernels.on_cuda.evaluator import TritonEvaluator
from flows.continuous.kernels.on_cuda.proof import covers, made_for, refused

__all__ = ["TritonEvaluator", "covers", "made_for", "refused"]
