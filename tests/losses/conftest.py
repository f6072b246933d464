import pytest
import torch


@pytest.fixture(autouse=True, scope='module')
def _one_thread():
    """Run on one thread: tensors this small wait longer for other threads than they compute, more so on a busy CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
