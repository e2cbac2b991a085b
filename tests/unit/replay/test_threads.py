"""The number of threads follows the work, and is put back."""

import time

import pytest
import torch

from trajfile.replay.threads import choose_threads, threads_restored


@pytest.mark.parametrize("suits", [1, 2])
def test_the_faster_number_is_kept_and_the_old_one_restored(suits):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_restored():
            chosen = choose_threads(
                lambda: time.sleep(0.001 if torch.get_num_threads() == suits else 0.02)
            )
            assert chosen == torch.get_num_threads() == suits
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
