"""``ffjord-bench perf``: this project's own speed over its commits, by asv.

asv imports ``suite/`` whole and nothing else of this folder; the commands stand around it.
"""
