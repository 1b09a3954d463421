"""Several processes with a share of each batch against one that has all of it."""

import multiprocessing
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

import flows
from benchmarks.cell import Budget, Cell
from benchmarks.errors import MatrixError
from benchmarks.matrix import load_matrix
from benchmarks.run.process import STOPPED, Task, run
from benchmarks.store import Record, Store
from benchmarks.team import ALONE, Team
from benchmarks.train import CurveRow, Diverged, Training, initialisation_rows
from datasets.base import Dataset
from flows import InputError

# An odd number of rows.
BUDGET = Budget(steps=6, batch_size=37, learning_rate=1e-2, validate_every=3, validation_rows=50)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "realnvp": ("realnvp", {"layers": 3, "hidden": (16,)}),
    "maf with batch norm": ("maf", {"layers": 2, "hidden": (16,), "batch_norm": True}),
    "ffjord": ("ffjord", {"hidden": (16,), "atol": 1e-7, "rtol": 1e-7}),
    "ffjord with fixed steps, moving norm and a regulariser": (
        "ffjord",
        {
            "hidden": (16,),
            "solver": "rk4",
            "steps": 4,
            "batch_norm": True,
            "kinetic_energy": 0.1,
        },
    ),
}

FAILING = {"a solve that fails": ("ffjord", {"hidden": (16,), "max_evaluations": 3})}


def data() -> Dataset:
    random = np.random.default_rng(0)
    rows = (random.standard_normal((300, 3)) @ random.standard_normal((3, 3))).astype(np.float32)
    return Dataset("made-up", "tabular", (3,), rows[:200], rows[200:250], rows[250:])


def trained(case: str, team: Team) -> dict[str, Any]:
    name, options = {**CASES, **FAILING}[case]
    torch.manual_seed(0)
    flow = flows.build(name, (3,), **options).double()
    flow.initialize(initialisation_rows(flow, data(), BUDGET.batch_size, 0))
    # Away from where the gradient by a batch norm's shift is rounding, which Adam makes a step.
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    rows: list[CurveRow] = []
    training = Training(flow, data(), BUDGET, seed=0, team=team)
    try:
        result = training.run(rows.append)
    except Diverged as error:
        return {"failure": str(error)}
    return {
        "weights": dict(flow.named_parameters()),
        "nll": [row.validation_nll_nats for row in rows],
        "train_nll": [row.train_nll_nats for row in rows],
        "nfe": result.nfe,
        "skipped": result.skipped_steps,
    }


def _member(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found = {case: trained(case, Team(rank, 2)) for case in [*CASES, *FAILING]}
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes have, each, after training every case."""
    folder = tmp_path_factory.mktemp("team")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # From the server that cells are forked from, which has imported torch once.
    multiprocessing.set_forkserver_preload(["benchmarks.run.process"])
    torch.multiprocessing.start_processes(
        _member, (port, str(folder)), nprocs=2, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_devices_train_as_one_does(case: str, of_two: list[dict[str, Any]]) -> None:
    alone, first, second = trained(case, ALONE), of_two[0][case], of_two[1][case]
    assert alone["skipped"] == first["skipped"] == 0
    assert alone["nfe"] == first["nfe"] == second["nfe"]
    for name, due in alone["weights"].items():
        # Of a bias before batch norm the gradient is rounding, which Adam divides by 1e-8.
        torch.testing.assert_close(first["weights"][name], due, rtol=1e-9, atol=1e-8)
        assert torch.equal(first["weights"][name], second["weights"][name])
    assert first["nll"] == pytest.approx(alone["nll"], rel=1e-9)
    assert first["train_nll"] == pytest.approx(alone["train_nll"], rel=1e-9, nan_ok=True)


def test_a_solve_that_fails_costs_every_process_the_step(of_two: list[dict[str, Any]]) -> None:
    due = trained("a solve that fails", ALONE)
    assert "6 of 6 steps" in due["failure"] or "3 of 3 steps" in due["failure"]
    assert of_two[0]["a solve that fails"] == of_two[1]["a solve that fails"] == due


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("ffjord-fm", {}, "flow matching"),
        ("ffjord", {"backend": "torchdiffeq"}, "torchdiffeq"),
        ("rqnsf-c", {"dropout": 0.1, "residual_blocks": 1, "hidden": (8,)}, "dropout"),
    ],
)
def test_what_cannot_be_divided_is_refused(name: str, options: dict[str, Any], why: str) -> None:
    flow = flows.build(name, (2,), **options)
    with pytest.raises(InputError, match=f"devices = 2: .*{why}.*; train it on one device"):
        Team(0, 2).backward(flow)


def test_shares_are_all_of_a_batch_and_no_row_twice() -> None:
    for rows in (5, 7, 64):
        shares = [Team(rank, 5).share(rows) for rank in range(5)]
        taken = [row for share in shares for row in range(share.start, share.stop)]
        assert taken == list(range(rows))
    with pytest.raises(InputError, match="devices = 5 divide a batch of 4 rows"):
        Team(0, 5).share(4)


def _in_a_process(cell: Cell, folder: Path, *, stop: bool = False) -> int | None:
    """Train and measure a cell as a runner has it done; stop it when it has taken steps."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.run.process"])
    process = context.Process(target=run, args=(Task(cell, "quality", folder),))
    process.start()
    while stop and process.is_alive():
        if Store(folder).progress(cell.key).get("step"):
            process.terminate()
            break
        process.join(0.2)
    process.join()
    return process.exitcode


@pytest.mark.slow
def test_a_cell_of_two_devices_goes_on_where_it_was_stopped(cell: Cell, tmp_path: Path) -> None:
    document = cell.model_dump()
    document["budget"] |= {"steps": 4000, "validate_every": 400}
    alone = Cell.model_validate({**document, "measures": ("quality",)})
    both = Cell.model_validate({**alone.model_dump(), "devices": 2})
    stores = {name: Store(tmp_path / name) for name in ("stopped", "whole", "alone")}
    assert _in_a_process(both, stores["stopped"].directory, stop=True) == STOPPED
    assert stores["stopped"].pending(both.key, ".checkpoint").exists()
    assert _in_a_process(both, stores["stopped"].directory) == 0
    assert _in_a_process(both, stores["whole"].directory) == 0
    assert _in_a_process(alone, stores["alone"].directory) == 0
    cells = {"stopped": both, "whole": both, "alone": alone}
    found = {name: stores[name].read(cells[name]) for name in cells}
    measures: dict[str, dict[str, Any]] = {}
    for name, record in found.items():
        assert isinstance(record, Record)
        assert record.status == "ok", record.reason
        measures[name] = dict(record.measures)
        left = {path.suffix for path in stores[name].pending(record.key, "").parent.iterdir()}
        assert left <= {".lock"}
    curves = [
        stores[name].curve(both.key).drop(columns="seconds").to_csv()
        for name in ("stopped", "whole")
    ]
    assert curves[0] == curves[1]
    assert "goes on from its checkpoint" in stores["stopped"].path(both, ".log").read_text()
    assert measures["stopped"]["nll_nats"] == measures["whole"]["nll_nats"]
    # In single precision, over so many steps.
    assert measures["whole"]["nll_nats"] == pytest.approx(measures["alone"]["nll_nats"], abs=0.02)


def test_devices_at_their_default_leave_every_key_as_it_was(cell: Cell) -> None:
    assert "devices" not in cell.identity
    two = Cell.model_validate({**cell.model_dump(), "devices": 2})
    assert '"devices": 2' in two.identity


def test_devices_are_refused_where_they_cannot_serve(tiny: Path, tiny_text: str) -> None:
    tiny.write_text(tiny_text.replace("\n", "\ndevices = 5000\n", 1))
    with pytest.raises(MatrixError, match="devices"):
        load_matrix(str(tiny))
    tiny.write_text(tiny_text.replace("\n", "\ndevices = 1000\n", 1))
    with pytest.raises(MatrixError, match="devices = 1000 cannot divide a batch of"):
        load_matrix(str(tiny))
