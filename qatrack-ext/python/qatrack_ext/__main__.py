"""``python -m qatrack_ext``: see ``--help``."""

import sys

from ._cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
