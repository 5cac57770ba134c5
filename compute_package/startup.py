"""FEDn's entry point 'startup', run once before the client connects (see fedn_partial.runtime.entry)."""

from fedn_partial.runtime import entry

if __name__ == "__main__":
    entry.startup()
