"""`python -m onward` is `onward`."""

import sys

from .cli import main

sys.exit(main())
