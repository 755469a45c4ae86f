"""Life cycles and namespaces, one after the other: `python -m bench.places`."""

import logging
import sys

from bench.places import life_cycles, namespaces

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    sys.argv[1:] = ["--count", "40"]
    code = life_cycles.main()
    del sys.argv[1:]
    sys.exit(namespaces.main() | code)
