from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.config import CameraConfig, SocialDistancingConfig
from edge_agent.errors import ConfigError
from edge_agent.types import Event, Ground, Metric, Observation, Output, Tracks, rfc3339, uuid7_factory
from edge_agent.usecases.clusters import components
from edge_agent.usecases.ground import near_pairs
from edge_agent.usecases.minutes import Minutes, Sample
from edge_agent.usecases.social_distancing import SocialDistancing

People = dict[int, tuple[float, float]]
Scene = Callable[[float], People]
START = 1_700_000_000.0  # 22:13:20 UTC
SIZE = (100, 100)


def observe(t: float, people: People, utc: float | None = None, sigma: float = 0.05) -> Observation:
    """People on the floor; in the picture a metre is a pixel and the floor's origin its middle."""
    ids = np.array(sorted(people), np.int64)
    n = len(ids)
    xy = np.array([people[i] for i in ids.tolist()], np.float64).reshape(n, 2)
    foot = xy + 50
    boxes = np.column_stack([foot[:, 0] - 1, foot[:, 1] - 4, foot[:, 0] + 1, foot[:, 1]]).astype(np.float32)
    tracks = Tracks(ids, boxes, np.ones(n, np.float32), np.zeros(n, np.int32), np.zeros(n, bool), ("person",))
    ground = Ground(xy, np.tile(sigma**2 * np.eye(2), (n, 1, 1)), np.zeros(n, bool), True)
    stamp = START + t if utc is None else utc
    return Observation("cam", 0, t, stamp, SIZE, tracks, ground, near_pairs(tracks, ground))


def use_case(zones: object = None, **settings: object) -> SocialDistancing:
    camera = CameraConfig.model_validate({"id": "cam", "source": "none", "zones": zones or {}})
    return SocialDistancing(SocialDistancingConfig.model_validate(settings), camera, uuid7_factory(random.Random(1)))


def play(case: SocialDistancing, scene: Scene, seconds: float, fps: float = 7.0, close: bool = True) -> list[Output]:
    out = [output for k in range(round(seconds * fps)) for output in case.update(observe(k / fps, scene(k / fps)))]
    return out + case.close("end_of_file") if close else out


def events(outputs: Iterable[Output]) -> list[Event]:
    return [output for output in outputs if isinstance(output, Event)]


def phases(outputs: Iterable[Output]) -> list[str]:
    return [str(event.phase) for event in events(outputs)]


def near(seconds: float, distance: float = 1.5, apart: float = 6.0) -> Scene:
    """Two people who are near each other from second 2 on for so long."""
    return lambda t: {1: (0.0, 0.0), 2: (distance if 2 <= t < 2 + seconds else apart, 0.0)}


@pytest.mark.parametrize("fps", [2, 7, 60])
def test_a_violation_from_start_to_end(fps: int) -> None:
    case = use_case()
    outputs = play(case, near(14.0), 24, fps, close=False)
    started, updated, ended = events(outputs)
    assert case.open_episodes == 0
    assert (started.phase, updated.phase, ended.phase) == ("started", "updated", "ended")
    assert started.episode == updated.episode == ended.episode
    assert len({started.id, updated.id, ended.id}) == 3
    assert started.utc == pytest.approx(START + 2.0, abs=1 / fps)
    assert ended.utc == pytest.approx(START + 16.0, abs=1 / fps)
    assert updated.data["duration_s"] == pytest.approx(10, abs=1 / fps)
    assert ended.data["duration_s"] == pytest.approx(14, abs=1.1 / fps)
    assert ended.data["min_distance_m"] == pytest.approx(1.5)
    assert started.data["track_ids"] == [1, 2]
    assert started.data["people"] == 2
    assert started.data["pairs"][0] | {"duration_s": 0} == {
        "a": 1,
        "b": 2,
        "distance_m": 1.5,
        "sigma_m": 0.071,
        "duration_s": 0,
    }
    assert started.data["positions"][0] == {"track_id": 1, "x_m": 0.0, "y_m": 0.0, "estimated": False}
    assert started.data["ended"] is None
    assert (ended.data["started"], ended.data["ended"]) == (rfc3339(started.utc), rfc3339(ended.utc))
    assert started.type == "edge_agent.social_distancing.violation.started"
    json.dumps([event.data for event in events(outputs)], allow_nan=False)


def test_too_short_is_no_violation() -> None:
    assert phases(play(use_case(), near(1.3), 10)) == []


def test_far_enough_is_no_violation() -> None:
    assert phases(play(use_case(), near(20, distance=2.05), 25)) == []


def test_updates_come_at_their_times() -> None:
    outputs = events(play(use_case(), near(70), 80, 10))
    assert [round(event.data["duration_s"]) for event in outputs] == [2, 10, 30, 60, 70]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.25, 0.5, 2.0, 4.0]))
def test_stretching_time_stretches_episodes(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 0.25, (120, 5, 2)).cumsum(axis=0)
    base = rng.uniform(-2.5, 2.5, (5, 2))

    def run(factor: float) -> list[tuple[str, float, list[int]]]:
        case = use_case(
            min_duration_s=1.5 * factor, leave_duration_s=1.5 * factor, update_at_s=[3 * factor, 6 * factor]
        )
        found = []
        for k, step in enumerate(steps):
            people = {i + 1: (float(x), float(y)) for i, (x, y) in enumerate(base + step)}
            found += case.update(observe(k * 0.25 * factor, people))
        found += case.close("end_of_file")
        return [(str(e.phase), round((e.utc - START) / factor, 3), e.data["track_ids"]) for e in events(found)]

    assert run(scale) == run(1.0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), fps=st.sampled_from([5, 10, 30]))
def test_noise_within_the_hysteresis_does_not_flap(seed: int, fps: int) -> None:
    rng = np.random.default_rng(seed)
    outputs = play(use_case(), lambda t: {1: (0, 0), 2: (float(rng.uniform(1.75, 2.25)), 0)}, 30, fps)
    assert phases(outputs).count("started") <= 1
    assert phases(outputs).count("ended") == phases(outputs).count("started")


def test_a_moment_apart_or_unseen_does_not_end_it() -> None:
    def scene(t: float) -> People:
        people: People = {1: (0, 0), 2: (1.5 if not 8 <= t < 9 else 3.5, 0)}
        return {1: people[1]} if 12 <= t < 13.2 else people

    assert phases(play(use_case(update_at_s=[]), scene, 20)) == ["started", "ended"]


def test_a_queue_of_ten_is_one_episode() -> None:
    def scene(t: float) -> People:
        return {i: (1.5 * i, 0.0) for i in range(1, 11) if t >= 2 * i}

    outputs = events(play(use_case(update_at_s=[]), scene, 40))
    assert [event.phase for event in outputs] == ["started", *["updated"] * 8, "ended"]
    assert len({event.episode for event in outputs}) == 1
    assert [event.data["reason"] for event in outputs[1:-1]] == ["growth"] * 8
    assert outputs[-1].data["people_max"] == 10
    assert outputs[-1].data["pair_count"] == 9


def test_members_come_and_go() -> None:
    def scene(t: float) -> People:  # a queue that moves on: everybody is served in the end, others come behind
        return {i: (1.5 * i - 0.3 * t, 0.0) for i in range(1, 40) if 0 < 1.5 * i - 0.3 * t < 8}

    outputs = events(play(use_case(update_at_s=[]), scene, 120))
    assert len({event.episode for event in outputs}) == 1
    assert not set(outputs[0].data["track_ids"]) & set(outputs[-1].data["track_ids"])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), fps=st.sampled_from([5, 7, 25]))
def test_identity_switches_do_not_split_an_episode(seed: int, fps: int) -> None:
    rng = random.Random(seed)
    ids, last, following = {"a": 1, "b": 2, "c": 3}, dict.fromkeys("abc", -9.0), 4
    unseen = dict.fromkeys("abc", 0.0)
    places = {"a": (0.0, 0.0), "b": (1.4, 0.3), "c": (2.8, 0.0)}
    case = use_case(update_at_s=[])
    outputs: list[Output] = []
    for k in range(40 * fps):
        t = k / fps
        for who in "abc":
            # The tracker loses somebody now and then and finds them again as somebody new, at times after a while.
            alone = t > max(unseen.values()) + 0.5  # or a pair is unseen for longer than the leave duration
            if alone and t - last[who] > 3 and rng.random() < 0.3 / fps:
                ids[who], last[who], following = following, t, following + 1
                unseen[who] = t + rng.choice([0.0, 0.4, 1.0])
        outputs += case.update(observe(t, {ids[who]: places[who] for who in "abc" if unseen[who] <= t}))
    outputs += case.close("end_of_file")
    assert [phase for phase in phases(outputs) if phase != "updated"] == ["started", "ended"]
    assert events(outputs)[-1].data["people_max"] == 3
    assert events(outputs)[-1].data["duration_s"] == pytest.approx(40, abs=0.3)


def test_a_new_track_before_the_old_one_is_given_up() -> None:
    """The tracker still predicts 2 for a moment when 3 has taken over; then everybody gets a new id at once."""

    def scene(t: float) -> People:
        people: People = {1: (0, 0)}
        if t < 10:
            people[2] = (1.4, 0)
        if 9.5 <= t < 15:
            people[3] = (1.3, 0.1)
        return people if t < 15 else {4: (0, 0), 5: (1.4, 0)}

    assert phases(play(use_case(update_at_s=[]), scene, 20)) == ["started", "ended"]


def test_clusters_merge_into_the_older_and_split_off_the_smaller() -> None:
    def scene(t: float) -> People:
        gap = 10.0 if t < 15 or t >= 30 else 1.5  # between a group of three and one of two
        people: People = {i: (1.5 * i, 0.0) for i in (1, 2, 3)}
        if t >= 5:
            people |= {4: (4.5 + gap, 0.0), 5: (6.0 + gap, 0.0)}
        return people

    found = events(play(use_case(update_at_s=[]), scene, 40))
    old, young = found[0].episode, found[1].episode
    assert [(e.phase, e.episode == old, e.data.get("reason")) for e in found[:4]] == [
        ("started", True, None),
        ("started", False, None),
        ("ended", False, "merged"),
        ("updated", True, "growth"),
    ]
    assert found[2].episode == young
    assert found[2].data["merged_into"] == old
    split = found[4]
    assert (split.phase, split.data["reason"], split.data["split_from"]) == ("started", "split", old)
    assert split.data["track_ids"] == [4, 5]
    assert [(e.phase, e.data["reason"]) for e in found[5:]] == [("ended", "end_of_file")] * 2


def test_exchange_of_partners_goes_on_as_one_episode() -> None:
    def scene(t: float) -> People:  # 2 walks off just when 3 comes
        return {1: (0, 0), 2: (1.4 if t < 10 else 9, 0), 3: (-1.4 if t >= 10.9 else -9, 0)}

    found = events(play(use_case(update_at_s=[], min_duration_s=3.0), scene, 25))
    assert [event.phase for event in found] == ["started", "ended"]
    assert found[1].data["track_ids"] == [1, 3]


@pytest.mark.parametrize("fps", [2, 7, 30])
def test_an_episode_does_not_wait_for_ever_for_somebody_who_stands_just_too_far(fps: int) -> None:
    """3 was too near for a second and stays within the noise of the limit: near, but no violation."""

    def scene(t: float) -> People:
        return {1: (0.0, 0.0), 2: (1.5, 0.0) if t < 6 else (9.0, 0.0), 3: (0.0, 1.99 if t < 1 else 2.1)}

    case = use_case(update_at_s=[])
    times = [k / fps for k in range(30 * fps)]
    outputs = [(t, event) for t in times for event in events(case.update(observe(t, scene(t), sigma=0.25)))]
    assert [event.phase for _, event in outputs] == ["started", "ended"]
    told, ended = outputs[1]
    assert ended.utc == pytest.approx(START + 6, abs=1 / fps + 1e-3)
    assert told <= 6 + 1.5 + 1.5 + 2 / fps


def test_rate_cap_holds_back_but_never_the_end() -> None:
    def scene(t: float) -> People:  # eight pairs far from each other, at once
        return {2 * i + j: (10.0 * i, 1.4 * j) for i in range(8) for j in (0, 1) if t < 20}

    outputs = play(use_case(max_events_per_minute=5, update_at_s=[10]), scene, 90)
    found = events(outputs)
    told = {event.episode for event in found if event.phase == "started"}
    assert len(told) == 5
    assert [event.phase for event in found] == ["started"] * 5 + ["ended"] * 5
    assert {event.episode for event in found if event.phase == "ended"} == told
    assert sum(event.data.get("held_back", 0) for event in found) == 3 + 5
    held = sum(metric.data["events_held_back"] for metric in outputs if isinstance(metric, Metric))
    assert held == 3 + 5


def test_a_start_held_back_is_told_as_soon_as_it_may() -> None:
    def scene(t: float) -> People:
        return {2 * i + j: (10.0 * i, 1.4 * j) for i in range(3) for j in (0, 1)}

    found = events(play(use_case(max_events_per_minute=2, update_at_s=[]), scene, 70, close=False))
    assert [round(event.utc - START) for event in found] == [0, 0, 0]
    assert round(found[2].data["duration_s"]) == 62
    assert found[2].data["reason"] == "late"


def test_groups_are_exempt_and_counted_both_ways() -> None:
    def scene(t: float) -> People:  # 1 and 2 walk together from the start; 3 comes to 4 later
        return {1: (0.5 * t, 0), 2: (0.5 * t, 1.0), 3: (20 - t if t < 15 else 5, 20), 4: (4, 20)}

    groups = {"enabled": True, "min_together_s": 10}
    exempting = play(use_case(groups=groups, update_at_s=[]), scene, 50)
    assert {tuple(event.data["track_ids"]) for event in events(exempting)} == {(3, 4)}
    counts = [metric.data for metric in exempting if isinstance(metric, Metric)]
    assert sum(data["violations"] for data in counts) == 1
    assert sum(data["violations_without_exemption"] for data in counts) == 2
    assert len({event.episode for event in events(play(use_case(update_at_s=[]), scene, 50))}) == 2


def test_who_comes_together_but_does_not_move_together_is_no_group() -> None:
    def scene(t: float) -> People:  # circling each other
        return {1: (0, 0), 2: (1.3 * np.cos(t), 1.3 * np.sin(t))}

    found = events(play(use_case(groups={"enabled": True}, update_at_s=[]), scene, 30))
    assert [event.phase for event in found] == ["started", "ended"]


def test_only_people_in_the_zone_count() -> None:
    zones = {"till": [(0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6)], "hall": [(0, 0), (1, 0), (1, 1), (0, 1)]}
    inside = play(use_case(zones, zone="till"), lambda t: {1: (0, 0), 2: (1.5, 0)}, 5)
    assert events(inside)[0].data["zone"] == "till"
    assert phases(play(use_case(zones, zone="till"), lambda t: {1: (9.5, 0), 2: (11, 0)}, 5)) == []
    everywhere = events(play(use_case(zones), lambda t: {1: (11, 0), 2: (12.5, 0)}, 5))
    assert everywhere[0].data["zone"] == "hall"
    with pytest.raises(ConfigError, match="no zone 'tilt'"):
        use_case(zones, zone="tilt")


def test_other_labels_do_not_count() -> None:
    assert phases(play(use_case(label="forklift"), near(20), 25)) == []


def test_distances_beyond_five_metres_work() -> None:
    assert phases(play(use_case(distance_m=8.0), near(20, distance=7, apart=30), 30, close=False)) == [
        "started",
        "updated",
        "ended",
    ]
    metrics = [o for o in play(use_case(distance_m=8.0), near(20, distance=7, apart=30), 30) if isinstance(o, Metric)]
    assert metrics[0].data["pairs_max"] == 1
    assert metrics[0].data["min_distance_m"] == 7


def test_a_gap_in_the_video_ends_what_was_open() -> None:
    case = use_case(update_at_s=[])
    first = play(case, near(100), 20, close=False)
    later = [o for k in range(70) for o in case.update(observe(300 + k / 7, near(1e9)(300)))]
    ended = events(later)[0]
    assert phases(first) == ["started"]
    assert (ended.phase, ended.data["reason"]) == ("ended", "camera_gap")
    assert ended.utc == pytest.approx(START + 20, abs=0.2)
    assert phases(later) == ["ended", "started"]


def test_close_ends_everything_with_the_reason() -> None:
    case = use_case()
    play(case, near(100), 10, close=False)
    assert case.open_episodes == 1
    outputs = case.close("shutdown")
    assert [(event.phase, event.data["reason"]) for event in events(outputs)] == [("ended", "shutdown")]
    assert case.open_episodes == 0
    assert use_case().close("shutdown") == []


@pytest.mark.parametrize("fps", [2, 10, 60])
def test_metrics_are_per_minute_of_utc_and_weighted_by_time(fps: int) -> None:
    zones = {"left": [(0, 0), (0.53, 0), (0.53, 1), (0, 1)]}
    outputs = play(
        use_case(zones), lambda t: {1: (0, 0)} | ({2: (1.5, 0), 3: (9, 0)} if 100 <= t < 130 else {}), 220, fps
    )
    metrics = [output for output in outputs if isinstance(output, Metric)]
    assert [metric.utc % 60 for metric in metrics] == [0] * len(metrics)
    assert [metric.utc - START for metric in metrics] == [-20, 40, 100, 160]
    assert sum(metric.observed_s for metric in metrics) == pytest.approx(220 - 1 / fps, abs=0.01)
    assert [metric.observed_s for metric in metrics[:3]] == pytest.approx([40, 60, 60])
    middle = metrics[2].data
    assert middle["people_mean"] == pytest.approx(2.0, abs=0.05)
    assert middle["people_max"] == 3
    assert middle["violations"] == 1
    assert middle["violation_s"] == pytest.approx(30, abs=1.1)
    assert middle["min_distance_m"] == middle["mean_distance_m"] == 1.5
    assert middle["occupancy"]["left"] == {"mean": pytest.approx(1.5, abs=0.05), "max": 2}
    assert metrics[1].data["min_distance_m"] is None
    assert metrics[1].data["violations"] == 0


def test_a_clock_that_is_set_closes_the_minute_and_time_unobserved_does_not_count() -> None:
    case = use_case()
    frames = [(k / 5, START + k / 5) for k in range(51)]
    frames += [(10 + k / 5, START + 3600 + 10 + k / 5) for k in range(1, 51)]  # set an hour ahead
    frames += [(40 + k / 5, START + 3600 + 40 + k / 5) for k in range(26)]  # the camera was away for 20 s
    outputs = [o for t, utc in frames for o in case.update(observe(t, {1: (0, 0)}, utc))] + case.close("shutdown")
    metrics = [output for output in outputs if isinstance(output, Metric)]
    assert sum(metric.observed_s for metric in metrics) == pytest.approx(10 + 10 + 5)
    assert all(metric.observed_s <= metric.interval_s for metric in metrics)
    assert all(metric.data["people_mean"] == 1 for metric in metrics)


def test_a_minute_after_a_gap_knows_nothing_of_who_was_there_before() -> None:
    case = use_case()
    outputs = play(case, lambda t: {1: (0, 0), 2: (1, 0)}, 10, close=False)
    outputs += [o for k in range(70) for o in case.update(observe(600 + k / 7, {}))] + case.close("end_of_file")
    before, after = [output.data for output in outputs if isinstance(output, Metric)]
    assert (before["people_max"], before["min_distance_m"]) == (2, 1)
    assert (after["people_max"], after["pairs_max"], after["min_distance_m"]) == (0, 0, None)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)).filter(lambda e: e[0] != e[1]), max_size=20))
def test_components_agree_with_flooding(edges: list[tuple[int, int]]) -> None:
    found = components(edges)
    reached = {}
    for node in {n for edge in edges for n in edge}:
        seen, todo = {node}, [node]
        while todo:
            at = todo.pop()
            more = {b if a == at else a for a, b in edges if at in (a, b)} - seen
            seen |= more
            todo += more
        reached[node] = frozenset(seen)
    assert {frozenset(cluster) for cluster in found} == set(reached.values())


def test_the_closest_distance_is_one_that_is_sure() -> None:
    """A minimum of noisy distances would be the worst measured one."""
    minutes = Minutes("hall", "social_distancing", gap_s=5.0)
    for i, closest in enumerate([(0.9, 0.1), (0.05, 0.9), (0.7, 0.1), (0.8, 0.05)]):
        minutes.advance(i * 1.0, 600.0 + i)
        minutes.hold(Sample({}, closest, 1.0))
    minutes.advance(4.0, 604.0)
    (metric,) = minutes.close()
    assert metric.data["min_distance_m"] == 0.7
