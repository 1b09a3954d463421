"""The one training loop.

Every contestant is trained by it under the budget of its cell: the same optimiser, clipping,
schedule and validation; the checkpoint with the best validation is the one that is tested.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.batches import Batches, initialisation_rows
from benchmarks.cell import Budget
from benchmarks.evaluation import EVALUATION_SCALARS, evaluate, evaluation_mode
from benchmarks.team import ALONE, Team
from datasets import Dataset
from datasets.base import named_seed
from flows import Flow, FlowError, InputError, Meter

__all__ = [
    "Batches",
    "CurveRow",
    "Diverged",
    "Progress",
    "Trainer",
    "Training",
    "TrainingResult",
    "evaluate",
    "evaluation_mode",
    "initialisation_rows",
    "train",
]

# A run in which more than this part of the steps had to be skipped has diverged.
SKIPPED_AT_MOST = 0.1
# Training rows whose statistics batch norm is given before a validation: the error of a mean is a
# three-hundredth of the deviation, and the cost does not grow with the training set.
STATISTICS_ROWS = 100_000


class Diverged(Exception):
    """Training produced no usable model; the message says how."""


@dataclass(frozen=True)
class CurveRow:
    """One row of a training curve: means since the row before, validation at this step.

    ``train_nll_nats`` is NaN where the loss is another (:attr:`flows.Flow.loss_is_nll`).

    Seconds are those of the training so far: steps and what batch norm's statistics took,
    validation apart.
    """

    step: int
    seconds: float
    train_nll_nats: float
    validation_nll_nats: float
    nfe_forward: float
    nfe_backward: float
    skipped_steps: int


@dataclass(frozen=True)
class TrainingResult:
    """How a training run went; the flow then holds the weights of the best validation.

    Its seconds count what those of the curve do, and the statistics of the whole training set at
    the end; its NFE are those of the steps.
    """

    steps: int
    best_step: int
    validation_nll_nats: float
    train_seconds: float
    nfe: int
    skipped_steps: int
    stopped_by: str


class Trainer:
    """A flow with its optimiser: what takes a training step, in training and in timing alike.

    Args:
        flow: trained in place.
        budget: the training rule.
        generator: on the flow's device; source of the estimator's noise.
        team: of the processes that divide each batch.

    Raises:
        InputError: if the flow cannot be trained by several.
    """

    def __init__(
        self, flow: Flow, budget: Budget, generator: torch.Generator, team: Team = ALONE
    ) -> None:
        self.flow = flow
        self.budget = budget
        self.generator = generator
        self.parameters = [p for p in flow.parameters() if p.requires_grad]
        kind = {
            "adam": torch.optim.Adam,
            "adamw": torch.optim.AdamW,
            "adamax": torch.optim.Adamax,
        }[budget.optimizer]
        # The fused kernels skip a step by a flag on the device. Adamax has none; its counter of
        # steps then has to be on the device as well.
        self.fused = budget.optimizer != "adamax"
        more = {"fused": True} if self.fused else {"capturable": flow.device.type == "cuda"}
        self.optimizer = kind(
            self.parameters, lr=budget.learning_rate, weight_decay=budget.weight_decay, **more
        )
        self.skipped = torch.zeros((), device=flow.device)
        self.backward = team.backward(flow, compiled=budget.compile)

    def step(self, x: Tensor) -> Tensor:
        """One step of the optimiser.

        A step whose loss or gradient is not finite changes nothing and is counted. The host
        never waits for the device to learn which.

        Args:
            x: model values, shape ``(n, *event_shape)``.

        Returns:
            The loss before the step, detached; a scalar on the device.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(x, self.generator)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.budget.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.budget.clip_norm, norm)
        bad = torch.logical_not(torch.isfinite(loss) & torch.isfinite(norm))
        self.skipped += bad
        if self.fused:
            # The protocol of torch.amp.GradScaler: the fused kernel leaves everything as it is.
            self.optimizer.found_inf = bad.float()
            self.optimizer.step()
        else:
            self._step_unless(bad)
        return loss

    @torch.no_grad()
    def _step_unless(self, bad: Tensor) -> None:
        """A step of the optimiser that is taken back where ``bad`` holds."""
        before = {tensor: tensor.clone() for tensor in self._optimized()}
        self.optimizer.step()
        for tensor in self._optimized():
            # What there was not before the first step started at zero.
            tensor.copy_(torch.where(bad, before.get(tensor, 0.0), tensor))

    def _optimized(self) -> list[Tensor]:
        """Everything that a step of the optimiser changes."""
        kept = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*self.parameters, *kept]

    def set_learning_rate(self, value: float) -> None:
        """Set the learning rate of the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = value


@dataclass
class Progress:
    """How far a training run is.

    Attributes:
        step: steps taken.
        seconds, nfe: of them, up to the last row of the curve or the last pause.
        refused: steps whose solve failed; ``last_refusal`` says why the last did.
        best_step, best_nll: of the best validation; ``without_gain`` counts those since.
        validation_nll_nats: of the last validation.
        stopped_by: what has ended it; empty while it goes on.
        row_step, row_skipped: steps taken and skipped at the last row of the curve.
        forward, backward: network evaluations since, ``losses`` the sum of the losses since.
    """

    step: int = 0
    seconds: float = 0.0
    nfe: int = 0
    refused: int = 0
    last_refusal: str = ""
    best_step: int = 0
    best_nll: float = math.inf
    without_gain: int = 0
    validation_nll_nats: float = math.nan
    stopped_by: str = ""
    row_step: int = 0
    row_skipped: int = 0
    forward: int = 0
    backward: int = 0
    losses: float = 0.0


class Training:
    """A training run under a budget, which can be put down after any step and taken up again.

    Who takes it up makes one of a fresh flow and hands it what :meth:`state_dict` gave. On the CPU
    it then ends with the curve and the weights, to the last bit, that it would have had without
    the break; what lies between counts as no time.

    A flow with batch norm is validated with the statistics of a fixed random part of the training
    set (all of it, up to :data:`STATISTICS_ROWS` rows), and left with those of the whole, as MAF's
    paper evaluates it. Both are on the clock that the budget's seconds count.

    Args:
        flow: on its device, initialised; trained in place.
        dataset: train and validation splits are used.
        budget: the training rule.
        seed: of batch order, dequantisation and estimator noise.
        team: of the processes that train the flow together. The first validates, and its clock
            and its validations decide; all end with the same result, the first alone with the
            statistics of the training set.

    Raises:
        InputError: if the flow cannot be trained by several processes.

    Attributes:
        progress: how far it is.
        interruptible: whether an exception may be raised into it from outside, which happens
            while it validates: its state is then that of the last step.
    """

    def __init__(
        self, flow: Flow, dataset: Dataset, budget: Budget, *, seed: int, team: Team = ALONE
    ) -> None:
        generator = torch.Generator(flow.device).manual_seed(named_seed("training", seed))
        self.flow, self.dataset, self.budget, self.team = flow, dataset, budget, team
        self.batches = Batches(dataset, budget.batch_size, flow.device, flow.dtype, generator)
        self.trainer = Trainer(flow, budget, generator, team)
        self.progress = Progress()
        self.interruptible = False
        self._best = copy.deepcopy(flow.state_dict())
        self._losses = torch.zeros((), dtype=torch.float64, device=flow.device)
        self._meter = Meter()
        # When the clock was last read; None while it stands.
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of the steps and what batch norm's statistics took."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self.progress.seconds + running

    @property
    def used(self) -> float:
        """The part of the budget that is used, by the bound that comes first."""
        progress, meter = self.progress, self._meter
        work = progress.nfe + progress.forward + progress.backward + meter.forward + meter.backward
        return self._used(self.seconds, work)

    @property
    def _agreed(self) -> float:
        """:attr:`used`, for all processes the same: by the clock of the first."""
        return self.team.told([self.used])[0] if self.budget.seconds is not None else self.used

    def _used(self, seconds: float, work: int) -> float:
        budget = self.budget
        bounds = ((self.progress.step, budget.steps), (seconds, budget.seconds), (work, budget.nfe))
        # An untrained flow has used up its no steps.
        return max(used / bound if bound else 1.0 for used, bound in bounds if bound is not None)

    def run(
        self,
        on_row: Callable[[CurveRow], None] = lambda row: None,
        after_step: Callable[[], None] = lambda: None,
    ) -> TrainingResult:
        """Train to the end and leave the flow with the weights of its best validation.

        Args:
            on_row: called with each row of the training curve.
            after_step: called after each step, on the clock; :meth:`paused` takes it off.

        Raises:
            Diverged: if too many steps had to be skipped, or no validation was finite.
        """
        progress = self.progress
        has_density = self.flow.traits.trains_on_data
        if self.budget.steps == 0:
            # An untrained flow is a contestant too: its speed can be compared.
            progress.stopped_by = "budget"
            progress.seconds = _refresh(self.flow, self.batches)
            progress.best_nll = (
                _validate(self.flow, self.dataset, self.budget) if has_density else math.nan
            )
            self._best = copy.deepcopy(self.flow.state_dict())
        self.flow.train()
        while not progress.stopped_by or progress.row_step < progress.step:
            self._take_steps(after_step)
            self._validate(on_row)
        if has_density and not math.isfinite(progress.best_nll):
            raise Diverged("no validation gave a finite log-density")
        self.flow.load_state_dict(self._best)
        seconds = progress.seconds
        if progress.step > 0 and len(self.batches.rows) > STATISTICS_ROWS:
            seconds += _refresh(self.flow, self.batches)
        return TrainingResult(
            steps=progress.step,
            best_step=progress.best_step,
            validation_nll_nats=progress.best_nll,
            train_seconds=seconds,
            nfe=progress.nfe,
            skipped_steps=self._skipped(),
            stopped_by=progress.stopped_by,
        )

    def _take_steps(self, after_step: Callable[[], None]) -> None:
        """Steps up to the next validation, or the end of the budget."""
        progress = self.progress
        _synchronize(self.flow.device)
        self._since = time.perf_counter()
        with self._meter:
            while (
                progress.step - progress.row_step < self.budget.validate_every
                and not progress.stopped_by
            ):
                rate = _learning_rate(self.budget, progress.step, self._agreed)
                self.trainer.set_learning_rate(rate)
                x, log_abs_det = next(self.batches)
                try:
                    loss = self.trainer.step(x)
                except FlowError as error:
                    # A solve that fails costs a step, not the run; too many of them do.
                    progress.refused += 1
                    progress.last_refusal = str(error)
                else:
                    kept = torch.isfinite(loss)
                    self._losses += torch.where(
                        kept, loss.double() - log_abs_det.double().mean(), 0.0
                    )
                progress.step += 1
                if self._agreed >= 1:
                    progress.stopped_by = "budget"
                after_step()
            self._read_clock()
        self._since = None

    def _validate(self, on_row: Callable[[CurveRow], None]) -> None:
        """A row of the curve, and what follows from it."""
        progress, budget = self.progress, self.budget
        # Until both are done they are as good as not begun.
        self.interruptible = True
        refreshing = validation = math.nan
        if self.team.rank == 0:
            refreshing = _refresh(self.flow, self.batches, STATISTICS_ROWS)
            validation = _validate(self.flow, self.dataset, budget)
        self.interruptible = False
        seconds = progress.seconds + refreshing
        progress.seconds, validation = self.team.told([seconds, validation])
        progress.nfe += progress.forward + progress.backward
        if self._used(progress.seconds, progress.nfe) >= 1:
            progress.stopped_by = "budget"
        steps = progress.step - progress.row_step
        skipped = self._skipped()
        newly_skipped = skipped - progress.row_skipped
        mean = float(self._losses) / max(1, steps - newly_skipped)
        # A step that was compiled whole reports no passes through networks.
        counted = progress.forward > 0 or not budget.compile
        row = CurveRow(
            step=progress.step,
            seconds=progress.seconds,
            train_nll_nats=mean if self.flow.loss_is_nll else math.nan,
            validation_nll_nats=validation,
            nfe_forward=progress.forward / steps if counted else math.nan,
            nfe_backward=progress.backward / steps if counted else math.nan,
            skipped_steps=skipped,
        )
        progress.validation_nll_nats = validation
        progress.row_step, progress.row_skipped = progress.step, skipped
        progress.forward = progress.backward = 0
        self._losses.zero_()
        if validation < progress.best_nll:
            self._best = copy.deepcopy(self.flow.state_dict())
            progress.best_step, progress.best_nll = progress.step, validation
            progress.without_gain = 0
        else:
            progress.without_gain += 1
            if budget.patience is not None and progress.without_gain >= budget.patience:
                progress.stopped_by = progress.stopped_by or "patience"
        on_row(row)
        if newly_skipped == steps or skipped > max(10, SKIPPED_AT_MOST * progress.step):
            why = f"; the last: {progress.last_refusal}" if progress.refused else ""
            raise Diverged(
                f"{skipped} of {progress.step} steps had no finite loss or gradient{why}"
            )

    def _skipped(self) -> int:
        return int(self.trainer.skipped) + self.progress.refused

    def _read_clock(self) -> None:
        """Put what the running clock and the open meter show to the rest."""
        _synchronize(self.flow.device)
        progress, meter = self.progress, self._meter
        if self._since is not None:
            now = time.perf_counter()
            progress.seconds += now - self._since
            self._since = now
        progress.forward += meter.forward
        progress.backward += meter.backward
        self._meter.forward = self._meter.backward = 0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens in the block counts as no time of the training."""
        self._read_clock()
        try:
            yield
        finally:
            if self._since is not None:
                self._since = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on: numbers, text and tensors.

        To be asked for in :meth:`paused`, or after an exception that came while it was
        :attr:`interruptible`.
        """
        device = self.flow.device
        self.progress.losses = float(self._losses)
        return {
            "progress": dataclasses.asdict(self.progress),
            "flow": self.flow.state_dict(),
            "best": self._best,
            "fitting_steps": {name: block.fitting_step for name, block in _blocks(self.flow)},
            "optimizer": self.trainer.optimizer.state_dict(),
            "skipped": int(self.trainer.skipped),
            "batches": self.batches.state_dict(),
            # Dropout draws from torch's global generator.
            "generator": torch.get_rng_state(),
            "generator_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was asked."""
        self.progress = Progress(**state["progress"])
        self._losses.fill_(self.progress.losses)
        self.flow.load_state_dict(state["flow"])
        self._best = {name: value.to(self.flow.device) for name, value in state["best"].items()}
        for name, block in _blocks(self.flow):
            block.fitting_step = state["fitting_steps"][name]
        self.trainer.optimizer.load_state_dict(state["optimizer"])
        self.trainer.skipped.fill_(state["skipped"])
        self.batches.load_state_dict(state["batches"])
        torch.set_rng_state(state["generator"])
        if state["generator_cuda"] is not None and self.flow.device.type == "cuda":
            torch.cuda.set_rng_state(state["generator_cuda"], self.flow.device)


def _blocks(flow: Flow) -> list[tuple[str, Any]]:
    """What remembers the step size of its last solve, which is no part of a flow's state."""
    return [
        (name, module) for name, module in flow.named_modules() if hasattr(module, "fitting_step")
    ]


def train(
    flow: Flow,
    data: Dataset | Tensor,
    budget: Budget | None = None,
    *,
    seed: int = 0,
    on_row: Callable[[CurveRow], None] = lambda row: None,
    initialize: bool = True,
) -> TrainingResult:
    """Train a flow and leave it with the weights of its best validation, in evaluation mode.

    Args:
        flow: on its device; trained in place.
        data: a data set, of which train and validation splits are used, or rows of shape
            ``(n, *event_shape)``, of which a random tenth validates.
        budget: the training rule; 1,000 steps of 256 rows unless given.
        seed: of batch order, dequantisation and estimator noise.
        on_row: called with each row of the training curve.
        initialize: whether the flow is initialised on training rows first; False for one that has
            been trained before.

    Returns:
        How it went.

    Raises:
        Diverged: if too many steps had to be skipped, or no validation was finite.
        InputError: if the data do not fit the flow.

    Example:
        >>> import datasets, flows
        >>> from benchmarks.cell import Budget
        >>> flow = flows.build("realnvp", event_shape=(2,), layers=4, hidden=(32,))
        >>> result = train(flow, datasets.load("moons"), Budget(steps=50))
        >>> result.steps, result.stopped_by
        (50, 'budget')
    """
    dataset = data if isinstance(data, Dataset) else _dataset_of(data, flow)
    budget = Budget() if budget is None else budget  # type: ignore[call-arg]
    if initialize:
        flow.initialize(initialisation_rows(flow, dataset, budget.batch_size, seed))
    result = Training(flow, dataset, budget, seed=seed).run(on_row)
    flow.eval()
    return result


def _dataset_of(rows: Tensor, flow: Flow) -> Dataset:
    if rows.ndim == 0 or rows.shape[1:] != flow.event_shape or len(rows) < 10:
        raise InputError(
            f"rows of shape (n, {', '.join(map(str, flow.event_shape))}), ten or more, were "
            f"expected, got {tuple(rows.shape)}"
        )
    source = torch.Generator().manual_seed(named_seed("rows", "split"))
    order = torch.randperm(len(rows), generator=source)
    values = rows.detach().float().cpu()[order].numpy()
    held_out = len(values) // 10
    return Dataset(
        name="rows",
        kind="tabular",
        event_shape=tuple(flow.event_shape),
        train=values[held_out:],
        validation=values[:held_out],
        test=values[:0],
    )


def _refresh(flow: Flow, batches: Batches, at_most: int | None = None) -> float:
    """Give batch norm the statistics of the training set.

    Args:
        flow: does nothing if it keeps none.
        batches: holds the training rows.
        at_most: so many rows, drawn at random and the same at each call; None for all.

    Returns:
        The seconds that it took.
    """
    if not flow.keeps_statistics:
        return 0.0
    _synchronize(flow.device)
    start = time.perf_counter()
    rows = batches.rows
    if at_most is not None and len(rows) > at_most:
        source = torch.Generator().manual_seed(named_seed("statistics", "rows"))
        chosen = torch.randperm(len(rows), generator=source)[:at_most]
        rows = rows[chosen.to(rows.device)]
    noise = torch.Generator(flow.device).manual_seed(named_seed("statistics"))
    chunk = max(1, EVALUATION_SCALARS // rows[0].numel())
    parts = [batches.preprocessing.forward(part, noise)[0] for part in rows.split(chunk)]
    flow.refresh_statistics(torch.cat([part.to(flow.dtype) for part in parts]))
    _synchronize(flow.device)
    return time.perf_counter() - start


def _validate(flow: Flow, dataset: Dataset, budget: Budget) -> float:
    """Mean NLL of the validation rows in nats; infinite if the flow cannot be evaluated."""
    try:
        _, log_prob = evaluate(flow, dataset, "validation", rows=budget.validation_rows)
    except FlowError:
        return math.inf
    nll = -float(log_prob.mean())
    return nll if math.isfinite(nll) else math.inf


def _learning_rate(budget: Budget, step: int, used: float) -> float:
    rate = budget.learning_rate
    if step < budget.warmup_steps:
        return rate * (step + 1) / budget.warmup_steps
    if budget.schedule == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * min(1.0, used)))
    return rate


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
