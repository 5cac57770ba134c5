"""FEDn's entry point 'validate', which passes the request to the fork server (see fedn_partial.runtime.entry)."""

import sys

from fedn_partial.runtime import entry

if __name__ == "__main__":
    sys.exit(entry.validate(sys.argv[1], sys.argv[2]))
