"""Start FEDn's server processes (controller, combiner, hooks) with corrections of FEDn 0.33.

``python -m fedn_partial.client.network.fedn_process ROLE --host HOST --port PORT`` patches FEDn at run time, then calls
FEDn's own main. ``sql_models`` makes SQLite work; ``controller``, ``combiner`` and ``hooks`` make each process survive
failures of the others and misbehaving clients. Each module has a function ``correct``.
"""
