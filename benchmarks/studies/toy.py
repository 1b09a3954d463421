"""Two-dimensional densities: Figure 2 of the paper, and Figure 1's way from noise to data."""

from __future__ import annotations

from benchmarks.report import figures, tables
from benchmarks.studies.base import Study

_DATASETS = """[
    "8gaussians", "checkerboard", "2spirals", "pinwheel", "rings", "moons", "swissroll", "circles",
]"""
_SMALL = f"""
seeds = [0]
measures = ["quality", "work", "pictures", "low-density", "path"]

[budget]
steps = 300
batch_size = 256
validate_every = 50
validation_rows = 2000

[[study]]
name = "toy"
flows = [
    {{ name = "ffjord", trace = "exact", atol = 1e-4, rtol = 1e-4, budget = {{ learning_rate = 3e-2 }} }},
    {{ name = "glow", steps = 100, budget = {{ learning_rate = 3e-3 }} }},
    {{ name = "realnvp", layers = 10, budget = {{ learning_rate = 1e-2 }} }},
    {{ name = ["nice", "maf", "rqnsf-c", "rqnsf-ar"], budget = {{ learning_rate = 1e-2 }} }},
]
datasets = {_DATASETS}
"""
ENTRIES = [
    Study(
        name="toy",
        title="Two-dimensional densities: what lies between modes",
        answers="Figures 1 and 2 of FFJORD (arXiv:1810.01367)",
        small=_SMALL,
        tables=(tables.comparison,),
        figures=(figures.densities,),
        place=21,
    )
]
