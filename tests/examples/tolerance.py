"""A study of one's own: what the solver's tolerance costs."""

from collections.abc import Iterator

from benchmarks.report.figures import Drawn, Scene, against
from benchmarks.report.findings import ratio_in_words
from benchmarks.report.groups import values_by_seed
from benchmarks.report.records import Records
from benchmarks.studies import Study

SMALL = """
seeds = [0, 1, 2]
measures = ["quality", "work"]
budget = { steps = 100, learning_rate = 1e-2, validation_rows = 500 }
[[study]]
flows = [{ name = "ffjord", hidden = [32], atol = 1e-5, rtol = [1e-2, 1e-3, 1e-4] }]
datasets = [{ name = "student-t", dimension = 4, test_rows = 500 }]
"""
WANTED = ("nfe_train_forward", "nll_nats")


def figure(scene: Scene) -> Iterator[Drawn]:
    """NFE and NLL against the tolerance."""
    scene = scene.sweep("flow.rtol")
    cells = scene.named(scene.records.cells)
    if drawn := against(scene, cells, "flow.rtol", WANTED, x_label="relative tolerance"):
        yield Drawn(drawn[0], "tolerance", "Cost of the tolerance", f"Bars: {scene.interval}.")


def finding(records: Records) -> str | None:
    of = {rtol: values_by_seed(part, WANTED[0]) for rtol, part in records.ok.groupby("flow.rtol")}
    if not {1e-2, 1e-4} <= of.keys() or (ratio := (of[1e-4] / of[1e-2]).dropna()).empty:
        return None
    return f"A tolerance of 1e-4 takes {ratio_in_words(ratio, 'seeds')} times the NFE of 1e-2."


ENTRIES = [
    Study("tolerance", "Tolerance", "what it costs", SMALL, figures=(figure,), finding=finding)
]
