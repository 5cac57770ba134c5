"""FEDn's entry point 'validate': thin on purpose, the fork server does the work (see fedn_partial.runtime.entry)."""

import sys

from fedn_partial.runtime import entry

if __name__ == "__main__":
    sys.exit(entry.validate(sys.argv[1], sys.argv[2]))
