"""The server functions as text, and their settings.

FEDn executes the text in its hooks process, where this package is not installed, and instantiates its class
``ServerFunctions``. The text contains the settings, and deflated ``exchange/server.py``, the modules that it imports,
those of the codecs, those of the merge rule and server optimizer in the settings, and the custom modules named there.
Every client downloads it in every round.
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
from fedn_partial.exchange.codecs import CODECS
from fedn_partial.exchange.merge_rules import RULES
from fedn_partial.exchange.server_optimizers import OPTIMIZERS
from fedn_partial.seed_model import custom_source
from fedn_partial.settings.case import MAX_EXAMPLES, Case, session_part
from fedn_partial.submodel import selection
from fedn_partial.submodel.layers import Layer, fingerprint
from fedn_partial.submodel.update_tensors import update_tensors

MAX_SOURCES = 17_500  # bytes, deflated; 20 kB with the template and the settings of 14 layers
# The modules are executed in the order of their imports and registered in sys.modules. Top-level names of the text are
# not globals of its functions, as FEDn executes it with separate namespaces. FEDn detects overridden functions by
# searching the text for their names.
TEMPLATE = """# fedn-partial {version}: {names} of the folder exchange, JSON, zlib, base85
import base64, json, sys, types, zlib
package = {package!r}
sys.modules[package] = types.ModuleType(package)
for name, source in json.loads(zlib.decompress(base64.b85decode({sources!r}))).items():
    path = f'{{package}}.{{name}}'
    module = sys.modules[path] = types.ModuleType(path)
    module.__package__ = path if name in {folders!r} else path.rpartition('.')[0]
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
    session_id : unique id of letters and digits; names the session's state file.
    seed_model : digest of the seed model, see ``fedn_partial.exchange.wire.digest``.
    """
    selector = selection.from_dict(case.selection)
    tensors = update_tensors(layers, case.batchnorm_statistics)
    positions = {tensor.name: tensor.index for layer in layers for tensor in layer.tensors}
    return {
        "client": {
            **session_part(case),
            "session_id": session_id,
            "selection": selection.to_dict(selector),
        },
        "seed_model": seed_model,
        "max_examples": case.max_examples or MAX_EXAMPLES,
        "warmup_rounds": selector.warmup_rounds,
        "signal": selector.signal,
        "fingerprint": fingerprint(layers),
        "parameters": {layer.name: layer.parameters for layer in layers},
        "indices": {name: [tensor.index for tensor in sent] for name, sent in tensors.items()},
        "variances": {
            index: positions[name.replace("moving_variance", "moving_mean")]
            for name, index in positions.items()
            if name.endswith("/moving_variance")
        },
    }


def read_settings(text: str) -> dict:
    """Return the settings in a text from ``source``.

    Raises
    ------
    ValueError : the text has no settings.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "settings":
            return ast.literal_eval(node.value)
    raise ValueError("these server functions have no settings")


def source(settings: dict) -> str:
    """Return the text of the class ``ServerFunctions`` with `settings`, for FEDn.

    Raises
    ------
    UserCodeError : a custom merge rule or codec has unsupported imports, or the text is too large.
    """
    custom = [name for name in (settings["client"]["merge"], settings["client"]["codec"]) if names.is_custom(name)]
    sources = {}
    for name in custom:
        module = name.partition(":")[0]
        text = custom_source.read(module)
        for imported in custom_source.bundle_imports(text):
            _add_module(imported, sources)
        sources[f"custom.{module}"] = text
    _add_module(f"server_optimizers.{OPTIMIZERS.module(settings['client']['server_optimizer']['name'])}", sources)
    if settings["client"]["merge"] not in custom:
        _add_module(f"merge_rules.{RULES.module(settings['client']['merge'])}", sources)
    for name in CODECS:
        _add_module(f"codecs.{CODECS.module(name)}", sources)
    _add_module("server", sources)
    coded = base64.b85encode(zlib.compress(json.dumps(sources).encode(), 9)).decode()
    if custom and len(coded) > MAX_SOURCES:
        raise UserCodeError(
            f"the server functions with {' and '.join(custom)} take {len(coded):,} bytes, {MAX_SOURCES:,} at most, as "
            "every client downloads them in every round; shorten these modules"
        )
    return TEMPLATE.format(
        version=fedn_partial.__version__,
        names=", ".join(sources),
        sources=coded,
        folders=[name for name in sources if _path(name).is_dir()],
        settings=settings,
        package=custom_source.BUNDLE,
    )


def load(text: str) -> type:
    """Return the class ``ServerFunctions`` of a text, executed as in FEDn's hooks process."""
    namespace = {}
    exec(compile(text, "<server functions>", "exec"), {}, namespace)
    return namespace["ServerFunctions"]


def _add_module(name: str, sources: dict[str, str]) -> None:
    """Add the source of a module of ``exchange`` to `sources`, preceded by the modules that it imports."""
    path = _path(name)
    text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    parents = [*name.split("."), ""] if path.is_dir() else name.split(".")
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            module = ".".join([*parents[: len(parents) - node.level], node.module])
            if module not in sources:
                _add_module(module, sources)
    sources[name] = _without_docstrings(text)


def _without_docstrings(text: str) -> str:
    """Return the source `text` with empty docstrings, two thirds of its size; lines keep their numbers."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines[docstring.lineno - 1] = " " * docstring.col_offset + '""'
            lines[docstring.lineno : docstring.end_lineno] = [""] * (docstring.end_lineno - docstring.lineno)
    return "\n".join(lines)


def _path(name: str) -> Path:
    """Return the folder of a package of ``exchange``, or the path of a module without its suffix."""
    return Path(exchange.__file__).parent.joinpath(*name.split("."))
