"""One YAML file a case, the flavours of machines, and the paper's figures; so that an installation can read them."""
