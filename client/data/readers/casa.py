"""CASA, smart homes with ambient sensors (Cook et al., UCI "Human Activity Recognition from Continuous Ambient Sensor
Data"): ``csh101.ann.features.csv`` to ``csh130``, one file per home, one row per window of 30 sensor events.

Features are scaled by the fixed `RANGES`, as devices cannot share statistics of their data.

Test examples: there is no official split, and neighbouring windows share events, so that a random split would leak.
Each home is divided in time into `PERIODS` equal periods, and the last fifth of each is held out. The `WINDOW` - 1
windows before and after a test window, which can share events with it, are dropped.

Classes: the paper has ten activities and names four of them: sleep, eating, reading and watching TV. The 35 activities
of the homes are grouped into these four, five others and Other.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from pathlib import Path

import numpy as np

from fedn_partial.client.data import files
from fedn_partial.client.data.data_set import DataSet, Examples
from fedn_partial.client.data.download import Archive
from fedn_partial.errors import DataError

ARCHIVE = Archive(
    "https://archive.ics.uci.edu/dataset/506/human+activity+recognition+from+continuous+ambient+sensor+data", None
)
SUFFIX = ".ann.features.csv"
WINDOW = 30  # sensor events
PERIODS = 5
TEST_SHARE = 0.2

ACTIVITIES = {
    "Cook": ("Cook", "Cook_Breakfast", "Cook_Lunch", "Cook_Dinner"),
    "Eat": ("Eat", "Eat_Breakfast", "Eat_Lunch", "Eat_Dinner", "Drink"),
    "Hygiene": ("Bathe", "Bed_Toilet_Transition", "Dress", "Groom", "Personal_Hygiene", "Toilet"),
    "Leave_Home": ("Enter_Home", "Leave_Home", "Step_Out"),
    "Other": (
        "Other_Activity",
        "Evening_Meds",
        "Morning_Meds",
        "Work_At_Table",
    ),  # and activities that are not listed here
    "Read": ("Read",),
    "Relax": ("Entertain_Guests", "Listening_to_music", "Phone", "Relax"),
    "Sleep": ("Go_To_Sleep", "Sleep", "Sleep_Out_Of_Bed", "Wake_Up"),
    "Wash_Dishes": ("Wash_Breakfast_Dishes", "Wash_Dinner_Dishes", "Wash_Dishes", "Wash_Lunch_Dishes"),
    "Watch_TV": ("Watch_TV",),
}
CLASSES = tuple(ACTIVITIES)
_NUMBER = {name: number for number, names in enumerate(ACTIVITIES.values()) for name in names}
_OTHER = CLASSES.index("Other")

_PLACES = (
    *("Bathroom", "Bedroom", "Chair", "DiningRoom", "Hall", "Ignore", "Kitchen", "LivingRoom", "Office"),
    *("OutsideDoor", "WorkArea"),
)
DAY = 86400.0  # seconds; the largest time since a sensor was on in the files
# The value of each column that is scaled to 1; larger values are clipped. Durations range from seconds to a day and are
# scaled as log(1 + seconds) / log(1 + DAY).
RANGES = {
    "lastSensorEventHours": 24.0,
    "lastSensorEventSeconds": DAY,
    "lastSensorDayOfWeek": 6.0,
    "windowDuration": DAY,
    "timeSinceLastSensorEvent": DAY,
    "prevDominantSensor1": 100.0,  # sensor numbers, different in each home
    "prevDominantSensor2": 100.0,
    "lastSensorID": 100.0,
    "lastSensorLocation": 10.0,  # one of 11 places; -1 for none
    "lastMotionLocation": 10.0,
    "complexity": 5.0,  # entropy in bits of 30 events: at most log2(30) = 4.9
    "activityChange": 1.0,
    "areaTransitions": float(WINDOW),
    "numDistinctSensors": float(WINDOW),
    **{f"sensorCount-{place}": float(WINDOW) for place in _PLACES},
    **{f"sensorElTime-{place}": DAY for place in _PLACES},
}
_LOGARITHMIC = [
    number
    for number, name in enumerate(RANGES)
    if name in ("windowDuration", "timeSinceLastSensorEvent") or name.startswith("sensorElTime")
]
_PADDING = " \t\r\n\"'"  # around a name or a number
_ROWS = 100_000  # read at once


def read(folder: Path) -> DataSet:
    """Return windows (n, 1, 36) float32 in [-1, 1] and activities (n,) int32, with homes as owners.

    Raises
    ------
    DataError : files are missing, damaged or not this data set's.
    """
    homes = {}
    for path in files.glob(folder, f"*{SUFFIX}", f"*/*{SUFFIX}"):
        name = path.name.removesuffix(SUFFIX)
        if name in homes:
            raise DataError(f"{folder}: duplicate home {name}, {homes[name]} and {path}; remove one")
        homes[name] = path
    if not homes:
        raise DataError(f"no homes in {folder}: expected files such as csh101{SUFFIX}, also in subfolders")
    train, test, checksums, unknown = [], [], {}, Counter()
    for owner, path in enumerate(homes.values()):
        unknown_here = Counter()
        x, y, checksums[path.name] = _read_home(path, unknown_here)
        if unknown_here.total() == len(y):
            raise DataError(
                f"{path}: all activities are unknown, most often {unknown_here.most_common(1)[0][0]!r}; expected names "
                "such as 'Sleep' and 'Cook_Lunch'"
            )
        unknown += unknown_here
        train_rows, test_rows = _split(len(y), path)
        for part, rows in ((train, train_rows), (test, test_rows)):
            part.append((x[rows], y[rows], np.full(len(rows), owner, np.int32)))
    return DataSet(
        f"CASA, {len(homes)} homes; of each {TEST_SHARE:.0%} held out in {PERIODS} stretches of time"
        + (f"; counted as Other: {', '.join(f'{name} ({n})' for name, n in unknown.most_common())}" if unknown else ""),
        CLASSES,
        *(Examples(*map(np.concatenate, zip(*part, strict=True))) for part in (train, test)),
        checksums,
        tuple(homes),
    )


def scale(features: np.ndarray) -> np.ndarray:
    """Scale the features (n, 36) of the files by `RANGES` to (n, 1, 36) float32 in [-1, 1]."""
    scaled = features / np.array(list(RANGES.values()))
    scaled[:, _LOGARITHMIC] = np.log1p(np.maximum(features[:, _LOGARITHMIC], 0)) / np.log1p(DAY)
    return np.clip(scaled, -1, 1).astype(np.float32)[:, np.newaxis, :]


def _read_home(path: Path, unknown: Counter) -> tuple[np.ndarray, np.ndarray, str]:
    """Return features, activities and the SHA-256 of a home's file; `unknown` as in ``_parse``."""
    digest = hashlib.sha256()
    expected = [*RANGES, "activity"]
    features, activities = [], []
    with path.open("rb") as file:
        header = file.readline()
        digest.update(header)
        names = [name.strip(_PADDING) for name in header.decode("utf-8-sig", errors="replace").split(",")]
        if names != expected:
            wrong = next(pair for pair in itertools.zip_longest(names, expected) if pair[0] != pair[1])
            raise DataError(f"{path}: column {wrong[0]!r}, expected {wrong[1]!r}; the header has 37 columns")
        first = 2
        while lines := list(itertools.islice(file, _ROWS)):
            digest.update(b"".join(lines))
            rows = {number: line for number, line in enumerate(lines, start=first) if line.strip()}
            first += len(lines)
            if rows:
                values, classes = _parse(rows, path, unknown)
                features.append(scale(values))
                activities.append(classes)
    if not features:
        raise DataError(f"{path} has no rows; expected one for each window")
    return np.concatenate(features), np.concatenate(activities), digest.hexdigest()


def _parse(rows: dict[int, bytes], path: Path, unknown: Counter) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, 36) float64 and activities (n,) int32 of `rows`, {line number: line}.

    Names of activities that are not in `ACTIVITIES` count as Other and are counted in `unknown`.
    """
    numbers, activities = {}, []
    for number, line in rows.items():
        values, _, activity = line.rstrip().rpartition(b",")
        if values.count(b",") != len(RANGES) - 1 or not activity:
            raise DataError(
                f"{path}, line {number} is truncated or damaged; expected {len(RANGES)} numbers and an activity"
            )
        numbers[number] = values
        # In homes of several people a name may start with the resident: "R1.Sleep".
        name = activity.decode(errors="replace").strip(_PADDING)
        name = name[3:] if name[:3].lower() in ("r1.", "r2.") else name
        if name not in _NUMBER:
            unknown[name] += 1
        activities.append(_NUMBER.get(name, _OTHER))
    try:
        features = np.loadtxt(list(numbers.values()), delimiter=",", quotechar='"', comments=None, ndmin=2)
    except ValueError:
        raise DataError(_bad_number(numbers, path)) from None
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise DataError(f"{path}, line {list(numbers)[bad[0]]} has a value that is not finite")
    return features, np.array(activities, np.int32)


def _bad_number(rows: dict[int, bytes], path: Path) -> str:
    """Return the error for the first of `rows`, {line number: values}, that is not all numbers."""
    for line, row in rows.items():
        for column, value in zip(RANGES, row.decode(errors="replace").split(","), strict=True):
            try:
                float(value.strip(_PADDING))
            except ValueError:
                return f"{path}, line {line}: {column} is {value!r}, expected a number"
    return f"{path}, lines {min(rows)} to {max(rows)}: not all values are numbers"


def _split(rows: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of a home's training and test rows."""
    gap = WINDOW - 1
    if rows < 20 * WINDOW:
        raise DataError(f"{path} has {rows} windows, too few for a split; expected at least {20 * WINDOW}")
    train, test = [], []
    borders = np.linspace(0, rows, PERIODS + 1).round().astype(int)
    for start, end in itertools.pairwise(borders):
        cut = end - round(TEST_SHARE * (end - start))
        train.append(np.arange(start + (gap if start else 0), cut - gap))
        test.append(np.arange(cut, end))
    return np.concatenate(train), np.concatenate(test)
