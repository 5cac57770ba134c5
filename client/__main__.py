"""``python -m fedn_partial.client`` is the command ``fedn-partial``."""

from fedn_partial.client.commands.cli import main

main()
