"""How much longer `import dkszoo` takes than `import timm`.

    python benchmarks/import_time.py

Each round is a fresh process that imports timm and then dkszoo; medians of the CPU time.
"""

import statistics
import subprocess
import sys

ROUNDS = 7
CODE = """
import time
began = time.process_time()
import timm
middle = time.process_time()
import dkszoo
print(middle - began, time.process_time() - middle)
"""


def main():
    rounds = []
    for _ in range(ROUNDS):
        done = subprocess.run([sys.executable, '-c', CODE], capture_output=True, text=True, check=True)
        rounds.append([float(text) for text in done.stdout.split()])
    timm, dkszoo = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f'import timm      {timm:.2f} s')
    print(f'import dkszoo   +{dkszoo:.2f} s   (target: at most 0.30)')


if __name__ == '__main__':
    main()
