#!/usr/bin/python
"""Decides about a rollout: what was before, whether a wave is good, what became of it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_agent.fleet.plugins.module_utils.fleet import (
    FleetError,
    Watcher,
    fault,
    fps_of,
    on_probation,
    too_many,
)

DOCUMENTATION = r"""
module: rollout
short_description: Keep the state of a rollout in a file on the controller, and judge its waves
description:
  - C(begin) listens to how the fleet is, or takes up an interrupted rollout.
  - C(judge) decides about a wave that was changed. It must be as it should be within I(gate_s), and still after I(soak_s).
  - C(finish) writes the report.
author: edge-agent developers
options:
  action: {type: str, choices: [look, begin, judge, finish], required: true, description: "what to do"}
  file: {type: path, required: true, description: "state of the rollout; the report lies beside it as .md"}
  kind: {type: str, choices: [agent, model], default: agent, description: "what is rolled out"}
  target: {type: str, default: "", description: "version, or name@version of a model"}
  hosts: {type: dict, default: {}, description: "host of the inventory to site/device; with judge those of the wave"}
  results: {type: dict, default: {}, description: "host to ok, why, changed: what became of the change there"}
  broker: {type: dict, default: {}, description: "as in fleet_watch"}
  listen_s: {type: float, default: 70, description: "begin: listens so long for boxes that are silent"}
  gate_s: {type: float, default: 180, description: "judge: by then a box must be as it should be"}
  soak_s: {type: float, default: 600, description: "judge: and stay so for this long"}
  probation_s: {type: float, default: 900, description: "judge: so long at most it waits for boxes that have their new model on probation"}
  silent_s: {type: float, default: 100, description: "judge: without a heartbeat for so long a box is silent"}
  min_fps_ratio: {type: float, default: 0.8, description: "judge: frames per second, as a share of before"}
  limit_pct: {type: float, default: 2, description: "judge: so many percent of a wave failed or newly silent halt the rollout"}
"""
EXAMPLES = r"""
- name: Judge the wave
  edge_agent.fleet.rollout: {action: judge, file: rollouts/agent-0.2.0.json, hosts: {box1: berlin/box1}, results: {box1: {ok: true}}}
"""
RETURN = r"""
state: {type: dict, returned: always, description: "the whole state"}
"""
_TEXT = {
    "passed": "passed",
    "failed": "failed",
    "silent": "newly silent",
    "was_silent": "was silent before",
    "waiting": "not reached",
}


class Rollout:
    """The state in its file. Every change is on the disk when a method returns."""

    def __init__(self, params: dict[str, Any]) -> None:
        self._p = params
        self._path = Path(params["file"])
        self.state: dict[str, Any] = json.loads(self._path.read_text("utf-8")) if self._path.is_file() else {}

    def begin(self) -> bool:
        """A new rollout, or the one that was interrupted; whether it is new."""
        what = (self._p["kind"], self._p["target"])
        if self.state.get("state") == "running" and (self.state["kind"], self.state["target"]) == what:
            for host, device in self._p["hosts"].items():  # hosts that were added since
                self.state["hosts"].setdefault(host, _new(device))
            self._save()
            return False
        if self._path.is_file():
            self._path.replace(self._path.with_name(f"{self._path.stem}-{self.state['began'].replace(':', '')}.json"))
        wanted = set(self._p["hosts"].values())
        with Watcher(self._p["broker"]) as watcher:
            watcher.wait(self._p["listen_s"], lambda heard: all(d in heard and heard[d].heartbeat for d in wanted))
            hosts = {}
            for host, device in self._p["hosts"].items():
                heard = watcher.heard.get(device)
                beat = heard.heartbeat if heard else None
                hosts[host] = _new(device) | {
                    "was_silent": beat is None,
                    "fps": fps_of(beat),
                    "before": {"version": (beat or {}).get("version"), "model": (beat or {}).get("model")},
                }
        self.state = {
            "kind": what[0],
            "target": what[1],
            "state": "running",
            "began": _now(),
            "hosts": hosts,
            "waves": [],
        }
        self._save()
        return True

    def judge(self) -> None:
        """Decide about the wave, and look again at all that were changed in waves before."""
        names = [host for host in self._p["hosts"] if self.state["hosts"][host]["result"] != "passed"]
        if not names:
            return
        began, hosts = _now(), self.state["hosts"]
        for host in names:
            told = self._p["results"].get(host, {})
            hosts[host]["changed"] = hosts[host]["changed"] or bool(told.get("changed"))
            hosts[host]["why"] = "" if told.get("ok") else str(told.get("why") or "nothing is known of it")
        earlier = [host for host in hosts if hosts[host]["result"] == "passed"]
        faults = self._watch([host for host in names if not hosts[host]["why"]], earlier)
        for host in [*names, *earlier]:
            why = hosts[host]["why"] or faults.get(host, "")
            if hosts[host]["was_silent"] and "silent" in why:
                hosts[host] |= {"result": "was_silent", "why": "silent before, and still"}
            else:
                hosts[host] |= {"result": _result(why), "why": why}
        bad = [host for host in names if hosts[host]["result"] in {"failed", "silent"}]
        bad_earlier = [host for host in earlier if hosts[host]["result"] in {"failed", "silent"}]
        limit = self._p["limit_pct"]
        halt = too_many(len(bad), len(names), limit) or too_many(len(bad_earlier), len(earlier), limit)
        self.state["waves"].append(
            {"began": began, "ended": _now(), "hosts": names, "bad": bad + bad_earlier, "halted": halt}
        )
        if halt:
            self.state["state"] = "halted"
        self._save()

    def _watch(self, names: list[str], earlier: list[str]) -> dict[str, str]:
        """What is wrong with each host after gate and soak; those that are well are missing."""
        hosts, p = self.state["hosts"], self._p
        since = time.monotonic()

        def faults(after: float) -> dict[str, str]:
            found = {}
            for host in [*names, *earlier]:
                known = hosts[host]
                heard = watcher.heard.get(known["device"])
                why = fault(heard, after, p["kind"], p["target"], fps_before=known["fps"], ratio=p["min_fps_ratio"])
                if why:
                    found[host] = why
            return found

        with Watcher(p["broker"]) as watcher:
            watcher.wait(p["gate_s"], lambda _: not faults(since))
            if set(names) <= set(faults(since)):
                return faults(since)  # nobody is well: nothing to soak for
            watcher.wait(p["soak_s"])
            devices = [hosts[host]["device"] for host in names]
            watcher.wait(p["probation_s"], lambda heard: not any(on_probation(heard.get(name)) for name in devices))
            return faults(max(since, time.monotonic() - p["silent_s"]))

    def finish(self) -> None:
        """Say what became of it. ``results`` are those of rolling back."""
        for host, told in self._p["results"].items():
            if told.get("changed") or not told.get("ok"):
                self.state["hosts"][host]["rolled_back"] = "yes" if told.get("ok") else f"FAILED: {told.get('why')}"
        if self.state["state"] == "running":
            self.state["state"] = "done"
        self.state["ended"] = _now()
        self._save()
        _write(self._path.with_suffix(".md"), self.report())

    def report(self) -> str:
        """For a person, in Markdown."""
        state = self.state
        lines = [f"# Rollout of {state['kind']} {state['target']}: {state['state']}", ""]
        lines += [
            f"Began {state['began']}, ended {state.get('ended', '-')}.",
            "",
            "| wave | hosts | bad | from | to |",
            "|---|---|---|---|---|",
        ]
        for number, wave in enumerate(state["waves"], 1):
            bad = ", ".join(wave["bad"]) or "-"
            lines.append(f"| {number} | {len(wave['hosts'])} | {bad} | {wave['began']} | {wave['ended']} |")
        lines += ["", "| host | device | result | why | rolled back |", "|---|---|---|---|---|"]
        for host, known in sorted(state["hosts"].items()):
            cells = (host, known["device"], _TEXT[known["result"]], known["why"] or "-", known.get("rolled_back", "-"))
            lines.append(f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in cells)} |")
        return "\n".join(lines) + "\n"

    def _save(self) -> None:
        _write(self._path, json.dumps(self.state, indent=1, sort_keys=True) + "\n")


def _new(device: str) -> dict[str, Any]:
    return {
        "device": device,
        "result": "waiting",
        "why": "",
        "changed": False,
        "was_silent": False,
        "fps": {},
        "before": {},
    }


def _result(why: str) -> str:
    return "passed" if not why else "silent" if why.startswith("silent") else "failed"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _write(path: Path, text: str) -> None:
    """Whole, and on the disk: an interrupted rollout is taken up from it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def main() -> None:
    """One step."""
    module = AnsibleModule(
        {
            "action": {"type": "str", "choices": ["look", "begin", "judge", "finish"], "required": True},
            "file": {"type": "path", "required": True},
            "kind": {"type": "str", "choices": ["agent", "model"], "default": "agent"},
            "target": {"type": "str", "default": ""},
            "hosts": {"type": "dict", "default": {}},
            "results": {"type": "dict", "default": {}},
            "broker": {"type": "dict", "default": {}},
            "listen_s": {"type": "float", "default": 70.0},
            "gate_s": {"type": "float", "default": 180.0},
            "soak_s": {"type": "float", "default": 600.0},
            "probation_s": {"type": "float", "default": 900.0},
            "silent_s": {"type": "float", "default": 100.0},
            "min_fps_ratio": {"type": "float", "default": 0.8},
            "limit_pct": {"type": "float", "default": 2.0},
        }
    )
    action = module.params["action"]
    try:
        rollout = Rollout(module.params)
        if action == "judge" and rollout.state.get("state") != "running":
            module.fail_json(msg=f"{module.params['file']}: no rollout is under way")
        fresh = {"begin": rollout.begin, "judge": rollout.judge, "finish": rollout.finish, "look": lambda: None}[
            action
        ]()
    except (FleetError, OSError, ValueError, KeyError) as error:
        module.fail_json(msg=f"{type(error).__name__}: {error}")
    module.exit_json(changed=action != "look", state=rollout.state, new=bool(fresh))


if __name__ == "__main__":
    main()
