"""Custom codecs and merge rules: in FEDn's hooks process, on a device, and tried before a session starts."""

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from residual_files import Residual
from server_functions.hooks_harness import Combiner, Upload
from sources import line_of, printed_by_server_functions

from fedn_partial.custom import modules
from fedn_partial.custom.errors import UserCodeError
from fedn_partial.device import costs
from fedn_partial.exchange import encoding, wire
from fedn_partial.seed_model import server_functions
from fedn_partial.seed_model.case_checks import check_case
from fedn_partial.settings.case import Case, load_case
from fedn_partial.settings.schema import SettingsError
from fedn_partial.submodel.layers import fingerprint, read_layers, tensor_list

EXAMPLES = ROOT / "docs" / "examples"
CODEC, RULE = "my_codecs:TopK", "my_rules:SquareRoot"
EXAMPLE_COUNTS = {"a": 4, "b": 100}
SENT = {"a": ["conv", "dense"], "b": ["dense"]}


@pytest.fixture
def examples():
    modules.use(EXAMPLES)
    yield
    modules.use(None)


@pytest.fixture(scope="module")
def layers():
    import keras
    from keras.layers import Conv2D, Dense, Flatten

    return read_layers(
        keras.Sequential([keras.Input((5, 5, 1)), Conv2D(2, 3, name="conv"), Flatten(), Dense(3, name="dense")])
    )


def weights(layers, seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=tensor.shape).astype(np.float32) for tensor in tensor_list(layers)]


def case_of(codec="float32", merge="all_clients") -> Case:
    return Case(name="x", model={"name": "vgg16"}, selection={"selector": "all"}, codec=codec, merge=merge)


def source(layers, **changes) -> str:
    settings = server_functions.session_settings(case_of(**changes), layers, "session", wire.digest(weights(layers, 0)))
    return server_functions.source(settings)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a session: a function that returns FEDn's combiner."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("FEDN_MODEL_DIR", str(tmp_path / "models"))
    return lambda text: Combiner(text)


def upload(layers, folder: Path, client: str, codec: str) -> Upload:
    """Return the update of `client`, which trained the layers of `SENT`, as its device writes it."""
    path = str(folder / client)
    tensors = [tensor for layer in layers if layer.name in SENT[client] for tensor in layer.tensors]
    checksum = encoding.encode(
        path,
        [weights(layers, ord(client))[tensor.index] for tensor in tensors],
        codec,
        base=[weights(layers, 0)[tensor.index] for tensor in tensors],
        residuals=[Residual(folder / f"{client}-{tensor.index}.npy") for tensor in tensors],
    )
    metadata = {
        "num_examples": EXAMPLE_COUNTS[client],
        "model": fingerprint(layers),
        "base": wire.digest(weights(layers, 0)),
        "session": "session",
        "round": 1,
        "client": client,
        "layers": SENT[client],
        "codec": codec,
        "checksum": checksum,
    }
    encoding.write_metadata(path, metadata)
    return Upload(f"id-{client}", Path(path).read_bytes(), json.loads(Path(path + "-metadata").read_text()))


def largest_tenth(change: np.ndarray) -> np.ndarray:
    """What codec TopK keeps of a kernel's change."""
    if change.ndim < 2:
        return change
    border = np.sort(np.abs(change), axis=None)[-math.ceil(change.size / 10)]
    return np.where(np.abs(change) >= border, change, 0)


def test_fedn_merges_with_a_custom_rule_and_codec(examples, layers, start, tmp_path):
    uploads = [upload(layers, tmp_path, client, CODEC) for client in SENT]
    before = weights(layers, 0)
    result = start(source(layers, codec=CODEC, merge=RULE)).round(before, uploads)
    for layer in layers:
        senders = [client for client in SENT if layer.name in SENT[client]]
        counts = [math.sqrt(EXAMPLE_COUNTS[client]) for client in senders]
        for tensor in layer.tensors:
            index = tensor.index
            changes = [largest_tenth(weights(layers, ord(client))[index] - before[index]) for client in senders]
            expected = before[index] + np.average(changes, 0, counts)
            np.testing.assert_allclose(result.model[index], expected, rtol=1e-5, atol=1e-6)
    assert result.settings["codec"] == CODEC and result.settings["probabilities"] is False


def test_the_text_needs_numpy_and_the_standard_library_only_and_is_small(examples, layers, tmp_path):
    text = source(layers, codec=CODEC, merge=RULE)
    assert len(text) < 20_000
    printed = printed_by_server_functions(text, tmp_path, "type(functions.rule).__name__")
    assert printed == "SquareRoot\n"


OWN_RULES = """
    import numpy as np
    from fedn_partial.exchange.merge_rules import BaseRule, Shrunk


    class Half(Shrunk):
        def step_size(self, weight, contributors, all_examples):
            return super().step_size(weight, contributors, all_examples) / 2


    class Last(BaseRule):
        def begin(self, round):
            super().begin(round)
            self.tensors = {}

        def add(self, update):
            self.tensors.update(update.tensors)

        def merge(self, name):
            return self.step_towards(name, self.tensors[name], 1.0)


    class Flat(Last):  # flat
        def merge(self, name):
            return [array.reshape(-1)[:1] for array in self.tensors[name]]
"""


def test_a_custom_rule_may_derive_from_every_class_of_the_library(custom, layers, start, tmp_path):
    custom(my_rules=OWN_RULES)
    case = case_of(merge="my_rules:Half")
    check_case(case)
    before, sent = weights(layers, 0), weights(layers, ord("b"))
    halved = start(source(layers, merge="my_rules:Half")).round(before, [upload(layers, tmp_path, "b", "float32")])
    (tmp_path / "fedn-partial-session.json").unlink()
    check_case(case_of(merge="my_rules:Last"))
    last = start(source(layers, merge="my_rules:Last")).round(
        before, [upload(layers, tmp_path, client, "float32") for client in SENT]
    )
    for tensor in next(layer for layer in layers if layer.name == "dense").tensors:
        index, share = tensor.index, 1 / (1 + case.shrinkage) / 2
        expected = before[index] + share * (sent[index] - before[index])
        np.testing.assert_allclose(halved.model[index], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(last.model[index], sent[index], rtol=1e-6)


def test_merged_arrays_of_wrong_shapes_are_seen_before_a_session_starts(custom):
    folder = custom(my_rules=OWN_RULES)
    with pytest.raises(UserCodeError) as raised:
        check_case(case_of(merge="my_rules:Flat"))
    line = f"{folder / 'my_rules.py'}, line {line_of(OWN_RULES, '# flat')}"
    assert str(raised.value) == f"{line}: merge returned arrays of other shapes than the layer's"


def test_without_custom_names_no_custom_module_travels(examples, layers):
    assert "custom." not in source(layers).partition("\n")[0]
    assert "custom.my_rules" in source(layers, merge=RULE).partition("\n")[0]


@pytest.mark.parametrize(
    "line",
    [
        "import keras",
        "from keras import layers",
        "import my_helpers",
        "from . import other",
        "import fedn_partial.exchange",
        "from fedn_partial.exchange.server import LOG",
    ],
)
def test_a_rule_that_imports_what_fedn_does_not_have_is_refused(line, custom, layers):
    rule = (
        "from fedn_partial.exchange.merge_rules import MergeRule\nclass Mine(MergeRule):\n    def late(self):\n        "
    )
    folder = custom(my_rules=f"{rule}{line}\n", my_helpers="")
    with pytest.raises(UserCodeError) as raised:
        source(layers, merge="my_rules:Mine")
    message = str(raised.value)
    assert message.startswith(f"{folder / 'my_rules.py'}, line 4: imports ")
    assert "only NumPy, the standard library and 'from fedn_partial.exchange.merge_rules import ...'" in message


def test_a_rule_that_makes_the_text_too_large_is_refused(custom, layers):
    random = np.random.default_rng(0).bytes(4_000).hex()
    rule = "from fedn_partial.exchange.merge_rules import MergeRule\nclass Mine(MergeRule):\n    pass\n"
    custom(my_rules=f"{rule}TABLE = {random!r}\n")
    with pytest.raises(UserCodeError, match=r"with my_rules:Mine take \d\d,\d{3} bytes, 17,500 at most"):
        source(layers, merge="my_rules:Mine")


def damaged(layers, folder, change) -> Upload:
    """Return an update of client a whose coded bytes are changed, with the checksum that belongs to them."""
    good = upload(layers, folder, "a", CODEC)
    with np.load(folder / "a") as archive:
        exact, coded = archive["0"], archive["1"].copy()
    coded = np.asarray(change(coded), np.uint8)
    np.savez(folder / "damaged.npz", **{"0": exact, "1": coded})
    checksum = wire.checksum(coded, wire.checksum(exact))
    return Upload(good.client_id, (folder / "damaged.npz").read_bytes(), {**good.metadata, "checksum": checksum})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda coded: coded[:-1], "in dense: truncated, ends at byte 72 of 71"),
        (lambda coded: coded[:3], "in conv: truncated"),
        (lambda coded: np.append(coded, 7), "73 bytes of kernels, expected 5 and 72 for its layers conv, dense"),
        (lambda coded: np.where(np.arange(coded.size) < 4, 255, coded), "in conv: truncated"),
        (
            lambda coded: np.where((np.arange(coded.size) >= 4) & (np.arange(coded.size) < 8), 255, coded),
            "in conv: IndexError: index 4294967295 is out of bounds",
        ),
    ],
)
def test_bytes_that_do_not_decode_are_skipped_with_the_reason(change, told, examples, layers, start, tmp_path, caplog):
    combiner = start(source(layers, codec=CODEC, merge=RULE))
    result = combiner.round(weights(layers, 0), [damaged(layers, tmp_path, change)])
    assert [array.tobytes() for array in result.model] == [array.tobytes() for array in weights(layers, 0)]
    (line,) = [record.getMessage() for record in caplog.records if "skipped the update of a" in record.getMessage()]
    assert told in line


BAD_RULES = """
    import numpy as np
    from fedn_partial.exchange.merge_rules import MergeRule


    class Later(MergeRule):
        def step_size(self, weight, contributors, all_examples):
            return float("nan") if all_examples == 104 else 1.0


    class Negative(MergeRule):
        def client_weights(self, names, examples, metadata, trainable):
            return {name: examples - 50 if name == "dense" else examples for name in names}


    class Signature(MergeRule):
        def step_size(self, weight):
            return 1.0


    class Constructor(MergeRule):
        def __init__(self):
            pass


    class Raises(MergeRule):
        def step_size(self, weight, contributors, all_examples):
            return 1 / 0


    class Wrong(MergeRule):
        def step_size(self, weight, contributors, all_examples):
            return np.nan


    class NoWeights(MergeRule):
        def client_weights(self, names, examples, metadata, trainable):
            return examples
"""


def test_a_step_that_is_no_number_fails_the_round_and_not_the_model(custom, layers, start, tmp_path, caplog):
    custom(my_rules=BAD_RULES)
    combiner = start(source(layers, merge="my_rules:Later"))
    uploads = [upload(layers, tmp_path, client, "float32") for client in SENT]
    assert combiner.round(weights(layers, 0), uploads).model is None
    assert "merge rule my_rules:Later returned step size nan for conv" in caplog.text
    uploads = [Upload(one.client_id, one.data, {**one.metadata, "round": 2}) for one in uploads[:1]]
    result = combiner.round(weights(layers, 0), uploads)
    assert all(np.isfinite(array).all() for array in result.model)
    (note,) = result.settings["previous"]["notes"]  # which the operator is shown
    assert note.startswith("after this round, merge rule my_rules:Later: RuntimeError: ")


def test_a_weight_that_is_no_number_above_0_skips_the_update(custom, layers, start, tmp_path, caplog):
    custom(my_rules=BAD_RULES)
    uploads = [upload(layers, tmp_path, client, "float32") for client in SENT]
    result = start(source(layers, merge="my_rules:Negative")).round(weights(layers, 0), uploads)
    assert (
        "skipped the update of a: has layer weights {'conv': 4, 'dense': -46}, expected numbers above 0" in caplog.text
    )
    dense = next(tensor.index for layer in layers if layer.name == "dense" for tensor in layer.tensors)
    np.testing.assert_allclose(result.model[dense], weights(layers, ord("b"))[dense], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        (
            "Signature",
            "def step_size(self, weight):",
            "TypeError: Signature.step_size() takes 2 positional arguments but 4 were given",
        ),
        (
            "Constructor",
            "class Constructor",
            "TypeError: Constructor.__init__() takes 1 positional argument but 2 were given",
        ),
        ("Raises", "return 1 / 0", "ZeroDivisionError: division by zero"),
        ("Wrong", "class Wrong", "step_size returned nan, expected a number of at least 0"),
        ("NoWeights", "class NoWeights", "client_weights returned 20, expected {layer: number above 0}"),
    ],
)
def test_a_merge_rule_is_tried_before_a_session_starts(name, line, told, custom):
    folder = custom(my_rules=BAD_RULES)
    with pytest.raises(UserCodeError) as raised:
        check_case(case_of(merge=f"my_rules:{name}"))
    assert str(raised.value) == f"{folder / 'my_rules.py'}, line {line_of(BAD_RULES, line)}: {told}"


BAD_CODECS = """
    from fedn_partial.exchange.codecs import Codec


    class Whole(Codec):
        def encode(self, change):
            return change.tobytes()

        def decode(self, data, shape):
            import numpy as np
            return np.frombuffer(data, "<f4").reshape(shape)


    class NotBytes(Whole):
        def encode(self, change):  # not bytes
            return list(change)


    class InPlace(Whole):
        def encode(self, change):
            change *= 2
            return change.tobytes()


    class Flat(Whole):
        def decode(self, data, shape):  # flat
            import numpy as np
            return np.frombuffer(data, "<f4")


    class Small(Whole):
        def max_bytes(self, shape):
            return 10


    class Signature(Whole):
        def decode(self, data):
            return data


    class Half:
        pass
"""


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        ("NotBytes", "# not bytes", "encode returned list, expected bytes"),
        ("InPlace", "change *= 2", "ValueError: output array is read-only"),
        ("Flat", "# flat", "ValueError: decode returned shape (72,), expected (3, 3, 2, 4)"),
        ("Small", "class Small", "encode returned 288 bytes for shape (3, 3, 2, 4), but max_bytes returned 10"),
        (
            "Signature",
            "def decode(self, data):",
            "TypeError: Signature.decode() takes 2 positional arguments but 3 were given",
        ),
    ],
)
def test_a_codec_is_tried_before_a_session_starts(name, line, told, custom):
    folder = custom(my_codecs=BAD_CODECS)
    with pytest.raises(UserCodeError) as raised:
        check_case(case_of(codec=f"my_codecs:{name}"))
    assert str(raised.value) == f"{folder / 'my_codecs.py'}, line {line_of(BAD_CODECS, line)}: {told}"


def test_a_lossless_codec_merges_as_float32_does(custom, layers, start, tmp_path):
    custom(my_codecs=BAD_CODECS)
    models = {}
    for number, codec in enumerate(("float32", "my_codecs:Whole")):
        folder = tmp_path / str(number)
        folder.mkdir()
        combiner = start(source(layers, codec=codec))
        models[codec] = combiner.round(weights(layers, 0), [upload(layers, folder, name, codec) for name in SENT]).model
        (tmp_path / "fedn-partial-session.json").unlink()
    for mine, plain in zip(models["my_codecs:Whole"], models["float32"], strict=True):
        np.testing.assert_allclose(mine, plain, rtol=1e-6, atol=1e-7)  # old + (new - old) is rounded


def test_what_is_left_out_is_sent_later(examples, tmp_path):
    """Error feedback: two encodings of no change at all, after one of a change, come to the change."""
    random = np.random.default_rng(3)
    change, base = random.normal(size=(4, 5)).astype(np.float32), np.zeros((4, 5), np.float32)
    residual, total = Residual(tmp_path / "residual.npy"), np.zeros((4, 5), np.float32)
    for number in range(10):  # two of 20 values at a time
        values = base + change if number == 0 else base
        encoding.encode(str(tmp_path / "u"), [values], CODEC, [base], [residual])
        with np.load(tmp_path / "u") as archive:
            data = archive["1"].tobytes()[4:]
        places, sent = np.frombuffer(data[:8], "<u4"), np.frombuffer(data[8:], "<f4")
        total.reshape(-1)[places] += sent
    np.testing.assert_allclose(total, change, rtol=1e-6)


def test_the_upload_is_predicted_by_the_codec(examples, layers):
    tensors = tensor_list(layers)
    kernels, biases = [3 * 3 * 1 * 2, 18 * 3], 2 + 3
    expected = costs.MESSAGE_BYTES + 4 * biases + sum(4 + 8 * math.ceil(size / 10) for size in kernels)
    assert costs.encoded_bytes(tensors, CODEC) == expected


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"codec": "os:system"}, "codec: module 'os' is not allowed. The modules in "),
        ({"codec": "my_rules:SquareRoot"}, "codec: 'my_rules:SquareRoot' is not a subclass of"),
        ({"merge": "my_codecs:TopK"}, "merge: 'my_codecs:TopK' is not a subclass of"),
        ({"merge": "subprocess:run"}, "merge: module 'subprocess' is not allowed"),
        ({"merge": "my_rules:MergeRule"}, "called 'MergeRule'. Allowed are: my_rules:SquareRoot"),
        (
            {"codec": "int4"},
            "codec must be one of float32, float16, int8, found 'int4' (custom classes: my_module:MyCl",
        ),
        ({"codec": "a b:c"}, "codec must be one of float32, float16, int8, found 'a b:c'"),
        ({"package": {"with": 3}}, "package: expected the key 'with' and a folder, found {'with': 3}"),
        ({"package": {"without": "."}}, "package: expected the key 'with' and a folder"),
        ({"package": {"with": "nowhere"}}, "nowhere is not a folder"),
    ],
)
def test_a_case_names_only_what_its_folder_has(change, told, examples, tmp_path):
    import yaml

    raw = yaml.safe_load((EXAMPLES / "case.yaml").read_text())
    raw["package"]["with"] = str(EXAMPLES)
    (tmp_path / "case.yaml").write_text(yaml.safe_dump({**raw, **change}))
    with pytest.raises((SettingsError, UserCodeError)) as raised:
        load_case(tmp_path / "case.yaml")
    assert told in str(raised.value)


def test_the_folder_of_a_case_counts_from_its_file(monkeypatch, tmp_path, examples):
    monkeypatch.chdir(tmp_path)
    case = load_case(EXAMPLES / "case.yaml")
    assert (case.codec, case.merge, case.package) == (CODEC, RULE, {"with": "."})
    assert modules.active().folder == EXAMPLES
