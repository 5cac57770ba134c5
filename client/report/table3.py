"""Compare the bytes of updates with the paper's Table 3, which is of VGG16; ours may have any width."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from fedn_partial.client.experiments.paper import figures
from fedn_partial.client.profiling.flavours import MIB
from fedn_partial.client.records.load import Profile, Run
from fedn_partial.client.report.paper import LAYERS, vgg16_width
from fedn_partial.client.report.tables import client_rows, known, listing
from fedn_partial.client.report.wording import listed
from fedn_partial.exchange.codecs import DEFAULT


@dataclass(frozen=True)
class Sent:
    """A line of Table 3, by number of layers.

    Attributes
    ----------
    weights : millions trained, mib : MiB sent in a round, both of as many clients as the paper's. share : of a full
        float32 update. width, codec : of the model and its updates, None for the paper's line.
    """

    label: str
    weights: dict[int, float | None]
    mib: dict[int, float | None]
    share: dict[int, float | None]
    width: float | None = None
    codec: str | None = None


def table3(runs: list[Run], profiles: list[Profile]) -> list[Sent]:
    """Return the paper's line and one for each run and profile of VGG16 that is comparable; nothing if none is.

    Ours is the mean update of a client that trained so many layers, times the paper's 10 clients, for any number of
    clients: the size of a client's update does not depend on the others.
    """
    paper = figures()["table3"]
    sources = [(run, [run]) for run in runs]
    sources += [(profile, [cell.run for cell in profile.cells if cell.run]) for profile in profiles]
    lines = [_sent(item, parts, paper["clients"]) for item, parts in sources if vgg16_width(item) is not None]
    lines = [line for line in lines if any(value is not None for value in line.mib.values())]
    if not lines:
        return []
    mib = {layers: paper["layers"][layers]["sent_mib"] for layers in LAYERS}
    printed = Sent(
        label="paper",
        weights={layers: paper["layers"][layers]["parameters_million"] for layers in LAYERS},
        mib=mib,
        share={layers: mib[layers] / mib[14] for layers in LAYERS},
    )
    return [printed, *lines]


def _sent(item: Run | Profile, runs: list[Run], clients: int) -> Sent:
    rows = client_rows(runs)
    sent = rows[rows["upload_bytes"].notna()].groupby("layer_count")
    means = sent[["trained_params", "upload_bytes", "full_upload_bytes"]].mean().reindex(LAYERS)
    codec = item.setting("codec")
    return Sent(
        label=item.label,
        weights=_by_layers(clients * means["trained_params"] / 1e6),
        mib=_by_layers(clients * means["upload_bytes"] / MIB),
        share=_by_layers(means["upload_bytes"] / means["full_upload_bytes"]),
        width=vgg16_width(item),
        codec=codec if isinstance(codec, str) else None,
    )


def _by_layers(column: pd.Series) -> dict[int, float | None]:
    return {layers: known(value) for layers, value in column.items()}


def table3_csv(lines: list[Sent]) -> pd.DataFrame:
    """Return Table 3 as a frame with one row for each line and number of layers."""
    columns = ("source", "layers", "weights_million", "sent_mib", "share_of_full")
    rows = [(line.label, n, line.weights[n], line.mib[n], line.share[n]) for line in lines for n in LAYERS]
    return listing(rows, columns)


def table3_remarks(lines: list[Sent]) -> list[str]:
    """Return what differs between the paper's Table 3 and ours."""
    ours = lines[1:]  # the first is the paper's
    remarks = [
        "Ours is the mean update that a client sent, times 10, measured as it was sent: the trained weights, "
        "BatchNormalization's statistics, the output layer and the message around them. The paper's is calculated: "
        "the weights of the selected convolutions; its clients sent whole models. Its MB are MiB."
    ]
    widths = sorted({line.width for line in ours if line.width != 1.0})
    if widths:
        text = listed([f"{width:g}" for width in widths])
        remarks.append(
            f"A model of {text} of the paper's width has fewer weights in every layer: compare the shares, not the MiB."
        )
    codecs = sorted({line.codec for line in ours if line.codec not in (None, DEFAULT)})
    if codecs:
        remarks.append(f"The paper counts 4 bytes per weight; updates with codec {listed(codecs)} have another number.")
    return [" ".join(remarks)]
