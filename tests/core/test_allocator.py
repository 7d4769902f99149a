"""Memory that is freed and allocated again."""

import subprocess
import sys

PROGRAM = """
import resource, numpy as np
from vss.core.allocator import keep_freed_memory

def faults():
    for _ in range(2):  # the first round takes the memory from the system
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            several = [np.ones(3_000_000, np.float32) for _ in range(4)]
            del several
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), end=" ")
keep_freed_memory()
print(faults())
"""


def test_it_is_not_taken_from_the_system_each_time() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 0 and after < before / 10
