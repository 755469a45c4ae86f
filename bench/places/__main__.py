"""Life cycles, namespaces and file systems, one after the other: `python -m bench.places`."""

import logging
import sys

from bench.places import file_systems, life_cycles, namespaces

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    sys.argv[1:] = ["--count", "40"]
    code = life_cycles.main()
    del sys.argv[1:]
    sys.exit(namespaces.main() | file_systems.main() | code)
