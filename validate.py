#!/usr/bin/env python3
"""Measure the accuracy of a model or checkpoint: `python validate.py --checkpoint FILE`, or see --help."""

import sys

from dkszoo.cli.main import main

if __name__ == '__main__':  # loading processes import this file again where they are not forked
    sys.exit(main(['validate', *sys.argv[1:]]))
