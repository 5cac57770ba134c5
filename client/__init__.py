"""Command line, device client, local fleet and FEDn network, simulation, experiments and reports."""
