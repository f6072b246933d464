#!/usr/bin/env python3
"""Train a classifier with training-only branches: `python train.py --config quickstart`, or see --help."""

import sys

from dkszoo.cli.main import main

sys.exit(main(['train', *sys.argv[1:]]))
