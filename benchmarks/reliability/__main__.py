"""`python -m benchmarks.reliability kills|flips|faults|signals|leak`."""

import argparse
import sys

from .kills import kills
from .runs import import_all


def main() -> int:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.reliability', description=__doc__)
    parser.add_argument('what', choices=('kills', 'flips', 'faults', 'signals', 'leak'))
    parser.add_argument('--n', type=int, default=200, help='how many kills')
    args = parser.parse_args()
    import_all()
    return 0 if {'kills': lambda: kills(args.n)}[args.what]() else 1


if __name__ == '__main__':
    sys.exit(main())
