"""Sets of images, one a file: see :class:`datasets.stored.ImageConfig`."""
