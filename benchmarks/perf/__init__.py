"""This project's own speed over its commits, by asv: its ``suite``, and a ``plugin`` for asv."""
