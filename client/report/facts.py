"""Describe the settings, data and machine of a run or profile as text."""

from __future__ import annotations

from fedn_partial.client.records.load import Profile, Run
from fedn_partial.client.report.summary import Summary
from fedn_partial.client.report.wording import NOT_KNOWN, listed, plural
from fedn_partial.submodel.selection import EARLIER_NAMES

MERGE_RULES = {
    "all_clients": "all_clients: mean change over all clients, 0 for clients that did not train the layer",
    "contributors": "contributors: mean change over the clients that trained the layer",
    "shrunk": "shrunk: mean change over the clients that trained the layer, damped if they are few",
    "inverse_probability": "inverse_probability: weighted by the inverse of the probability that a client trains it",
    "clipped": "clipped: all_clients, with changes that are much larger than usual scaled down",
    "trimmed_mean": "trimmed_mean: the mean without the largest and smallest values of each entry",
    "median": "median: the median of each entry",
}
BATCHNORM_STATISTICS = {
    "with_layer": "with their layer",
    "always": "always, of all layers",
    "local": "never, kept by each client",
}
SELECTORS = {
    "random": "{layers} per client and round, drawn at random",
    "uniform": "{layers} per client and round, drawn at random",
    "stratified": "{layers} per client and round, each layer by equally many clients",
    "cyclic": "groups of {layers} neighbouring layers in turn, the same for all clients",
    "top": "always the last {layers}",
    "scored": "{layers} per client and round, drawn by the size of their last change",
    "all": "all (full training)",
    "fixed": "always the same: {names}",
    "budget": "as many as fit each device, drawn at random",
}


def subtitle(item: Run | Profile, run: Summary | None = None) -> str:
    """Return model, data, clients, machine and date in one line."""
    content = _content(item)
    model, data = item.setting("model", "name"), (_data(item) or {}).get("name")
    parts = [f"{model or NOT_KNOWN}{f' on {data}' if data else ''}"]
    if run:
        kind = "simulated client" if content.get("simulated") else "client"
        parts.append(f"{plural(run.clients, kind)}, {plural(run.rounds, 'round')}")
    parts.append(machine(content.get("machine")))
    return f"{'; '.join(parts)}; {str(content.get('started', ''))[:10]}".rstrip("; ")


def facts(item: Run | Profile, run: Summary | None = None) -> dict[str, str]:
    """Return {name: text} of the settings; `run` is the summary of a run, None for a profile."""
    content, data = _content(item), _data(item)
    training = item.setting("training") if isinstance(item.setting("training"), dict) else {}
    objective = item.setting("objective")
    return {
        "Model": _model(item, run),
        **(_run_facts(item, run) if run else _profile_facts(item)),
        **({"Data": f"{data.get('name')}, {_partition(data)}"} if data else {}),
        "Local training": ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in training.items() if value),
        **({"Objective": f"loss and {_named(objective)}"} if isinstance(objective, dict) else {}),
        "Merging": MERGE_RULES.get(str(item.setting("merge")), str(item.setting("merge") or NOT_KNOWN)),
        **_server_optimizer(item),
        "BatchNorm statistics sent": BATCHNORM_STATISTICS.get(str(item.setting("batchnorm_statistics")), NOT_KNOWN),
        "Numbers in updates": str(item.setting("codec") or NOT_KNOWN),
        "Numbers in the model": str(item.setting("model_dtype") or NOT_KNOWN),
        "Machine" if data or run is None else "Operator's machine": machine(content.get("machine")),
        "Kind of clients": "simulated, without FEDn" if content.get("simulated") else "real, over FEDn",
        "Software": ", ".join(f"{name} {version}" for name, version in (content.get("versions") or {}).items()),
        "Started": str(content.get("started", NOT_KNOWN)),
        "Seed": str(content.get("seed", NOT_KNOWN)),
        "Folder": item.path.resolve().name,
    }


def _server_optimizer(item: Run | Profile) -> dict[str, str]:
    """Return the server optimizer of a run, if it has one."""
    settings = item.setting("server_optimizer")
    if not isinstance(settings, dict) or settings.get("name") in (None, "none"):
        return {}
    return {"Server optimizer": _named(settings)}


def _named(section: dict) -> str:
    """Return the name of a section of the settings, and its other keys."""
    options = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in section.items() if key != "name")
    return f"{section.get('name')} ({options})" if options else str(section.get("name"))


def _content(item: Run | Profile) -> dict:
    return item.session if isinstance(item, Run) else item.content


def _data(item: Run | Profile) -> dict | None:
    """Return the data settings of a run, with the keys of a case's section `data`.

    None if they are known to the devices only, and for a profile, whose client does not use the data of the case.
    """
    return item.data if isinstance(item, Run) else None


def _model(item: Run | Profile, run: Summary | None) -> str:
    model = item.setting("model") if isinstance(item.setting("model"), dict) else {}
    parts = [str(model.get("name", NOT_KNOWN))]
    parts += [f"{key} {value}" for key, value in sorted(model.items()) if key != "name"]
    if run:
        parts += [plural(run.layers, "layer")] if run.layers else []
        weights = next((row.total_params for row in item.rows if row.total_params), None)
        parts += [f"{weights:,.0f} weights"] if weights else []
    return ", ".join(parts)


def _run_facts(run: Run, summary: Summary) -> dict[str, str]:
    return {
        "Layers trained": selection(run),
        "Clients": f"{summary.clients:,}",
        "Rounds": _rounds(run, summary),
        "Examples": _examples(run),
        "Data": "local data of the devices",
    }


def _profile_facts(profile: Profile) -> dict[str, str]:
    numbers = listed(list(dict.fromkeys(str(cell.layers) for cell in profile.cells)))
    return {
        "Layers trained": selection(profile, numbers),
        "Rounds": f"{profile.content.get('rounds', NOT_KNOWN)} in each combination",
        "Examples": f"{profile.content.get('examples', NOT_KNOWN)}, the same for all",
        **({"Data": str(profile.content["data"])} if profile.content.get("data") else {}),
    }


def _rounds(run: Run, summary: Summary) -> str:
    planned = run.setting("session", "rounds")
    text = f"{summary.rounds}"
    if isinstance(planned, int) and planned != summary.rounds:
        text = f"answers in {summary.rounds} of {planned}"
    return f"{text}, {summary.failed_rounds} failed" if summary.failed_rounds else text


def _examples(run: Run) -> str:
    trained = {row.client: row.num_examples for row in run.rows if row.num_examples}
    tested = {row.client: row.test_examples for row in run.rows if row.test_examples}
    return f"{sum(trained.values()):,.0f} for training, {sum(tested.values()):,.0f} for tests, of all clients"


def _partition(data: dict) -> str:
    clients = data.get("clients")
    to = plural(clients, "client") if isinstance(clients, int) else f"{NOT_KNOWN} clients"
    return f"partitioned across {to} ({data.get('partition') or 'iid'})"


def machine(raw) -> str:
    """Return the entry "machine" of session.json or profile.json as text."""
    if isinstance(raw, dict):
        raw = raw.get("text")
    return str(raw or NOT_KNOWN)


def selection(item: Run | Profile, numbers: str | None = None) -> str:
    """Return the selection of layers as text; `numbers` are the numbers of layers of a profile."""
    settings = item.setting("selection") if isinstance(item.setting("selection"), dict) else {}
    name, layers = settings.get("selector"), settings.get("layers") if numbers is None else f"{numbers} in turn,"
    unknown = f"by selector {name}" if name else NOT_KNOWN
    template = SELECTORS.get(EARLIER_NAMES.get(name, str(name)))
    text = template.format(layers=layers, names=_names(settings.get("names"))) if template else unknown
    if settings.get("always_train"):
        text += f"; always {_names(settings['always_train'])}"
    if settings.get("warmup_rounds"):
        text += f"; all of them in the first {settings['warmup_rounds']} rounds (warm-up)"
    return text


def _names(value) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
