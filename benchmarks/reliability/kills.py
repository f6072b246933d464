"""SIGKILL at random times: every run must end as if nothing had happened."""

import random
import tempfile
import time
from pathlib import Path

from .runs import MIXED, PLAIN, differences, finish, kill, reference, start


def kills(n: int, seed: int = 0) -> bool:
    """Kill runs until `n` kills have hit; a killed run is resumed and, half of the time, killed again."""
    rng, hits, runs, bad = random.Random(seed), 0, 0, 0
    while hits < n:
        argv = (PLAIN, MIXED)[runs % 2]
        seconds = reference(argv)[1]
        with tempfile.TemporaryDirectory() as cwd:
            cwd, before = Path(cwd), hits
            while hits < n:
                pid = start(argv, cwd)
                time.sleep(rng.uniform(0, seconds))
                hits += kill(pid)
                if rng.random() < 0.5:
                    break
            try:
                finish(argv, cwd)
                broken = differences(argv, cwd)
            except RuntimeError as error:
                broken = [str(error)]
            runs += 1
            if broken:
                bad += 1
                print(f'run {runs}, killed {hits - before} times, differs in: {", ".join(broken)}')
    print(f'kills  {n} SIGKILLs in {runs} runs: {runs - bad} of {runs} end like the uninterrupted run')
    return not bad
