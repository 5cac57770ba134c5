"""Updates that the server functions must skip, in FEDn's own hooks service; see hooks_harness."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from server_functions.hooks_harness import Upload, npz
from server_functions.server_oracles import assert_close, assert_same_bits, log_lines, merged_by_hand
from server_functions.server_worlds import PROVIDED, SELECTIONS, client, read_upload, with_metadata
from updates import checksum

from fedn_partial.runtime import refusal


def with_arrays(make):
    """Return a change of an upload's arrays; the checksum is made to fit, so that it is not the reason."""

    def change(upload: Upload) -> Upload:
        arrays = make(*arrays_of(upload))
        return Upload(upload.client_id, npz(arrays), {**upload.metadata, "checksum": checksum(arrays)})

    return change


def arrays_of(upload: Upload) -> list[np.ndarray]:
    """Return the float32 values of vectors, and the bytes of kernels."""
    with np.load(BytesIO(upload.data)) as archive:
        return [archive["0"], archive["1"]]


def with_value(value):
    def make(vectors, kernels):
        vectors[3] = value
        return [vectors, kernels]

    return with_arrays(make)


def with_weight(value):
    """Return a change of one weight of the last kernel."""

    def make(vectors, kernels):
        kernels[-4:] = np.float32([value]).view(np.uint8)
        return [vectors, kernels]

    return with_arrays(make)


def without_metadata(upload: Upload) -> Upload:
    return Upload(upload.client_id, upload.data, {})


def flip_one_bit(upload: Upload) -> Upload:
    vectors, kernels = arrays_of(upload)
    vectors.view(np.uint32)[3] ^= 1
    return Upload(upload.client_id, npz([vectors, kernels]), upload.metadata)


def flip_one_bit_of_a_kernel(upload: Upload) -> Upload:
    vectors, kernels = arrays_of(upload)
    kernels[-1] ^= 1
    return Upload(upload.client_id, npz([vectors, kernels]), upload.metadata)


# What is changed in a good update of client b, and what its log line must say.
BAD = {
    "one value less": (with_arrays(lambda a, b: [a[:-1], b]), "has 18 float32 values, expected 19 or more for dense"),
    "one value more": (
        with_arrays(lambda a, b: [np.append(a, a[:1]), b]),
        "has 20 float32 values and 244 bytes of kernels, expected 19 and 244 for its layers conv0, dense",
    ),
    "one byte less": (with_arrays(lambda a, b: [a, b[:-1]]), "kernel of shape (8, 4) in dense: truncated"),
    "one byte more": (
        with_arrays(lambda a, b: [a, np.append(b, b[:1])]),
        "245 bytes of kernels, expected 19 and 244 for its layers conv0, dense",
    ),
    "no kernels": (with_arrays(lambda a, b: [a, b[:0]]), "kernel of shape (3, 3, 1, 3) in conv0: truncated"),
    "no length": (with_arrays(lambda a, b: [a, b[4:]]), "kernel of shape (3, 3, 1, 3) in conv0: truncated"),
    "other layers' size": (
        with_metadata(layers=["conv1"]),
        "kernel of shape (3, 3, 3, 2) in conv1: 108 bytes, expected 216",
    ),
    "float64": (with_arrays(lambda a, b: [a.astype(np.float64), b]), "'<f8'"),
    "float16": (with_arrays(lambda a, b: [a.astype(np.float16), b]), "'<f2'"),
    "big-endian": (with_arrays(lambda a, b: [a.astype(">f4"), b]), "'>f4'"),
    "integers of the same size": (with_arrays(lambda a, b: [a.view(np.int32), b]), "'<i4'"),
    "signed bytes": (with_arrays(lambda a, b: [a, b.view(np.int8)]), "'|i1'"),
    "text": (with_arrays(lambda a, b: [a.astype("U")[:5].view(np.uint32).view("U1"), b]), "'<U1'"),
    "one array": (with_arrays(lambda a, b: [a]), "expected ['<f4', '|u1'] with one dimension each"),
    "three arrays": (with_arrays(lambda a, b: [a, b, b]), "expected ['<f4', '|u1'] with one dimension each"),
    "two dimensions": (with_arrays(lambda a, b: [a[None], b]), "expected ['<f4', '|u1'] with one dimension each"),
    "no dimension": (with_arrays(lambda a, b: [a.sum(), b]), "expected ['<f4', '|u1'] with one dimension each"),
    "no array": (with_arrays(lambda a, b: []), "expected ['<f4', '|u1'] with one dimension each"),
    "empty array": (with_arrays(lambda a, b: [a[:0], b]), "has 0 float32 values, expected 3 or more for conv0"),
    "NaN": (with_value(np.nan), "has values in conv0 that are not finite"),
    "infinity": (with_value(np.inf), "has values in conv0 that are not finite"),
    "minus infinity": (with_value(-np.inf), "has values in conv0 that are not finite"),
    "NaN in a kernel": (with_weight(np.nan), "has values in dense that are not finite"),
    "infinity in a kernel": (with_weight(-np.inf), "has values in dense that are not finite"),
    "wrong base": (with_metadata(base="0" * 32), "is based on model"),
    "other session": (with_metadata(session="other"), "belongs to another session, 'other'"),
    "another round to come": (with_metadata(round=7), "is late: trained in round 7"),
    "no base": (with_metadata(base=None), "is based on model"),
    "wrong fingerprint": (with_metadata(model="0" * 16), "is for model"),
    "no fingerprint": (with_metadata(model=None), "is for model"),
    "wrong codec": (with_metadata(codec="float16"), "codec 'float16'"),
    "no codec": (with_metadata(codec=None), "codec None"),
    "wrong format": (with_metadata(format=2), "format 2"),
    "no format": (with_metadata(format=None), "format None"),
    "unknown layer": (with_metadata(layers=["conv0", "conv9"]), "'conv9'"),
    "layers out of order": (with_metadata(layers=["dense", "conv0"]), "in model order"),
    "a layer twice": (with_metadata(layers=["conv0", "conv0", "dense"]), "in model order"),
    "layers are text": (with_metadata(layers="conv0"), "has layers 'conv0'"),
    "layers are lists": (with_metadata(layers=[["conv0"], {}]), "has layers"),
    "no layer": (with_metadata(layers=[]), "has layers []"),
    "layers missing": (with_metadata(layers=None), "has layers None"),
    "one bit flipped": (flip_one_bit, "checksum"),
    "one bit of a kernel flipped": (flip_one_bit_of_a_kernel, "checksum"),
    "no checksum": (with_metadata(checksum=None), "checksum"),
    "refused": (with_metadata(refused="the memory is full"), "the client refused: the memory is full"),
    "no num_examples": (with_metadata(num_examples=None), "num_examples None"),
    **{
        f"num_examples {given!r}": (with_metadata(num_examples=given), f"num_examples {given!r}")
        for given in (120, 1.5, True, ["7"], "", "0", "-5", "+5", " 7", "1.5", "1e9", "99999999999", "abc", "²", "inf")
    },
    "num_examples too long for int()": (with_metadata(num_examples="9" * 5000), ""),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_update_is_skipped_and_named(kind, normalised, start, send, caplog):
    spoil, reason = BAD[kind]
    clients = [client(normalised, "a", ["conv0", "conv1"], 30), client(normalised, "c", ["dense"], 120)]
    good = send(normalised, *clients)
    (bad,) = send(normalised, client(normalised, "b", ["conv0", "dense"], 70))
    combiner = start(normalised, key="with it")
    result = combiner.round(normalised.model, [good[0], spoil(bad), good[1]])
    without = start(normalised, key="without it").round(normalised.model, good)
    assert_same_bits(result.model, without.model)
    assert_close(result.model, merged_by_hand(normalised, clients, "all_clients"))
    (line,) = log_lines(caplog, "skipped the update of b: ")
    assert reason in line
    assert combiner.provided_functions() == PROVIDED
    # The same client is welcome in the next round.
    (again,) = send(normalised, client(normalised, "b", ["conv0", "dense"], 70), base=result.model)
    following = combiner.round(result.model, [again])
    assert list(following.settings["previous"]["skipped"]) == ["id-b"]
    b = client(normalised, "b", ["conv0", "dense"], 70)
    assert_close(following.model, merged_by_hand(normalised, [b], "all_clients", model=result.model))


def test_an_update_with_empty_metadata_is_skipped_under_its_fedn_id(normalised, start, send, caplog):
    good, bad = send(normalised, client(normalised, "a"), client(normalised, "b"))
    result = start(normalised).round(normalised.model, [without_metadata(bad), good])
    assert_close(result.model, merged_by_hand(normalised, [client(normalised, "a")], "all_clients"))
    assert len(log_lines(caplog, "skipped the update of id-b: ")) == 1


def test_a_device_that_cannot_train_is_skipped_with_its_reason(normalised, start, send, tmp_path, caplog):
    path = str(tmp_path / "refusal")
    refusal.write_refusal(path, "the memory ran out")
    good = send(normalised, client(normalised, "a"))
    result = start(normalised).round(normalised.model, [read_upload("id-b", path), *good])
    assert_close(result.model, merged_by_hand(normalised, [client(normalised, "a")], "all_clients"))
    (line,) = log_lines(caplog, "skipped the update of id-b: ")
    assert line.endswith("the memory ran out")


def test_the_second_update_of_a_client_is_skipped(normalised, start, send, caplog):
    clients = [client(normalised, "a", examples=10), client(normalised, "b", examples=40)]
    (second,) = send(normalised, client(normalised, "a", ["dense"], 99, seed=5))
    result = start(normalised).round(normalised.model, [*send(normalised, *clients), second])
    assert_close(result.model, merged_by_hand(normalised, clients, "all_clients"))
    (line,) = log_lines(caplog, "skipped the update of a: ")
    assert "duplicate update" in line


def test_a_late_update_of_the_last_round_does_not_cost_the_one_of_this_round(normalised, start, send, caplog):
    combiner = start(normalised)
    a, b = client(normalised, "a"), client(normalised, "b")
    model = combiner.round(normalised.model, send(normalised, a)).model
    late = with_metadata(session="session", round=1)(*send(normalised, b))
    (timely,) = send(normalised, b, base=model)
    result = combiner.round(model, [late, timely])
    assert_close(result.model, merged_by_hand(normalised, [b], "all_clients", model=model))
    (line,) = log_lines(caplog, "skipped the update of b: ")
    assert "is late: trained in round 1" in line
    previous = combiner.round(result.model, []).settings["previous"]
    assert (previous["merged"], previous["skipped"], previous["late"]) == (["id-b"], {}, {"id-b": 1})


def test_a_round_of_bad_updates_leaves_everything_as_it_is(normalised, start, send, caplog):
    combiner = start(normalised)
    names = [f"device-{index}" for index in range(len(BAD))]
    uploads = send(normalised, *(client(normalised, name, ["conv0", "dense"]) for name in names))
    spoilt = [spoil(upload) for upload, (spoil, _) in zip(uploads, BAD.values(), strict=True)]
    result = combiner.round(normalised.model, spoilt)
    assert_same_bits(result.model, normalised.model)
    assert len(log_lines(caplog, "skipped the update of device-")) == len(BAD)
    assert combiner.provided_functions() == PROVIDED
    clients = [client(normalised, *one) for one in SELECTIONS["overlapping"]]
    following = combiner.round(result.model, send(normalised, *clients))
    assert sorted(following.settings["previous"]["skipped"]) == sorted(f"id-{name}" for name in names)
    assert following.settings["previous"]["merged"] == []
    assert_close(following.model, merged_by_hand(normalised, clients, "all_clients"))


@pytest.mark.parametrize("rule", ["all_clients", "contributors", "clipped", "median"])
def test_an_update_with_more_examples_than_any_client_has_is_skipped(rule, normalised, start, send, caplog):
    good, liar = client(normalised, "a", examples=80), client(normalised, "b", examples=81)
    result = start(normalised, merge=rule, max_examples=80).round(normalised.model, send(normalised, good, liar))
    alone = start(normalised, key="alone", merge=rule).round(normalised.model, send(normalised, good))
    assert_same_bits(result.model, alone.model)
    (line,) = log_lines(caplog, "skipped the update of b: ")
    assert "has num_examples '81', expected a string with a number from 1 to max_examples, 80" in line
