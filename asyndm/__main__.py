"""``python -m asyndm``."""

import sys

from asyndm.cli import main

if __name__ == "__main__":
    sys.exit(main())
