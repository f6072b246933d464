"""`python -m dkszoo`."""

import sys

from dkszoo.cli.main import main

sys.exit(main())
