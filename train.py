#!/usr/bin/env python3
"""Train a classifier with training-only branches: `python train.py --config quickstart`, or see --help."""

import sys

from dkszoo.cli.main import main

if __name__ == '__main__':  # loading processes import this file again where they are not forked
    sys.exit(main(['train', *sys.argv[1:]]))
