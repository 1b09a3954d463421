"""The first screen: who wins at which cost, in three sentences and one picture.

Of all sections those data sets are taken together that the most systems ran on, each data set under
one rule, or as one study has it, and on one machine. A system stands on a data set for that of its
variants that validates best. Who is lowest is told by differences paired by seed, with their
interval: where there is none, nobody wins, and the sentences say what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from benchmarks.environment import LIBRARIES
from benchmarks.report.figures import Drawn
from benchmarks.report.figures.panels import (
    draw_point,
    handles,
    legend,
    log_axis,
    panels,
    within_reach,
)
from benchmarks.report.figures.trade_offs import with_exact_densities
from benchmarks.report.findings import in_words
from benchmarks.report.fronts import draw_front
from benchmarks.report.groups import grouped, plain, values_by_seed
from benchmarks.report.records import Records
from benchmarks.report.statistics import Interval, best_of, mean_over_strata
from benchmarks.report.style import looks, rc, system
from benchmarks.studies.base import Study

__all__ = ["answer"]

_COSTS = {
    "train_step_seconds": ("a training step", "training step"),
    "log_prob_seconds": ("a density", "density"),
    "sample_seconds": ("a sample", "sample"),
    "train_seconds": ("the training", "whole training"),
}
# What ends a training, the tightest first.
_BOUNDS = {
    "budget.seconds": "{:g} s of training",
    "budget.nfe": "{:,.0f} network evaluations of training",
    "budget.steps": "{:,.0f} training steps",
}
_NLL = "nll_nats"
_FEW = 5


def answer(sections: Sequence[tuple[Study, Records]]) -> tuple[tuple[str, ...], Drawn | None]:
    """Who wins at which cost.

    Args:
        sections: of :func:`benchmarks.report.sections.sections_of`.

    Returns:
        One to three sentences, and the picture that they are about, to be written by
        :func:`benchmarks.report.style.save`; None where no two systems have anything in common.
    """
    field = _field([race for study, records in sections for race in _races(study, records)])
    if field is None:
        return (_nothing([records for _, records in sections]),), None
    with mpl.rc_context(rc()):
        drawing = _draw(field)
    return (_lowest(field), _price(field), _front(field)), drawing


# -- what is compared ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Race:
    """Systems on one data set under one rule, or each under its own where a study has it so.

    Attributes:
        study: its name.
        dataset: its label.
        data: what races on the same data share: the catalog's name, or of a family the label.
        family: whether it is of those that sweep a dimension.
        dimension: of an event.
        values: by measure and system the values by seed, those of the best variant.
        variants: by system the label of that variant.
        lost: systems of which some seed gave no result.
        training: in words what all had alike of it; empty where each had its own.
    """

    study: str
    dataset: str
    data: str
    family: bool
    dimension: int
    values: Mapping[str, Mapping[str, pd.Series[float]]]
    variants: Mapping[str, str]
    lost: tuple[str, ...]
    training: str

    @property
    def whole(self) -> frozenset[str]:
        """Systems with an NLL; where nothing was trained, those with a cost."""
        return frozenset(next((found for found in self.values.values() if len(found) > 1), ()))

    @property
    def seeds(self) -> int:
        """Of the system that has the fewest, of NLLs or else of costs."""
        found = next((found for found in self.values.values() if len(found) > 1), {})
        return min((len(values) for values in found.values()), default=0)

    @property
    def worth(self) -> tuple[bool, bool, bool, bool]:
        """What a race needs to say who wins at which cost, the most needed first."""
        named = {system(name) for name in self.whole}
        # A whole training is the least of costs to know: its rule may have fixed it.
        timed = any(len(self.values[c]) > 1 for c in _COSTS if c != "train_seconds")
        return (bool(self.values[_NLL]), "ffjord" in named, self.seeds > 1, timed)

    @property
    def size(self) -> tuple[int, int]:
        """By which the better of two races is chosen that are worth the same."""
        return len(self.whole), self.seeds


def _races(study: Study, records: Records) -> list[_Race]:
    """The races of a section: two systems or more each."""
    own = {"contestant.learning_rate", *(f"environment.{library}" for library in LIBRARIES)}
    budget = [name for name in records.setting_columns if name.startswith("budget.")]
    place = [name for name in records.setting_columns if name not in own and name not in budget]
    cells = records.cells
    cells = cells.assign(
        place=records.settings(cells, [*budget, *own]),
        contestant=records.names(cells, [*budget, *place]),
        system=[_name(name) for name in cells["flow_name"]],
    )
    found = []
    for (dataset, _), within in grouped(cells, ["dataset", "place"]):
        # A study may give each flow the rule of its paper; one flow under two rules is a sweep.
        swept = (within.groupby("contestant")["rule"].nunique() > 1).any()
        parts = [part for _, part in grouped(within, ["rule"])] if swept else [within]
        races = [_race(study.name, str(dataset), part) for part in parts]
        found += [race for race in races if len(race.whole) > 1]
    return found


def _name(flow: str) -> str:
    """A system as one library has it: ``ffjord``, ``zuko/maf``; a flow of no system, itself."""
    library, slash, _ = flow.rpartition("/")
    return f"{library}{slash}{system(flow)}" if system(flow) else flow


def _race(study: str, dataset: str, cells: pd.DataFrame) -> _Race:
    values: dict[str, dict[str, pd.Series[float]]] = {name: {} for name in (_NLL, *_COSTS)}
    variants, lost = {}, []
    timed, _ = with_exact_densities(cells)
    for (name,), group in grouped(timed, ["system"]):
        ended = {
            variant: own
            for (variant,), own in grouped(group, ["contestant"])
            if (own["status"] == "ok").all()
        }
        if not ended:
            lost.append(name)
            continue
        scores = {variant: own["validation_nll_nats"].mean() for variant, own in ended.items()}
        best = min(ended, key=lambda variant: np.nan_to_num(scores[variant], nan=math.inf))
        variants[name] = best
        for measure, found in values.items():
            by_seed = values_by_seed(ended[best], measure)
            if len(by_seed):
                found[name] = by_seed
    first = cells.iloc[0]
    family = first["dataset_kind"] == "family"
    return _Race(
        study=study,
        dataset=dataset,
        data=dataset if family else str(first["dataset_name"]),
        family=family,
        dimension=int(first["dimension"]),
        values=values,
        variants=variants,
        lost=tuple(lost),
        training=_training(cells),
    )


def _training(cells: pd.DataFrame) -> str:
    """The bound that ends every training; of several the one that steps are only a guard for."""
    for name, form in _BOUNDS.items():
        bounds = {plain(bound) for bound in cells[name]} if name in cells else set()
        if len(bounds) == 1 and bounds != {"none"}:
            return form.format(float(bounds.pop()))
    return ""


@dataclass(frozen=True)
class _Field:
    """Systems that all ran on all of some data sets.

    Attributes:
        races: one a data set.
        names: of the systems, in the order of every legend.
        left_out: systems that lack one of these data sets or a seed on it.
        others: data sets that lack some of the systems, or more.
    """

    races: tuple[_Race, ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def scored(self) -> bool:
        """Whether there are NLLs."""
        return bool(self.races[0].values[_NLL])

    @property
    def repeated(self) -> bool:
        """Whether there are intervals."""
        return all(race.seeds > 1 for race in self.races)

    @property
    def costs(self) -> list[str]:
        """The costs of which two systems or more have a value on every data set."""
        found = [cost for cost in _COSTS if len(self.with_cost(cost)) > 1]
        # What a whole training took is no cost where time was what all had alike.
        return [cost for cost in found if cost != "train_seconds" or len(found) == 1]

    def with_cost(self, cost: str) -> list[str]:
        """The systems that have it on every data set."""
        return [name for name in self.names if all(name in r.values[cost] for r in self.races)]

    def gap(self, name: str, other: str) -> Interval:
        """How far one's NLL lies above another's, nats a dimension, mean over data sets."""
        return mean_over_strata(
            [
                (_by_seed(race.values[_NLL], name, other) / race.dimension).tolist()
                for race in self.races
            ]
        )

    def ratio(self, cost: str, name: str, other: str) -> Interval:
        """The logarithm of how many times a cost is another's, mean over data sets."""
        logs = [
            {each: race.values[cost][each].map(math.log) for each in (name, other)}
            for race in self.races
        ]
        return mean_over_strata([_by_seed(each, name, other).tolist() for each in logs])

    @property
    def by_nll(self) -> list[str]:
        """The systems, the lowest mean NLL first."""
        return sorted(self.names, key=lambda name: self.gap(name, self.names[0]).mean)

    def by_cost(self, cost: str) -> list[str]:
        """The systems that have it, the cheapest first."""
        names = self.with_cost(cost)
        return sorted(names, key=lambda name: self.ratio(cost, name, names[0]).mean)


def _by_seed(values: Mapping[str, pd.Series[float]], name: str, other: str) -> pd.Series[float]:
    """Differences paired by seed; that of the means where no seed is common."""
    paired = (values[name] - values[other]).dropna()
    return paired if len(paired) else pd.Series([values[name].mean() - values[other].mean()])


def _field(races: Sequence[_Race]) -> _Field | None:
    if not races:
        return None
    # Families sweep a dimension; they count if there is nothing else.
    able = [race for race in races if not race.family] or list(races)
    most = max(race.worth for race in able)
    by_data: dict[str, _Race] = {}
    for race in able:
        known = by_data.get(race.data)
        if race.worth == most and (known is None or race.size > known.size):
            by_data[race.data] = race
    found = list(by_data.values())
    # All that some data sets share, and the data sets that have all of these.
    shared = {one.whole & other.whole for one in found for other in found}
    fields = [
        (names, [race for race in found if names <= race.whole])
        for names in sorted(shared, key=sorted)
        if len(names) > 1
    ]
    names, chosen = max(
        fields,
        key=lambda each: (
            any(system(name) == "ffjord" for name in each[0]) == most[1],
            (len(each[0]) - 1) * len(each[1]),
        ),
    )
    every = {name for race in races for name in (*race.variants, *race.lost)}
    taken = {race.data for race in chosen}
    return _Field(
        races=tuple(chosen),
        names=tuple(looks(names)),
        left_out=tuple(looks(every - names)),
        others=tuple(dict.fromkeys(race.data for race in races if race.data not in taken)),
    )


# -- sentences ----------------------------------------------------------------------------------


def _nothing(sections: Sequence[Records]) -> str:
    ended = sum(len(records.ok) for records in sections)
    return (
        f"Nobody wins: of {ended} cells with a result no two are of different systems on the same "
        "data under the same rule."
    )


def _on(field: _Field, labels: Sequence[str] = ()) -> str:
    names = labels or [race.data for race in field.races]
    if len(names) == 1:
        return names[0]
    listed = f" ({', '.join(names)})" if len(names) <= _FEW or labels else ""
    return f"{len(names)} data sets{listed}"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _some(names: Sequence[str], what: str) -> str:
    return _list(names) if len(names) <= _FEW else f"{len(names)} {what}"


def _ffjord(field: _Field) -> str | None:
    return next((name for name in field.names if name == "ffjord"), None) or next(
        (name for name in field.names if system(name) == "ffjord"), None
    )


def _above(field: _Field, name: str) -> str:
    gap = field.gap(name, field.by_nll[0])
    digits = 3 if abs(gap.mean) >= 0.01 else 4
    return in_words(gap, "nats per dimension", digits)


def _lowest(field: _Field) -> str:
    """Whose NLL is the lowest."""
    if not field.scored:
        return f"Nobody wins: on {_on(field)} no flow was trained, and costs alone are compared."
    ranked = field.by_nll
    first, ffjord = ranked[0], _ffjord(field)
    best = [first]
    if field.repeated:
        best += [name for name in ranked[1:] if not field.gap(name, first).excludes_zero]
        if len(best) == len(ranked):
            return (
                f"Nobody wins by test NLL on {_on(field)}: the seeds do not tell "
                f"{_list(ranked)} apart."
            )
        after = {race.training for race in field.races}
        each = f", after {next(iter(after))} each" if len(after) == 1 and "" not in after else ""
        said = f"Lowest test NLL on {_on(field)}{each}: {_list(best)}"
        said += ", which the seeds do not tell apart" if len(best) > 1 else ""
    else:
        said = (
            f"Nobody wins yet on {_on(field)}, for want of an interval: of one seed {first} has "
            "the lowest test NLL"
        )
    follower = next(name for name in ranked if name not in best)
    shown = [follower, *([ffjord] if ffjord not in (None, follower, *best) else [])]
    above = "above it" if len(best) == 1 else f"above {first}"
    said += "".join(f"; {name} lies {_above(field, str(name))} {above}" for name in shown)
    return f"{said}{_alone(field)}."


def _alone(field: _Field) -> str:
    """Who is told from all others on a data set by itself."""
    if len(field.races) == 1 or not field.repeated:
        return ""
    won: dict[str, list[str]] = {}
    for race in field.races:
        best = best_of({name: race.values[_NLL][name] for name in field.names})
        if len(best) == 1:
            won.setdefault(next(iter(best)), []).append(race.data)
    said = [f"{name} on {_list(won[name])}" for name in field.names if name in won]
    return f"; alone the lowest: {', '.join(said)}" if said else ""


def _times(field: _Field, cost: str, name: str, other: str) -> str:
    mean, low, high = _exp(field.ratio(cost, name, other))
    return f"{mean:.3g}" + (f" ({low:.3g} to {high:.3g})" if math.isfinite(low) else "")


def _price(field: _Field) -> str:
    """What FFJORD costs, or the lowest, against the cheapest."""
    if not field.costs:
        return "At which cost is not known: no time was measured of these cells."
    whose = _ffjord(field) or (field.by_nll[0] if field.scored else field.names[0])
    said = []
    for cost in field.costs:
        words, ranked = _COSTS[cost][0], field.by_cost(cost)
        if whose in ranked[1:]:
            said.append(f"{words} {_times(field, cost, whose, ranked[0])} times {ranked[0]}'s")
        elif whose in ranked:
            next_ = _times(field, cost, ranked[1], whose)
            said.append(f"{words} the least, {ranked[1]}'s being {next_} times it")
    if not said:
        return f"What {whose} costs is not known: no time of it was measured."
    over = "" if len(field.races) == 1 else " (geometric means over the data sets)"
    return f"The time that {whose} takes, beside the quickest{over}: {'; '.join(said)}."


def _front(field: _Field) -> str:
    """Who is beaten in both, or what is missing to say so."""
    missing = _missing(field)
    if missing:
        return f"Missing for an answer: {'; '.join(missing)}."
    cost = field.costs[0]
    timed = field.by_cost(cost)
    beaten: dict[str, list[str]] = {}
    for name in timed:
        for other in field.by_nll:
            if other in timed and _beats(field, cost, other, name):
                beaten.setdefault(other, []).append(name)
                break
    lost = {name for names in beaten.values() for name in names}
    kept = [name for name in timed if name not in lost]
    said = f"In NLL and in time of a {_COSTS[cost][1]} at once nobody beats {_list(kept)}"
    words = [f"{name} beats {_list(names)}" for name, names in beaten.items()]
    return f"{'; '.join([said, *words])}."


def _beats(field: _Field, cost: str, name: str, other: str) -> bool:
    """Whether one is lower in both, beyond the intervals."""
    gaps = field.gap(other, name), field.ratio(cost, other, name)
    return all(gap.excludes_zero and gap.mean > 0 for gap in gaps)


def _missing(field: _Field) -> list[str]:
    found = []
    if not field.scored:
        found.append("trained flows (steps above 0)")
    if not field.repeated:
        found.append("a second seed, for intervals")
    if not field.costs:
        found.append("times (the measures time or work)")
    if _ffjord(field) is None:
        found.append("FFJORD on the same data")
    return found


# -- picture ------------------------------------------------------------------------------------


def _draw(field: _Field) -> Drawn | None:
    """NLL against each cost; rows of systems where one of the two is missing."""
    costs = field.costs
    if field.scored and costs:
        figure, axes = panels(len(costs), height=2.7)
        for ax, cost in zip(axes, costs, strict=True):
            _against(ax, field, cost)
            ax.set_ylabel("test NLL above the lowest [nats/dim]" if ax is axes[0] else "")
        legend(figure, handles(looks(field.names), line=False))
    elif field.scored or costs:
        kinds = costs or [_NLL]
        figure, axes = panels(len(kinds), height=0.7 + 0.22 * len(field.names))
        for ax, kind in zip(axes, kinds, strict=True):
            _rows(ax, field, kind)
    else:
        return None
    return Drawn(figure, "answer", _title(field), _caption(field))


def _title(field: _Field) -> str:
    if not field.costs:
        return "Test NLL of all systems"
    return "Test NLL against cost" if field.scored else "Cost of all systems, untrained"


def _caption(field: _Field) -> str:
    on = _on(field, [race.dataset for race in field.races])
    said = f"Mean over {on}" if len(field.races) > 1 else f"On {on}"
    if field.scored and field.costs:
        said = f"Down and to the left is better; grey: the Pareto front of the means. {said}"
    said += ", of each system the variant that validates best"
    if field.repeated:
        least = min(race.seeds for race in field.races)
        said += (
            f". Bars: 95 % t interval over {least} seeds or more, paired with the lowest and "
            "the quickest: what other seeds would change, not other data sets"
        )
    else:
        said += ". One seed: no intervals"
    if "train_seconds" in field.costs:
        said += ". Training ran beside other work"
    if field.left_out:
        said += f". Without a result on all of this: {_some(field.left_out, 'systems')}"
    if field.others:
        said += f". Other data, each in its section: {_some(field.others, 'data sets')}"
    return f"{said}."


def _against(ax: Axes, field: _Field, cost: str) -> None:
    ranked = field.by_cost(cost)
    first, cheapest = field.by_nll[0], ranked[0]
    found = {
        name: (_exp(field.ratio(cost, name, cheapest)), field.gap(name, first)) for name in ranked
    }
    # Set first: bars are cut at the panel's edge, not the panel made as large as a bar.
    log_axis(ax.xaxis, within_reach([bounds for bounds, _ in found.values()]))
    gaps = [gap.mean for _, gap in found.values()]
    top = _top(gaps)
    for name, (x, gap) in found.items():
        y = (gap.mean, gap.mean - gap.half_width, gap.mean + gap.half_width)
        if gap.mean > top:
            y = (top, math.nan, math.nan)
            ax.annotate(f"{gap.mean:.2g}", (x[0], top), xytext=(7, -3), textcoords="offset points")
        draw_point(ax, x, y, looks(field.names)[name], 6.5)
    if max(gaps) > top:
        ax.set_ylim(top=1.08 * top)
    draw_front(ax, [x[0] for x, _ in found.values()], gaps)
    ax.set_xlabel(f"time of a {_COSTS[cost][1]},\ntimes {cheapest}'s")


def _top(gaps: Sequence[float]) -> float:
    """Up to where an axis goes: one that lies far above all others would press them together."""
    upper = 4 * float(np.quantile(gaps, 0.75))
    return upper if max(gaps) > 2 * upper > 0 else max(gaps)


def _exp(logs: Interval) -> tuple[float, float, float]:
    half = logs.half_width
    return math.exp(logs.mean), math.exp(logs.mean - half), math.exp(logs.mean + half)


def _rows(ax: Axes, field: _Field, kind: str) -> None:
    """One measure alone, a row a system, the best on top."""
    ranked = field.by_nll if kind == _NLL else field.by_cost(kind)
    found = []
    for name in ranked:
        if kind == _NLL:
            gap = field.gap(name, ranked[0])
            found.append((gap.mean, gap.mean - gap.half_width, gap.mean + gap.half_width))
        else:
            found.append(_exp(field.ratio(kind, name, ranked[0])))
    if kind != _NLL:
        log_axis(ax.xaxis, within_reach(found))
    for row, (name, x) in enumerate(zip(ranked, found, strict=True)):
        draw_point(ax, x, (row, math.nan, math.nan), looks(field.names)[name], 6)
    ax.set_yticks(range(len(ranked)), ranked)
    ax.set_ylim(len(ranked) - 0.5, -0.5)
    if kind == _NLL:
        ax.set_xlabel("test NLL above the lowest [nats/dim]")
    else:
        ax.set_xlabel(f"time of a {_COSTS[kind][1]},\ntimes {ranked[0]}'s")
