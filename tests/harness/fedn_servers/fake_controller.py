"""What a FEDn controller answers to who follows a session: made-up rounds, updates and validations."""

import json

METADATA = {
    "num_examples": "100",
    "round": 1,
    "layers": ["conv0", "dense"],
    "trained_params": 50,
    "total_params": 200,
    "download_bytes": 900,
    "train_loss": 0.5,
    "resources": {
        **{"phases": {"train": 1.5}, "cpu_percent": 90.0, "rss_peak_mb": 300.0, "cpu_seconds": None},
        **{"gpu_percent": None, "temperature_c": 54.5, "power_mw": 4510.0},
    },
}
CLIENTS = ("a", "b", "c", "d", "x", "y", "z", "new", "slow")


class Fedn:
    """What a controller answers: one session with two rounds of two clients."""

    def __init__(self):
        self.clients = {f"id-{name}" for name in CLIENTS}  # FEDn's ids of all that it ever had
        self.answers = {
            "sessions/s": {"status": "Started"},
            "clients/": [{"client_id": f"id-{name}", "name": name, "status": "online"} for name in "ab"],
            "rounds/": [self.round("1", "m0", {"round": 1, "warmup": True, "previous": {}})],
            "statuses/": {
                "updates": [self.update("a"), self.update("b")],
                "validations": [self.validation("m1", "a", 0.5, 10), self.validation("m1", "b", 1.0, 30)],
            },
            "models/": [{"model_id": "m1", "parent_model": "m0", "session_id": "s"}],
        }

    def get(self, path, params=None, limit=None, order=None, skip=0):
        answer = self.answers[path]
        if path == "clients/" and not params:
            answer = [{"client_id": id} for id in sorted(self.clients)]
        if path == "statuses/":
            kind = "validations" if params["type"] == "MODEL_VALIDATION" else "updates"
            answer = [{"status_id": f"{kind} {index}", **row} for index, row in enumerate(self.answers[path][kind])]
        if not isinstance(answer, list):
            return answer
        found = answer[::-1] if order == "desc" else answer
        return {"count": len(answer), "result": found[skip : skip + (limit or len(answer))]}

    def round(self, number, model, settings, status="Finished"):
        combiner = {"data": {"nr_expected_updates": 2}, "config": {"client_settings": settings}}
        config = {"session_id": "s", "model_id": model}
        return {"round_id": number, "status": status, "round_config": config, "combiners": [combiner]}

    def update(self, client, fedn_round="1", **changes):
        meta = {
            "training_metadata": {**METADATA, **changes},
            "config": json.dumps({"round_id": fedn_round}),
            "upload_bytes": 210,
            "fetch_model": 0.5,
            "processing_time": 2.0,
            "upload_model": 0.25,
        }
        data = json.dumps({"sender": {"name": client, "clientId": f"id-{client}"}, "meta": json.dumps(meta)})
        return {"status": "Model update completed.", "data": data}

    def validation(self, model, client, accuracy, examples, **more):
        metrics = {"accuracy": accuracy, "loss": 1.0, "test_examples": examples, "download_bytes": 100, **more}
        sender = {"name": client, "clientId": f"id-{client}"}
        data = {"modelId": model, "sessionId": "s", "sender": sender, "data": json.dumps(metrics)}
        return {"status": "Model validation completed.", "data": json.dumps(data)}

    @property
    def updates(self):
        return self.answers["statuses/"]["updates"]

    @property
    def validations(self):
        return self.answers["statuses/"]["validations"]
