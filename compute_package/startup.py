"""FEDn's entry point 'startup': runs once, before the client connects (see fedn_partial/entry.py)."""

from fedn_partial import entry

if __name__ == "__main__":
    entry.startup()
