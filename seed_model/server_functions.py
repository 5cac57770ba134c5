"""The server functions as text, and their settings.

FEDn executes a text in its hooks process, in which nothing of this package exists, and makes an object of its class
``ServerFunctions``. ``source`` makes that text: the settings, and ``exchange/server.py`` with the modules that it
imports, and with the custom modules that the settings name, deflated: every client downloads the text in every round.
"""

from __future__ import annotations

import ast
import base64
import json
import zlib
from pathlib import Path

import fedn_partial
from fedn_partial import exchange
from fedn_partial.custom import names
from fedn_partial.custom.errors import UserCodeError
from fedn_partial.seed_model import custom_source
from fedn_partial.settings.case import Case, session_part
from fedn_partial.submodel import selection
from fedn_partial.submodel.layers import Layer, fingerprint
from fedn_partial.submodel.update_tensors import update_tensors

MAX_SOURCES = 17_500  # bytes, deflated; with the template and the settings of 14 layers they make 20 kB
# The modules are executed one after the other; each finds those that it imports among sys.modules. Names at the top of
# the text are not globals of its functions, as FEDn executes it with a namespace of its own. FEDn looks for functions
# with the names of its own anywhere in the text.
TEMPLATE = """# fedn-partial {version}: {names} of the folder exchange, JSON, zlib, base85
import base64, json, sys, types, zlib
package = {package!r}
sys.modules[package] = types.ModuleType(package)
for name, source in json.loads(zlib.decompress(base64.b85decode({sources!r}))).items():
    module = sys.modules[f'{{package}}.{{name}}'] = types.ModuleType(f'{{package}}.{{name}}')
    module.__package__ = package
    exec(compile(source, f'exchange/{{name}}.py', 'exec'), module.__dict__)
class ServerFunctions(module.ServerFunctions):
    settings = {settings!r}
    def client_selection(self, client_ids):
        return super().client_selection(client_ids)
    def client_settings(self, global_model):
        return super().client_settings(global_model)
    def incremental_aggregate(self, client_id, model, client_metadata, previous_global):
        super().incremental_aggregate(client_id, model, client_metadata, previous_global)
"""


def session_settings(case: Case, layers: list[Layer], session_id: str, seed_model: str) -> dict:
    """Return the ``settings`` of the server functions for a session.

    Parameters
    ----------
    layers : layers of the global model.
    session_id : unique to the session, of letters and digits; its state is kept under it.
    seed_model : digest of the global model that it starts from, see ``fedn_partial.exchange.wire.digest``.
    """
    selector = selection.from_dict(case.selection)
    tensors = update_tensors(layers, case.batchnorm_statistics)
    place = {tensor.name: tensor.index for layer in layers for tensor in layer.tensors}
    return {
        "client": {
            **session_part(case),
            "session_id": session_id,
            "selection": selection.to_dict(selector),
        },
        "seed_model": seed_model,
        "warmup_rounds": selector.warmup_rounds,
        "signal": selector.signal,
        "fingerprint": fingerprint(layers),
        "parameters": {layer.name: layer.parameters for layer in layers},
        "indices": {name: [tensor.index for tensor in sent] for name, sent in tensors.items()},
        "variances": {
            index: place[name.replace("moving_variance", "moving_mean")]
            for name, index in place.items()
            if name.endswith("/moving_variance")
        },
    }


def read_settings(text: str) -> dict:
    """Return the settings in the source of server functions that ``source`` made.

    Raises
    ------
    ValueError : it is of another make.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "settings":
            return ast.literal_eval(node.value)
    raise ValueError("these server functions have no settings")


def source(settings: dict) -> str:
    """Return the text of a class ``ServerFunctions`` with `settings`, ready for FEDn.

    Raises
    ------
    UserCodeError : a custom merge rule or codec cannot run there, or makes the text too large.
    """
    custom = [name for name in (settings["client"]["merge"], settings["client"]["codec"]) if names.is_custom(name)]
    sources = {}
    for name in custom:
        for needed in ("merge_rules", "codecs"):
            _add_module(needed, sources)
        module = name.partition(":")[0]
        sources[f"custom.{module}"] = custom_source.read(module)
    _add_module("server", sources)
    coded = base64.b85encode(zlib.compress(json.dumps(sources).encode(), 9)).decode()
    if custom and len(coded) > MAX_SOURCES:
        raise UserCodeError(
            f"The server functions with {' and '.join(custom)} take {len(coded):,} bytes, {MAX_SOURCES:,} at most, as "
            "every client downloads them in every round. Make these modules shorter"
        )
    return TEMPLATE.format(
        version=fedn_partial.__version__,
        names=", ".join(sources),
        sources=coded,
        settings=settings,
        package=custom_source.BUNDLE,
    )


def load(text: str) -> type:
    """Return the class ``ServerFunctions`` of a text, executed as FEDn's hooks process does."""
    namespace = {}
    exec(compile(text, "<server functions>", "exec"), {}, namespace)
    return namespace["ServerFunctions"]


def _add_module(name: str, sources: dict[str, str]) -> None:
    """Add the source of a module of ``exchange`` to `sources`, after those of the modules that it imports."""
    text = (Path(exchange.__file__).parent / f"{name}.py").read_text()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module not in sources:
            _add_module(node.module, sources)
    sources[name] = text
