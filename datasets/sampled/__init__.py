"""Sets that are drawn from a known density, one a file: see :mod:`datasets.sampling`."""
