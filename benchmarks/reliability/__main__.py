"""`python -m benchmarks.reliability kills|flips|faults|signals|leak`; exit code 1 if the claim does not hold."""

import argparse
import sys

from .faults import faults
from .flips import flips
from .kills import kills
from .leak import leak
from .runs import import_all
from .signals import signals


def main() -> int:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.reliability', description=__doc__)
    parser.add_argument('what', choices=('kills', 'flips', 'faults', 'signals', 'leak'))
    parser.add_argument('--n', type=int, default=200, help='number of kills (default 200)')
    args = parser.parse_args()
    import_all()
    claims = {'kills': lambda: kills(args.n), 'flips': flips, 'faults': faults, 'signals': signals, 'leak': leak}
    return 0 if claims[args.what]() else 1


if __name__ == '__main__':
    sys.exit(main())
