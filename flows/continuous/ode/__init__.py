"""Initial value problems of continuous flows: right-hand sides, solvers, gradients."""
