"""Continuous flows: dynamics, trace estimators, solvers."""
