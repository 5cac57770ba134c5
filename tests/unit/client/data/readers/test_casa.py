"""Reader of CASA, with small files in the layout of the official ones."""

import csv
import hashlib
import json
import math

import numpy as np
import pytest

from fedn_partial.client.data.data_sets import load, partition_case
from fedn_partial.client.data.readers import casa
from fedn_partial.client.fleet.fleet import Fleet
from fedn_partial.data.shard import open_shard
from fedn_partial.errors import DataError
from fedn_partial.settings.case import Case, Data

PLACES = [
    *["Bathroom", "Bedroom", "Chair", "DiningRoom", "Hall", "Ignore", "Kitchen", "LivingRoom"],
    *["Office", "OutsideDoor", "WorkArea"],
]
COLUMNS = [
    *["lastSensorEventHours", "lastSensorEventSeconds", "lastSensorDayOfWeek", "windowDuration"],
    *["timeSinceLastSensorEvent", "prevDominantSensor1", "prevDominantSensor2", "lastSensorID"],
    *["lastSensorLocation", "lastMotionLocation", "complexity", "activityChange", "areaTransitions"],
    "numDistinctSensors",
    *(f"sensorCount-{place}" for place in PLACES),
    *(f"sensorElTime-{place}" for place in PLACES),
    "activity",
]
ACTIVITIES = ["Sleep", "Cook_Lunch", "Toilet", "Watch_TV", "R1.Read", "Lawnwork"]
CLASSES = ["Sleep", "Cook", "Hygiene", "Watch_TV", "Read", "Other"]


def write_home(path, rows, **first):
    """Write a home whose second column counts its rows; `first` are values of the first row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval=0)
        writer.writeheader()
        for number in range(rows):
            row = {"lastSensorEventSeconds": number, "activity": ACTIVITIES[number % len(ACTIVITIES)]}
            writer.writerow(row | (first if number == 0 else {}))
    return path


def row_numbers(examples, owner):
    return np.rint(examples.x[examples.owners == owner, 0, 1] * 86400).astype(int)


@pytest.fixture
def homes(tmp_path):
    write_home(tmp_path / "csh101" / "csh101.ann.features.csv", 1000)
    write_home(tmp_path / "csh102" / "csh102.ann.features.csv", 2000)
    write_home(tmp_path / "csh110" / "csh110.ann.features.csv", 700)
    return tmp_path


def test_windows_activities_and_homes(homes):
    whole = load("casa", homes)
    assert whole.owners == ("csh101", "csh102", "csh110")
    assert len(whole.classes) == 10
    for examples in (whole.train, whole.test):
        assert examples.x.shape[1:] == (1, 36) and examples.x.dtype == np.float32 and examples.y.dtype == np.int32
        for owner in range(3):
            numbers = row_numbers(examples, owner)
            mine = examples.y[examples.owners == owner]
            assert [whole.classes[y] for y in mine] == [CLASSES[number % 6] for number in numbers]
    path = homes / "csh102" / "csh102.ann.features.csv"
    assert whole.files[path.name] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("owner", "rows"), [(0, 1000), (1, 2000), (2, 700)])
def test_no_window_to_train_on_shares_events_with_one_held_out(homes, owner, rows):
    whole = load("casa", homes)
    train, test = row_numbers(whole.train, owner), row_numbers(whole.test, owner)
    assert len(test) == rows // 5
    assert np.abs(train[:, np.newaxis] - test).min() == 30
    assert len(train) >= rows - rows // 5 - 9 * 29
    # Five stretches, one in each fifth of the time.
    assert np.flatnonzero(np.diff(test) > 1).size == 4
    assert np.bincount(test * 5 // rows).tolist() == [rows // 25] * 5


def test_features_are_scaled_by_fixed_ranges():
    values = dict.fromkeys(COLUMNS[:-1], 0.0)
    values |= {"lastSensorEventHours": 6, "lastSensorEventSeconds": 21600, "lastSensorDayOfWeek": 3}
    values |= {"windowDuration": 99, "timeSinceLastSensorEvent": 1e9, "lastMotionLocation": -1, "lastSensorID": 250}
    values |= {"sensorCount-Office": 15, "sensorElTime-Hall": 86400, "complexity": 2.5}
    scaled = casa.scale(np.array([list(values.values())]))
    assert scaled.shape == (1, 1, 36) and scaled.dtype == np.float32
    expected = dict.fromkeys(COLUMNS[:-1], 0.0)
    expected |= {"lastSensorEventHours": 0.25, "lastSensorEventSeconds": 0.25, "lastSensorDayOfWeek": 0.5}
    expected |= {"windowDuration": math.log(100) / math.log(86401), "timeSinceLastSensorEvent": 1}
    expected |= {"lastMotionLocation": -0.1, "lastSensorID": 1, "sensorCount-Office": 0.5, "sensorElTime-Hall": 1}
    expected |= {"complexity": 0.5}
    np.testing.assert_allclose(scaled[0, 0], list(expected.values()), rtol=1e-6)


def test_every_activity_has_one_class():
    names = [name for group in casa.ACTIVITIES.values() for name in group]
    assert len(names) == len(set(names))
    assert {"Sleep", "Eat", "Read", "Watch_TV"} <= set(casa.CLASSES)  # those that the paper names


def test_natural_partition_is_by_home(homes):
    _, shards = partition_case(Data(name="casa", clients=2, partition="natural"), seed=1, source=homes)
    assert [shard.origin["owners"] for shard in shards] == [["csh101", "csh110"], ["csh102"]]
    assert [len(shard.y_test) for shard in shards] == [340, 400]
    with pytest.raises(DataError, match="4 clients are more than the 3 owners"):
        partition_case(Data(name="casa", clients=4, partition="natural"), seed=1, source=homes)


def test_a_local_fleet_gets_the_shards_of_a_case(homes, tmp_path):
    case = Case(name="x", model={}, selection={}, data=Data(name="casa", clients=3, partition="natural"))
    fleet = Fleet(tmp_path / "clients")
    fleet.prepare(*partition_case(case.data, case.seed, homes), "http://localhost:1")
    for number, tests in enumerate((200, 400, 140), start=1):
        assert len(open_shard(fleet.folder / f"client-{number}" / "data").y_test) == tests
        description = json.loads((fleet.folder / f"client-{number}" / "data" / "shard.json").read_text())
        assert description["source"].startswith("CASA, 3 homes;") and str(homes) in description["source"]


def test_a_file_is_read_in_pieces(homes, monkeypatch):
    whole = load("casa", homes)
    monkeypatch.setattr(casa, "_ROWS", 128)
    np.testing.assert_array_equal(load("casa", homes).train.x, whole.train.x)


def test_truncated_line_is_named(homes):
    path = homes / "csh101" / "csh101.ann.features.csv"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(DataError, match=r"csh101.ann.features.csv, line 1001 is truncated.*36 numbers and an activity"):
        load("casa", homes)


@pytest.mark.parametrize(
    ("value", "told"), [("much", "line 2: complexity is 'much', expected a number"), ("nan", "line 2 has a value that")]
)
def test_value_that_is_no_number_is_named(tmp_path, value, told):
    write_home(tmp_path / "csh101.ann.features.csv", 700, complexity=value)
    with pytest.raises(DataError, match=f"csh101.ann.features.csv, {told}"):
        load("casa", tmp_path)


def test_activities_that_are_not_known_count_as_other_and_are_named(tmp_path):
    path = write_home(tmp_path / "csh101.ann.features.csv", 700)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"Watch_TV", b"Slep"))  # with a byte order mark
    whole = load("casa", tmp_path)
    assert "; counted as Other: Slep (117)" in whole.source
    assert np.isin(whole.train.y, [whole.classes.index(name) for name in CLASSES if name != "Watch_TV"]).all()


@pytest.mark.parametrize("written", [" {}", "{} ", '"{}"', '" {} "', "'{}'", "\t{}\t"])
def test_padded_and_quoted_activities_are_known(homes, written):
    whole = load("casa", homes)
    for path in homes.glob("*/*.csv"):
        lines = path.read_text().splitlines()
        rows = (line.rpartition(",") for line in lines[1:])
        path.write_text("\n".join([lines[0], *(f"{values},{written.format(name)}" for values, _, name in rows)]) + "\n")
    again = load("casa", homes)
    np.testing.assert_array_equal(again.train.y, whole.train.y)
    assert again.source == whole.source


def test_a_file_whose_every_value_is_quoted_is_read(tmp_path):
    path = write_home(tmp_path / "csh101.ann.features.csv", 700)
    expected = load("casa", tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(",".join(f'"{value}"' for value in line.split(",")) for line in lines))
    whole = load("casa", tmp_path)
    np.testing.assert_array_equal(whole.train.x, expected.train.x)
    np.testing.assert_array_equal(whole.train.y, expected.train.y)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n   \n\n"])
def test_blank_lines_at_the_end_are_no_rows(homes, end):
    whole = load("casa", homes)
    path = homes / "csh101" / "csh101.ann.features.csv"
    path.write_text(path.read_text() + end)
    np.testing.assert_array_equal(load("casa", homes).train.x, whole.train.x)
    path.write_text(path.read_text() + "1,2")
    number = len(path.read_text().splitlines())
    with pytest.raises(DataError, match=f"line {number} is truncated"):
        load("casa", homes)


def test_what_macos_puts_beside_the_homes_is_left_alone(homes):
    for folder in ("csh101", "__MACOSX", "__MACOSX/csh101"):
        (homes / folder).mkdir(exist_ok=True)
        (homes / folder / "._csh101.ann.features.csv").write_bytes(b"\0\5\x16\7")
    assert load("casa", homes).owners == ("csh101", "csh102", "csh110")


def test_a_home_without_any_known_activity_is_named(tmp_path):
    path = write_home(tmp_path / "csh101.ann.features.csv", 700)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(f"{line.rpartition(',')[0]},5" for line in lines[1:])]))
    with pytest.raises(DataError, match=r"csh101.*all activities are unknown, most often '5'"):
        load("casa", tmp_path)


def test_other_columns_are_named(tmp_path):
    path = write_home(tmp_path / "csh101.ann.features.csv", 700)
    path.write_text(path.read_text().replace("complexity", "entropy", 1))
    with pytest.raises(DataError, match=r"csh101.*column 'entropy', expected 'complexity'"):
        load("casa", tmp_path)
    path.write_text("")
    with pytest.raises(DataError, match=r"column '', expected 'lastSensorEventHours'"):
        load("casa", tmp_path)


def test_home_with_too_few_windows_is_named(tmp_path):
    write_home(tmp_path / "csh101.ann.features.csv", 599)
    with pytest.raises(DataError, match=r"csh101.*has 599 windows.*at least 600"):
        load("casa", tmp_path)
    write_home(tmp_path / "csh101.ann.features.csv", 0)
    with pytest.raises(DataError, match=r"csh101.*has no rows"):
        load("casa", tmp_path)


def test_home_that_is_there_twice_is_named(homes):
    write_home(homes / "csh101.ann.features.csv", 700)
    with pytest.raises(DataError, match="duplicate home csh101"):
        load("casa", homes)


def test_no_homes(tmp_path):
    with pytest.raises(DataError, match=r"no homes in .*: expected files such as csh101.ann.features.csv"):
        load("casa", tmp_path)


def test_download_is_by_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"download it from https://archive.ics.uci.edu/dataset/506/"):
        load("casa")
