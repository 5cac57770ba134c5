"""The combiner's requests: in order, without those of rounds that are over."""

import fedn.network.grpc.fedn_pb2 as messages
import pytest

from fedn_partial.client.device.task_queue import RoundEnd, TaskQueue

KINDS = {
    "train": messages.StatusType.MODEL_UPDATE,
    "validate": messages.StatusType.MODEL_VALIDATION,
    "predict": messages.StatusType.MODEL_PREDICTION,
}


def request(text):
    kind, number = text.split()
    return messages.TaskRequest(type=KINDS[kind], model_id=number)


@pytest.mark.parametrize(
    ("arrived", "expected"),
    [
        (["train 1"], ["1"]),
        (["train 1", "validate 2"], ["2"]),
        (["train 1", "predict 2"], ["1", "2"]),
        (["train 1", "validate 2", "train 3", "validate 4", "train 5"], ["2", "4", "5"]),
        (["train 1", "train 2", "predict 3"], ["2", "3"]),
    ],
)
def test_training_requests_of_rounds_that_are_over_are_dropped(arrived, expected):
    queue = TaskQueue()
    for text in arrived:
        queue.put(request(text))
    got = []
    queue.fail(ConnectionError())
    with pytest.raises(ConnectionError):
        for task in queue:
            got.append(task.model_id)
    assert got == expected


@pytest.mark.parametrize(
    ("current", "newer", "ends"),
    [("train", "validate", 1), ("train", "train", 1), ("train", "predict", 0), ("validate", "train", 0)],
)
def test_only_a_training_request_is_ended_and_only_by_a_later_round(current, newer, ends):
    calls = []
    queue = TaskQueue(lambda: calls.append(queue.current.model_id))
    queue.put(request(f"{current} 1"))
    requests = iter(queue)
    assert next(requests).model_id == "1"
    queue.put(request(f"{newer} 2"))
    queue.put(request(f"{newer} 3"))
    assert calls == ["1"] * ends and (queue.round_end is RoundEnd.NEWER_REQUEST) == bool(ends)
    next(requests)
    assert queue.round_end is None


def test_the_end_of_a_session_ends_a_training_request_only():
    calls = []
    queue = TaskQueue(lambda: calls.append(1))
    queue.end_round(RoundEnd.SESSION_OVER)
    queue.put(request("validate 1"))
    requests = iter(queue)
    next(requests)
    queue.end_round(RoundEnd.SESSION_OVER)
    assert calls == []
    queue.put(request("train 2"))
    next(requests)
    queue.end_round(RoundEnd.SESSION_OVER)
    queue.end_round(RoundEnd.SESSION_OVER)
    assert calls == [1]
