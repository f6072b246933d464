import pytest
import torch


@pytest.fixture(autouse=True, scope='module')
def _one_thread():
    """Run on one thread: for tensors this small, waiting for other threads takes longer than computing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
