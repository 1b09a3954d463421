"""Questions and how they are answered, one study a file.

A file holds ``ENTRIES = [Study(...)]``: the cells to run at two profiles, and the tables, figures
and finding that a report makes of their records (:mod:`benchmarks.studies.base`). It is found here;
nothing else is to be edited. A study from elsewhere comes in by :func:`add`.
"""

from benchmarks.studies.base import PROFILES, Profile, Study
from benchmarks.studies.registry import STUDIES, add, keys_by_study, parts, study

__all__ = ["PROFILES", "STUDIES", "Profile", "Study", "add", "keys_by_study", "parts", "study"]
