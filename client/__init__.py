"""What runs and watches clients on a machine: the command line, one client, a local fleet, a local FEDn network."""
