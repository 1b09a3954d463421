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
from benchmarks.cell import Budget
from benchmarks.team import ALONE, Team
from benchmarks.train import CurveRow, Training, initialisation_rows
from datasets.base import Dataset
from flows import InputError

# An odd number of rows.
BUDGET = Budget(steps=6, batch_size=37, learning_rate=1e-2, validate_every=3, validation_rows=50)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "realnvp": ("realnvp", {"layers": 3, "hidden": (16,)}),
    "maf with batch norm": ("maf", {"layers": 2, "hidden": (16,), "batch_norm": True}),
    "ffjord": ("ffjord", {"hidden": (16,), "atol": 1e-4, "rtol": 1e-4}),
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


def data() -> Dataset:
    random = np.random.default_rng(0)
    rows = (random.standard_normal((300, 3)) @ random.standard_normal((3, 3))).astype(np.float32)
    return Dataset("made-up", "tabular", (3,), rows[:200], rows[200:250], rows[250:])


def trained(case: str, team: Team) -> dict[str, Any]:
    name, options = CASES[case]
    torch.manual_seed(0)
    flow = flows.build(name, (3,), **options).double()
    flow.initialize(initialisation_rows(flow, data(), BUDGET.batch_size, 0))
    # Away from where the gradient by a batch norm's shift is rounding, which Adam makes a step.
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    rows: list[CurveRow] = []
    training = Training(flow, data(), BUDGET, seed=0, team=team)
    result = training.run(rows.append)
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
    found = {case: trained(case, Team(rank, 2)) for case in CASES}
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


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("ffjord-fm", {}, "flow matching"),
        ("ffjord", {"backend": "torchdiffeq"}, "torchdiffeq"),
        ("rqnsf-c", {"dropout": 0.1}, "dropout"),
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
