"""Codes on the whole way: a film of somebody's badge in; events, a record and its replay out, and its text nowhere."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from edge_agent import cli
from edge_agent.codes.build import Codes
from edge_agent.config import CameraConfig
from edge_agent.config_codes import CodesConfig
from edge_agent.types import Beat, Code, Frame
from tests.agent_process import run_agent, write_config
from tests.code_fixtures import key_file, marker, qr, scene, signed
from tests.mosquitto import wait_for

SECRET = "badge of Ada Lovelace"


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Four seconds: nothing, then a badge and a marker, then a token. And the token."""
    folder = tmp_path_factory.mktemp("film")
    token = signed("door")
    shots = [
        scene(),
        scene((qr(SECRET), 200, 200), (marker(17), 900, 300)),
        scene((qr(token), 700, 200)),
        scene(),
    ]
    for number in range(40):
        cv2.imwrite(str(folder / f"{number:03}.png"), shots[number // 10])
    yield folder, token


def configured(root: Path, folder: Path, film: Path, **codes: Any) -> Path:
    config = write_config(
        root, folder, codes={"events": True, "markers": "apriltag_36h11", "key_files": [str(key_file(folder))], **codes}
    )
    tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    tree["cameras"][0] |= {"source": str(film), "fps": 10}
    config.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return config


def told(folder: Path) -> list[dict[str, Any]]:
    """Events of codes in the outbox of a run."""
    [database] = folder.rglob("outbox.db")
    with sqlite3.connect(database) as cx:
        rows = [bytes(row[0]) for row in cx.execute("SELECT payload FROM message") if row[0]]
    documents = [json.loads(row) for row in rows if row.startswith(b"{")]
    return [document["data"] for document in documents if document.get("type") == "edge_agent.codes.seen"]


@pytest.mark.slow
def test_from_film_to_events_record_and_replay(
    root: Path, film: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, token = film
    config = configured(root, tmp_path, frames, clock="battery", names={"drivers": ["marker-17"]})
    record = tmp_path / "out.jsonl"
    done = run_agent("run", "-c", config, "--no-mqtt", "--record", record, "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in record.read_text().splitlines()[1:]]
    assert [line["frame"] for line in lines if "codes" in line] == [10, 15, 20, 25]
    assert cli.main(["replay", str(record), "-c", str(config), "--json"]) == 0
    replayed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    events = [line["data"] for line in replayed if line.get("type") == "edge_agent.codes.seen"]
    names = [(event["kind"], event["groups"], event["token"], event["purpose"]) for event in events]
    assert names == [("qr", [], None, None), ("marker", ["drivers"], None, None), ("qr", [], "valid", "door")]
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    everything += done.stdout.encode() + done.stderr.encode()
    assert events[0]["name"].encode() in everything
    for secret in (SECRET, token, token[4:40]):
        assert secret.encode() not in everything


@pytest.mark.slow
def test_a_picture_of_a_badge_tells_the_name_to_configure(
    root: Path, film: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(root, tmp_path, film[0])
    assert (
        cli.main(
            ["codes", "token", "-c", str(config), "--for", "door", "--valid", "1h", "--png", str(tmp_path / "t.png")]
        )
        == 0
    )
    made = capsys.readouterr().out.partition(":")[0]
    assert cli.main(["codes", "read", str(tmp_path / "t.png"), "-c", str(config)]) == 0
    assert capsys.readouterr().out == f"{made}: valid token for door\n"
    assert cli.main(["codes", "read", str(film[0] / "015.png"), "-c", str(config), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["codes"]
    assert [code["kind"] for code in found] == ["qr", "marker"]
    assert cli.main(["codes", "read", str(film[0] / "000.png"), "-c", str(config)]) == 1


class _Beat(Beat):
    def begin(self) -> None: ...

    def end(self) -> None: ...


def stage(folder: Path, **codes: Any) -> Codes:
    return Codes(CodesConfig(**codes), folder, lambda: True)


def frame(image: np.ndarray, t: float) -> Frame:
    return Frame("cam", int(t * 10), t, 1_800_000_000.0 + t, np.asarray(image, np.uint8))


def test_a_live_camera_never_waits_and_gets_what_was_read_with_a_later_frame(tmp_path: Path) -> None:
    codes, stop = stage(tmp_path, every_s=0.1), threading.Event()
    look = codes.of(CameraConfig.model_validate({"id": "cam", "source": "none"}), inline=False)
    assert look is not None and codes.stage.threaded
    thread = threading.Thread(target=codes.stage.work, args=(_Beat(), stop))
    thread.start()
    try:
        shows, waited = frame(scene((qr(SECRET), 200, 200)), 0.0), 0.0
        found: list[Code] = []

        def again() -> bool:
            nonlocal waited
            t = len(looks) * 0.05
            began = time.thread_time()
            looks.append(t)
            found.extend(look(frame(shows.image, t)))
            waited = max(waited, time.thread_time() - began)
            return bool(found)

        looks: list[float] = []
        wait_for(again, what="a code")
        assert found[0].name.startswith("qr-") and found[0].t in looks
        assert waited < 0.005  # of this thread's own time: reading takes ten times that
    finally:
        stop.set()
        thread.join(30)


def test_only_the_rectangle_around_the_zone_is_looked_at_and_places_are_those_of_the_whole_picture(
    tmp_path: Path,
) -> None:
    picture = scene((qr("in"), 700, 200), (qr("out"), 100, 200))
    zone = {"desk": [(0.5, 0.2), (0.9, 0.2), (0.9, 0.9), (0.5, 0.9)]}
    camera = CameraConfig.model_validate({"id": "cam", "source": "none", "zones": zone})
    look = stage(tmp_path, zone="desk").of(camera, inline=True)
    whole = stage(tmp_path).of(camera, inline=True)
    assert look is not None and whole is not None
    [code] = look(frame(picture, 0.0))
    everything: Sequence[Code] = whole(frame(picture, 0.0))
    assert len(everything) == 2
    [same] = [other for other in everything if other.name == code.name]
    assert np.allclose(code.box, same.box, atol=2) and code.box[0] > 640


def test_it_is_looked_only_every_so_often_and_only_for_the_cameras_that_are_named(tmp_path: Path) -> None:
    camera = CameraConfig.model_validate({"id": "cam", "source": "none"})
    look = stage(tmp_path, every_s=0.5).of(camera, inline=True)
    assert look is not None
    picture = scene((qr("badge"), 200, 200))
    assert [len(look(frame(picture, k / 10))) for k in range(12)] == [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
    assert stage(tmp_path, cameras=["other"]).of(camera, inline=True) is None
