"""FEDn's entry point 'startup': runs once, before the client connects (see fedn_partial/runtime/entry.py)."""

from fedn_partial.runtime import entry

if __name__ == "__main__":
    entry.startup()
