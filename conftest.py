"""What every test and doctest starts from: one thread, a fixed seed."""

import pytest
import torch

# Tests run in several processes at once; a thread each keeps them out of each other's way.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
