"""`python -m doctor`: what `make doctor` runs."""

import sys

from doctor.command import main

if __name__ == "__main__":
    sys.exit(main())
