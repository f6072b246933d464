"""Golden losses: `python tests/tasks/golden.py [METHOD ...]` writes tests/golden/METHOD.json anew.

Five SGD steps on one batch of digits, float32, CPU, one thread. A refactoring leaves the files bit-identical on one
machine; a change of the numbers updates them in a commit of its own, with the reason.
"""

import json
import sys
from pathlib import Path

import torch
from task_zoo import SETTINGS, make_task, train

GOLDEN = Path(__file__).parents[1] / 'golden'
STEPS, LR = 5, 0.002


def golden_losses(method: str) -> list[dict[str, float]]:
    torch.set_num_threads(1)
    task = make_task(method)
    optimizer = torch.optim.SGD(task.get_trainable_module().parameters(), lr=LR, momentum=0.9)
    return train(task, STEPS, optimizer)


if __name__ == '__main__':
    for name in sys.argv[1:] or SETTINGS:
        (GOLDEN / f'{name}.json').write_text(json.dumps(golden_losses(name), indent=1) + '\n')
