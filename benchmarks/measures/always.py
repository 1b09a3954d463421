"""What a record holds whatever its cell measures: of the training, and of the machine meanwhile."""

from __future__ import annotations

from benchmarks.measures.base import Column

__all__ = ["ALWAYS"]

ALWAYS = (
    Column(
        "parameters",
        "numbers that are learned",
        heading="parameters",
        digits=0,
        interval=False,
        table="cost",
    ),
    Column(
        "form",
        "what a training step is computed by: eager is PyTorch call by call, compiled is "
        "torch.compile (density and sample are eager), JAX is jax.jit, for all three",
        sort="text",
    ),
    Column("steps", "optimiser steps of the training of the tested weights; 0: untrained"),
    Column("best_step", "the step of the best validation, whose weights are tested"),
    Column(
        "validation_nll_nats",
        "NLL of the first rows of the validation split at that step, of a flow whose density is "
        "estimated with one noise draw, nats",
        sort="quality",
        unit="nats",
        heading="validation NLL",
    ),
    Column(
        "train_seconds",
        "seconds of those steps, validations apart",
        unit="s",
        heading="training",
        table="cost",
    ),
    Column(
        "train_nfe",
        "network evaluations of those steps, counted as budget.nfe counts them; 0 where the step "
        "is compiled whole",
    ),
    Column(
        "skipped_steps", "steps of them that changed nothing, for want of a finite loss or gradient"
    ),
    Column("stopped_by", "what ended the training: budget or patience", sort="text"),
    Column("learning_rate", "peak learning rate of the training of the tested weights"),
    Column(
        "learning_rate_at_edge",
        "whether that is the lowest or the highest rate of the grid, so that one outside it may be "
        "better; tuned cells only",
        sort="flag",
    ),
    Column("tuning_seconds", "train_seconds of all rates of the grid together; tuned cells only"),
    Column("tuning_steps", "steps of all rates together"),
    Column("tuning_nfe", "train_nfe of all rates together"),
    Column(
        "training_shared",
        "whether others used the machine while the cell was trained: its seconds, and what a bound "
        "in seconds gave it, then mean less",
        sort="flag",
    ),
    Column(
        "data_remarks",
        "what a reader has to know of the data, as that columns were dequantised",
        sort="text",
    ),
    Column(
        "cost_shared",
        "whether others used the machine while times, ratios and memory were measured",
        sort="flag",
    ),
    Column(
        "quality_stage_seconds", "what training and quality took altogether, wall-clock seconds"
    ),
    Column(
        "cost_stage_seconds",
        "what measuring times, ratios and memory took, wall-clock seconds",
    ),
)
