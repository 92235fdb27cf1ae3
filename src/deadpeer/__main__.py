"""`python -m deadpeer`."""

import sys

from deadpeer.cli import main

if __name__ == "__main__":
    sys.exit(main())
