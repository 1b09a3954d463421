"""The whole comparison: what the paper shows, and with it what it left open."""

from benchmarks.studies.base import Study

_PAPER = ("abilities", "toy", "tabular", "images", "bottleneck", "dimension", "solver")
_OPEN = ("memory", "estimators", "objective", "cost", "truth")

ENTRIES = [
    Study(
        name="paper",
        title="Every table and figure of FFJORD's paper, regenerated",
        answers="Grathwohl et al. 2018 (arXiv:1810.01367): Tables 1, 2 and 6, Figures 1 to 8, but "
        "for the variational autoencoders of Table 3",
        includes=_PAPER,
        place=12,
    ),
    Study(
        name="full",
        title="The paper regenerated, and the questions that it left open",
        answers="Grathwohl et al. 2018 (arXiv:1810.01367), and what memory, estimators, objective, "
        "cost and known truths have to do with the choice of a flow",
        includes=(*_PAPER, *_OPEN),
        place=13,
    ),
]
