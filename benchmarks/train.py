"""The one training loop.

Every contestant is trained by it under the budget of its cell: the same optimiser, clipping,
schedule and validation; the checkpoint with the best validation is the one that is tested.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.cell import Budget
from datasets import Dataset, Split
from datasets.base import named_seed
from flows import Flow, FlowError, Meter

__all__ = ["Batches", "CurveRow", "Diverged", "Trainer", "TrainingResult", "evaluate", "train"]

# A run in which more than this part of the steps had to be skipped has diverged.
SKIPPED_AT_MOST = 0.1
# Scalars that are evaluated at once: bounds the memory of a validation or a test.
EVALUATION_SCALARS = 2**18
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


class Batches:
    """Training rows on the device, in random batches; an epoch is one permutation.

    The rows go to the device once; a batch is an index operation there. What is left over at
    the end of an epoch is dropped, another remainder each time.

    Args:
        dataset: its train split is used.
        batch_size: rows a batch, or all rows if there are fewer.
        device: where the rows are to lie.
        dtype: of the model's values.
        generator: on the device; gives order and dequantisation noise.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        device: torch.device,
        dtype: torch.dtype,
        generator: torch.Generator,
    ) -> None:
        self.rows = torch.as_tensor(dataset.train).to(device)
        self.batch_size = min(batch_size, len(self.rows))
        self.preprocessing = dataset.preprocessing
        self.dtype = dtype
        self.generator = generator

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Model values ``(batch_size, *event_shape)`` and preprocessing log-determinants."""
        while True:
            order = torch.randperm(
                len(self.rows), generator=self.generator, device=self.rows.device
            )
            for first in range(0, len(order) - self.batch_size + 1, self.batch_size):
                raw = self.rows[order[first : first + self.batch_size]]
                x, log_abs_det = self.preprocessing.forward(raw, self.generator)
                yield x.to(self.dtype), log_abs_det.to(self.dtype)


class Trainer:
    """A flow with its optimiser: what takes a training step, in training and in timing alike.

    Args:
        flow: trained in place.
        budget: the training rule.
        generator: on the flow's device; source of the estimator's noise.
    """

    def __init__(self, flow: Flow, budget: Budget, generator: torch.Generator) -> None:
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
        self.loss = flow.compiled_loss() if budget.compile else flow.loss

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
        loss = self.loss(x, generator=self.generator)
        loss.backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.budget.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.budget.clip_norm, norm)
        bad = torch.logical_not(torch.isfinite(loss.detach()) & torch.isfinite(norm))
        self.skipped += bad
        if self.fused:
            # The protocol of torch.amp.GradScaler: the fused kernel leaves everything as it is.
            self.optimizer.found_inf = bad.float()
            self.optimizer.step()
        else:
            self._step_unless(bad)
        return loss.detach()

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


def evaluate(
    flow: Flow,
    dataset: Dataset,
    split: Split,
    *,
    rows: int | None = None,
    exact: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-density of a split under a flow.

    Dequantisation and estimator noise come from generators named by the set and the split: the
    same noise at every call, so that validations are comparable.

    Args:
        flow: put into evaluation mode for the call.
        dataset: what to evaluate.
        split: ``train``, ``validation`` or ``test``.
        rows: the first so many rows; None for all.
        exact: as in :meth:`flows.Flow.log_prob`.

    Returns:
        ``x``, the model values, shape ``(n, *event_shape)``, and the log-density of the stored
        values in nats, shape ``(n,)``, preprocessing included, in float64; both on the CPU.
    """
    raw = torch.as_tensor(dataset.split(split)[:rows])
    noise = torch.Generator().manual_seed(named_seed(dataset.name, split, "evaluation noise"))
    x, log_abs_det = dataset.preprocessing.forward(raw, noise)
    x = x.to(flow.dtype)
    estimator = torch.Generator(flow.device)
    estimator.manual_seed(named_seed(dataset.name, split, "estimator noise"))
    chunk = max(1, EVALUATION_SCALARS // dataset.dimension)
    with evaluation_mode(flow), torch.no_grad():
        found = [
            flow.log_prob(part.to(flow.device), exact=exact, generator=estimator).cpu()
            for part in x.split(chunk)
        ]
    return x, torch.cat(found).double() + log_abs_det.double()


@contextlib.contextmanager
def evaluation_mode(flow: Flow) -> Iterator[None]:
    """The flow in evaluation mode inside the block, as it was after it."""
    was = flow.training
    flow.eval()
    try:
        yield
    finally:
        flow.train(was)


def train(
    flow: Flow,
    dataset: Dataset,
    budget: Budget,
    *,
    seed: int,
    on_row: Callable[[CurveRow], None],
) -> TrainingResult:
    """Train a flow under a budget and leave it with the weights of its best validation.

    A flow with batch norm is validated with the statistics of a fixed random part of the training
    set (all of it, up to :data:`STATISTICS_ROWS` rows), and left with those of the whole, as MAF's
    paper evaluates it. Both are on the clock that the budget's seconds count.

    Args:
        flow: on its device, initialised; trained in place.
        dataset: train and validation splits are used.
        budget: the training rule.
        seed: of batch order, dequantisation and estimator noise.
        on_row: called with each row of the training curve.

    Returns:
        How it went.

    Raises:
        Diverged: if too many steps had to be skipped, or no validation was finite.
    """
    generator = torch.Generator(flow.device).manual_seed(named_seed("training", seed))
    batches = Batches(dataset, budget.batch_size, flow.device, flow.dtype, generator)
    stream = iter(batches)
    trainer = Trainer(flow, budget, generator)
    # An untrained flow is a contestant too: its speed can be compared before it has learned.
    untrained = budget.steps == 0
    seconds = _refresh(flow, batches) if untrained else 0.0
    best_state, best_step = copy.deepcopy(flow.state_dict()), 0
    best_nll = _validate(flow, dataset, budget) if untrained else math.inf
    step, refused, without_gain, work = 0, 0, 0, 0
    skipped, last_refusal = 0, ""
    reason = "budget" if untrained else ""
    flow.train()
    while not reason:
        losses = torch.zeros((), dtype=torch.float64, device=flow.device)
        summed, first_step = 0, step
        skipped_before = int(trainer.skipped) + refused
        _synchronize(flow.device)
        start = time.perf_counter()
        with Meter() as meter:
            while step - first_step < budget.validate_every and not reason:
                so_far = seconds + time.perf_counter() - start
                used = _used(budget, step, so_far, work + meter.forward + meter.backward)
                trainer.set_learning_rate(_learning_rate(budget, step, used))
                x, log_abs_det = next(stream)
                try:
                    loss = trainer.step(x)
                except FlowError as error:
                    # A solve that fails costs a step, not the run; too many of them do.
                    refused += 1
                    last_refusal = str(error)
                else:
                    kept = torch.isfinite(loss)
                    losses += torch.where(kept, loss.double() - log_abs_det.double().mean(), 0.0)
                    summed += 1
                step += 1
                so_far = seconds + time.perf_counter() - start
                used = _used(budget, step, so_far, work + meter.forward + meter.backward)
                if used >= 1:
                    reason = "budget"
            _synchronize(flow.device)
        seconds += time.perf_counter() - start
        work += meter.forward + meter.backward
        steps = step - first_step
        skipped = int(trainer.skipped) + refused
        seconds += _refresh(flow, batches, STATISTICS_ROWS)
        if _used(budget, step, seconds, work) >= 1:
            reason = "budget"
        validation = _validate(flow, dataset, budget)
        good = max(1, steps - (skipped - skipped_before))
        # A step that was compiled whole reports no passes through networks.
        counted = meter.forward > 0 or not budget.compile
        row = CurveRow(
            step=step,
            seconds=seconds,
            train_nll_nats=float(losses) / good if flow.loss_is_nll else math.nan,
            validation_nll_nats=validation,
            nfe_forward=meter.forward / steps if counted else math.nan,
            nfe_backward=meter.backward / steps if counted else math.nan,
            skipped_steps=skipped,
        )
        on_row(row)
        if skipped - skipped_before == steps or skipped > max(10, SKIPPED_AT_MOST * step):
            why = f"; the last: {last_refusal}" if refused else ""
            raise Diverged(f"{skipped} of {step} steps had no finite loss or gradient{why}")
        if row.validation_nll_nats < best_nll:
            best_state = copy.deepcopy(flow.state_dict())
            best_step, best_nll, without_gain = step, row.validation_nll_nats, 0
        else:
            without_gain += 1
            if budget.patience is not None and without_gain >= budget.patience:
                reason = reason or "patience"
    if not math.isfinite(best_nll):
        raise Diverged("no validation gave a finite log-density")
    flow.load_state_dict(best_state)
    if step > 0 and len(batches.rows) > STATISTICS_ROWS:
        seconds += _refresh(flow, batches)
    return TrainingResult(
        steps=step,
        best_step=best_step,
        validation_nll_nats=best_nll,
        train_seconds=seconds,
        nfe=work,
        skipped_steps=skipped,
        stopped_by=reason,
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


def _used(budget: Budget, step: int, seconds: float, work: int) -> float:
    """The part of the budget that is used, from 0 to 1: of the bound that comes first."""
    parts = [
        used / bound
        for used, bound in (
            (step, budget.steps),
            (seconds, budget.seconds),
            (work, budget.nfe),
        )
        if bound is not None
    ]
    return max(parts)


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
