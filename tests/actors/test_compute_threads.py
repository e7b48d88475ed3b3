"""Threads of a pool end when they are let go of, and come back with the next work."""

import subprocess
import sys

PROGRAM = """
import os
import torch
from actors.compute_threads import release_threads

def num_threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(3)
alone = num_threads()
numbers = torch.ones(4_000_000)
busy = num_threads()
release_threads()
rested = num_threads()
assert abs(float(numbers.exp().mean()) - 2.7182817) < 1e-5
print(busy - alone, rested - alone, num_threads() - alone)
"""


def test_threads_end_and_come_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    grown, rested, again = map(int, done.stdout.split())
    assert grown >= 1
    assert rested < grown
    assert again == grown


def test_without_openmp_there_is_nothing_to_do() -> None:
    program = "from actors.compute_threads import release_threads; release_threads()"
    subprocess.run([sys.executable, "-c", program], check=True)
