"""FEDn's own server processes (controller, combiner, hooks), started so that they run without Docker and fail safely.

``python -m fedn_partial.client.network.fedn_process ROLE --host HOST --port PORT`` corrects FEDn 0.33 at run time, then
calls its own main: its SQL models (``sql_models``), and what stops it or harms it when a process ends or a client
misbehaves (``controller``, ``combiner``, ``hooks``). One module a process; each has a function ``correct``.
"""
