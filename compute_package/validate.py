"""FEDn's entry point 'validate': thin on purpose, the work is done by the fork server (see fedn_partial/entry.py)."""

import sys

from fedn_partial import entry

if __name__ == "__main__":
    sys.exit(entry.validate(sys.argv[1], sys.argv[2]))
